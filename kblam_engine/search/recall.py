"""How much of what scoring every key finds an index finds as well, and how wide a tree's beam has to be for it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.products import Floats
from kblam_engine.search.coarse import finite
from kblam_engine.search.exact import ExactIndex, scan
from kblam_engine.search.interface import Found, KeyIndex
from kblam_engine.search.tree import Beam, KeyTree

_T = TypeVar("_T", int, float)
GOAL = 0.985
"""Recall that a beam is chosen for."""
K = 16
N_QUERIES = 300
"""The fewer, the more the beam depends on which are drawn: for one tree of a million keys 2,896 by 100, 2,048 by 300."""
_BETWEEN = 0.5
"""How far a sample query is from a key towards another one: cosines of .9 to its key, as real questions have."""
_EQUAL = 1e-5
"""Of a score: what rounding makes of the same one, summed up in another order."""
_TIMED = 20
INTERS = tuple(round(128 * 2 ** (step / 4)) for step in range(21))
"""Inter centres that a beam may follow, 128 to 4,096, four steps doubling them ..."""
ROOTS = tuple(0.375 * 2 ** (step / 4) for step in range(-12, 1))
"""... and roots, in multiples of these: 3 in 64 to 3 in 8. At 1,000,000 real keys 1 in 4 find what all do."""


@dataclass(frozen=True, slots=True)
class Measured:
    """An index beside scoring every key: recall of the best `K`, and time over time, medians of single queries."""

    recall: float
    time_ratio: float
    exact_ms: float
    index_ms: float


def sample_queries(keys: Embeddings, n: int = N_QUERIES, seed: int = 0) -> Floats:
    """Return unit queries, [n, embed_dim], each near a key, on the way to another."""
    generator = np.random.default_rng(seed)
    first, second = (np.sort(generator.integers(len(keys), size=n)) for _ in range(2))
    one, other = (finite(np.asarray(keys[at], np.float32)) for at in (first, generator.permutation(second)))
    rows = one + _BETWEEN * other
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


def recall_of(found: Found, truth: Found) -> float:
    """Return the share of what is true that was found, the mean over the queries that anything is true for.

    What scores as high as the last of the best is one of the best: of equal keys, which are found is all the same.
    """
    n_true = (truth.at >= 0).sum(1)
    asked = np.flatnonzero(n_true)
    last = truth.scores[asked, n_true[asked] - 1]
    right = (found.at[asked] >= 0) & (found.scores[asked] >= (last - _EQUAL * np.maximum(1, np.abs(last)))[:, None])
    n_right = [len(np.unique(at[good])) for at, good in zip(found.at[asked], right, strict=True)]
    return float(np.mean(np.minimum(1.0, n_right / n_true[asked]))) if len(asked) else 1.0


def fitting_beam(tree: KeyTree, queries: Floats, truth: Found, goal: float = GOAL) -> Beam:
    """Return a beam that finds the goal's share, or the widest: as few inter centres as do, then as few roots as do."""

    def finds(roots: float, inters: int) -> bool:
        found = replace(tree, beam=beam_of(roots, inters)).search(queries, truth.at.shape[1])
        return recall_of(found, truth) >= goal

    inters = _first(INTERS, lambda inters: finds(ROOTS[-1], inters))
    return beam_of(_first(ROOTS, lambda roots: finds(roots, inters)), inters)


def beam_of(roots: float, inters: int) -> Beam:
    """Return the beam of so many inter centres, and of roots in multiples of these."""
    return Beam(max(1, round(roots * inters)), inters)


def measure(index: KeyIndex, keys: Embeddings, queries: Floats, truth: Found | None = None, k: int = K) -> Measured:
    """Compare an index with scoring every key, query by query and turn by turn."""
    truth = scan(keys, queries, k) if truth is None else truth
    exact_s, index_s = [], []
    exact: KeyIndex = ExactIndex(keys)
    for query in queries[:_TIMED, None]:
        exact_s.append(_seconds(exact, query, k))
        index_s.append(_seconds(index, query, k))
    exact_ms, index_ms = 1e3 * float(np.median(exact_s)), 1e3 * float(np.median(index_s))
    return Measured(recall_of(index.search(queries, k), truth), index_ms / exact_ms, exact_ms, index_ms)


def _first(widths: Sequence[_T], is_enough: Callable[[_T], bool]) -> _T:
    """Return the first of some widths that is enough, or the last; of those after one that is enough all are."""
    return widths[min(bisect_left(widths, True, key=is_enough), len(widths) - 1)]


def _seconds(index: KeyIndex, query: Floats, k: int) -> float:
    begun = time.perf_counter()
    index.search(query, k)
    return time.perf_counter() - begun
