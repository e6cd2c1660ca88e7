"""Spherical k-means: unit vectors in clusters around unit centres, as pure functions of tensors on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

ITERATIONS = 8
WIDEST = 512
"""Centres that rows are compared with at once, where there are ways to go in steps: rows times centres is what it costs."""
_BATCH = 16_384  # rows whose scores against all centres are in memory at once ...
_SCORES = 1 << 24  # ... and these scores, 64 MB
_STUCK = 0.75
"""Of the rows in one cluster: centres hardly tell them apart."""
_DECAY = 0.5
"""How much of its weight a centre keeps from one mini-batch to the next: it settles, and still follows the keys."""


def spherical_kmeans(rows: Tensor, n_clusters: int, seed: int = 0, iterations: int = ITERATIONS) -> Tensor:
    """Return unit centres of unit rows, [n_clusters, embed_dim], found over mini-batches.

    Equal arguments give equal centres. Centres that lose all their rows are put where rows are worst served.

    Args:
        rows: [n_rows, embed_dim] in any floating type, at least one.
        n_clusters: at most n_rows; more are cut to that.
        seed: of every draw.
        iterations: mini-batches, each of at least 16 rows a cluster where there are so many.
    """
    generator = torch.Generator().manual_seed(seed)
    n_clusters = min(n_clusters, len(rows))
    batch = min(len(rows), max(_BATCH, 16 * n_clusters))
    drawn = torch.randperm(len(rows), generator=generator)
    centres = rows[drawn[:n_clusters]].float()
    weights = torch.zeros(n_clusters, device=rows.device)
    for _ in range(iterations):
        if batch < len(rows):
            drawn = torch.randint(len(rows), (batch,), generator=generator)
        chosen = rows[drawn].float()
        labels, scores = nearest_centres(chosen, centres)
        sums, counts = sums_by_label(chosen, labels, n_clusters)
        centres = functional.normalize(centres * weights[:, None] + sums, dim=1)
        weights = _DECAY * (weights + counts)
        empty = torch.nonzero(weights == 0)[:, 0]
        worst = torch.argsort(scores, stable=True)[: len(empty)]
        centres[empty[: len(worst)]] = chosen[worst]
    return centres


def nearest_centres(rows: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each row the number of the centre with the highest inner product, and that product."""
    labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    scores = torch.empty(len(rows), device=rows.device)
    block = max(1, min(_BATCH, _SCORES // len(centres)))
    for start in range(0, len(rows), block):
        best = (rows[start : start + block].float() @ centres.T).max(1)
        labels[start : start + block], scores[start : start + block] = best.indices, best.values
    return labels, scores


def sums_by_label(rows: Tensor, labels: Tensor, n_labels: int) -> tuple[Tensor, Tensor]:
    """Return the sum of the rows of each label, [n_labels, embed_dim], and how many there are, [n_labels]."""
    sums = torch.zeros(n_labels, rows.shape[1], device=rows.device).index_add_(0, labels, rows.float())
    return sums, torch.bincount(labels, minlength=n_labels).float()


def by_label(labels: Tensor, n_labels: int) -> Sequence[Tensor]:
    """Return the places of each label, ascending."""
    places = torch.argsort(labels, stable=True)
    counts: list[int] = torch.bincount(labels, minlength=n_labels).tolist()
    return torch.split(places, counts)


def many_centres(rows: Tensor, n_clusters: int, seed: int = 0) -> Tensor:
    """Return about so many unit centres, as `spherical_kmeans`; where there are more than `WIDEST`, cluster by cluster.

    Rows that are nearly all the same give some of themselves as centres.
    """
    if n_clusters <= WIDEST:
        return spherical_kmeans(rows, n_clusters, seed)
    coarser = spherical_kmeans(rows, math.isqrt(n_clusters) + 1, seed)
    found = []
    for places in by_label(nearest_centres(rows, coarser)[0], len(coarser)):
        n = max(1, round(n_clusters * len(places) / len(rows)))
        if len(places) > max(WIDEST, _STUCK * len(rows)):
            some = rows[places[:: -(-len(places) // n)]].float()
            found.append(functional.normalize(some, dim=1))
        elif len(places):
            found.append(many_centres(rows[places], n, seed))
    return torch.cat(found)


def parts_of(rows: Tensor, share: int, seed: int = 0) -> list[Tensor]:
    """Cut rows into clusters of about `share`, none of more than twice that; return the places of the rows of each.

    What k-means leaves together (rows that are nearly equal, say) is cut by position.
    """
    found, waiting = [], [torch.arange(len(rows), device=rows.device)]
    while waiting:
        places = waiting.pop()
        if len(places) <= 2 * share:
            found.append(places)
            continue
        some = rows[places]
        centres = spherical_kmeans(some, min(WIDEST, -(-len(places) // share)), seed)
        for label in by_label(nearest_centres(some, centres)[0], len(centres)):
            if len(label) > max(2 * share, _STUCK * len(places)):
                found += torch.tensor_split(places[label], -(-len(label) // (2 * share)))
            elif len(label):
                waiting.append(places[label])
    return found
