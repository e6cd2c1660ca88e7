"""AtlasKV's HiKVP as published, to measure against: per KB layer a descent from root keys to inter keys to leaf keys.

arXiv 2510.17934 clusters the base embeddings of keys on two levels, M^(2/3) inter and M^(1/3) root centres, and projects
centres and keys with one and the same adapter. In every KB layer, at every forward, a level's logits become
probabilities, summed over heads and positions; the best 128 roots, then the best 64 of the inter keys below them, then the
best 16 of the leaf keys below those are followed, and the values of the 16 join the softmax.

Three mistakes of the released code are not repeated: values are those of the leaves chosen, inter keys those below the
chosen roots, and one shift, log C - log M with M all triples, serves pruned and dense alike. Clusters are found by spherical
k-means instead of a Gaussian mixture after UMAP. On a CPU nothing has to be moved between memories, which is in its favour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kblam_engine.attention import KBBlock
from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.published import KB_SCALE, PublishedAdapter, bytes_of, shift_of
from kblam_engine.kb_state import KBState
from kblam_engine.search.clustering import nearest_centres, spherical_kmeans, sums_by_label

_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Beams:
    """How many a layer keeps on each level; the defaults are those of the published evaluation."""

    roots: int = 128
    inters: int = 64
    leaves: int = 16

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.roots, self.inters, self.leaves) < 1:
            raise ConfigurationError(f"beams: expected at least 1 on each level, got {self}")


@dataclass(frozen=True)
class Level:
    """Keys of one level, and what lies below each.

    Attributes:
        keys: by layer, `[n, n_heads, head_dim]`.
        begins: int64 `[n]`; what is below key i are numbers begins[i] to ends[i] - 1 of the next level ...
        ends: int64 `[n]`; none below a leaf.
    """

    keys: dict[int, Tensor]
    begins: Tensor
    ends: Tensor

    def below(self, chosen: Tensor) -> Tensor:
        """Return the numbers, on the next level, of all that is below some of these."""
        begins, sizes = self.begins[chosen], (self.ends - self.begins)[chosen]
        starts = torch.repeat_interleave(begins - (sizes.cumsum(0) - sizes), sizes)
        return starts + torch.arange(len(starts), device=starts.device)


@dataclass(frozen=True)
class HierarchicalKB:
    """What HiKVP keeps of a KB.

    Attributes:
        roots: the upper level.
        inters: the level between.
        leaves: the keys of the triples, ordered by cluster.
        values: by layer, `[n_triples, n_heads, head_dim]`, in the order of the leaves.
        triples: int64 `[n_triples]`, which triple each leaf is.
    """

    roots: Level
    inters: Level
    leaves: Level
    values: dict[int, Tensor]
    triples: Tensor

    @property
    def n_triples(self) -> int:
        """How many triples these are of."""
        return len(self.triples)

    @property
    def n_bytes(self) -> int:
        """Bytes of keys on all levels, values, and the numbers that join the levels."""
        levels = (self.roots, self.inters, self.leaves)
        keys = [tensor for level in levels for tensor in level.keys.values()]
        joins = [tensor for level in levels for tensor in (level.begins, level.ends)]
        return bytes_of([*keys, *joins, *self.values.values(), self.triples])


def build_hierarchy(
    adapter: PublishedAdapter, key_embeddings: Tensor, value_embeddings: Tensor, seed: int = 0
) -> HierarchicalKB:
    """Cluster a KB and project it, `[n_triples, embed_dim]` keys and values on the adapter's device."""
    keys = key_embeddings.float()
    n = len(keys)
    inter_of, inter_means = _clusters(keys, math.ceil(n ** (2 / 3)), seed)
    root_of, root_means = _clusters(inter_means, math.ceil(n ** (1 / 3)), seed)
    # Both levels are put in the order of what is above them, so that what is below a centre is one run of numbers.
    inter_order = torch.argsort(root_of, stable=True)
    place_of_inter = torch.empty_like(inter_order)
    place_of_inter[inter_order] = torch.arange(len(inter_order), device=keys.device)
    of_leaf = place_of_inter[inter_of]
    order = torch.argsort(of_leaf, stable=True)
    nothing = torch.zeros(n, dtype=torch.int64, device=keys.device)
    return HierarchicalKB(
        Level(_projected(adapter, root_means), *_runs(root_of, len(root_means))),
        Level(_projected(adapter, inter_means[inter_order]), *_runs(of_leaf, len(inter_means))),
        Level(_projected(adapter, keys[order]), nothing, nothing),
        _projected(adapter, value_embeddings[order], values=True),
        order,
    )


class HierarchicalState(KBState):
    """HiKVP's attention for one sequence: each KB layer finds its own triples, at every forward anew.

    Attributes:
        attended: by layer, the triples of the last forward, int64 `[at most beams.leaves]`.
    """

    def __init__(
        self, adapter: PublishedAdapter, kb: HierarchicalKB, beams: Beams | None = None, kb_scale: float | None = KB_SCALE
    ) -> None:
        """Take an adapter and the KB that it projected."""
        self.adapter, self.kb, self.beams = adapter, kb, beams or Beams()
        self.layers = frozenset(adapter.layers)
        self.shift = shift_of(kb_scale, kb.n_triples)
        self.attended: dict[int, Tensor] = {}

    def extend(self, layer: int, hidden: Tensor, prompt_logsumexp: Tensor) -> KBBlock:
        """Descend for the positions of `hidden`, `[1, q_len, hidden]`.

        Raises:
            ConfigurationError: there is more than one sequence: the published selection is shared by all of a forward.
        """
        if len(hidden) != 1:
            raise ConfigurationError(f"expected one sequence, as in the published code, got a batch of {len(hidden)}")
        query = self.adapter.query(layer, hidden)
        chosen = torch.arange(len(self.kb.roots.begins), device=hidden.device)
        for level, beam in ((self.kb.roots, self.beams.roots), (self.kb.inters, self.beams.inters)):
            kept, _ = self._best(query, level.keys[layer], chosen, beam)
            chosen = level.below(kept)
        leaves, logits = self._best(query, self.kb.leaves.keys[layer], chosen, self.beams.leaves)
        self.attended[layer] = self.kb.triples[leaves]
        values = self.kb.values[layer][leaves]
        return KBBlock(logits + self.shift, values.transpose(0, 1)[None])

    def _best(self, query: Tensor, keys: Tensor, among: Tensor, beam: int) -> tuple[Tensor, Tensor]:
        """Return the numbers of the best keys out of some, and their logits `[1, n_heads, q_len, k]`."""
        candidates = keys[among]  # [k, n_heads, head_dim]
        logits = (query @ candidates.permute(1, 2, 0)[None]).float() * self.adapter.head_dim**-0.5
        if beam >= len(among):
            return among, logits
        best = logits.softmax(-1).sum((0, 1, 2)).topk(beam).indices
        return among[best], logits[..., best]


def _clusters(rows: Tensor, n_clusters: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return a label for each row, and the mean of the rows of each; clusters that nothing is in are left out."""
    labels, _ = nearest_centres(rows, spherical_kmeans(rows, n_clusters, seed))
    labels = torch.unique(labels, return_inverse=True)[1]
    sums, counts = sums_by_label(rows, labels, int(labels.max()) + 1)
    return labels, sums / counts[:, None]


def _runs(above: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return where the run of each of `n` begins and ends, once rows are sorted by what is above them."""
    sizes = torch.bincount(above, minlength=n)
    ends = sizes.cumsum(0)
    return ends - sizes, ends


def _projected(adapter: PublishedAdapter, embeddings: Tensor, *, values: bool = False) -> dict[int, Tensor]:
    """Project `[n, embed_dim]` to `[n, n_heads, head_dim]` for each KB layer, some at a time."""
    size = len(embeddings), adapter.n_heads, adapter.head_dim
    found = {layer: adapter.key_map.new_empty(size) for layer in adapter.layers}
    for start in range(0, len(embeddings), _CHUNK):
        chunk = embeddings[start : start + _CHUNK]
        tokens = adapter.values(chunk) if values else adapter.keys(chunk)
        for place, layer in enumerate(adapter.layers):
            found[layer][start : start + len(chunk)] = tokens[:, place]
    return found
