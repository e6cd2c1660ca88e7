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
from kblam_engine.statements import REFUSAL_TEXT, StatementTokenizer
from kblam_engine.training import samples
from kblam_engine.training.distributed import Processes
from kblam_engine.training.native import answer_ids
from kblam_engine.training.pools import EncodedWorld, draw_pool
from kblam_engine.training.samples import Sample
from kblam_engine.triples import Triple

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
class SentenceExample:
    """One training example: a chat prompt, the answer, and the KB that it is answered from.

    Attributes:
        prompt: the conversation as the LLM reads it.
        answer: what it should write.
        triples: of the KB.
        keys: float32 [n_triples, embed_dim].
        values: float32 [n_triples, embed_dim].
    """

    prompt: str
    answer: str
    triples: tuple[Triple, ...]
    keys: Floats
    values: Floats


class SentenceTrainer:
    """Optimises a ``SentenceTokenAdapter`` on examples; the LLM stays frozen.

    Attributes:
        adapter: what is trained.
        optimizer: AdamW without weight decay.
        schedule: of its learning rate.
        gradient: length of the gradient at the last step, before it was clipped.
    """

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
        self.model, self.injection = injection.model, injection
        self.tokenizer, self.adapter = tokenizer, adapter
        self.accumulate, self.processes = accumulate, processes
        self.gradient = 0.0
        self._statements = StatementTokenizer(tokenizer, int(tokenizer.eos_token_id))
        self._head = self.model.get_output_embeddings()
        self.optimizer = torch.optim.AdamW(adapter.parameters(), lr=lr, weight_decay=0.0)
        low, last = last_lr / lr, max(1, steps - 1)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda s: low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(s, last) / last)),
        )

    def step(self, examples: Sequence[SentenceExample]) -> float:
        """Take one optimiser step and return the answer-only loss (mean over answer tokens, in nats)."""
        loss = self.backward(examples)
        self.gradient = float(torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0))
        self.optimizer.step()
        self.schedule.step()
        return loss

    def backward(self, examples: Sequence[SentenceExample]) -> float:
        """Leave the gradients of the loss of all the examples, and return that loss; every process has both.

        A part weighs as much as it has answer tokens, so it does not matter how the examples are divided.
        """
        self.optimizer.zero_grad()
        lengths = [len(answer_ids(self.tokenizer, e.answer, self._statements)) for e in examples]
        total = 0.0
        for part in self.processes.parts(range(len(examples)), self.accumulate):
            weight = sum(lengths[i] for i in part) / sum(lengths)
            loss = weight * self.loss([examples[i] for i in part])
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        self.processes.add_up_gradients(self.adapter.parameters())
        return self.processes.add_up(total)

    def loss(self, examples: Sequence[SentenceExample]) -> Tensor:
        """Return the cross-entropy of the answers, prompts excluded."""
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
            prompt = self.tokenizer(example.prompt, add_special_tokens=False)["input_ids"]
            answer = answer_ids(self.tokenizer, example.answer, self._statements)
            rows.append([*prompt, *answer[:-1]])
            labels.append([-100] * (len(prompt) - 1) + answer)
        n, device = max(map(len, rows)), self.model.device
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
