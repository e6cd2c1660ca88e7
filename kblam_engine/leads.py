"""How far candidates are ahead of each other: of those with other names, and of those with the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nlargest

import numpy as np
from numpy.typing import NDArray

from kblam_engine.products import Floats


def leads_of_names(name_ids: Sequence[int], scores: Sequence[float]) -> dict[int, float]:
    """Return how far each name's best score is ahead of every other name's (of 0 if there is no other).

    A title that is described, not quoted, shares few words with the question, but its triples lead together.

    Args:
        name_ids: of the candidates, [n].
        scores: of the candidates, [n].
    """
    best: dict[int, float] = {}
    for name_id, score in zip(name_ids, scores, strict=True):
        best[name_id] = max(score, best.get(name_id, -1.0))
    others = best_of_others(best)
    return {i: own - others[i] for i, own in best.items()}


def best_of_others(scores: Mapping[int, float]) -> dict[int, float]:
    """Return for each name the highest score of the others, 0 where there is no other."""
    if len(scores) < 2:
        return dict.fromkeys(scores, 0.0)
    first, second = nlargest(2, scores.values())
    return {i: second if own == first else first for i, own in scores.items()}


def leads_among_siblings(name_ids: Sequence[int], scores: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return how far each candidate's scores are ahead of the best of its name's others, and how many others there are.

    Args:
        name_ids: of the candidates, [n].
        scores: [n, n_scores].

    Returns:
        [n, n_scores], the scores themselves where there are no others; and [n].
    """
    places_of: dict[int, list[int]] = {}
    for at, name_id in enumerate(name_ids):
        places_of.setdefault(name_id, []).append(at)
    leads, n_others = scores.copy(), np.zeros(len(name_ids), np.int64)
    for places in places_of.values():
        if len(places) == 1:
            continue
        own = scores[places]
        second, best = np.partition(own, len(places) - 2, axis=0)[-2:]
        others = np.repeat(best[None], len(places), 0)
        others[own.argmax(0), np.arange(own.shape[1])] = second
        leads[places], n_others[places] = own - others, len(places) - 1
    return leads, n_others
