"""Growing a tree over keys: from nothing, and key by key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.products import Floats
from kblam_engine.search.clustering import (
    by_label,
    many_centres,
    nearest_centres,
    parts_of,
    spherical_kmeans,
    sums_by_label,
)
from kblam_engine.search.coarse import Coarse
from kblam_engine.search.equal_keys import distinct, fingerprints, large_groups
from kblam_engine.search.tree import Beam, Centres, Codes, KeyTree, Slots, within

FINENESS = 4
"""Inter centres, in multiples of n_keys ** (2/3). On 100,000 real keys 4 finds 98 % of the best 16 in 4 % of the keys,
1 needs 12 % of them."""
PASSES = 2
"""Over all keys. On those keys two more found .3 % more in as many keys, and took half as long again."""
ROOTS_TRIED = 8
"""Roots below which the cluster of a key is looked for."""
LARGEST = 4
"""A cluster of more than so many times the mean is split."""
_SHORTEST = 1e-6
"""Length of a mean, at least: keys that cancel out have no direction."""
_SMALLEST = 8
"""Keys a cluster, at least, on average."""
_SAMPLE = 12
"""Keys a cluster that the centres are found from."""
_DIRECTING = 65_536
"""Keys that principal directions are found from, at most."""
_CHUNK = 16_384
_CLUSTERS = 512
"""Whose keys are added up at once."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, keys done, and keys in all."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Which cluster each key is in, and the two levels above.

    Attributes:
        coarse: the coordinates that everything is computed in.
        labels: int64 [n_keys].
        roots: the upper level.
        inters: the lower level, a cluster each.
        root_of: int64 [n_inters].
    """

    coarse: Coarse
    labels: NDArray[np.int64]
    roots: Centres
    inters: Centres
    root_of: NDArray[np.int64]


def shape_of(n_keys: int) -> tuple[int, int]:
    """Return how many roots and inter centres a tree has: a search then scores O(n_keys ** (1/3)) on every level."""
    n_inters = max(1, min(round(FINENESS * n_keys ** (2 / 3)), n_keys // _SMALLEST))
    return max(1, round(FINENESS * n_inters**0.5)) if n_inters > 64 else 1, n_inters


def find_clusters(
    keys: Embeddings, *, seed: int = 0, device: str = "cpu", progress: Progress = lambda *_: None
) -> Clusters:
    """Cluster keys, [n_keys, embed_dim]: top down on a sample, then in passes over all of them.

    A pass puts every key into a cluster; between passes the inter centres move to the means of their keys, and the
    roots are found again among the inter centres. Of equal keys the sample has one: the others would be given centres,
    and directions, that tell nothing apart.
    """
    n_roots, n_inters = shape_of(len(keys))
    generator = np.random.default_rng(seed)
    chosen = distinct(keys, np.sort(generator.permutation(len(keys))[: _SAMPLE * n_inters]))
    coarse = Coarse.of(keys[chosen[:: -(-len(chosen) // _DIRECTING)]])
    sample = torch.from_numpy(_projected(coarse, keys, chosen)).to(device)
    roots = spherical_kmeans(sample, n_roots, seed)
    inters, root_of = _below(sample, roots, n_inters, seed)
    del sample
    for number in range(PASSES):
        levels = roots, inters, root_of
        sums, sizes, labels = _pass(keys, coarse, levels, device, progress, f"pass {number + 1} of {PASSES}")
        if number < PASSES - 1:
            inters = torch.nn.functional.normalize(sums[sizes > 0], dim=1)
            roots = spherical_kmeans(inters, n_roots, seed)
            root_of = nearest_centres(inters, roots)[0]
    return _split_large(keys, _levels(coarse, sums, sizes, labels, root_of, len(roots)), seed)


def slots_by_cluster(clusters: Clusters) -> Slots:
    """Return the slots of all keys, int32 [n_keys], cluster by cluster: the order of the leaves."""
    return np.argsort(clusters.labels, kind="stable").astype(np.int32)


def codes_of(keys: Embeddings, coarse: Coarse, slots: Slots) -> Iterator[Codes]:
    """Yield the codes of the keys in some slots, [some, n_directions] each, in their order."""
    for start in range(0, len(slots), _CHUNK):
        yield coarse.codes(coarse.project(keys[slots[start : start + _CHUNK]]))


def grow(keys: Embeddings, *, beam: Beam | None = None, seed: int = 0, device: str = "cpu") -> KeyTree:
    """Return a tree in memory over all keys, [n_slots, embed_dim]."""
    clusters = find_clusters(keys, seed=seed, device=device)
    slots = slots_by_cluster(clusters)
    leaves = np.concatenate(list(codes_of(keys, clusters.coarse, slots)))
    return tree_of(clusters, leaves, slots, keys, beam or Beam())


def tree_of(clusters: Clusters, leaves: Codes, slots: Slots, segment: Embeddings, beam: Beam) -> KeyTree:
    """Put clusters, the codes of their keys (`codes_of`) and the slots of these into a tree."""
    ends = np.cumsum(clusters.inters.sizes)
    begins = ends - clusters.inters.sizes
    levels = clusters.coarse, clusters.roots, clusters.inters, clusters.root_of
    return KeyTree(*levels, begins, ends, leaves, slots, {}, segment, len(slots), beam)


def with_slots(tree: KeyTree, segment: Embeddings, n_slots: int, seed: int = 0) -> KeyTree:
    """Return the tree with the slots up to `n_slots` of a segment that has grown.

    Each key joins the cluster with the nearest centre. A cluster that has grown too large is split where it is; no
    other cluster is touched. Nothing of the first tree is changed.
    """
    new = np.arange(tree.n_slots, n_slots)
    roots, inters = (_directions(tree.coarse, level) for level in (tree.roots, tree.inters))
    below = by_label(torch.from_numpy(tree.root_of), len(roots))
    labels = np.zeros(len(new), np.int64)
    for start in range(0, len(new), _CHUNK):
        rows = torch.from_numpy(tree.coarse.project(segment[new[start : start + _CHUNK]]))
        labels[start : start + len(rows)] = nearest_leaf_centres(rows, roots, inters, below).numpy()
    loose = dict(tree.loose)
    order = np.argsort(labels, kind="stable")
    joined, starts = np.unique(labels[order], return_index=True)
    for cluster, slots in zip(joined.tolist(), np.split(new[order], starts)[1:], strict=True):
        loose[cluster] = np.concatenate([loose.get(cluster, np.zeros(0, np.int64)), slots])
    return _with_split(_with_means(replace(tree, loose=loose, segment=segment, n_slots=n_slots), joined), seed)


def nearest_leaf_centres(rows: Tensor, roots: Tensor, inters: Tensor, below: Sequence[Tensor]) -> Tensor:
    """Return for each row the inter centre with the highest inner product below its best roots, int64 [n_rows].

    Args:
        rows: [n_rows, n_directions].
        roots: [n_roots, n_directions].
        inters: [n_inters, n_directions].
        below: the numbers of the inter centres of each root.
    """
    tried = (rows @ roots.T).topk(min(ROOTS_TRIED, len(roots)), dim=1).indices
    best = torch.full((len(rows),), -torch.inf, device=rows.device)
    labels = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    # Sorted once: to look through all rows for each root would cost rows times roots.
    places = by_label(tried.flatten(), len(roots))
    for root in torch.unique(tried).tolist():
        which, centres = places[root] // tried.shape[1], below[root]
        if not len(centres):
            continue
        at, scores = nearest_centres(rows[which], inters[centres])
        higher = scores > best[which]
        best[which[higher]], labels[which[higher]] = scores[higher], centres[at[higher]]
    return labels


def _directions(coarse: Coarse, centres: Centres) -> Tensor:
    """Return unit rows, [n, n_directions]."""
    return torch.from_numpy(coarse.decoded(centres.means) / centres.lengths[:, None])


def _below(sample: Tensor, roots: Tensor, n_inters: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return inter centres, each root's share of them found among its own keys, and the root of each."""
    labels, _ = nearest_centres(sample, roots)
    found, root_of = [], []
    for root, places in enumerate(by_label(labels, len(roots))):
        members = sample[places]
        if len(members):
            centres = many_centres(members, max(1, round(n_inters * len(members) / len(sample))), seed + root)
            found.append(centres)
            root_of += [root] * len(centres)
    return torch.cat(found), torch.tensor(root_of, device=sample.device)


def _pass(
    keys: Embeddings,
    coarse: Coarse,
    levels: tuple[Tensor, Tensor, Tensor],
    device: str,
    progress: Progress,
    what: str,
) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Put every key into a cluster; return each cluster's sum, [n_inters, n_directions], its size, and the labels."""
    roots, inters, root_of = levels
    below = by_label(root_of, len(roots))
    sums, sizes = torch.zeros_like(inters), torch.zeros(len(inters), device=device)
    labels = np.empty(len(keys), np.int64)
    for start in range(0, len(keys), _CHUNK):
        rows = torch.from_numpy(coarse.project(keys[start : start + _CHUNK])).to(device)
        found = nearest_leaf_centres(rows, roots, inters, below)
        more, counts = sums_by_label(rows, found, len(inters))
        sums += more
        sizes += counts
        labels[start : start + len(rows)] = found.cpu().numpy()
        progress(what, start + len(rows), len(keys))
    return sums, sizes, labels


def _levels(
    coarse: Coarse, sums: Tensor, sizes: Tensor, labels: NDArray[np.int64], root_of: Tensor, n_roots: int
) -> Clusters:
    """Describe both levels from the sums of the keys in each cluster; empty clusters are left out."""
    used = sizes > 0
    numbers = torch.cumsum(used, 0) - 1
    sums, sizes, root_of = sums[used].cpu(), sizes[used].cpu(), root_of[used].cpu()
    present, root_numbers = torch.unique(root_of, return_inverse=True)
    above = torch.zeros(len(present), sums.shape[1]).index_add_(0, root_numbers, sums)
    below = torch.zeros(len(present)).index_add_(0, root_numbers, sizes)
    roots, inters = centres_of(coarse, above.numpy(), below.numpy()), centres_of(coarse, sums.numpy(), sizes.numpy())
    return Clusters(coarse, numbers.cpu().numpy()[labels], roots, inters, root_numbers.numpy())


def centres_of(coarse: Coarse, sums: Floats, sizes: NDArray[np.generic]) -> Centres:
    """Return centres from the sum of the projected keys below each, [n, n_directions], and how many there are."""
    means = sums / np.maximum(sizes, 1).astype(np.float32)[:, None]
    lengths = np.maximum(np.linalg.norm(means, axis=1), _SHORTEST)
    return Centres(coarse.codes(means), lengths.astype(np.float32), sizes.astype(np.int64))


def _split_large(keys: Embeddings, clusters: Clusters, seed: int) -> Clusters:
    """Split what is too large, and describe the parts beside the other centres."""
    labels, sizes = clusters.labels.copy(), clusters.inters.sizes
    order = np.argsort(labels, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    # Not the mean alone: where most keys have equals, there are few clusters, all of them large.
    mean = min(float(sizes.mean()), 2 * len(labels) / shape_of(len(labels))[1])
    splits = [
        _divided(clusters.coarse, keys, cluster, order[starts[cluster] : starts[cluster + 1]], int(mean) + 1, seed)
        for cluster in _too_large(sizes, mean)
    ]
    for number, slots in _numbered(splits, len(sizes)):
        labels[slots] = number
    inters, root_of = _replaced(clusters.inters, clusters.root_of, splits)
    return replace(clusters, labels=labels, inters=inters, root_of=root_of)


def _with_means(tree: KeyTree, clusters: NDArray[np.int64]) -> KeyTree:
    """Return a tree with the centres of these clusters, which have grown, moved to the means of their keys."""
    parts = {name: getattr(tree.inters, name).copy() for name in Centres.__slots__}
    for start in range(0, len(clusters), _CLUSTERS):
        some = clusters[start : start + _CLUSTERS]
        begins, ends, loose = tree.begins[some], tree.ends[some], [tree.loose[cluster] for cluster in some.tolist()]
        packed = tree.coarse.decoded(tree.leaves.take(within(begins, ends), 0))
        rows = np.concatenate([packed, tree.coarse.project(tree.segment[np.concatenate(loose)])])
        owners = np.concatenate([np.repeat(np.arange(len(some)), n) for n in (ends - begins, list(map(len, loose)))])
        sums, sizes = sums_by_label(torch.from_numpy(rows), torch.from_numpy(owners), len(some))
        moved = centres_of(tree.coarse, sums.numpy(), sizes.numpy())
        for name, part in parts.items():
            part[some] = getattr(moved, name)
    return replace(tree, inters=Centres(**parts))


def _with_split(tree: KeyTree, seed: int) -> KeyTree:
    """Return a tree with those clusters split that are too large, and its roots moved to the means of their keys."""
    mean = float(tree.inters.sizes.mean())
    splits = [
        _divided(tree.coarse, tree.segment, cluster, tree.members(cluster), int(mean) + 1, seed)
        for cluster in _too_large(tree.inters.sizes, mean)
    ]
    loose = {**tree.loose, **dict(_numbered(splits, len(tree.inters)))}
    begins, ends = tree.begins.copy(), tree.ends.copy()
    for split in splits:
        begins[split.cluster] = ends[split.cluster] = 0
    inters, root_of = _replaced(tree.inters, tree.root_of, splits)
    sums = torch.from_numpy(tree.coarse.decoded(inters.means) * inters.sizes[:, None].astype(np.float32))
    above, _ = sums_by_label(sums, torch.from_numpy(root_of), len(tree.roots))
    below = np.bincount(root_of, inters.sizes, len(tree.roots))
    return replace(
        tree,
        roots=centres_of(tree.coarse, above.numpy(), below),
        inters=inters,
        root_of=root_of,
        begins=np.pad(begins, (0, len(inters) - len(begins))),
        ends=np.pad(ends, (0, len(inters) - len(ends))),
        loose=loose,
    )


def _too_large(sizes: NDArray[np.int64], mean: float) -> list[int]:
    return np.flatnonzero(sizes > LARGEST * max(8.0, mean)).tolist()


@dataclass(frozen=True, slots=True)
class _Split:
    """A cluster, the slots in each of its parts, and the centres of these."""

    cluster: int
    parts: list[Slots]
    centres: Centres


def _divided(coarse: Coarse, keys: Embeddings, cluster: int, slots: Slots, share: int, seed: int) -> _Split:
    """Cut the keys in a cluster into parts of about `share`: many equal ones by position, the others by what they are."""
    groups, others = large_groups(fingerprints(keys, slots), 2 * share)
    parts = [part for group in groups for part in np.array_split(group, -(-len(group) // (2 * share)))]
    sums = [coarse.project(keys[slots[part[:1]]]) * len(part) for part in parts]
    if len(others):
        rows = torch.from_numpy(_projected(coarse, keys, slots[others]))
        for places in parts_of(rows, share, seed):
            parts.append(others[places.numpy()])
            sums.append(rows[places].sum(0, keepdim=True).numpy())
    centres = centres_of(coarse, np.concatenate(sums), np.array([len(part) for part in parts]))
    return _Split(cluster, [slots[part] for part in parts], centres)


def _projected(coarse: Coarse, keys: Embeddings, chosen: Slots) -> Floats:
    """Return the coordinates of some keys, [n_chosen, n_directions], of which no more are read at once than need be."""
    parts = [coarse.project(keys[chosen[at : at + _CHUNK]]) for at in range(0, len(chosen), _CHUNK)]
    return np.concatenate(parts)


def _numbered(splits: Sequence[_Split], n_clusters: int) -> Iterator[tuple[int, Slots]]:
    """Yield each part's number and its slots: the first is in the place of its cluster, the others come at the end."""
    for split in splits:
        yield split.cluster, split.parts[0]
        yield from enumerate(split.parts[1:], n_clusters)
        n_clusters += len(split.parts) - 1


def _replaced(
    inters: Centres, root_of: NDArray[np.int64], splits: Sequence[_Split]
) -> tuple[Centres, NDArray[np.int64]]:
    """Return the inter centres, and the root of each, after the clusters have been split; as `_numbered`."""
    joined = []
    for name in Centres.__slots__:
        whole, parts = getattr(inters, name).copy(), [getattr(split.centres, name) for split in splits]
        for split, part in zip(splits, parts, strict=True):
            whole[split.cluster] = part[0]
        joined.append(np.concatenate([whole, *(part[1:] for part in parts)]))
    roots = [np.full(len(split.parts) - 1, root_of[split.cluster]) for split in splits]
    return Centres(*joined), np.concatenate([root_of, *roots])
