"""Searching the keys of one revision of a knowledge base, by position."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kblam_engine.knowledge_base import KBSnapshot
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.products import Floats
from kblam_engine.search.exact import scan
from kblam_engine.search.interface import Found, KeyIndex, Mask, merged


class ShownSlots:
    """What has to be known about the slots of a snapshot to search it by an index; computed once, when it is needed.

    It is kept for every search of this snapshot and does not hold it: a snapshot that nobody uses any more is to go,
    with its file and its mapping, and a compaction spares what snapshots show.
    """

    def __init__(self) -> None:
        """Compute nothing yet."""
        self._alive: Mask | None = None
        self._positions: NDArray[np.int32] | None = None
        self._segment: Embeddings | None = None

    def alive(self, snapshot: KBSnapshot, n_slots: int) -> Mask:
        """Return which slots the snapshot shows, [n_slots or more]: an index may hold later ones than the snapshot."""
        alive = shown_slots(snapshot) if self._alive is None else self._alive
        if len(alive) < n_slots:
            alive = np.pad(alive, (0, n_slots - len(alive)))
        self._alive = alive
        return alive

    def segment(self, snapshot: KBSnapshot) -> Embeddings:
        """Return the keys by slot, mapped once.

        Raises:
            FileNotFoundError: a compaction has replaced them.
        """
        if self._segment is None:
            self._segment = snapshot.key_segment()
        return self._segment

    def positions(self, snapshot: KBSnapshot, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of slots that the snapshot shows, -1 for -1."""
        moved = snapshot.moved()
        if moved is not None:
            return moved.positions_of(slots)
        if self._positions is None:
            positions = np.full(snapshot.n_slots, -1, np.int32)
            positions[snapshot.slots()] = np.arange(len(snapshot), dtype=np.int32)
            self._positions = positions
        return np.where(slots < 0, -1, self._positions[slots])


class SnapshotSearch:
    """Finds positions of a snapshot: by an index, or by scoring every key where there is none.

    An index holds slots, whose keys never change, so any revision can be searched by it: what has been removed is
    passed over, and what has been added since it was built is scored key by key and is found at once.
    """

    def __init__(self, snapshot: KBSnapshot, index: KeyIndex | None = None, slots: ShownSlots | None = None) -> None:
        """Keep all; nothing is computed before the first search.

        Args:
            snapshot: what is searched.
            index: of its keys; None: every key is scored.
            slots: what other searches of this snapshot know already.
        """
        self.snapshot, self.index = snapshot, index
        self._slots = ShownSlots() if slots is None else slots

    @property
    def kind(self) -> str:
        """How the keys are searched."""
        return "exact" if self.index is None else self.index.kind

    @property
    def n_unindexed(self) -> int:
        """Slots that are not in the index."""
        return max(0, self.snapshot.n_slots - (0 if self.index is None else self.index.n_slots))

    def search(self, queries: Floats, k: int) -> Found:
        """Return the positions with the highest scores, best first.

        Args:
            queries: float32 [n_queries, embed_dim].
            k: how many for each.
        """
        snapshot = self.snapshot
        if self.index is None:
            return scan(snapshot.key_embeddings, queries, k)
        # Once: a service takes in more slots meanwhile, and none may be missed or found twice.
        first = self.index.n_slots
        try:
            later = self._slots.segment(snapshot)[first:] if snapshot.n_slots > first else None
        except FileNotFoundError:  # a compaction has replaced the segment; what a snapshot shows stays mapped
            return scan(snapshot.key_embeddings, queries, k)
        alive = self._slots.alive(snapshot, max(first, snapshot.n_slots))
        found = self.index.search(queries, k, alive[:first])
        if later is not None:
            added = scan(later, queries, k, alive[first : snapshot.n_slots])
            added = replace(added, at=np.where(added.at < 0, -1, added.at + first))
            found = merged([found, added], k)
        return replace(found, at=self._slots.positions(snapshot, found.at))


def shown_slots(snapshot: KBSnapshot) -> Mask:
    """Return which slots a snapshot shows, [n_slots]."""
    alive = np.zeros(snapshot.n_slots, np.bool_)
    moved = snapshot.moved()
    if moved is None:
        alive[snapshot.slots()] = True
    else:
        alive[: moved.n] = True
        alive[moved.positions] = False
        alive[moved.slots] = True
    return alive


def some_slots(n_slots: int, n: int) -> NDArray[np.int64]:
    """Return the slots by whose keys a segment is known again: the last n, where copies part, and as many spread evenly."""
    spread = np.linspace(0, n_slots - 1, min(n, n_slots)).astype(np.int64)
    return np.union1d(spread, np.arange(max(0, n_slots - n), n_slots))
