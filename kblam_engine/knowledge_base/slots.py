"""Which triple sits in which slot of the key segment, as arrays that a snapshot shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kblam_engine.knowledge_base.store import Changes

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class SlotTable:
    """The live triples by slot, as of `revision`; immutable, `changed` makes the next one."""

    revision: int
    last_id: int
    ids: NDArray[np.int64]
    """`[n_slots]`, 0 where the slot is free."""
    name_ids: NDArray[np.int32]
    property_ids: NDArray[np.int32]

    @classmethod
    def empty(cls) -> SlotTable:
        """Return the table of a knowledge base before its first triple."""
        return cls(0, 0, np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))

    def changed(self, changes: Changes) -> SlotTable:
        """Apply changes to a copy: a few milliseconds at a million triples, no database involved."""
        n_slots = changes.meta.n_slots
        ids = _grown(self.ids, n_slots)
        name_ids = _grown(self.name_ids, n_slots)
        property_ids = _grown(self.property_ids, n_slots)
        removed_slots, removed_ids = changes.removed.T
        ids[removed_slots[ids[removed_slots] == removed_ids]] = 0
        added = changes.added[:, 0]
        ids[added], name_ids[added], property_ids[added] = changes.added[:, 1:].T
        return SlotTable(changes.meta.revision, changes.last_id, ids, name_ids, property_ids)

    def order(self) -> NDArray[np.int64]:
        """Return the slot of every position, `[n_triples]`.

        Position p is slot p where that is taken; a free slot below n_triples is filled by one above. So the key
        segment serves as the snapshot's array nearly as it is, and the order depends on contents alone.
        """
        taken = self.ids != 0
        n_triples = int(np.count_nonzero(taken))
        slots = np.arange(n_triples)
        slots[~taken[:n_triples]] = n_triples + np.flatnonzero(taken[n_triples:])
        return slots


def dense_index(ids: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Renumber ids 0..m-1 in their order; return the new numbers and the old id of each, ascending."""
    if not len(ids):
        return np.zeros(0, np.int32), np.zeros(0, np.int64)
    present = np.flatnonzero(np.bincount(ids))
    numbers = np.zeros(int(present[-1]) + 1, np.int32)
    numbers[present] = np.arange(len(present), dtype=np.int32)
    return numbers[ids], present


def _grown(array: NDArray[_Scalar], length: int) -> NDArray[_Scalar]:
    grown = np.zeros(length, array.dtype)
    grown[: len(array)] = array
    return grown
