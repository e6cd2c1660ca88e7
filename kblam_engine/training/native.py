"""Stage: teach the native tokens to write answers (DESIGN 3.3), on selections with simulated gates.

The gates are drawn from what the gating rule lets through, so the native tokens do not depend on how good
the retrieval in front of them is. Only positions of the answer attend to native tokens, so the prompt runs
without gradients.
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

from kblam_engine.gating import OPEN_FLOOR, SHUT_CEILING
from kblam_engine.injection import Injection
from kblam_engine.native_state import NativeTokenState
from kblam_engine.native_tokens import (
    MIN_LOG_GATE,
    NativeTokenAdapter,
    NativeTokenReader,
    collate,
    unit_embeddings,
)
from kblam_engine.statements import REFUSAL_TEXT, StatementTokenizer
from kblam_engine.training.samples import Sample, World, draw


@dataclass(frozen=True)
class NativeExample:
    """One training example: a chat prompt, the answer, the selected triples and their gates."""

    prompt: str
    answer: str
    selection: tuple[int, ...]  # positions in the world
    gates: tuple[float, ...]  # one more than ``selection``: the null triple's comes last


def simulate(random: Random, world: World, sample: Sample, prompt: str, n_select: int) -> NativeExample:
    """Return a training example for ``sample`` with distractors and gates like a retrieval layer's.

    Args:
        random: source of the draws.
        world: where the triples come from.
        sample: the conversation and what it asks for.
        prompt: the conversation as the LLM reads it.
        n_select: triples in the selection.
    """
    n_select = min(n_select, len(world.known) - len({*sample.supports, *sample.hidden}))
    chosen = list(sample.supports)
    hidden = {*chosen, *sample.hidden}
    about = chosen or [random.randrange(len(world.known))]
    siblings = [p for a in about for p in world.entities[world.known[a].entity] if p not in hidden]
    random.shuffle(siblings)
    for p in siblings[: random.randint(0, n_select - 1)]:
        if p not in chosen and len(chosen) < n_select:
            chosen.append(p)
    while len(chosen) < n_select:
        p = random.randrange(len(world.known))
        if p not in chosen and p not in hidden:
            chosen.append(p)
    order = list(range(len(chosen)))
    random.shuffle(order)
    # As ``gating.decide`` leaves them: apart from each other, whatever the probabilities were.
    gates = {p: random.uniform(MIN_LOG_GATE, SHUT_CEILING) for p in chosen}
    gates |= {p: random.uniform(OPEN_FLOOR, 0.0) for p in sample.supports}
    null = MIN_LOG_GATE if sample.supports else -0.05
    selection = tuple(chosen[i] for i in order)
    answer = sample.answer if sample.answer is not None else REFUSAL_TEXT
    return NativeExample(prompt, answer, selection, (*(gates[p] for p in selection), null))


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
    ) -> None:
        """Prepare the optimiser: small vectors learn at ``lr``, the maps at a fifth of it."""
        self.model, self.injection = injection.model, injection
        self.tokenizer, self.adapter, self.statements = tokenizer, adapter, statements
        weight = self.model.get_input_embeddings().weight
        self._weight, self._mean = weight.detach(), weight.detach().float().mean(0)
        maps = [adapter.value, adapter.content_query, adapter.content_key]
        known = {id(p) for p in maps}
        rest = [p for p in adapter.parameters() if id(p) not in known]
        self.optimizer = torch.optim.AdamW(
            [{"params": maps, "lr": lr / 5}, {"params": rest, "lr": lr}], weight_decay=0
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda s: min(1.0, (s + 1) / 20) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * s / steps))),
        )

    def step(self, world: World, examples: Sequence[NativeExample]) -> float:
        """Take one optimiser step and return the answer-only loss (mean over answer tokens, in nats)."""
        loss = self.loss(world, examples)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())

    def loss(self, world: World, examples: Sequence[NativeExample]) -> Tensor:
        """Return the cross-entropy of the answers, prompts excluded."""
        selections = [[self.statements(world.known[p].triple) for p in e.selection] for e in examples]
        tokens = collate(
            [[*row, self.statements.null] for row in selections],
            [e.gates for e in examples],
            self._weight.device,
        )
        reader = NativeTokenReader(
            self.adapter, tokens, unit_embeddings(self._weight, self._mean, tokens.ids)
        )
        prompts = [self.tokenizer(e.prompt, add_special_tokens=False)["input_ids"] for e in examples]
        answers = [answer_ids(self.tokenizer, e.answer, self.statements) for e in examples]
        hidden, labels = self._forward(prompts, answers, reader)
        keep = labels >= 0
        logits = self.model.lm_head(hidden[keep].to(self._weight.dtype)).float()
        return torch.nn.functional.cross_entropy(logits, labels[keep])

    def _forward(
        self, prompts: list[list[int]], answers: list[list[int]], reader: NativeTokenReader
    ) -> tuple[Tensor, Tensor]:
        pad = self.tokenizer.pad_token_id
        shared = _shared_prefix(prompts)
        n_prompt, n_answer = max(map(len, prompts)), max(map(len, answers))
        # Layout of a row: shared prefix, padding, the rest of the prompt, the answer, padding.
        gaps = [n_prompt - len(p) for p in prompts]
        prefix = torch.tensor(
            [p[:shared] + [pad] * gap + p[shared:] for p, gap in zip(prompts, gaps, strict=True)]
        )
        labels = torch.tensor([a + [-100] * (n_answer - len(a)) for a in answers])
        mask = torch.ones(len(prompts), n_prompt + n_answer - 1, dtype=torch.long)
        for row, gap in enumerate(gaps):
            mask[row, shared : shared + gap] = 0
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
            rows.append(
                simulate(random, world, sample, chat_prompt(sample.messages), random.choice((3, 4, 5, 6)))
            )
        yield world, rows
