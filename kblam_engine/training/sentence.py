"""Sentence tokens as KBLaM trains them (paper, section 5): whole KBs in the attention, loss on the answer alone.

Every batch has a KB of its own, whose key and value embeddings are there before training begins. Adapters begin random, query heads as the model's own. No retrieval and no gates: what to attend to is learned from the answers.
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
from kblam_engine.training.answer_trainer import AnswerExample, AnswerTrainer
from kblam_engine.training.config import ANSWER_KINDS
from kblam_engine.training.distributed import Processes
from kblam_engine.training.instructions import STYLE_SHARE, draw_answered
from kblam_engine.training.mining import draw_size, draw_together, shared_pool
from kblam_engine.training.pools import EncodedWorld

FIRST_LR, LAST_LR = 5e-4, 5e-6
"""Ends of the cosine that the learning rate follows."""


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

    def loss(self, examples: Sequence[SentenceExample]) -> Tensor:
        """Return the cross-entropy of the answers, prompts excluded (mean over answer tokens, in nats)."""
        ids, labels = self._batch(examples)
        # One KB serves the whole batch if it is the same for all.
        kbs = examples[:1] if all(e.keys is examples[0].keys for e in examples) else examples
        state = SentenceTokenState(
            self.adapter, [torch.from_numpy(e.keys) for e in kbs], [torch.from_numpy(e.values) for e in kbs]
        )
        answered = labels >= 0
        with self.injection.use(state):
            logits = self.answer_logits(answered, input_ids=ids, use_cache=False)
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
        ids = torch.tensor([row + [self.pad_id] * (n - len(row)) for row in rows], device=device)
        return ids, torch.tensor([row + [-100] * (n - len(row)) for row in labels], device=device)


def draw_batch(
    random: Random,
    encoded: EncodedWorld,
    chat_prompt: Callable[[Any], str],
    batch: int,
    kinds: Sequence[tuple[str, float]] = ANSWER_KINDS,
    style_share: float = STYLE_SHARE,
    sizes: tuple[int, int] = (10, 100),
) -> list[SentenceExample]:
    """Return examples that share one KB, in which all of them make sense.

    So a KB of thousands of triples is in memory once, and is asked for many things.

    Args:
        random: source of the draws.
        encoded: the world that KB and questions come from.
        chat_prompt: writes a conversation as the LLM reads it.
        batch: examples of a batch.
        kinds: how often each kind of question is asked.
        style_share: how many questions ask for a style.
        sizes: least and most triples, about: entities are kept whole.
    """
    drawn = draw_together(random, encoded, batch, lambda r: draw_answered(r, encoded.world, kinds, style_share))
    pool = shared_pool(random, encoded, drawn, draw_size(random, sizes))
    triples, keys, values = tuple(pool.triples(range(len(pool)))), pool.key_embeddings, pool.value_embeddings()
    return [
        SentenceExample(
            chat_prompt(sample.messages),
            REFUSAL_TEXT if sample.answer is None else sample.answer,
            triples,
            keys,
            values,
        )
        for sample in drawn
    ]


def sentence_examples(
    random: Random, worlds: Sequence[EncodedWorld], chat_prompt: Callable[[Any], str], batch: int, **options: Any
) -> Iterator[list[SentenceExample]]:
    """Yield batches for ever, each from one world with a KB of its own; ``options`` are those of ``draw_batch``."""
    while True:
        yield draw_batch(random, random.choice(worlds), chat_prompt, batch, **options)
