"""The tree over keys (AtlasKV's HiKVP): root and inter centres in memory, the keys below them mapped from disk.

One tree serves every layer and head, because what is searched are sentence embeddings and the adapters are absorbed
into the query (DESIGN 3.1). A search scores all roots, then the inter centres of the best roots, then the keys of the
best inter centres; how many of each it follows is the beam. All three are kept and scored coarsely (`coarse`); the
keys with the highest scores are read whole, from the knowledge base, and scored again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base.reading_ahead import read_ahead_ranges
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.products import Floats, highest, product_of_rows
from kblam_engine.search.coarse import Coarse
from kblam_engine.search.exact import scan, score_some
from kblam_engine.search.interface import Found, Mask, log_sum_exp, stacked, top_of
from kblam_engine.search.live import FEW, LiveCounts, Sizes, live_between

Slots = NDArray[np.signedinteger[Any]]
Codes = NDArray[np.int8]
SCORED_AGAIN = 8
"""Keys that are read whole, for each one that is asked for. Of the best 16 of a million real keys, .977 are among the 32
with the highest coarse scores, .988 among 64, .994 among 128, .996 among 256."""
_WIDENED = 4
"""Times as wide is the next beam, where too few of the keys that one led to are alive."""


@dataclass(frozen=True, slots=True)
class Beam:
    """How many roots and inter centres a search follows; more find more and take longer."""

    roots: int = 128
    inters: int = 512

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.roots, self.inters) < 1:
            raise ConfigurationError(f"beam: expected at least 1 root and 1 inter centre, got {self}")

    def widened(self) -> Beam:
        """Return the beam that is tried after this one."""
        return Beam(_WIDENED * self.roots, _WIDENED * self.inters)


@dataclass(frozen=True, slots=True)
class Centres:
    """One level of the tree: means of keys. A query is compared with their directions.

    Attributes:
        means: int8 [n, n_directions], the codes (`Coarse`) of the mean of the keys below each.
        lengths: float32 [n], of these means, above 0: near 1 where the keys are all the same.
        sizes: int64 [n], keys below each, removed ones too.
    """

    means: Codes
    lengths: Floats
    sizes: NDArray[np.int64]

    def scores(self, against_codes: Floats, which: NDArray[np.int64] | None = None) -> Floats:
        """Return the inner products of a query (`Coarse.against_codes`) with the directions of some centres, or of all."""
        scores = product_of_rows(self.means, against_codes[:, None], which)[:, 0]
        found: Floats = scores / (self.lengths if which is None else self.lengths[which])
        return found

    def log_mass(self, which: NDArray[np.int64], scores: Floats, alive: Slots) -> Floats:
        """Return log(sum(exp(score))) over the keys below each of some centres, as if all were at their mean.

        Args:
            which: [n], the centres.
            scores: [n], of these.
            alive: for every centre, how many of the keys below it count; above 0 for these.
        """
        mass: Floats = np.log(alive[which]).astype(np.float32) + self.lengths[which] * scores
        return mass

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class KeyTree:
    """Clusters of keys; immutable. `tree_growth` makes one, and the next one when keys are added.

    Attributes:
        coarse: the coordinates that centres and leaves are in.
        roots: the upper level.
        inters: the lower level; each has a cluster of keys.
        root_of: int64 [n_inters].
        begins: int64 [n_inters]; the keys of cluster c are leaves[begins[c] : ends[c]] ...
        ends: int64 [n_inters]; those of clusters made after the leaves were written are 0.
        leaves: int8 [n_leaves, n_directions], coarse keys ordered by cluster, mapped from disk where they lie there.
        leaf_slots: int32 [n_leaves], the slot of each.
        loose: cluster -> slots ... and these besides, whose keys are read from the segment.
        segment: the knowledge base's keys by slot, float16 [n_slots, embed_dim] at least.
        n_slots: the slots that are in here.
        beam: what a search follows.
    """

    coarse: Coarse
    roots: Centres
    inters: Centres
    root_of: NDArray[np.int64]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    leaves: Codes
    leaf_slots: Slots
    loose: Mapping[int, Slots]
    segment: Embeddings
    n_slots: int
    beam: Beam = Beam()
    _counts: LiveCounts = field(default_factory=LiveCounts, init=False, repr=False, compare=False)
    kind: ClassVar[str] = "tree"

    def search(self, queries: Floats, k: int, alive: Mask | None = None) -> Found:
        """Return the best keys below the best centres; see `KeyIndex.search`.

        Scores are exact. The normaliser takes the keys of the clusters that were looked into by their coarse scores,
        but those that were scored again, and every other cluster as if all of its keys were at their mean: no logit is
        shifted by how much was pruned. A beam that covers the tree is a scan of every key.

        No beam is spent on clusters without a key that is alive, where more than `FEW` of the slots are not; and one
        that leads to too few is widened, to the whole tree if need be. So where fewer than k are found, there are no more.
        """
        if self._is_covered_by(self.beam):
            return scan(self.segment[: self.n_slots], queries, k, alive)
        found = [self._search(np.asarray(query, np.float32), k, alive) for query in queries]
        return stacked(found)

    def _search(self, query: Floats, k: int, alive: Mask | None) -> Found:
        against_codes = self.coarse.against_codes(self.coarse.project(query[None])[0])
        sizes, beam = self._live(alive), self.beam
        while True:
            slots, scores, rest = self._follow(beam, sizes, query, against_codes, alive)
            again = highest(scores, SCORED_AGAIN * k)
            again = again[scores[again] > -np.inf]
            if len(again) == SCORED_AGAIN * k or self._is_covered_by(beam):
                break
            beam = beam.widened()
        scores[again] = score_some(self.segment, query, slots[again])
        found = top_of(scores[again, None], k, slots[again])
        return replace(found, log_normaliser=log_sum_exp(np.concatenate([scores, rest])[None]))

    def _follow(
        self, beam: Beam, sizes: Sizes, query: Floats, against_codes: Floats, alive: Mask | None
    ) -> tuple[Slots, Floats, Floats]:
        """Return the slots that a beam leads to, the score of each, and the log of the mass of every other cluster."""
        root_scores = self.roots.scores(against_codes)
        best = _among(highest(np.where(sizes.roots > 0, root_scores, -np.inf), beam.roots), len(root_scores))
        inters = np.flatnonzero(best[self.root_of])
        inters = inters[sizes.inters[inters] > 0]
        inter_scores = self.inters.scores(against_codes, inters)
        chosen = highest(inter_scores, beam.inters)
        slots, scores = self._score_clusters(inters[chosen], query, against_codes, alive)
        other_roots = np.flatnonzero(~best & (sizes.roots > 0))
        others = np.flatnonzero(~_among(chosen, len(inters)))
        rest = [
            self.roots.log_mass(other_roots, root_scores[other_roots], sizes.roots),
            self.inters.log_mass(inters[others], inter_scores[others], sizes.inters),
        ]
        return slots, scores, np.concatenate(rest)

    def _is_covered_by(self, beam: Beam) -> bool:
        return beam.roots >= len(self.roots) and beam.inters >= len(self.inters)

    def _live(self, alive: Mask | None) -> Sizes:
        """Return how many keys are alive below each centre; all of them where only a few are not."""
        if alive is None or np.count_nonzero(alive[: self.n_slots]) >= (1 - FEW) * self.n_slots:
            return Sizes(self.roots.sizes, self.inters.sizes)
        return self._counts.of(alive[: self.n_slots], self._counted)

    def _counted(self, alive: Mask) -> Sizes:
        inters = live_between(self.begins, self.ends, self.leaf_slots, alive)
        if self.loose:
            owners = np.repeat(list(self.loose), list(map(len, self.loose.values())))
            added = owners[alive[np.concatenate(list(self.loose.values()))]]
            inters += np.bincount(added, minlength=len(inters)).astype(inters.dtype)
        return Sizes(np.bincount(self.root_of, inters, len(self.roots)).astype(np.int32), inters)

    def _score_clusters(
        self, clusters: NDArray[np.int64], query: Floats, against_codes: Floats, alive: Mask | None
    ) -> tuple[Slots, Floats]:
        """Return the slots in some clusters and the score of each, -inf for those that are not alive."""
        clusters = np.sort(clusters)
        begins, ends = self.begins[clusters], self.ends[clusters]
        # All at once: the system reads the later ones while the first are scored.
        read_ahead_ranges(self.leaves, begins, ends)
        packed, loose = within(begins, ends), self._loose(clusters)
        slots = np.concatenate([self.leaf_slots[packed], loose])
        scores = product_of_rows(self.leaves, against_codes[:, None], packed)[:, 0]
        if len(loose):
            scores = np.concatenate([scores, score_some(self.segment, query, loose)])
        if alive is not None:
            scores[~alive[slots]] = -np.inf
        return slots, scores

    def _loose(self, clusters: NDArray[np.int64]) -> Slots:
        some = [self.loose[c] for c in clusters.tolist() if c in self.loose] if self.loose else []
        return np.concatenate([np.zeros(0, self.leaf_slots.dtype), *some])

    def members(self, cluster: int) -> Slots:
        """Return the slots in a cluster."""
        packed = self.leaf_slots[self.begins[cluster] : self.ends[cluster]]
        return np.concatenate([packed, self.loose.get(cluster, np.zeros(0, np.int64))])

    @property
    def options(self) -> dict[str, Any]:
        """What the record of an index says about a tree."""
        sizes = {"roots": len(self.roots), "inters": len(self.inters), "directions": self.coarse.n_directions}
        return {"beam": asdict(self.beam), **sizes}

    @property
    def resident_bytes(self) -> int:
        """Bytes in memory beside what is mapped."""
        arrays = [getattr(level, part) for level in (self.roots, self.inters) for part in level.__slots__]
        arrays += [self.coarse.directions, self.root_of, self.begins, self.ends, *self.loose.values()]
        return self._counts.nbytes + int(sum(array.nbytes for array in arrays))


def _among(chosen: NDArray[np.int64], n: int) -> Mask:
    mask = np.zeros(n, np.bool_)
    mask[chosen] = True
    return mask


def within(begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return every number in some ranges."""
    lengths = ends - begins
    before = np.cumsum(lengths) - lengths
    return np.repeat(begins - before, lengths) + np.arange(lengths.sum())
