"""Spherical k-means: unit vectors in clusters around unit centres, as pure functions of tensors on any device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as functional
from torch import Tensor

ITERATIONS = 8
_BATCH = 16_384  # rows whose scores against all centres are in memory at once
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
    for start in range(0, len(rows), _BATCH):
        best = (rows[start : start + _BATCH].float() @ centres.T).max(1)
        labels[start : start + _BATCH], scores[start : start + _BATCH] = best.indices, best.values
    return labels, scores


def sums_by_label(rows: Tensor, labels: Tensor, n_labels: int) -> tuple[Tensor, Tensor]:
    """Return the sum of the rows of each label, [n_labels, embed_dim], and how many there are, [n_labels]."""
    sums = torch.zeros(n_labels, rows.shape[1], device=rows.device).index_add_(0, labels, rows.float())
    return sums, torch.bincount(labels, minlength=n_labels).float()


def parts_of(rows: Tensor, n_parts: int, seed: int = 0) -> Tensor:
    """Return labels 0..n_parts - 1 that cut rows into clusters, no label with more than twice its share.

    What k-means leaves too large (many equal rows, say, which no centres tell apart) is cut by position.
    """
    labels, _ = nearest_centres(rows, spherical_kmeans(rows, n_parts, seed))
    share = -(-len(rows) // n_parts)
    sizes = torch.bincount(labels, minlength=n_parts)
    spare = iter(torch.argsort(sizes).tolist())
    for label in torch.nonzero(sizes > 2 * share)[:, 0].tolist():
        members = torch.nonzero(labels == label)[:, 0]
        for overhang in torch.split(members[2 * share :], share):
            labels[overhang] = _next_below(spare, sizes, share, label)
    return labels


def _next_below(spare: Iterator[int], sizes: Tensor, share: int, otherwise: int) -> int:
    """Return the emptiest part that is not taken yet and has room for a share, or the one the rows come from."""
    found = next(spare, otherwise)
    return found if sizes[found] <= share else otherwise
