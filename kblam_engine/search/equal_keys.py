"""Keys that are equal, bit for bit: no centres tell them apart, so they are found before any clustering."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kblam_engine.knowledge_base.rows import Embeddings

_CHUNK = 2048
_SEED = 20


def fingerprints(keys: Embeddings, chosen: NDArray[np.signedinteger]) -> NDArray[np.uint64]:
    """Return a number for each of some keys, [n_chosen]: equal for equal keys and, all but surely, for no others."""
    found = np.empty(len(chosen), np.uint64)
    generator = np.random.default_rng(_SEED)
    weights = generator.integers(2**64, size=keys.shape[1] * keys.dtype.itemsize // 2, dtype=np.uint64) | np.uint64(1)
    for start in range(0, len(chosen), _CHUNK):
        bits = np.ascontiguousarray(keys[chosen[start : start + _CHUNK]]).view(np.uint16)
        found[start : start + len(bits)] = bits.astype(np.uint64) @ weights
    return found


def distinct(keys: Embeddings, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first of each kind of some keys, in their order."""
    _, first = np.unique(fingerprints(keys, chosen), return_index=True)
    found: NDArray[np.int64] = chosen[np.sort(first)]
    return found


def large_groups(prints: NDArray[np.uint64], largest: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Return the places of each number that is there more than `largest` times, and the places of all others."""
    _, which, counts = np.unique(prints, return_inverse=True, return_counts=True)
    order, ends = np.argsort(which, kind="stable"), np.cumsum(counts)
    large = np.flatnonzero(counts > largest).tolist()
    return [order[ends[i] - counts[i] : ends[i]] for i in large], np.flatnonzero(counts[which] <= largest)
