"""Stage: learn to compare a question (its name masked) with a property and its value, on cached embeddings.

Three linear maps (question, property, value) start near the identity, where the score is the plain cosine,
and are trained by InfoNCE over the lexicon: a question against its own property with one of its values,
all other properties as negatives; and over questions written by hand, against the other triples of the same name.
A pull towards the start keeps what the sentence encoder knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, dropout, normalize

from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.sentence_encoder import SentenceEncoder
from kblam_engine.training.divergence import check_step
from kblam_engine.training.lexicon import Lexicon
from kblam_engine.training.written import Written

DROPOUT = 0.1
"""Of the numbers of a question's embedding."""
EPOCHS = 12
"""Passes over the questions."""
MASKS = ("it", "it", "it", "this", "that one")
WRITTEN_BATCH = 64
"""Questions written by hand beside each batch of the lexicon's."""
WRITTEN_SHARE = 0.3
"""Weight of their loss."""


@dataclass(frozen=True)
class SiblingQuestions:
    """Questions whose names are masked, each with the triples of its name: one of them is asked for.

    Attributes:
        questions: float32 [n, embed_dim].
        properties: float32 [n_triples, embed_dim].
        values: float32 [n_triples, embed_dim].
        siblings: int64 [n, most], positions among the triples; the first is the one that is asked for; -1: none.
        sets: int64 [n], the number of each question's set.
    """

    questions: Tensor
    properties: Tensor
    values: Tensor
    siblings: Tensor
    sets: Tensor

    @classmethod
    def of(
        cls,
        written: Written,
        encoder: SentenceEncoder,
        mask: Callable[[str, str], str],
        asking: SentenceEncoder | None = None,
    ) -> SiblingQuestions:
        """Encode the questions about one triple, by ``asking`` if given; ``mask`` replaces a name in a question."""
        world = written.world
        asked = [(s, number) for s, number in zip(written.samples, written.sets, strict=True) if len(s.supports) == 1]
        turns = []
        siblings = np.full((len(asked), max((len(e) for e in world.entities), default=1)), -1, np.int64)
        for row, (sample, _) in enumerate(asked):
            wanted = sample.supports[0]
            known = world.known[wanted]
            turns.append(mask(sample.messages[-1]["content"], known.triple.name))
            others = [p for p in world.entities[known.entity] if p != wanted]
            siblings[row, : 1 + len(others)] = [wanted, *others]
        return cls(
            torch.from_numpy((asking or encoder).encode(turns)),
            torch.from_numpy(encoder.encode([k.triple.property for k in world.known])),
            torch.from_numpy(encoder.encode([k.triple.value for k in world.known])),
            torch.from_numpy(siblings),
            torch.tensor([number for _, number in asked], dtype=torch.long),
        )

    def outside(self, number: int, n_folds: int) -> SiblingQuestions:
        """Return the questions that are not of every ``n_folds``-th set, from ``number`` on."""
        kept = self.sets % n_folds != number
        return replace(self, questions=self.questions[kept], siblings=self.siblings[kept], sets=self.sets[kept])

    def loss(self, maps: list[Tensor], batch: Tensor, temperature: float) -> Tensor:
        """Return the mean loss of the questions at ``batch``: each against its name's triples."""
        question_map, property_map, value_map = maps
        siblings = self.siblings[batch]
        rows = siblings.clamp(min=0)
        keys = normalize(self.properties[rows] @ property_map + self.values[rows] @ value_map, dim=-1)
        asked = normalize(dropout(self.questions[batch], DROPOUT) @ question_map, dim=-1)
        scores = torch.einsum("nd,nsd->ns", asked, keys) / temperature
        return cross_entropy(scores.masked_fill(siblings < 0, -1e4), torch.zeros(len(batch), dtype=torch.long))


def train_comparison(
    head: EvidenceHead,
    lexicon: Lexicon,
    encoder: SentenceEncoder,
    written: SiblingQuestions | None = None,
    *,
    asking: SentenceEncoder | None = None,
    epochs: int = EPOCHS,
    lr: float = 1e-3,
    temperature: float = 0.1,
    pull: float = 1e-3,
    seed: int = 0,
) -> None:
    """Train the comparison maps of ``head`` in place.

    Args:
        head: where the maps live.
        lexicon: questions, properties and values.
        encoder: the frozen sentence encoder.
        written: questions written by hand.
        asking: what encodes questions; None: ``encoder``.
        epochs: passes over the questions.
        lr: of AdamW.
        temperature: of InfoNCE.
        pull: weight of the squared distance from the start.
        seed: of batches and values.

    Raises:
        TrainingError: a loss is not a number.
    """
    torch.manual_seed(seed)
    asked = [(i, q) for i, p in enumerate(lexicon.properties) for q in (*p.questions, *p.follow_ups)]
    # The question decides its mask: folds then have the same texts, which are encoded once.
    questions = torch.from_numpy((asking or encoder).encode([q.replace("{n}", MASKS[len(q) % len(MASKS)]) for _, q in asked]))
    targets = torch.tensor([i for i, _ in asked])
    properties = torch.from_numpy(encoder.encode([p.property for p in lexicon.properties]))
    n_values = min(len(p.values) for p in lexicon.properties)
    flat = encoder.encode([v for p in lexicon.properties for v in p.values[:n_values]])
    values = torch.from_numpy(flat).view(len(properties), n_values, -1)
    maps: list[Tensor] = [head.question_map, head.property_map, head.value_map]
    start = [m.detach().clone() for m in maps]
    optimizer = torch.optim.AdamW(maps, lr=lr, weight_decay=0)
    every = torch.arange(len(properties))
    step = 0
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(questions)), 256):
            value = values[every, torch.randint(0, n_values, (len(properties),))]
            keys = normalize(properties @ head.property_map + value @ head.value_map, dim=-1)
            scores = normalize(dropout(questions[batch], DROPOUT) @ head.question_map, dim=-1) @ keys.T
            # The value map may go where it likes; the other two stay near the identity.
            away = (maps[0] - start[0]).square().sum() + (maps[1] - start[1]).square().sum()
            loss = cross_entropy(scores / temperature, targets[batch]) + pull * away
            if written is not None and len(written.questions):
                chosen = torch.randint(0, len(written.questions), (WRITTEN_BATCH,))
                loss = loss + WRITTEN_SHARE * written.loss(maps, chosen, temperature)
            step += 1
            check_step("comparison", step, float(loss.detach()))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
