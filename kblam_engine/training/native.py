"""Stage: teach the native tokens to write answers (DESIGN 3.3), on selections with simulated gates.

Most selections hold what the gating rule lets through at its best: the triples that are asked for, or the null triple
alone. A share of the batches is mined (see ``mining``): there, wrong triples are open beside the right ones. Only positions of the answer attend to
native tokens, so the prompt runs without gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
from kblam_engine.statements import REFUSAL_TEXT
from kblam_engine.training.answer_trainer import AnswerExample, AnswerTrainer
from kblam_engine.training.config import ANSWER_KINDS
from kblam_engine.training.distributed import Processes
from kblam_engine.training.instructions import STYLE_SHARE, draw_answered
from kblam_engine.training.mining import Miner, draw_size, draw_together, shared_pool
from kblam_engine.training.pools import EncodedWorld
from kblam_engine.training.samples import Sample
from kblam_engine.training.worlds import World


@dataclass(frozen=True)
class NativeExample(AnswerExample):
    """One training example; its triples are the selected ones (none: the null triple).

    Attributes:
        gates: one per triple, or the null triple's.
    """

    gates: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what a person needs to look at the example."""
        return {**super().to_dict(), "gates": list(self.gates)}


def simulate(random: Random, sample: Sample, world: World, prompt: str) -> NativeExample:
    """Return a training example for ``sample``, with gates as ``gating.decide`` leaves them.

    Args:
        random: source of the draws.
        sample: the conversation and what it asks for.
        world: that the sample asks about.
        prompt: the conversation as the LLM reads it.
    """
    # The likelier triple is written first, so that the order of an answer can be told from the gates.
    gates = sorted((random.uniform(OPEN_FLOOR, 0.0) for _ in sample.supports), reverse=True)
    order = list(range(len(gates)))
    random.shuffle(order)
    if sample.answer is None:
        return NativeExample(prompt, REFUSAL_TEXT, (), (0.0,))
    triples = tuple(world.known[sample.supports[i]].triple for i in order)
    return NativeExample(prompt, sample.answer, triples, tuple(gates[i] for i in order))


class NativeTrainer(AnswerTrainer[NativeExample, NativeTokenAdapter]):
    """Optimises a ``NativeTokenAdapter`` on examples; the LLM stays frozen."""

    def __init__(
        self,
        injection: Injection,
        tokenizer: Any,
        adapter: NativeTokenAdapter,
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
            steps: optimiser steps in all.
            lr: learning rate.
            accumulate: parts that the examples of a step are read in, one after another.
            processes: those that share the examples of every step.
        """
        maps = [adapter.value, adapter.content_query, adapter.content_key]
        known = {id(p) for p in maps}
        rest = [p for p in adapter.parameters() if p.requires_grad and id(p) not in known]
        super().__init__(
            injection,
            tokenizer,
            adapter,
            [{"params": maps, "lr": lr / 5}, {"params": rest, "lr": lr}],
            lambda s: min(1.0, (s + 1) / 20) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * s / steps))),
            accumulate,
            processes,
        )
        self.model = injection.model
        self._unembedding = self.model.get_output_embeddings().weight.detach()

    def loss(self, examples: Sequence[NativeExample]) -> Tensor:
        """Return the cross-entropy of the answers, prompts excluded (mean over answer tokens, in nats)."""
        selections = [[self.statements(triple) for triple in e.triples] for e in examples]
        tokens = collate(
            [row or [self.statements.null] for row in selections],
            [e.gates for e in examples],
            self._unembedding.device,
        )
        reader = NativeTokenReader(self.adapter, tokens, self._unembedding)
        prompts = [self.prompt_ids(e.prompt) for e in examples]
        answers = [self.answer_ids(e.answer) for e in examples]
        logits, labels = self._forward(prompts, answers, reader)
        return torch.nn.functional.cross_entropy(logits, labels)

    def _forward(
        self, prompts: list[list[int]], answers: list[list[int]], reader: NativeTokenReader
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of all answer tokens [n, vocab], and their ids [n]."""
        device = self._unembedding.device
        shared = _shared_prefix(prompts)
        n_prompt, n_answer = max(map(len, prompts)), max(map(len, answers))
        # Layout of a row: shared prefix, padding, the rest of the prompt, the answer, padding.
        gaps = [n_prompt - len(p) for p in prompts]
        prefix = torch.tensor(
            [p[:shared] + [self.pad_id] * gap + p[shared:] for p, gap in zip(prompts, gaps, strict=True)],
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
            logits = self.answer_logits(
                labels >= 0,
                input_ids=tail,
                attention_mask=mask,
                position_ids=positions[:, n_prompt - 1 :],
                past_key_values=cache,
            )
        return logits, labels[labels >= 0]


def _shared_prefix(prompts: list[list[int]]) -> int:
    """Return how many leading ids all prompts have in common, leaving each at least two of its own."""
    limit = min(map(len, prompts)) - 2
    return next((i for i in range(limit) if len({p[i] for p in prompts}) > 1), max(0, limit))


@dataclass(frozen=True)
class Mining:
    """Where mined batches come from.

    Attributes:
        miner: selects as an answer would.
        worlds: with their embeddings.
        share: of the batches.
        sizes: least and most triples of a batch's KB, about.
    """

    miner: Miner
    worlds: Sequence[EncodedWorld]
    share: float
    sizes: tuple[int, int]


def examples(
    random: Random,
    worlds: Sequence[World],
    chat_prompt: Callable[[Any], str],
    batch: int,
    *,
    kinds: Sequence[tuple[str, float]] = ANSWER_KINDS,
    style_share: float = STYLE_SHARE,
    mining: Mining | None = None,
) -> Iterator[list[NativeExample]]:
    """Yield batches for ever; every batch comes from one world, and a mined one from one KB.

    Args:
        random: source of the draws.
        worlds: what questions are about.
        chat_prompt: writes a conversation as the LLM reads it.
        batch: examples of a batch.
        kinds: how often each kind of question is asked.
        style_share: how many questions ask for a style.
        mining: some batches are retrieved; None: none.
    """
    while True:
        if mining is not None and random.random() < mining.share:
            yield mined_batch(random, mining, chat_prompt, batch, kinds, style_share)
            continue
        world = random.choice(worlds)
        rows = []
        for _ in range(batch):
            sample = draw_answered(random, world, kinds, style_share)
            rows.append(simulate(random, sample, world, chat_prompt(sample.messages)))
        yield rows


def mined_batch(
    random: Random,
    mining: Mining,
    chat_prompt: Callable[[Any], str],
    batch: int,
    kinds: Sequence[tuple[str, float]] = ANSWER_KINDS,
    style_share: float = STYLE_SHARE,
) -> list[NativeExample]:
    """Return examples with what retrieval finds in one KB that they share; arguments as for ``examples``."""
    encoded = random.choice(mining.worlds)
    world = encoded.world
    drawn = draw_together(random, encoded, batch, lambda r: draw_answered(r, world, kinds, style_share))
    pool = shared_pool(random, encoded, drawn, draw_size(random, mining.sizes))
    rows = []
    for sample in drawn:
        prompt = chat_prompt(sample.messages)
        if sample.answer is None:
            rows.append(simulate(random, sample, world, prompt))
            continue
        selected = mining.miner.select(random, sample, pool)
        random.shuffle(selected)
        triples = tuple(world.known[at].triple for at, _ in selected)
        rows.append(NativeExample(prompt, sample.answer, triples, tuple(gate for _, gate in selected)))
    return rows
