"""A part of a knowledge base that is one itself, for reading."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import date, datetime
from typing import Any, NoReturn

from kblam_engine.errors import ConfigurationError, ReadOnlyError
from kblam_engine.knowledge_base.knowledge_base import KnowledgeBase
from kblam_engine.knowledge_base.selection import Selection
from kblam_engine.knowledge_base.slot_reading import check_revision
from kblam_engine.knowledge_base.snapshot import KBSnapshot


class KBView(KnowledgeBase):
    """The triples of a knowledge base that a selection chooses. `KnowledgeBase.view` makes one."""

    def __init__(self, whole: KnowledgeBase, selection: Selection, revision: int | None) -> None:
        self._whole = whole
        self._store, self._embedder = whole._store, whole._embedder
        self._wants_multi = whole._wants_multi
        self._selection, self._pinned = selection, revision
        self._shown: tuple[KBSnapshot, KBSnapshot] | None = None
        if revision is not None:
            check_revision(self._store.meta(), revision)

    def __repr__(self) -> str:
        pinned = f" revision={self._pinned}" if self._pinned is not None else ""
        return f"<{self._whole!r}, {self._selection.describe()}{pinned}>"

    @property
    def read_only(self) -> bool:
        """A view is never changed itself."""
        return True

    def close(self) -> None:
        """Close nothing: the knowledge base that this is a view of stays open."""

    def snapshot(self, revision: int | None = None) -> KBSnapshot:
        """Return what the view shows of the newest (or its own, or a given) revision, sharing all arrays."""
        whole = self._whole.snapshot(self._pinned if revision is None else revision)
        shown = self._shown
        if shown is not None and shown[0] is whole:
            return shown[1]
        mask = self._whole._labels.mask(self._selection, whole.ids[:])
        chosen = whole.chosen(mask, self._selection.describe())
        self._shown = whole, chosen
        return chosen

    def view(
        self,
        *,
        namespace: str | None = None,
        tags: str | Iterable[str] = (),
        source: str | None = None,
        at: str | date | datetime | None = None,
        revision: int | None = None,
    ) -> KnowledgeBase:
        """Return a part of this view.

        Raises:
            ConfigurationError: it lies outside this view.
        """
        narrower = self._selection.and_also(Selection.of(namespace, tags, source, at))
        outside = self._pinned is not None and revision not in (None, self._pinned)
        if narrower is None or outside:
            raise ConfigurationError(f"expected a part of {self!r}, got one outside of it")
        return KBView(self._whole, narrower, self._pinned if revision is None else revision)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise ReadOnlyError(f"{self!r} is a view: change the knowledge base itself")

    add = set = replace = replace_source = remove = rollback = _refuse
    merge = compact = backup = repair = add_documents = remove_documents = _refuse

    def import_file(self, path: str | os.PathLike[str], *, progress: bool = False) -> NoReturn:
        """Refuse: a view is for reading."""
        self._refuse()
