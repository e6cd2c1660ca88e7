"""Sentence tokens as KBLaM trains them (paper, section 5): whole small KBs in the attention, loss on the answer alone.

Every example has a KB of its own, whose key and value embeddings are there before training begins. Adapters begin
random, query heads as the model's own. No retrieval and no gates: what to attend to is learned from the answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from kblam_engine.injection import Injection
from kblam_engine.products import Floats
from kblam_engine.sentence_tokens import SentenceTokenAdapter, SentenceTokenState
from kblam_engine.statements import REFUSAL_TEXT
from kblam_engine.training import samples
from kblam_engine.training.answer_trainer import AnswerExample, AnswerTrainer
from kblam_engine.training.distributed import Processes
from kblam_engine.training.pools import EncodedWorld, draw_pool
from kblam_engine.training.samples import Sample

FIRST_LR, LAST_LR = 5e-4, 5e-6
"""Ends of the cosine that the learning rate follows."""
KB_SIZES = (10, 100)
"""Least and most triples of an example's KB, about: entities are kept whole."""
KINDS: tuple[tuple[str, float], ...] = (
    ("unanswerable", 0.10),
    ("two_facts", 0.30),
    ("simple", 0.45),
    ("follow_up", 0.15),
)
"""Share of every kind of sample: the paper's 2 : 6 : 6 of 20, and its 6 open-ended ones given to the last two kinds."""


@dataclass(frozen=True)
class SentenceExample(AnswerExample):
    """One training example; its triples are the KB that it is answered from.

    Attributes:
        keys: float32 [n_triples, embed_dim].
        values: float32 [n_triples, embed_dim].
    """

    keys: Floats
    values: Floats


class SentenceTrainer(AnswerTrainer[SentenceExample, SentenceTokenAdapter]):
    """Optimises a ``SentenceTokenAdapter`` on examples; the LLM stays frozen."""

    def __init__(
        self,
        injection: Injection,
        tokenizer: Any,
        adapter: SentenceTokenAdapter,
        *,
        steps: int,
        lr: float = FIRST_LR,
        last_lr: float = LAST_LR,
        accumulate: int = 1,
        processes: Processes = Processes(),
    ) -> None:
        """Prepare the optimiser.

        Args:
            injection: of the base model.
            tokenizer: of the base model.
            adapter: what is trained.
            steps: optimiser steps of the run.
            lr: learning rate of the first step.
            last_lr: of the last.
            accumulate: parts that the examples of a step are read in, one after another.
            processes: those that share the examples of every step.
        """
        low, last = last_lr / lr, max(1, steps - 1)
        super().__init__(
            injection,
            tokenizer,
            adapter,
            [{"params": list(adapter.parameters()), "lr": lr}],
            lambda s: low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(s, last) / last)),
            accumulate,
            processes,
        )
        self._head = injection.model.get_output_embeddings()

    def loss(self, examples: Sequence[SentenceExample]) -> Tensor:
        """Return the cross-entropy of the answers, prompts excluded (mean over answer tokens, in nats)."""
        ids, labels = self._batch(examples)
        state = SentenceTokenState(
            self.adapter,
            [torch.from_numpy(e.keys) for e in examples],
            [torch.from_numpy(e.values) for e in examples],
        )
        with self.injection.use(state):
            hidden = self.injection.decoder(input_ids=ids, use_cache=False).last_hidden_state
        answered = labels >= 0
        logits = self._head(hidden[answered].to(self._head.weight.dtype)).float()
        return torch.nn.functional.cross_entropy(logits, labels[answered])

    def _batch(self, examples: Sequence[SentenceExample]) -> tuple[Tensor, Tensor]:
        """Return ids and, for each, the answer token that follows it or -100: both [batch, n]."""
        rows, labels = [], []
        for example in examples:
            prompt = self.prompt_ids(example.prompt)
            answer = self.answer_ids(example.answer)
            rows.append([*prompt, *answer[:-1]])
            labels.append([-100] * (len(prompt) - 1) + answer)
        n, device = max(map(len, rows)), self.injection.model.device
        # Padded on the right, no token sees the padding, and nothing needs a mask.
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (n - len(row)) for row in rows], device=device)
        return ids, torch.tensor([row + [-100] * (n - len(row)) for row in labels], device=device)


def draw_sample(random: Random, encoded: EncodedWorld) -> Sample:
    """Return one sample of the world; the kinds come in the proportions of ``KINDS``."""
    kind = random.choices([k for k, _ in KINDS], [share for _, share in KINDS])[0]
    world = encoded.world
    if kind in ("two_facts", "follow_up") and all(len(entity) < 2 for entity in world.entities):
        kind = "simple"  # no name has two triples
    sample: Sample = getattr(samples, kind)(random, world)
    return sample


def draw_example(
    random: Random, encoded: EncodedWorld, chat_prompt: Callable[[Any], str]
) -> SentenceExample:
    """Return one example with a KB from the world in which it makes sense."""
    sample = draw_sample(random, encoded)
    pool = draw_pool(random, encoded, sample, random.randint(*KB_SIZES))
    return SentenceExample(
        chat_prompt(sample.messages),
        REFUSAL_TEXT if sample.answer is None else sample.answer,
        tuple(pool.triples(range(len(pool)))),
        pool.key_embeddings,
        pool.value_embeddings(),
    )


def sentence_examples(
    random: Random, worlds: Sequence[EncodedWorld], chat_prompt: Callable[[Any], str], batch: int
) -> Iterator[list[SentenceExample]]:
    """Yield batches for ever; every example draws a world and a KB from it."""
    while True:
        yield [draw_example(random, random.choice(worlds), chat_prompt) for _ in range(batch)]
