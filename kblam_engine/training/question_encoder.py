"""Part of the retrieval stage: the question side of the sentence encoder learns to meet the keys of triples (DESIGN 3.2).

Keys, properties and values stay as the frozen encoder makes them, so that no KB has to be encoded again. What asks is
encoded with a low-rank update, trained by InfoNCE: a conversation against the keys of what it asks for, and a turn whose
name is masked against the property that it asks for. A key competes with "none of them", a score that is learned beside: so
what has no answer moves away from all keys, and distances keep a meaning of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor, nn

from kblam_engine.bert_encoder import BertEncoder
from kblam_engine.low_rank import LowRankUpdate
from kblam_engine.retrieval import Questions
from kblam_engine.training.divergence import check_step
from kblam_engine.training.evidence import OTHER_SUBJECT_SHARE, Source
from kblam_engine.training.other_subjects import change_subject
from kblam_engine.training.pools import EncodedWorld, draw_pool
from kblam_engine.training.samples import Sample

RANK = 8
TEMPERATURE = 0.05
NONE = 0.5
"""The cosine that "none of them" begins with."""
LEARNING_RATE = 1e-3
MASKED_SHARE = 0.3
"""Of the questions about one triple, how many are compared with properties, their name masked."""
SMALL_SHARE = 0.5
"""Of the conversations, how many are compared with the keys of a small KB instead of a whole world's: what is nearest there
may be far away."""
SMALL = (1, 2, 3, 5, 10, 30)
"""Sizes of those, in triples."""
QUESTIONS = 32
"""In a step, all about one world."""


def train_question_encoder(
    encoder: BertEncoder,
    update: LowRankUpdate,
    sources: Sequence[Source],
    mask: Callable[[str, str], str],
    *,
    steps: int,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda done, loss: None,
) -> None:
    """Train an update of an encoder in place.

    Args:
        encoder: the frozen sentence encoder.
        update: what is trained.
        sources: where questions come from; their keys are embedded by ``encoder``.
        mask: replaces a name in a turn.
        steps: optimiser steps of ``QUESTIONS`` texts each.
        seed: of batches.
        progress: called after each step with its loss, mean nats per text.

    Raises:
        TrainingError: a loss or gradient is not a number.
    """
    random = Random(f"{seed} question encoder")
    none = nn.Parameter(torch.tensor(NONE / TEMPERATURE))
    optimizer = torch.optim.AdamW([*update.parameters(), none], lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    weights = [source.weight for source in sources]
    for step in range(steps):
        (source,) = random.choices(sources, weights)
        loss = _loss(random, encoder, update, none, source.encoded, _drawn(random, source), mask)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        gradient = float(torch.nn.utils.clip_grad_norm_(update.parameters(), 1.0))
        check_step("question encoder", step + 1, float(loss.detach()), gradient)
        optimizer.step()
        schedule.step()
        progress(step + 1, float(loss.detach()))


def _drawn(random: Random, source: Source) -> list[Sample]:
    samples = [source.draw(random) for _ in range(QUESTIONS)]
    return [
        change_subject(random, sample, source.encoded.world)
        if sample.supports and random.random() < OTHER_SUBJECT_SHARE
        else sample
        for sample in samples
    ]


def _loss(
    random: Random,
    encoder: BertEncoder,
    update: LowRankUpdate,
    none: Tensor,
    encoded: EncodedWorld,
    samples: Sequence[Sample],
    mask: Callable[[str, str], str],
) -> Tensor:
    """Return the mean loss of the samples: of all rows of a table, one that is asked for should be nearest."""
    texts: list[str] = []
    wanted: list[tuple[torch.Tensor, list[int], list[int]]] = []
    keys, properties = torch.from_numpy(encoded.keys), torch.from_numpy(encoded.property_embeddings)
    for sample in samples:
        asked = Questions.of(sample.messages)
        if len(sample.supports) == 1 and random.random() < MASKED_SHARE:
            (at,) = sample.supports
            texts.append(mask(asked.turn, encoded.world.known[at].triple.name))
            wanted.append((properties, [int(encoded.property_index[at])], []))
        else:
            # With what was said before, a question about something else still names a triple.
            texts.append(asked.conversation if sample.supports else asked.turn)
            wanted.append((keys, list(sample.supports), _left_out(random, encoded, sample)))
    losses = []
    for row, (table, right, left_out) in zip(encoder.trainable(texts, update), wanted, strict=True):
        scores = torch.cat([table @ row / TEMPERATURE, none[None]])
        scores[left_out] = float("-inf")
        losses.append(scores.logsumexp(0) - scores[right or [-1]].logsumexp(0))
    return torch.stack(losses).mean()


def _left_out(random: Random, encoded: EncodedWorld, sample: Sample) -> list[int]:
    """Return the triples of a world that are not in the KB that a question is asked of."""
    if random.random() >= SMALL_SHARE:
        return list(sample.hidden)
    members = set(draw_pool(random, encoded, sample, random.choice(SMALL)).members.tolist())
    return [at for at in range(len(encoded.keys)) if at not in members]
