"""How many keys are alive below each centre of a tree: counted anew only where much has been removed since."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kblam_engine.search.interface import Mask

FEW = 0.01
"""Of the slots: so many are counted with the living before it is counted anew. A normaliser is off by as much."""
_KEPT = 4
"""Masks that the counts are kept of: revisions and views that are asked in turn."""
_CHUNK = 262_144


@dataclass(frozen=True, slots=True)
class Sizes:
    """Keys that are alive, [n_roots] below each root and [n_inters] in each cluster; where it is 0 none is."""

    roots: NDArray[np.signedinteger]
    inters: NDArray[np.signedinteger]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.roots.nbytes + self.inters.nbytes


class LiveCounts:
    """Remembers what was counted for the last masks, as bits; shared among threads.

    A mask of as many keys but `FEW`, all of them alive in one that was counted, is served by that count: a revision
    that removes one triple costs no count. Masks are compared by what is in them, so no two are taken for one another.
    """

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._kept: tuple[tuple[NDArray[np.uint8], int, Sizes], ...] = ()

    def of(self, alive: Mask, count: Callable[[Mask], Sizes]) -> Sizes:
        """Return the sizes for a mask [n_slots], of always as many slots; `count` tells them where they are not known."""
        bits, n_alive = np.packbits(alive), int(np.count_nonzero(alive))
        for known, n_known, sizes in self._kept:
            if n_known - n_alive <= FEW * len(alive) and not np.any(bits & ~known):
                return sizes
        sizes = count(alive)
        self._kept = ((bits, n_alive, sizes), *self._kept)[:_KEPT]
        return sizes

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(bits.nbytes + sizes.nbytes for bits, _, sizes in self._kept)


def live_between(
    begins: NDArray[np.int64], ends: NDArray[np.int64], slots: NDArray[np.signedinteger], alive: Mask
) -> NDArray[np.int32]:
    """Return how many of slots[begins[i] : ends[i]] are alive for each i, a part of the slots in memory at a time."""
    found = np.zeros(len(begins), np.int32)
    before = np.zeros(_CHUNK + 1, np.int32)
    for start in range(0, len(slots), _CHUNK):
        some = alive.take(slots[start : start + _CHUNK])
        np.cumsum(some, out=before[1 : len(some) + 1])
        found += before[np.clip(ends - start, 0, len(some))] - before[np.clip(begins - start, 0, len(some))]
    return found
