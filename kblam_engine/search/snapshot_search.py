"""Searching the keys of one revision of a knowledge base, by position."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kblam_engine.knowledge_base import KBSnapshot
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.products import Floats
from kblam_engine.search.exact import scan
from kblam_engine.search.interface import Found, KeyIndex, Mask, merged


class SnapshotSearch:
    """Finds positions of a snapshot: by an index, or by scoring every key where there is none.

    An index holds slots, whose keys never change, so any revision can be searched by it: what has been removed is
    passed over, and what has been added since it was built is scored key by key and is found at once.
    """

    def __init__(self, snapshot: KBSnapshot, index: KeyIndex | None = None) -> None:
        """Keep both; nothing is computed before the first search."""
        self.snapshot, self.index = snapshot, index

    @property
    def kind(self) -> str:
        """How the keys are searched."""
        return "exact" if self.index is None else self.index.kind

    @property
    def n_unindexed(self) -> int:
        """Slots that are not in the index."""
        return self.snapshot.n_slots - (0 if self.index is None else self.index.n_slots)

    def search(self, queries: Floats, k: int) -> Found:
        """Return the positions with the highest scores, best first.

        Args:
            queries: float32 [n_queries, embed_dim].
            k: how many for each.
        """
        if self.index is None:
            return scan(self.snapshot.key_embeddings, queries, k)
        # Once: a service takes in more slots meanwhile, and none may be missed or found twice.
        first, alive = self.index.n_slots, self._alive
        found = self.index.search(queries, k, alive[:first] if first < len(alive) else alive)
        if self.snapshot.n_slots > first:
            added = scan(self._segment[first:], queries, k, alive[first : self.snapshot.n_slots])
            added = replace(added, at=np.where(added.at < 0, -1, added.at + first))
            found = merged([found, added], k)
        return replace(found, at=self._positions(found.at))

    @cached_property
    def _alive(self) -> Mask:
        """Which slots the snapshot shows, [n_slots] and as many more as the index had when it was first asked."""
        snapshot = self.snapshot
        alive = np.zeros(max(snapshot.n_slots, 0 if self.index is None else self.index.n_slots), np.bool_)
        moved = snapshot.moved()
        if moved is None:
            alive[snapshot.slots()] = True
        else:
            alive[: moved.n] = True
            alive[moved.positions] = False
            alive[moved.slots] = True
        return alive

    def _positions(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of slots that the snapshot shows, -1 for -1."""
        moved = self.snapshot.moved()
        if moved is None:
            return np.where(slots < 0, -1, self._position_of[slots])
        return moved.positions_of(slots)

    @cached_property
    def _position_of(self) -> NDArray[np.int32]:
        """[n_slots], of a choice of triples: the position of each slot that it shows."""
        positions = np.full(self.snapshot.n_slots, -1, np.int32)
        positions[self.snapshot.slots()] = np.arange(len(self.snapshot), dtype=np.int32)
        return positions

    @cached_property
    def _segment(self) -> Embeddings:
        return self.snapshot.key_segment()

