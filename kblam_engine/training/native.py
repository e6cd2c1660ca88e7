"""Stage: teach the native tokens to write answers (DESIGN 3.3), on selections with simulated gates.

The selections hold what the gating rule lets through: the triples that are asked for, or the null triple alone. So
the native tokens do not depend on how good the retrieval in front of them is. Only positions of the answer attend to
native tokens, so the prompt runs without gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from kblam_engine.gating import OPEN_FLOOR
from kblam_engine.injection import Injection
from kblam_engine.native_layout import collate
from kblam_engine.native_state import NativeTokenState
from kblam_engine.native_tokens import NativeTokenAdapter, NativeTokenReader
from kblam_engine.statements import REFUSAL_TEXT, StatementTokenizer
from kblam_engine.training.distributed import Processes
from kblam_engine.training.samples import Sample, draw
from kblam_engine.training.worlds import World


@dataclass(frozen=True)
class NativeExample:
    """One training example: a chat prompt, the answer, the selected triples and their gates."""

    prompt: str
    answer: str
    selection: tuple[int, ...]  # positions in the world; none: the null triple
    gates: tuple[float, ...]  # one per triple, or the null triple's


def simulate(random: Random, sample: Sample, prompt: str) -> NativeExample:
    """Return a training example for ``sample``, with gates as ``gating.decide`` leaves them.

    Args:
        random: source of the draws.
        sample: the conversation and what it asks for.
        prompt: the conversation as the LLM reads it.
    """
    # The likelier triple is written first, so that the order of an answer can be told from the gates.
    gates = sorted((random.uniform(OPEN_FLOOR, 0.0) for _ in sample.supports), reverse=True)
    order = list(range(len(gates)))
    random.shuffle(order)
    if sample.answer is None:
        return NativeExample(prompt, REFUSAL_TEXT, (), (0.0,))
    return NativeExample(prompt, sample.answer, tuple(sample.supports[i] for i in order), tuple(gates[i] for i in order))


class NativeTrainer:
    """Optimises a ``NativeTokenAdapter`` on examples; the LLM stays frozen."""

    def __init__(
        self,
        injection: Injection,
        tokenizer: Any,
        adapter: NativeTokenAdapter,
        statements: StatementTokenizer,
        *,
        steps: int,
        lr: float = 2e-3,
        accumulate: int = 1,
        processes: Processes = Processes(),
    ) -> None:
        """Prepare the optimiser: small vectors learn at ``lr``, the maps at a fifth of it.

        Args:
            injection: of the base model.
            tokenizer: of the base model.
            adapter: what is trained.
            statements: tokenizes triples.
            steps: optimiser steps in all.
            lr: learning rate.
            accumulate: parts that the examples of a step are read in, one after another.
            processes: those that share the examples of every step.
        """
        self.model, self.injection = injection.model, injection
        self.tokenizer, self.adapter, self.statements = tokenizer, adapter, statements
        self.accumulate, self.processes = accumulate, processes
        self.gradient = 0.0  # its length at the last step, before it was clipped
        self._unembedding = self.model.get_output_embeddings().weight.detach()
        maps = [adapter.value, adapter.content_query, adapter.content_key]
        known = {id(p) for p in maps}
        rest = [p for p in adapter.parameters() if p.requires_grad and id(p) not in known]
        self.optimizer = torch.optim.AdamW(
            [{"params": maps, "lr": lr / 5}, {"params": rest, "lr": lr}], weight_decay=0
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda s: min(1.0, (s + 1) / 20) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * s / steps))),
        )

    def step(self, world: World, examples: Sequence[NativeExample]) -> float:
        """Take one optimiser step and return the answer-only loss (mean over answer tokens, in nats)."""
        loss = self.backward(world, examples)
        self.gradient = float(torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0))
        self.optimizer.step()
        self.schedule.step()
        return loss

    def backward(self, world: World, examples: Sequence[NativeExample]) -> float:
        """Leave the gradients of the loss of all the examples, and return that loss; every process has both.

        A part weighs as much as it has answer tokens, so it does not matter how the examples are divided.
        """
        self.optimizer.zero_grad()
        lengths = [len(answer_ids(self.tokenizer, e.answer, self.statements)) for e in examples]
        total = 0.0
        for part in self.processes.parts(range(len(examples)), self.accumulate):
            weight = sum(lengths[i] for i in part) / sum(lengths)
            loss = weight * self.loss(world, [examples[i] for i in part])
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        self.processes.add_up_gradients(self.adapter.parameters())
        return self.processes.add_up(total)

    def loss(self, world: World, examples: Sequence[NativeExample]) -> Tensor:
        """Return the cross-entropy of the answers, prompts excluded."""
        selections = [[self.statements(world.known[p].triple) for p in e.selection] for e in examples]
        tokens = collate(
            [row or [self.statements.null] for row in selections],
            [e.gates for e in examples],
            self._unembedding.device,
        )
        reader = NativeTokenReader(self.adapter, tokens, self._unembedding)
        prompts = [self.tokenizer(e.prompt, add_special_tokens=False)["input_ids"] for e in examples]
        answers = [answer_ids(self.tokenizer, e.answer, self.statements) for e in examples]
        hidden, labels = self._forward(prompts, answers, reader)
        keep = labels >= 0
        logits = self.model.lm_head(hidden[keep].to(self._unembedding.dtype)).float()
        return torch.nn.functional.cross_entropy(logits, labels[keep])

    def _forward(
        self, prompts: list[list[int]], answers: list[list[int]], reader: NativeTokenReader
    ) -> tuple[Tensor, Tensor]:
        pad, device = self.tokenizer.pad_token_id, self._unembedding.device
        shared = _shared_prefix(prompts)
        n_prompt, n_answer = max(map(len, prompts)), max(map(len, answers))
        # Layout of a row: shared prefix, padding, the rest of the prompt, the answer, padding.
        gaps = [n_prompt - len(p) for p in prompts]
        prefix = torch.tensor(
            [p[:shared] + [pad] * gap + p[shared:] for p, gap in zip(prompts, gaps, strict=True)],
            device=device,
        )
        labels = torch.tensor([a + [-100] * (n_answer - len(a)) for a in answers], device=device)
        mask = torch.ones(len(prompts), n_prompt + n_answer - 1, dtype=torch.long)
        for row, gap in enumerate(gaps):
            mask[row, shared : shared + gap] = 0
        mask = mask.to(device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        decoder = self.model.get_decoder()
        with torch.no_grad(), self.injection.use(None):
            if shared:
                decoder(input_ids=prefix[:1, :shared], past_key_values=cache)
                cache.batch_repeat_interleave(len(prompts))
            decoder(
                input_ids=prefix[:, shared:-1],
                attention_mask=mask[:, : n_prompt - 1],
                position_ids=positions[:, shared : n_prompt - 1],
                past_key_values=cache,
            )
        written = labels[:, :-1].clamp(min=0)
        reader.feed(written, after_prompt=True)
        tail = torch.cat([prefix[:, -1:], written], 1)
        with self.injection.use(NativeTokenState(reader)):
            hidden = decoder(
                input_ids=tail,
                attention_mask=mask,
                position_ids=positions[:, n_prompt - 1 :],
                past_key_values=cache,
            ).last_hidden_state
        return hidden, labels


def _shared_prefix(prompts: list[list[int]]) -> int:
    """Return how many leading ids all prompts have in common, leaving each at least two of its own."""
    limit = min(map(len, prompts)) - 2
    return next((i for i in range(limit) if len({p[i] for p in prompts}) > 1), max(0, limit))


def answer_ids(tokenizer: Any, answer: str, statements: StatementTokenizer) -> list[int]:
    """Return the ids of an answer, line by line, so that they equal the statements' own ids where they quote them."""
    ids: list[int] = []
    for number, line in enumerate(answer.split("\n")):
        if number:
            ids.append(statements.more_id)
        # A name or value is written with the space that it carries inside its statement.
        text = line if line.startswith(("The ", "I cannot")) else f" {line}"
        ids.extend(tokenizer(text, add_special_tokens=False)["input_ids"])
    return [*ids, statements.end_id]


def examples(
    random: Random, worlds: Sequence[World], chat_prompt: Any, batch: int
) -> Iterator[tuple[World, list[NativeExample]]]:
    """Yield batches for ever; every batch comes from one world."""
    while True:
        world = random.choice(worlds)
        rows = []
        for _ in range(batch):
            sample = draw(random, world)
            rows.append(simulate(random, sample, chat_prompt(sample.messages)))
        yield world, rows
