"""Which triples a view shows: a choice by namespace, tags, source and time, as SQL and as arrays of ids."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base.conditions import Condition
from kblam_engine.knowledge_base.numbering import among
from kblam_engine.knowledge_base.slot_reading import integers
from kblam_engine.knowledge_base.store import Store
from kblam_engine.triples import instant

Ids = NDArray[np.int64]
_LABELLED = "SELECT l.triple_id FROM labelled l JOIN labels b ON b.id = l.label_id WHERE "
_BY_KIND = {
    "namespace": "b.kind = 'namespace' AND b.text = ?",
    "namespaces": "b.kind = 'namespace' AND ? IS NOT NULL",
    "tag": "b.kind = 'tag' AND b.text = ?",
    "source": "b.kind IN ('document', 'uri') AND b.text = ?",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice of triples; what is None or empty does not choose.

    Raises:
        ConfigurationError: a part is not text.
    """

    namespace: str | None = None
    """"" for those in no namespace."""
    tags: tuple[str, ...] = ()
    """All of them."""
    source: str | None = None
    """Document id or URI."""
    at: int | None = None
    """Seconds since 1970; triples without times hold always."""

    @classmethod
    def of(
        cls,
        namespace: str | None = None,
        tags: str | Iterable[str] = (),
        source: str | None = None,
        at: str | date | datetime | None = None,
    ) -> Selection:
        """Build one from what a user says."""
        if not isinstance(tags, Iterable):
            raise ConfigurationError(f"expected the texts of tags, got {tags!r}")
        several = (tags,) if isinstance(tags, str) else tuple(tags)
        for part in (namespace, source, *several):
            if part is not None and not isinstance(part, str):
                raise ConfigurationError(f"expected the text of a namespace, tag or source, got {part!r}")
        moment = None if at is None else instant(at)
        stripped = tuple(sorted({tag.strip() for tag in several}))
        return cls(_stripped(namespace), stripped, _stripped(source), moment)

    def and_also(self, other: Selection) -> Selection | None:
        """Return what both choose, None where they contradict each other."""
        for mine, its in ((self.namespace, other.namespace), (self.source, other.source), (self.at, other.at)):
            if mine is not None and its is not None and mine != its:
                return None
        return Selection(
            self.namespace if other.namespace is None else other.namespace,
            tuple(sorted({*self.tags, *other.tags})),
            self.source if other.source is None else other.source,
            self.at if other.at is None else other.at,
        )

    def condition(self, *, of_few: bool = False) -> Condition:
        """Return the condition on triples `t` and its parameters.

        Args:
            of_few: something else, a name or words, leaves few triples: each is looked up among the labelled ones. Else
                these are listed, and nothing but them is read.
        """
        parts = ["1"]
        parameters: list[object] = []
        for kind, text in self._labels():
            labelled = f"{_LABELLED}{_BY_KIND[kind]}"
            parts.append(f"EXISTS ({labelled} AND l.triple_id = t.id)" if of_few else f"t.id IN ({labelled})")
            parameters.append(text)
        if self.namespace == "":
            parts.append("t.namespace = 0")
        if self.at is not None:
            parts.append(
                "NOT EXISTS (SELECT 1 FROM validity v WHERE v.triple_id = t.id AND (v.valid_from > ? OR v.valid_to <= ?))"
            )
            parameters += [self.at, self.at]
        return " AND ".join(parts), parameters

    def describe(self) -> str:
        """Return the choice as a short text."""
        parts = {"namespace": self.namespace, "tags": ",".join(self.tags) or None, "source": self.source, "at": self.at}
        return " ".join(f"{part}={choice!r}" for part, choice in parts.items() if choice is not None)

    def _labels(self) -> list[tuple[str, str]]:
        labels = [("tag", tag) for tag in self.tags]
        labels += [("namespace", self.namespace)] if self.namespace else []
        return labels + ([("source", self.source)] if self.source is not None else [])


class LabelIndex:
    """Ids by label, read once and then only what is new: the content of an id, and so its labels, never change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], Ids] = {}
        self._times: Ids = np.zeros((0, 3), np.int64)
        self._lock = threading.Lock()

    def mask(self, selection: Selection, ids: Ids) -> NDArray[np.bool_]:
        """Say for each id whether the selection chooses it, `[len(ids)]`."""
        chosen = np.ones(len(ids), bool)
        with self._lock:
            for kind, text in selection._labels():
                chosen &= among(self._labelled(kind, text), ids)
            if selection.namespace == "":
                chosen &= ~among(self._labelled("namespaces", ""), ids)
            if selection.at is not None:
                times = self._validity()
                outside = (times[:, 1] > selection.at) | (times[:, 2] <= selection.at)
                chosen &= ~among(times[outside, 0], ids)
        return chosen

    def _labelled(self, kind: str, text: str) -> Ids:
        known = self._known.get((kind, text), np.zeros(0, np.int64))
        last = int(known.max()) if len(known) else 0
        with self._store.connection() as connection:
            query = f"{_LABELLED}{_BY_KIND[kind]} AND l.triple_id > ?"
            new = integers(connection.execute(query, (text, last)))[:, 0]
        if len(new):
            known = self._known[kind, text] = np.concatenate([known, new])
        return known

    def _validity(self) -> Ids:
        last = int(self._times[:, 0].max()) if len(self._times) else 0
        bounds = np.iinfo(np.int64)
        with self._store.connection() as connection:
            cursor = connection.execute(
                "SELECT triple_id, coalesce(valid_from, ?), coalesce(valid_to, ?) FROM validity WHERE triple_id > ?",
                (int(bounds.min), int(bounds.max), last),
            )
            new = integers(cursor, 3)
        if len(new):
            self._times = np.concatenate([self._times, new])
        return self._times


def _stripped(text: str | None) -> str | None:
    return None if text is None else text.strip()
