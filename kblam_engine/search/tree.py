"""The tree over keys (AtlasKV's HiKVP): root and inter centres in memory, the keys below them mapped from disk.

One tree serves every layer and head, because what is searched are sentence embeddings and the adapters are absorbed
into the query (DESIGN 3.1). A search scores all roots, then the inter centres of the best roots, then the keys of the
best inter centres; how many of each it follows is the beam.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.products import Floats, product_of_rows
from kblam_engine.search.interface import Found, Mask, log_sum_exp, top_of

Slots = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Beam:
    """How many roots and inter centres a search follows; more find more and take longer."""

    roots: int = 128
    inters: int = 512

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.roots, self.inters) < 1:
            raise ConfigurationError(f"beam: expected at least 1 root and 1 inter centre, got {self}")


@dataclass(frozen=True, slots=True)
class Centres:
    """One level of the tree.

    Attributes:
        directions: float16 [n, embed_dim], unit rows.
        lengths: float32 [n], of the mean of the keys below each: 1 where they are all the same.
        sizes: int64 [n], keys below each, removed ones too.
    """

    directions: Embeddings
    lengths: Floats
    sizes: NDArray[np.int64]

    def log_mass(self, which: NDArray[np.int64], scores: Floats) -> Floats:
        """Return log(sum(exp(score))) over the keys below each of some centres, as if all were at their mean."""
        mass: Floats = np.log(np.maximum(self.sizes[which], 1)).astype(np.float32) + self.lengths[which] * scores
        return mass

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class KeyTree:
    """Clusters of keys; immutable. `tree_growth` makes one, and the next one when keys are added.

    Attributes:
        roots: the upper level.
        inters: the lower level; each has a cluster of keys.
        root_of: int64 [n_inters].
        begins: int64 [n_inters]; the keys of cluster c are leaves[begins[c] : ends[c]] ...
        ends: int64 [n_inters]; those of clusters made after the leaves were written are 0.
        leaves: float16 [n_leaves, embed_dim], keys ordered by cluster, mapped from disk where they lie there.
        leaf_slots: int64 [n_leaves], the slot of each.
        loose: cluster -> slots ... and these besides, whose keys are read from the segment.
        segment: the knowledge base's keys by slot, float16 [n_slots, embed_dim] at least.
        n_slots: the slots that are in here.
        beam: what a search follows.
    """

    roots: Centres
    inters: Centres
    root_of: NDArray[np.int64]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    leaves: Embeddings
    leaf_slots: Slots
    loose: Mapping[int, Slots]
    segment: Embeddings
    n_slots: int
    beam: Beam = Beam()
    mapping: mmap.mmap | None = None
    """Of the file in which the leaves are."""
    leaves_offset: int = 0
    kind: ClassVar[str] = "tree"

    def search(self, queries: Floats, k: int, alive: Mask | None = None) -> Found:
        """Return the best keys below the best centres; see `KeyIndex.search`.

        The normaliser is exact for the clusters that were looked into, and takes every other cluster as if all of its
        keys were at their mean. So it is the exact one where the beam covers the tree, and no logit is shifted by how
        much was pruned.
        """
        found = [self._search(np.asarray(query, np.float32), k, alive) for query in queries]
        return Found(*(np.concatenate([getattr(one, part) for one in found]) for part in Found.__slots__))

    def _search(self, query: Floats, k: int, alive: Mask | None) -> Found:
        root_scores = product_of_rows(self.roots.directions, query[:, None])[:, 0]
        best = _best(root_scores, self.beam.roots)
        inters = np.flatnonzero(_among(best, len(self.roots))[self.root_of])
        inter_scores = product_of_rows(self.inters.directions[inters], query[:, None])[:, 0]
        chosen = _best(inter_scores, self.beam.inters)
        self._fetch(inters[chosen])
        slots, scores = self._score_clusters(inters[chosen], query, alive)
        found = top_of(scores[:, None], k, slots)
        other_roots = np.flatnonzero(~_among(best, len(root_scores)))
        others = np.flatnonzero(~_among(chosen, len(inters)))
        rest = [
            self.roots.log_mass(other_roots, root_scores[other_roots]),
            self.inters.log_mass(inters[others], inter_scores[others]),
        ]
        return replace(found, log_normaliser=log_sum_exp(np.concatenate([found.log_normaliser, *rest])[None]))

    def _fetch(self, clusters: NDArray[np.int64]) -> None:
        """Ask the system for the leaves of clusters, all at once: it reads the later ones while the first are scored."""
        if self.mapping is None:
            return
        row_bytes, page = self.leaves.itemsize * self.leaves.shape[1], mmap.ALLOCATIONGRANULARITY
        begins, ends = (self.leaves_offset + row_bytes * at[clusters] for at in (self.begins, self.ends))
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            self.mapping.madvise(mmap.MADV_WILLNEED, begin // page * page, end - begin // page * page)

    def _score_clusters(self, clusters: NDArray[np.int64], query: Floats, alive: Mask | None) -> tuple[Slots, Floats]:
        """Return the slots in some clusters and the score of each, -inf for those that are not alive."""
        packed, loose = _within(self.begins[clusters], self.ends[clusters]), self._loose(clusters)
        slots = np.concatenate([self.leaf_slots[packed], loose])
        keys = self.leaves[packed]
        if len(loose):
            keys = np.concatenate([keys, self.segment[loose]])
        scores = product_of_rows(keys, query[:, None])[:, 0]
        if alive is not None:
            scores[~alive[slots]] = -np.inf
        return slots, scores

    def _loose(self, clusters: NDArray[np.int64]) -> Slots:
        some = [self.loose[c] for c in clusters.tolist() if c in self.loose] if self.loose else []
        return np.concatenate([np.zeros(0, np.int64), *some])

    def on(self, mapping: mmap.mmap, leaves_offset: int) -> KeyTree:
        """Return the tree with the mapping in which its leaves are, so that they can be asked for early."""
        return replace(self, mapping=mapping, leaves_offset=leaves_offset)

    def members(self, cluster: int) -> Slots:
        """Return the slots in a cluster."""
        packed = self.leaf_slots[self.begins[cluster] : self.ends[cluster]]
        return np.concatenate([packed, self.loose.get(cluster, np.zeros(0, np.int64))])

    @property
    def resident_bytes(self) -> int:
        """Bytes in memory beside what is mapped."""
        levels = (self.roots, self.inters)
        centres = sum(level.directions.nbytes + 12 * len(level) for level in levels)
        return centres + 3 * self.root_of.nbytes + sum(slots.nbytes for slots in self.loose.values())


def _best(scores: Floats, n: int) -> NDArray[np.int64]:
    return np.arange(len(scores)) if n >= len(scores) else np.argpartition(-scores, n - 1)[:n]


def _among(chosen: NDArray[np.int64], n: int) -> Mask:
    mask = np.zeros(n, np.bool_)
    mask[chosen] = True
    return mask


def _within(begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return every number in some ranges."""
    lengths = ends - begins
    before = np.cumsum(lengths) - lengths
    return np.repeat(begins - before, lengths) + np.arange(lengths.sum())
