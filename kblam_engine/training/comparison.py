"""Stage: learn to compare a question (its name masked) with a property and its value, on cached embeddings.

Three linear maps (question, property, value) start near the identity, where the score is the plain cosine,
and are trained by InfoNCE over the lexicon: a question against its own property with one of its values,
all other properties as negatives. A pull towards the start keeps what the sentence encoder knows.
"""

from __future__ import annotations

from random import Random

import torch
from torch.nn.functional import cross_entropy, dropout, normalize

from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.sentence_encoder import SentenceEncoder
from kblam_engine.training.lexicon import Lexicon

EPOCHS = 12
"""Passes over the questions."""
MASKS = ("it", "it", "it", "this", "that one")


def train_comparison(
    head: EvidenceHead,
    lexicon: Lexicon,
    encoder: SentenceEncoder,
    *,
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
        epochs: passes over the questions.
        lr: of AdamW.
        temperature: of InfoNCE.
        pull: weight of the squared distance from the start.
        seed: of masks, batches and values.
    """
    random = Random(seed)
    torch.manual_seed(seed)
    asked = [(i, q) for i, p in enumerate(lexicon.properties) for q in (*p.questions, *p.follow_ups)]
    questions = torch.from_numpy(encoder.encode([q.replace("{n}", random.choice(MASKS)) for _, q in asked]))
    targets = torch.tensor([i for i, _ in asked])
    properties = torch.from_numpy(encoder.encode([p.property for p in lexicon.properties]))
    n_values = min(len(p.values) for p in lexicon.properties)
    flat = encoder.encode([v for p in lexicon.properties for v in p.values[:n_values]])
    values = torch.from_numpy(flat).view(len(properties), n_values, -1)
    maps = [head.question_map, head.property_map, head.value_map]
    start = [m.detach().clone() for m in maps]
    optimizer = torch.optim.AdamW(maps, lr=lr, weight_decay=0)
    every = torch.arange(len(properties))
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(questions)), 256):
            value = values[every, torch.randint(0, n_values, (len(properties),))]
            keys = normalize(properties @ head.property_map + value @ head.value_map, dim=-1)
            scores = normalize(dropout(questions[batch], 0.1) @ head.question_map, dim=-1) @ keys.T
            # The value map may go where it likes; the other two stay near the identity.
            away = (maps[0] - start[0]).square().sum() + (maps[1] - start[1]).square().sum()
            loss = cross_entropy(scores / temperature, targets[batch]) + pull * away
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
