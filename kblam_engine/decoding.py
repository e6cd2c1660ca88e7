"""The decoding loop: prompts in, one step per token out. Knows token ids and text, but no knowledge base.

The loop is the project's own, and not `generate` of transformers, because the state of a call must be entered
around every forward and never be left active while a caller's code runs between two tokens. And because calls come
and go: they join a batch between two tokens, and a row that has ended, or that nobody waits for any more, leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kblam_engine.decoding_rows import Cancel, DecodedStep, DecodingOptions, DecodingRows
from kblam_engine.errors import ConfigurationError
from kblam_engine.forward import Forward, Scope
from kblam_engine.streamed_text import Detokenizer

__all__ = ["DecodedStep", "DecodingBatch", "DecodingOptions", "DecodingRows", "Place", "decode", "log_probabilities"]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A row of a batch: the call that it belongs to, and its number there."""

    rows: DecodingRows
    row: int


class DecodingBatch:
    """Calls that are decoded together, one forward a token; they join between two tokens, and rows leave as they end.

    Between two steps nothing is active: no context manager, no gradient mode. What a forward raises reaches the
    caller, and the batch is of no use afterwards. For one thread.
    """

    def __init__(
        self,
        model: Any,
        padding: int,
        scope: Callable[[Sequence[Place]], AbstractContextManager[object]],
        guide: Callable[[Sequence[Place], Tensor], Tensor] | None = None,
    ) -> None:
        """Begin with no rows.

        Args:
            model: a causal language model of transformers; left padding and its position ids are taken care of.
            padding: any token id.
            scope: entered around every forward that reads new tokens, told whose they are, in order.
            guide: told the same places and the logits `[len(places), n_tokens]` after their new tokens; gives those to choose
                from. None: all.
        """
        self._model, self._padding, self._scope, self._guide = model, padding, scope, guide
        self._forward: Forward | None = None
        self._places: list[Place] = []
        self._last: list[int] = []  # the token of each place that has not been read yet

    def __len__(self) -> int:
        """Return the number of rows that grow."""
        return sum(place.rows.texts[place.row].finish_reason is None for place in self._places)

    @property
    def can_join(self) -> bool:
        """Whether a call can join now; models with windows of attention take one only when no row is left."""
        return not self._places or (self._forward is not None and self._forward.can_join)

    def join(self, rows: DecodingRows, scope: Scope) -> DecodedStep:
        """Read the prompts of a call, write its first tokens, and go on with it in the next step.

        Args:
            rows: the call.
            scope: entered around the forward over its prompts.

        Raises:
            ConfigurationError: nothing can join now.
        """
        if not self.can_join:
            raise ConfigurationError("expected a batch that can be joined, got one of a model with attention windows")
        growing = rows.growing()
        if not growing:
            return rows.take(growing, None)
        forward = Forward(self._model, [rows.prompts[row] for row in growing], self._padding)
        with torch.no_grad():
            logits = forward(None, scope)
            step = rows.take(growing, logits)
        if not step.done:
            if self._forward is None or not self._places:
                self._forward, self._places, self._last = forward, [], []
            else:
                self._forward.join(forward)
            self._places += [Place(rows, row) for row in growing]
            self._last += self._tokens(step, growing)
        return step

    def step(self) -> list[tuple[DecodingRows, DecodedStep]]:
        """Write one token for every row that grows; return what each call that was in the batch got."""
        calls = list(dict.fromkeys(place.rows for place in self._places))
        reading = {rows: rows.growing() for rows in calls}
        self._leave()
        logits = None
        with torch.no_grad():
            if self._places and self._forward is not None:
                new_ids = torch.tensor(self._last, device=self._model.device)
                places = tuple(self._places)
                logits = self._forward(new_ids, lambda: self._scope(places))
                logits = logits if self._guide is None else self._guide(places, logits)
            steps, at = [], 0
            self._last = []
            for rows in calls:
                n = len(reading[rows])
                step = rows.take(reading[rows], logits[at : at + n] if logits is not None and n else None)
                self._last += self._tokens(step, reading[rows])
                at += n
                steps.append((rows, step))
            self._leave()
        return steps

    def _tokens(self, step: DecodedStep, rows: Sequence[int]) -> list[int]:
        found = (step.token_ids[row] for row in rows)
        return [self._padding if token is None else token for token in found]

    def _leave(self) -> None:
        """Give up the places of rows that have ended."""
        stays = [i for i, place in enumerate(self._places) if place.rows.texts[place.row].finish_reason is None]
        if len(stays) < len(self._places):
            if stays and self._forward is not None:
                self._forward.keep(stays)
            else:
                self._forward = None
            self._places, self._last = [self._places[i] for i in stays], [self._last[i] for i in stays]


def decode(
    model: Any,
    tokenizer: Detokenizer,
    prompts: Sequence[Sequence[int]],
    options: DecodingOptions,
    *,
    end_ids: frozenset[int],
    scope: Callable[[Sequence[int]], AbstractContextManager[object]],
    cancel: Cancel = None,
) -> Iterator[DecodedStep]:
    """Continue prompts with a causal language model of transformers, one forward a token.

    Between two steps nothing is active: no context manager, no gradient mode. Closing the iterator at any step
    is fine; no forward runs before the next step is asked for. What a forward raises reaches the caller.

    Args:
        model: the language model; left padding and its right position ids are taken care of.
        tokenizer: for the texts.
        prompts: token ids of each row; none may be empty.
        options: how to choose and when to end.
        end_ids: tokens that end a row; they are no part of its text.
        scope: entered around every single forward, told which rows it reads: those that have not ended.
        cancel: looked at around every forward; rows that still grow end as "cancelled".

    Raises:
        ConfigurationError: there is no prompt, or one is empty.
    """
    rows = DecodingRows(tokenizer, prompts, options, end_ids, cancel)
    # A function of its own, so that mistakes are raised by the call and not by the first step.
    return _steps(model, rows, end_ids, scope)


def _steps(
    model: Any,
    rows: DecodingRows,
    end_ids: frozenset[int],
    scope: Callable[[Sequence[int]], AbstractContextManager[object]],
) -> Iterator[DecodedStep]:
    batch = DecodingBatch(model, min(end_ids, default=0), lambda places: scope([place.row for place in places]))
    step = batch.join(rows, lambda: scope(range(len(rows.prompts))))
    yield step
    while not step.done:
        ((_, step),) = batch.step()
        yield step


def log_probabilities(
    model: Any,
    prompt: Sequence[int],
    continuation: Sequence[int],
    *,
    scope: Scope,
) -> Tensor:
    """Return how probable a given continuation is, read token by token exactly as ``decode`` would have written it.

    Args:
        model: the language model.
        prompt: token ids; not empty.
        continuation: token ids; not empty.
        scope: entered around every single forward.

    Returns:
        Natural logarithms, `[len(continuation)]` in float32 on the CPU.

    Raises:
        ConfigurationError: the prompt or the continuation is empty.
    """
    if not prompt or not continuation:
        raise ConfigurationError("expected a prompt and a continuation of at least one token each")
    forward = Forward(model, [prompt], 0)
    read: Tensor | None = None
    found = []
    for token in continuation:
        with torch.no_grad():
            logits = forward(read, scope)
        found.append(logits[0].float().log_softmax(-1)[token].cpu())
        read = torch.tensor([token], device=logits.device)
    return torch.stack(found)
