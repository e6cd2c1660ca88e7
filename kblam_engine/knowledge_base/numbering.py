"""Ids of names and properties: which have triples, their numbers without gaps, and where the triples of each are."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
AnyIds = NDArray[np.signedinteger[Any]]
"""In 32 bits, where they fit and are kept."""
_BLOCK = 65_536
_FEW = 64
"""Of so many numbers one is wanted at most: then each is searched for, and else all are marked."""
_LOOKED_THROUGH = 32
"""Ids looked up by a pass over all before these are sorted: an array that few questions see is ready at once."""


def looked_up(ascending: Ids, wanted: NDArray[np.integer[Any]]) -> tuple[Ids, NDArray[np.bool_]]:
    """Return where in an ascending array, of one number at least, each wanted number would be, and whether it is there."""
    at = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return at, ascending[at] == wanted


def among(numbers: Ids, wanted: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Say of each wanted number whether it is one of some numbers, of which none is below 0.

    A mark for every number up to the highest: a tenth of the time of a search where many are wanted.
    """
    marked = np.zeros(int(numbers.max(initial=-1)) + 3, np.bool_)  # with one for all below 0 and one for all above
    marked[numbers + 1] = True
    return marked.take(wanted + 1, mode="clip")


def hits(ascending: Ids, wanted: Ids) -> tuple[tuple[Ids, ...], Ids]:
    """Return the places in `wanted`, of any shape, of numbers that are in an ascending array, and where they are there."""
    few = wanted.size * _FEW < ascending[-1]
    found = looked_up(ascending, wanted)[1] if few else among(ascending, wanted)
    places = np.nonzero(found)
    return places, np.searchsorted(ascending, wanted[places])


class Numbering:
    """Ids that are in use, numbered 0..m-1 in their order.

    Attributes:
        last: no id is above it.
        absent: int64, those of 1..last that are not in use, ascending.
    """

    def __init__(self, last: int, absent: Ids) -> None:
        self.last, self.absent = last, absent

    @classmethod
    def of(cls, ids: NDArray[np.int32]) -> Numbering:
        """Return the numbering of the ids above 0 in an array."""
        used = np.zeros(int(ids.max(initial=0)) + 1, np.bool_)
        for start in range(0, len(ids), _BLOCK):  # numpy makes 64-bit numbers of indices: never of all at once
            used[ids[start : start + _BLOCK]] = True
        return cls(len(used) - 1, np.flatnonzero(~used[1:]) + 1)

    def changed(self, come: Ids, gone: Ids) -> Numbering:
        """Return the numbering with some ids in use that may not have been, and some no longer."""
        last = max(self.last, int(come.max(initial=0)))
        skipped = np.setdiff1d(np.arange(self.last + 1, last + 1), come)
        absent = self.absent
        if len(gone) or len(skipped):
            absent = np.union1d(absent, np.concatenate([gone, skipped]))
        if self._absent_among(come).any():
            absent = np.setdiff1d(absent, come)
        return Numbering(last, absent)

    def __len__(self) -> int:
        return self.last - len(self.absent)

    def used(self, ids: Ids) -> NDArray[np.bool_]:
        """Say of each id whether it is in use."""
        return (ids >= 1) & (ids <= self.last) & ~self._absent_among(ids)

    def numbers(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the number of each id that is in use."""
        if not len(self.absent):
            return ids.astype(np.int64) - 1
        return ids - 1 - np.searchsorted(self.absent, ids)

    def ids(self, numbers: NDArray[np.int64]) -> Ids:
        """Return the id that has each number."""
        return numbers + 1 + np.searchsorted(self._shifted, numbers, side="right")

    def all(self) -> Ids:
        """Return the ids in use, ascending."""
        return self.ids(np.arange(len(self)))

    @cached_property
    def _shifted(self) -> Ids:
        """How many ids in use are below each absent one."""
        return self.absent - 1 - np.arange(len(self.absent))

    def _absent_among(self, ids: Ids) -> NDArray[np.bool_]:
        if not len(self.absent):
            return np.zeros(len(ids), np.bool_)
        return looked_up(self.absent, ids)[1]


class Places:
    """Where each id stands in an array of ids that does not change."""

    def __init__(self, ids: NDArray[np.int32]) -> None:
        self._ids = ids
        self._n_looked_up = 0
        self._sorted: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None
        self._lock = threading.Lock()

    def of(self, id: int) -> NDArray[np.int64]:
        """Return the places of an id, ascending: by a pass over all, but if that is asked often by their order."""
        if self._sorted is None and self._n_looked_up < _LOOKED_THROUGH:
            self._n_looked_up += 1
            return np.flatnonzero(self._ids == id)
        with self._lock:
            if self._sorted is None:
                self._sorted = self._in_order()
        order, starts = self._sorted
        if not 0 <= id < len(starts) - 1:
            return np.zeros(0, np.int64)
        return order[starts[id] : starts[id + 1]].astype(np.int64)

    def _in_order(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the places sorted by id, and where each id starts.

        In blocks: a sort of all at once takes three times the memory of what it returns, and a process keeps that.
        """
        starts = np.zeros(int(self._ids.max(initial=0)) + 2, np.int32)
        for begin in range(0, len(self._ids), _BLOCK):
            ids, counts = np.unique(self._ids[begin : begin + _BLOCK], return_counts=True)
            starts[ids + 1] += counts.astype(np.int32)
        np.cumsum(starts, dtype=np.int32, out=starts)
        order, ahead = np.empty(len(self._ids), np.int32), starts[:-1].copy()
        for begin in range(0, len(self._ids), _BLOCK):
            block = self._ids[begin : begin + _BLOCK]
            by_id = np.argsort(block, kind="stable")
            ids, first, counts = np.unique(block[by_id], return_index=True, return_counts=True)
            nth = np.arange(len(block)) - np.repeat(first, counts)  # of its id in this block
            order[np.repeat(ahead[ids], counts) + nth] = begin + by_id
            ahead[ids] += counts.astype(np.int32)
        return order, starts
