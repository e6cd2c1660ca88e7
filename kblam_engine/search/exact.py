"""Scoring every key: the reference that every index is measured against, and fast enough for most knowledge bases."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kblam_engine.knowledge_base.reading_ahead import read_ahead
from kblam_engine.knowledge_base.rows import Embeddings, SelectedRows
from kblam_engine.products import Floats, product_of_rows
from kblam_engine.search.interface import Found, Mask, merged, nothing, top_of

CHUNK = 65_536
"""Keys that are scored before the best so far are merged: with the product's own buffer this is all the memory that a
scan takes, 2 MB and 0.3 MB a query, however many keys there are."""


def scan(keys: Embeddings, queries: Floats, k: int, alive: Mask | None = None) -> Found:
    """Return the best of all keys.

    Args:
        keys: [n_keys, embed_dim], mapped from disk or in memory.
        queries: [n_queries, embed_dim].
        k: how many for each query.
        alive: [n_keys or more], which of them count; None: all. One with a NaN or inf in it never does.
    """
    columns = np.ascontiguousarray(queries.T, np.float32)
    best = nothing(len(queries), k)
    for start in range(0, len(keys), CHUNK):
        scores = _scores(keys, columns, slice(start, start + CHUNK))
        if alive is not None:
            scores[~alive[start : start + len(scores)]] = -np.inf
        best = merged([best, top_of(scores, k, np.arange(start, start + len(scores)))], k)
    return best


def score_some(keys: Embeddings, query: Floats, chosen: NDArray[np.signedinteger[Any]]) -> Floats:
    """Return the scores of some keys, [n_chosen], -inf where they are no numbers.

    The system is told which keys, and reads them beside each other.

    Args:
        keys: [n_keys, embed_dim], mapped from disk or in memory.
        query: [embed_dim].
        chosen: [n_chosen], where they are.
    """
    read_ahead(keys, chosen)
    return _finite(product_of_rows(keys, query[:, None], chosen)[:, 0])


def _scores(keys: Embeddings, columns: Floats, which: slice) -> Floats:
    """Return the scores of some keys in a row, [n, n_queries]."""
    if isinstance(keys, SelectedRows):  # gathered a few at a time, where a slice would be a copy of them all
        return _finite(product_of_rows(keys.array, columns, keys.positions[which]))
    return _finite(product_of_rows(keys[which], columns))


def _finite(scores: Floats) -> Floats:
    """Let scores of damaged keys, NaN or inf, count for nothing, in place."""
    scores[~np.isfinite(scores)] = -np.inf
    return scores


class ExactIndex:
    """All keys of a segment as they are; a `KeyIndex` that needs no building."""

    kind = "exact"

    def __init__(self, keys: Embeddings) -> None:
        """Keep the keys, [n_slots, embed_dim]."""
        self.n_slots = len(keys)
        self._keys = keys

    def search(self, queries: Floats, k: int, alive: Mask | None = None) -> Found:
        """Return the best of the keys that are alive; see `KeyIndex.search`."""
        return scan(self._keys, queries, k, alive)
