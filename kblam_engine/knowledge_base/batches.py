"""What a change does to several triples at once: checks of a batch, and removals by id and by source."""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from kblam_engine.errors import ConfigurationError, TripleError
from kblam_engine.knowledge_base.changes import ChangeSet
from kblam_engine.knowledge_base.conditions import Condition
from kblam_engine.knowledge_base.contents import context_text, metadata_text
from kblam_engine.knowledge_base.selection import Selection
from kblam_engine.knowledge_base.store import CONTENT
from kblam_engine.triples import Triple

MAX_BATCH = 20_000_000
"""Triples in one change: beyond it, memory runs out before the error would say why."""
_PAGE = 500


def checked(triples: Iterable[Triple]) -> list[Triple]:
    """Return a batch as a list.

    Raises:
        TripleError: one of them is no `Triple`, or they are no iterable.
        ConfigurationError: there are more than `MAX_BATCH`.
    """
    if not isinstance(triples, Iterable):
        remedy = "; put it into a list" if isinstance(triples, Triple) else ""
        raise TripleError("triples", f"expected an iterable of Triple, got {type(triples).__name__}{remedy}")
    batch = list(islice(triples, MAX_BATCH + 1))  # one too many tells; the rest of an endless source does not matter
    for triple in batch:
        if not isinstance(triple, Triple):
            raise TripleError("triple", f"expected a Triple, got {type(triple).__name__}")
    if len(batch) > MAX_BATCH:
        raise ConfigurationError(f"expected at most {MAX_BATCH} triples in one change, got more; add them in parts")
    return batch


def check_source(batch: Iterable[Triple], sources: Collection[str]) -> None:
    """Refuse triples from elsewhere.

    Raises:
        ConfigurationError: one of them names another document or URI than these, or none.
    """
    for triple in batch:
        origin = triple.provenance
        if origin is None or (origin.document not in sources and origin.uri not in sources):
            wanted = ", ".join(map(repr, sorted(sources)[:3])) + (" ..." if len(sources) > 3 else "")
            raise ConfigurationError(f"expected triples with provenance from {wanted}, got {triple.statement!r}")


def remove_ids(changes: ChangeSet, ids: Sequence[int], condition: Condition) -> int:
    """Remove the triples with these ids to which the condition applies; return how many there were.

    Raises:
        ConfigurationError: an id is no whole number.
    """
    where, parameters = condition
    try:
        distinct = list(dict.fromkeys(operator.index(i) for i in ids))
    except TypeError as error:
        raise ConfigurationError(f"ids: expected whole numbers, as search, find and history tell them: {error}") from None
    count = 0
    for start in range(0, len(distinct), _PAGE):
        page = distinct[start : start + _PAGE]
        marks = ",".join("?" * len(page))
        count += changes.remove((f"t.id IN ({marks}) AND {where}", [*page, *parameters]))
    return count


def remove_others(
    changes: ChangeSet, connection: sqlite3.Connection, parts: Iterable[Selection], batch: Iterable[Triple]
) -> int:
    """Remove what is in one of these parts and not in the batch; return how many."""
    kept = {(t.name, t.property, t.value, metadata_text(t), context_text(t)) for t in batch}
    others: list[int] = []
    for where, parameters in (part.condition() for part in parts):
        rows = connection.execute(f"SELECT {CONTENT} WHERE t.removed IS NULL AND {where}", parameters)
        others += [row[0] for row in rows if row[1:] not in kept]
    return remove_ids(changes, others, ("1", []))
