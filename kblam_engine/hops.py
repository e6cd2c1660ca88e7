"""Selecting again when an answer moves on: from a written triple to what its value names (several hops).

"Who leads the company that makes the Orca 2?" needs two triples, and the second can be looked for only once the first
is known: its value, Acme Robotics, takes the place of the first triple's name in the question.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kblam_engine.evidence import Examiner
from kblam_engine.gating import Gates, decide
from kblam_engine.retrieval import Retrieved
from kblam_engine.triples import Triple
from kblam_engine.wording import spans_of, words


def next_question(examiner: Examiner, turn: str, written: Triple) -> str:
    """Return the question with what the written triple says in place of its name.

    Args:
        examiner: finds the name in the question.
        turn: the question.
        written: the triple that the answer has just quoted.
    """
    asked = examiner.mask_name(turn, written.name, by=written.value)
    return asked if asked != turn else f"{written.value}: {turn}"


def following(found: Retrieved, written: Triple, threshold: float, n: int) -> tuple[Retrieved, Gates]:
    """Return which triples go on from a written one, and their gates.

    Args:
        found: candidates for the next question, best first.
        written: the triple before them; only triples about something that its value names may follow.
        threshold: probability below which a triple does not answer.
        n: how many triples to keep at most.
    """
    said, own = words(written.value), words(written.name)
    keep = [
        i
        for i, triple in enumerate(found.triples)
        if words(triple.name) != own and spans_of(words(triple.name), said)
    ][:n]
    kept = Retrieved(found.positions[keep], tuple(found.triples[i] for i in keep), found.log_odds[keep])
    return kept, decide(kept.log_odds, threshold)


def joined(first: Retrieved, gates: Gates, more: Retrieved, more_gates: Gates) -> tuple[Retrieved, Gates]:
    """Return one selection of two: the open triples of both in front, so that slots that are in use stay.

    Args:
        first: the selection so far.
        gates: its gates.
        more: what follows; of it only the open triples are taken.
        more_gates: their gates.
    """
    known = set(first.positions[: gates.n_open].tolist())
    new = [i for i in range(more_gates.n_open) if int(more.positions[i]) not in known]
    taken = {int(more.positions[i]) for i in new}
    rest = [i for i in range(gates.n_open, len(gates.triples)) if int(first.positions[i]) not in taken]
    order = [*range(gates.n_open), *rest]
    n = gates.n_open

    def merge(old: np.ndarray, added: np.ndarray) -> np.ndarray:
        kept = old[order]
        return np.concatenate([kept[:n], added[new], kept[n:]])

    triples = [first.triples[i] for i in order]
    merged = Retrieved(
        merge(first.positions, more.positions),
        (*triples[:n], *(more.triples[i] for i in new), *triples[n:]),
        merge(first.log_odds, more.log_odds),
    )
    return merged, replace(gates, triples=merge(gates.triples, more_gates.triples))
