"""Hard negatives: what the trained retrieval layer puts beside the triples that a question asks for.

Native tokens that have only ever seen what is asked for write out whatever else is open. So some of their batches
are retrieved, from KBs of all sizes: siblings and triples of other names stay in the attention with the gates that they
would have, or with those of triples that are just open, and the answer leaves them out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

from kblam_engine.gating import OPEN_FLOOR, decide
from kblam_engine.native_layout import MIN_LOG_GATE
from kblam_engine.retrieval import Questions, Retriever
from kblam_engine.training.pools import EncodedWorld, Pool
from kblam_engine.training.samples import Sample

N_WRONG = (0, 0, 1, 1, 2)
"""How many of the best wrong candidates are open at least; one of these is drawn for every question."""
_TRIES = 50
_SIBLING_SHARE = 0.85

Draw = Callable[[Random], Sample]


def draw_size(random: Random, sizes: tuple[int, int]) -> int:
    """Return a size between two, evenly on a logarithmic scale."""
    return round(math.exp(random.uniform(math.log(sizes[0]), math.log(sizes[1]))))


def draw_together(random: Random, encoded: EncodedWorld, n: int, draw: Draw) -> list[Sample]:
    """Return ``n`` samples that one KB can serve: what one asks for is hidden from no other.

    After 50 tries in a row the last sample is taken again.
    """
    kept: list[Sample] = []
    needed: set[int] = set()
    hidden: set[int] = set()
    tries = 0
    while len(kept) < n:
        sample = draw(random)
        own = {at for entity in sample.entities for at in encoded.world.entities[entity]} | set(sample.supports)
        tries += 1
        if (own & hidden or set(sample.hidden) & needed) and not (kept and tries > _TRIES):
            continue
        if own & hidden or set(sample.hidden) & needed:
            sample, own = kept[-1], set()
        kept.append(sample)
        needed |= own
        hidden |= set(sample.hidden)
        tries = 0
    return kept


def shared_pool(random: Random, encoded: EncodedWorld, samples: Sequence[Sample], size: int) -> Pool:
    """Return a KB of about ``size`` triples that makes sense of all samples.

    It holds what they ask for, most of what is said of the same names, and other entities whole; nothing that one of
    the samples hides.

    Args:
        random: source of the draws.
        encoded: the world.
        samples: as ``draw_together`` returns them.
        size: triples; more, if the samples need more.
    """
    world = encoded.world
    hidden = {at for sample in samples for at in sample.hidden}
    members: set[int] = set()
    for sample in samples:
        members.update(sample.supports)
        for entity in sample.entities:
            members.update(world.entities[entity])
        for at in (*sample.supports, *sample.hidden):
            members |= {p for p in world.entities[world.known[at].entity] if random.random() < _SIBLING_SHARE}
    entities = list(range(len(world.entities)))
    random.shuffle(entities)
    for entity in entities:
        if len(members) >= size:
            break
        members.update(world.entities[entity])
    return Pool(encoded, sorted(members - hidden))


class Miner:
    """Selects triples as an answer would: retrieved, weighed and gated."""

    def __init__(self, retriever: Retriever, threshold: float, n_select: int) -> None:
        """Take what selects.

        Args:
            retriever: the retrieval layer, trained.
            threshold: probability below which a triple does not answer.
            n_select: triples of an answer at most.
        """
        self._retriever, self._threshold, self._n_select = retriever, threshold, n_select

    def select(self, random: Random, sample: Sample, pool: Pool) -> list[tuple[int, float]]:
        """Return positions in the world with their gates, best first: all that is asked for, and what is wrong.

        What is asked for is open in any case: a question that retrieval fails at has no answer to be trained on. Wrong
        triples come after it.

        Args:
            random: source of the draws; what is retrieved does not change how much is drawn.
            sample: has an answer in the pool.
            pool: the KB.
        """
        n_wrong = random.choice(N_WRONG)
        drawn = [random.uniform(OPEN_FLOOR, 0.0) for _ in sample.supports]
        found = self._retriever.retrieve(sample.messages, pool)
        asked = Questions.of(sample.messages).n_asked
        gates = decide(found.log_odds, self._threshold, n_asked=asked).triples.tolist()
        ranked = {int(pool.members[p]): gate for p, gate in zip(found.positions, gates, strict=True)}
        # The likelier triple is written first, so that the order of an answer can be told from the gates.
        right = [ranked.get(at, MIN_LOG_GATE) for at in sample.supports]
        right = [gate if gate > MIN_LOG_GATE else other for gate, other in zip(right, drawn, strict=True)]
        selected = list(zip(sample.supports, sorted(right, reverse=True), strict=True))
        for at, gate in ranked.items():
            n = len(selected) - len(sample.supports)
            if at in sample.supports:
                continue
            if len(selected) >= self._n_select or (gate <= MIN_LOG_GATE and n >= n_wrong):
                break
            selected.append((at, max(OPEN_FLOOR, min(gate, min(right)))))
        return selected
