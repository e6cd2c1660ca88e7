"""Which triple sits in which slot of the key segment, as arrays that a snapshot shares."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base.schema import Meta, damaged, read_meta
from kblam_engine.knowledge_base.store import Store

_LEAST = -(2**63)  # a damaged slot may be below 0, and is to be found
_Scalar = TypeVar("_Scalar", bound=np.generic)


class Moved(NamedTuple):
    """An order of slots: position p is slot p, but for some."""

    n: int
    positions: NDArray[np.int64]
    slots: NDArray[np.int64]
    """Of these positions."""

    def of(self, by_slot: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Return an array over slots as one over positions; the same array where nothing has moved."""
        if self.n == len(by_slot):
            return by_slot
        ordered = by_slot[: self.n].copy()
        ordered[self.positions] = by_slot[self.slots]
        return ordered


class Numbering:
    """Ids renumbered 0..m-1 in their order; what the last array of ids had in common with the next is not done again."""

    def __init__(self) -> None:
        self._last: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]] | None = None

    def of(self, ids: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return what `dense_index` does."""
        last = self._last
        if last is not None and last[0] is ids:
            return last[1:]
        numbers, known = _continued(last, ids) or dense_index(ids)
        self._last = ids, numbers, known
        return numbers, known


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened since a revision, as of `meta.revision`."""

    meta: Meta
    last_id: int
    removed: NDArray[np.int64]
    """`[n, 2]`: slot and id."""
    added: NDArray[np.int64]
    """`[n, 4]`: slot, id, name id, property id."""


@dataclass(frozen=True, slots=True)
class SlotTable:
    """The live triples by slot, as of `revision`; immutable, `changed` makes the next one."""

    revision: int
    last_id: int
    ids: NDArray[np.int64]
    """`[n_slots]`, 0 where the slot is free."""
    name_ids: NDArray[np.int32]
    property_ids: NDArray[np.int32]
    generation: int = 1
    """Of the segment whose slots these are."""

    @classmethod
    def empty(cls, generation: int = 1) -> SlotTable:
        """Return the table of a knowledge base before its first triple."""
        return cls(0, 0, np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), generation)

    def changed(self, changes: Changes) -> SlotTable:
        """Apply changes to a copy: a few milliseconds at a million triples, no database involved.

        Names and properties are shared where no slot has got others: most changes are new values.
        """
        n_slots = changes.meta.n_slots
        ids = _grown(self.ids, n_slots)
        removed_slots, removed_ids = changes.removed.T
        ids[removed_slots[ids[removed_slots] == removed_ids]] = 0
        added = changes.added[:, 0]
        ids[added] = changes.added[:, 1]
        name_ids = _with(self.name_ids, n_slots, added, changes.added[:, 2])
        property_ids = _with(self.property_ids, n_slots, added, changes.added[:, 3])
        return SlotTable(changes.meta.revision, changes.last_id, ids, name_ids, property_ids, self.generation)

    def moved(self) -> Moved:
        """Return where triples are that are not at the position of their slot.

        Position p is slot p where that is taken; a free slot below n_triples is filled by one above. So the key
        segment serves as the snapshot's array nearly as it is, and the order depends on contents alone.
        """
        n_triples = int(np.count_nonzero(self.ids))
        if n_triples == len(self.ids):
            return Moved(n_triples, np.zeros(0, np.int64), np.zeros(0, np.int64))
        free = np.flatnonzero(self.ids[:n_triples] == 0)
        return Moved(n_triples, free, n_triples + np.flatnonzero(self.ids[n_triples:]))


def read_changes(store: Store, since: SlotTable) -> tuple[SlotTable, Changes]:
    """Read what was added and removed after a table, and the table it applies to: an empty one for all there is."""
    with store.reading() as connection:
        meta = read_meta(connection)
        if since.generation != meta.generation:  # a compaction has moved every slot
            since = SlotTable.empty(meta.generation)
        # With everything asked for, the index on slots has it all; otherwise the ids are the shorter way.
        by = "t.id > ?" if since.last_id else "t.slot >= ?"
        added = _matrix(
            connection.execute(
                f"SELECT t.slot, t.id, t.name_id, t.property_id FROM triples t WHERE t.removed IS NULL AND {by}",
                (since.last_id or _LEAST,),
            ),
            4,
        )
        removed = np.zeros((0, 2), np.int64)
        if since.last_id:  # from nothing there is nothing to remove
            query = "SELECT slot, id FROM triples WHERE removed > ? AND id <= ?"
            removed = _matrix(connection.execute(query, (since.revision, since.last_id)), 2)
        newest = connection.execute("SELECT coalesce(max(id), 0) FROM triples").fetchone()[0]
        _check_rows(connection, meta, added, removed)
        if not since.last_id:  # the pages of all that there is were of use once
            connection.execute("PRAGMA shrink_memory")
    return since, Changes(meta, newest, removed, added)


def read_past(store: Store, revision: int) -> tuple[SlotTable, Meta]:
    """Read the table and the record as they were at an earlier revision.

    Raises:
        ConfigurationError: there was none, or a compaction has dropped it.
    """
    with store.reading() as connection:
        meta = read_meta(connection)
        check_revision(meta, revision)
        added = _matrix(
            connection.execute(
                "SELECT slot, id, name_id, property_id FROM triples "
                "WHERE added <= ?1 AND (removed IS NULL OR removed > ?1)",
                (revision,),
            ),
            4,
        )
        row = connection.execute("SELECT digest FROM revisions WHERE revision = ?", (revision,)).fetchone()
        _check_rows(connection, meta, added, np.zeros((0, 2), np.int64))
    digest = row[0] if row and row[0] else ("0" if revision == 0 else "")
    past = replace(meta, revision=revision, n_triples=len(added), digest=digest)
    last_id = int(added[:, 1].max()) if len(added) else 0
    changes = Changes(past, last_id, np.zeros((0, 2), np.int64), added)
    return SlotTable.empty(meta.generation).changed(changes), past


def check_revision(meta: Meta, revision: int) -> None:
    """Refuse a revision that is not there, or no longer.

    Raises:
        ConfigurationError: it is not.
    """
    if isinstance(revision, bool) or not isinstance(revision, int) or not 0 <= revision <= meta.revision:
        raise ConfigurationError(f"expected a revision in 0..{meta.revision}, got {revision!r}")
    if revision < meta.oldest_revision:
        raise ConfigurationError(
            f"expected a revision from {meta.oldest_revision} on, got {revision}: what was removed earlier has been "
            "dropped by a compaction"
        )


def dense_index(ids: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Renumber ids 0..m-1 in their order; return the new numbers and the old id of each, ascending."""
    if not len(ids):
        return np.zeros(0, np.int32), np.zeros(0, np.int64)
    present = np.flatnonzero(np.bincount(ids))
    numbers = np.zeros(int(present[-1]) + 1, np.int32)
    numbers[present] = np.arange(len(present), dtype=np.int32)
    return numbers[ids], present


def _continued(
    last: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]] | None, ids: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int64]] | None:
    """Return the numbers of ids that begin like the last ones and go on with known or with higher ones."""
    if last is None or not len(last[0]) or not np.array_equal(ids[: len(last[0])], last[0]):
        return None
    before, numbers, known = last
    tail = ids[len(before) :]
    grown = np.concatenate([known, np.unique(tail[tail > known[-1]])])
    found = np.searchsorted(grown, tail)
    if not np.array_equal(grown[found], tail):  # a name that had no triple any more is back
        return None
    return np.concatenate([numbers, found.astype(np.int32)]), grown


def _with(
    array: NDArray[np.int32], length: int, places: NDArray[np.int64], contents: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Return an array grown to a length and with other contents in some places; itself where that is the same."""
    if len(array) == length and np.array_equal(array[places], contents):
        return array
    changed = _grown(array, length)
    changed[places] = contents
    return changed


def _matrix(rows: sqlite3.Cursor, width: int) -> NDArray[np.int64]:
    return integers(rows).reshape(-1, width)


def integers(rows: sqlite3.Cursor) -> NDArray[np.int64]:
    """Return every column of every row, one after the other.

    Raises:
        KnowledgeBaseError: one is no whole number.
    """
    try:
        return np.fromiter(chain.from_iterable(rows), np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise damaged(rows.connection, f"expected whole numbers in a row, got another kind ({error})") from error


def _check_rows(
    connection: sqlite3.Connection, meta: Meta, added: NDArray[np.int64], removed: NDArray[np.int64]
) -> None:
    """Refuse places and ids that no array has, before any is made or written.

    Raises:
        KnowledgeBaseError: there is one.
    """
    # Every slot was new with some triple, whose ids are counted here and never used again.
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'triples'").fetchone()
    n_ever = row[0] if row else 0
    if type(n_ever) is not int or meta.n_slots > n_ever:
        raise damaged(connection, f"its record counts {meta.n_slots} embeddings, though there were {n_ever} triples")
    last_name, last_property = connection.execute(
        "SELECT (SELECT coalesce(max(id), 0) FROM names), (SELECT coalesce(max(id), 0) FROM properties)"
    ).fetchone()
    limits = {"slot": (0, meta.n_slots - 1), "id": (1, n_ever), "name": (1, last_name), "property": (1, last_property)}
    for rows in (added, removed):
        for column, (what, (least, most)) in zip(rows.T, limits.items(), strict=False):
            if len(column) and not least <= column.min() <= column.max() <= most:
                wrong = rows[(column < least) | (column > most)][0]
                raise damaged(connection, f"the triple with id {wrong[1]} has a {what} that is not in {least}..{most}")


def _grown(array: NDArray[_Scalar], length: int) -> NDArray[_Scalar]:
    grown = np.zeros(length, array.dtype)
    grown[: len(array)] = array
    return grown
