"""What it means to search keys, and how partial results are put together; knows no index and no knowledge base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from kblam_engine.products import Floats, highest

IndexKind = Literal["exact", "tree", "ann"]
"""How keys are searched: all of them, down a tree of clusters, or by faiss."""
INDEX_KINDS: tuple[str, ...] = get_args(IndexKind)
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Found:
    """The keys with the highest scores for each query, best first.

    A score is the inner product of query and key, the logit of that key. There is no temperature: scale the queries.

    Attributes:
        at: int64 [n_queries, k], where the keys are in what was searched; -1 where there are no more.
        scores: float32 [n_queries, k], -inf where there are no more.
        log_normaliser: float32 [n_queries], log of the sum of exp(score) over all keys. `scores - log_normaliser`
            are the log-probabilities that attending to every key would give. Where an index looks at a part of the
            keys only, it says how it estimates the rest.
    """

    at: NDArray[np.int64]
    scores: Floats
    log_normaliser: Floats


class KeyIndex(Protocol):
    """Keys by their slot (row of the knowledge base's key segment), removed ones too, in a shape that is fast to search."""

    @property
    def kind(self) -> str:
        """One of `INDEX_KINDS`, or "remote"."""

    @property
    def n_slots(self) -> int:
        """The slots 0..n_slots - 1 are in here; what came later is for the caller to search."""

    def search(self, queries: Floats, k: int, alive: Mask | None = None) -> Found:
        """Return the best of the keys that are alive.

        Args:
            queries: [n_queries, embed_dim].
            k: how many for each.
            alive: [n_slots or more], which slots count; None: all. A key with a NaN or inf in it never does.
        """


def top_of(scores: Floats, k: int, at: NDArray[np.int64] | None = None) -> Found:
    """Return the best of scored keys.

    Args:
        scores: [n_keys, n_queries]; -inf for a key that does not count. No NaN.
        k: how many for each query.
        at: [n_keys], where the keys are; default 0..n_keys - 1.
    """
    columns = scores.T
    best = highest(columns, k)
    found = np.take_along_axis(columns, best, 1)
    places = (best if at is None else at[best]).astype(np.int64)
    return _ordered(np.where(np.isneginf(found), -1, places), found, k, log_sum_exp(columns))


def merged(parts: Sequence[Found], k: int) -> Found:
    """Return the best of several searches of different keys, and the normaliser over all of them."""
    at = np.concatenate([part.at for part in parts], 1)
    scores = np.concatenate([part.scores for part in parts], 1)
    return _ordered(at, scores, k, np.logaddexp.reduce([part.log_normaliser for part in parts], 0))


def stacked(parts: Sequence[Found]) -> Found:
    """Return the searches of different queries, all for as many keys, as one."""
    return Found(*(np.concatenate([getattr(part, name) for part in parts]) for name in Found.__slots__))


def nothing(n_queries: int, k: int) -> Found:
    """Return what is found where there are no keys."""
    none = np.full((n_queries, k), -np.inf, np.float32)
    return Found(np.full((n_queries, k), -1, np.int64), none, np.full(n_queries, -np.inf, np.float32))


def log_sum_exp(scores: Floats) -> Floats:
    """Return log(sum(exp(scores))) along the last axis, -inf for nothing."""
    if not scores.shape[-1]:
        return np.full(scores.shape[:-1], -np.inf, np.float32)
    highest = np.maximum(scores.max(-1, keepdims=True), np.finfo(np.float32).min)
    with np.errstate(divide="ignore"):
        total: Floats = np.log(np.exp(scores - highest).sum(-1)) + highest[..., 0]
    return total


def _ordered(at: NDArray[np.int64], scores: Floats, k: int, log_normaliser: Floats) -> Found:
    """Sort, best first and of equals the first, and bring to k columns."""
    order = np.lexsort((at, -scores), axis=1)[:, :k]
    missing = ((0, 0), (0, k - order.shape[1]))
    return Found(
        np.pad(np.take_along_axis(at, order, 1), missing, constant_values=-1),
        np.pad(np.take_along_axis(scores, order, 1), missing, constant_values=-np.inf).astype(np.float32),
        np.asarray(log_normaliser, np.float32),
    )
