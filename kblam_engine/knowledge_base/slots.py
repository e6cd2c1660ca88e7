"""Which triple sits in which slot of the key segment, revision after revision: most is shared, little is made anew."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kblam_engine.knowledge_base.numbering import AnyIds, Ids, Numbering, Places, hits
from kblam_engine.knowledge_base.schema import Meta

PATCHED_SHARE = 1 / 64
"""Of all slots: when more have changed since whole columns were made, these are made again."""
_COUNTED = 32
"""Names or properties that may have lost their last triple and are counted one by one; more: whole columns are made."""
_Slots = NDArray[np.int64]


class Moved(NamedTuple):
    """An order of slots: position p is slot p, but for some."""

    n: int
    positions: NDArray[np.int64]
    """Ascending."""
    slots: _Slots
    """Of these positions; ascending."""

    def slots_of(self, positions: NDArray[np.int64]) -> _Slots:
        """Return the slot of each position."""
        return _replaced(positions, self.positions, self.slots)

    def positions_of(self, slots: _Slots) -> NDArray[np.int64]:
        """Return the position of each slot that has one."""
        return _replaced(slots, self.slots, self.positions)


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened since a revision, as of `meta.revision`."""

    meta: Meta
    last_id: int
    removed: NDArray[np.int64]
    """`[n, 2]`: slot and id."""
    added: NDArray[np.int64]
    """`[n, 4]`: slot, id, name id, property id."""


class Columns:
    """What is in each slot, `[n_slots]` each, 0 where a slot is free; shared by revisions and never changed."""

    def __init__(self, ids: AnyIds, name_ids: NDArray[np.int32], property_ids: NDArray[np.int32]) -> None:
        self.ids, self.name_ids, self.property_ids = ids, name_ids, property_ids
        for each in (ids, name_ids, property_ids):
            each.flags.writeable = False

    @classmethod
    def empty(cls) -> Columns:
        """Return those without a slot."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def last_id(self) -> int:
        """The highest id there is."""
        return int(self.ids.max(initial=0))

    @cached_property
    def places_of_names(self) -> Places:
        """Finds the slots of a name."""
        return Places(self.name_ids)


@dataclass(frozen=True)
class Patch:
    """Slots that are not as in the columns, ascending, and what is in them now."""

    slots: _Slots
    ids: Ids
    name_ids: NDArray[np.int32]
    property_ids: NDArray[np.int32]

    @classmethod
    def of(cls, rows: NDArray[np.int64]) -> Patch:
        """Return the patch of rows `[n, 4]`: slot, id, name id, property id."""
        slots, ids, names, properties = rows.T
        return cls(slots.copy(), ids.copy(), names.astype(np.int32), properties.astype(np.int32))

    def rows(self) -> NDArray[np.int64]:
        """Return what `of` takes."""
        return np.stack([self.slots, self.ids, self.name_ids, self.property_ids], 1)


_NOTHING = Patch.of(np.zeros((0, 4), np.int64))


@dataclass(frozen=True)
class SlotTable:
    """The live triples by slot, as of `revision`; immutable, `changed` makes the next one.

    Attributes:
        revision: of the knowledge base.
        last_id: the highest id of that revision, of removed triples too.
        n_slots: slots there are.
        columns: what was in them when these were made.
        patch: what is in some now; in all that came later.
        free: the slots without a triple, ascending.
        names: which name ids have triples.
        properties: which property ids have.
        generation: of the segment whose slots these are.
    """

    revision: int
    last_id: int
    n_slots: int
    columns: Columns
    patch: Patch
    free: _Slots
    names: Numbering
    properties: Numbering
    generation: int = 1

    @classmethod
    def empty(cls, generation: int = 1) -> SlotTable:
        """Return the table of a knowledge base before its first triple."""
        none = Numbering(0, np.zeros(0, np.int64))
        return cls(0, 0, 0, Columns.empty(), _NOTHING, np.zeros(0, np.int64), none, none, generation)

    def changed(self, changes: Changes) -> SlotTable:
        """Return the table after changes: costs what has changed since whole columns were made, no database involved."""
        n_slots, added = changes.meta.n_slots, changes.added
        removed_slots, removed_ids = changes.removed.T
        freed = removed_slots[self.ids(removed_slots) == removed_ids]
        n_patched = len(self.patch.slots) + len(freed) + max(len(added), n_slots - self.n_slots)
        if n_patched > PATCHED_SHARE * len(self.columns):
            return self._made_anew(changes, freed)
        skipped = np.setdiff1d(np.arange(self.n_slots, n_slots), added[:, 0])  # new, and free again already
        emptied = np.zeros((len(freed) + len(skipped), 4), np.int64)
        emptied[:, 0] = np.concatenate([freed, skipped])
        less_names = np.setdiff1d(self.name_ids(freed), added[:, 2])
        less_properties = np.setdiff1d(self.property_ids(freed), added[:, 3])
        if max(len(less_names), len(less_properties)) > _COUNTED:
            return self._made_anew(changes, freed)
        table = replace(
            self,
            revision=changes.meta.revision,
            last_id=changes.last_id,
            n_slots=n_slots,
            patch=Patch.of(_last_of_each(np.concatenate([self.patch.rows(), emptied, added]))),
            free=np.setdiff1d(np.union1d(self.free, emptied[:, 0]), added[:, 0]),
        )
        return replace(
            table,
            names=self.names.changed(added[:, 2], table._without_triples("name_ids", less_names)),
            properties=self.properties.changed(added[:, 3], table._without_triples("property_ids", less_properties)),
        )

    def ids(self, slots: _Slots) -> Ids:
        """Return the id in each slot, 0 where it is free."""
        return self._in("ids", slots)

    def name_ids(self, slots: _Slots) -> NDArray[np.int32]:
        """Return the id of the name in each slot, 0 where it is free."""
        return self._in("name_ids", slots)

    def property_ids(self, slots: _Slots) -> NDArray[np.int32]:
        """Return the id of the property in each slot, 0 where it is free."""
        return self._in("property_ids", slots)

    def slots_of_name(self, name_id: int) -> _Slots:
        """Return the slots of a name, ascending."""
        found = self.columns.places_of_names.of(name_id)
        changed = self.patch.slots
        if not len(changed):
            return found
        kept = found[~np.isin(found, changed, assume_unique=True)]
        return np.union1d(kept, changed[self.patch.name_ids == name_id])

    def ids_after(self, id: int) -> AnyIds:
        """Return the ids in use that are above one, in no order; without a copy where they are all of the columns."""
        new = self.patch.ids[self.patch.ids > id]
        if self.columns.last_id <= id:
            return new
        alive = self.columns.ids > id
        alive[self.patch.slots[self.patch.slots < len(alive)]] = False
        found = self.columns.ids if alive.all() else self.columns.ids[alive]
        return np.concatenate([found, new]) if len(new) else found

    def moved(self) -> Moved:
        """Return where triples are that are not at the position of their slot.

        Position p is slot p where that is taken; a free slot below n_triples is filled by one above. So the key
        segment serves as the snapshot's array nearly as it is, and the order depends on contents alone.
        """
        n = self.n_slots - len(self.free)
        n_below = int(np.searchsorted(self.free, n))
        above = np.setdiff1d(np.arange(n, self.n_slots), self.free[n_below:], assume_unique=True)
        return Moved(n, self.free[:n_below], above)

    def _in(self, part: str, slots: _Slots) -> NDArray[Any]:
        patch = self.patch
        column: NDArray[Any] = getattr(self.columns, part)
        changed: NDArray[Any] = getattr(patch, part)
        if not len(patch.slots):
            return column[slots].astype(changed.dtype, copy=False)
        found = column.take(slots, mode="clip") if len(column) else np.zeros(len(slots), column.dtype)
        found = found.astype(changed.dtype, copy=False)  # ids may be kept in 32 bits
        places, at = hits(patch.slots, slots)
        found[places] = changed[at]
        return found

    def _without_triples(self, part: str, ids: NDArray[np.int32]) -> Ids:
        """Return those of some names or properties that no slot has."""
        column: NDArray[np.int32] = getattr(self.columns, part)
        patched: NDArray[np.int32] = getattr(self.patch, part)
        hidden = column[self.patch.slots[self.patch.slots < len(column)]]
        counts = [sum(s * np.count_nonzero(c == id) for s, c in ((1, column), (-1, hidden), (1, patched))) for id in ids]
        without: Ids = ids[np.array(counts, np.int64) == 0].astype(np.int64)
        return without

    def _made_anew(self, changes: Changes, freed: _Slots) -> SlotTable:
        """Return the table after changes, with columns of its own."""

        def whole(part: str, added: Ids, dtype: type[np.signedinteger[Any]] = np.int32) -> NDArray[Any]:
            before: NDArray[Any] = getattr(self.columns, part)
            column = np.zeros(changes.meta.n_slots, dtype)
            column[: len(before)] = before
            column[self.patch.slots] = getattr(self.patch, part)
            column[freed] = 0
            column[changes.added[:, 0]] = added
            return column

        ids, names, properties = changes.added[:, 1:].T
        of_ids = np.int32 if changes.last_id <= np.iinfo(np.int32).max else np.int64
        columns = Columns(whole("ids", ids, of_ids), whole("name_ids", names), whole("property_ids", properties))
        return SlotTable(
            revision=changes.meta.revision,
            last_id=changes.last_id,
            n_slots=changes.meta.n_slots,
            columns=columns,
            patch=_NOTHING,
            free=np.flatnonzero(columns.ids == 0),
            names=Numbering.of(columns.name_ids),
            properties=Numbering.of(columns.property_ids),
            generation=self.generation,
        )


def _replaced(numbers: NDArray[np.int64], some: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return numbers with some, ascending, replaced by others."""
    if not len(some):
        return numbers
    places, at = hits(some, numbers)
    replaced = numbers.copy()
    replaced[places] = others[at]
    return replaced


def _last_of_each(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the last row of each slot, by slot."""
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    last = np.ones(len(rows), np.bool_)
    last[:-1] = rows[1:, 0] != rows[:-1, 0]
    return rows[last]
