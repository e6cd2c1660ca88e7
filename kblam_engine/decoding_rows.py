"""The rows of one call as they are written: how tokens are chosen, when a row ends. No model, no knowledge base."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kblam_engine.answers import FinishReason
from kblam_engine.errors import ConfigurationError
from kblam_engine.streamed_text import Detokenizer, StreamedText

__all__ = ["Cancel", "DecodedStep", "DecodingOptions", "DecodingRows"]

Cancel = threading.Event | Sequence[threading.Event | None] | None
"""What ends rows early: one event for all of them, or one for each (None: that row cannot be cancelled)."""


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """How tokens are chosen, and when an answer ends.

    Attributes:
        max_new_tokens: longest answer, at least 1.
        temperature: 0 for the likeliest token (greedy), higher for more variety.
        top_k: choose among the k likeliest tokens; 0 for all.
        top_p: choose among the likeliest tokens that together have this probability; 1 for all.
        seed: makes sampling reproducible; None for a new one each time. Every row of a batch starts from it, so that in
            float32 a row's sample is the same in any batch. In bfloat16 the sums of a batch are rounded otherwise, which
            can tip a sample over: there it is the same for calls alone only.
        stop: texts that end the answer and are not part of it.

    Raises:
        ConfigurationError: an option is out of its range.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges; a single stop text and None become tuples."""
        stop: Any = self.stop
        stop = tuple(stop or ()) if isinstance(stop, Iterable | None) and not isinstance(stop, str) else (stop,)
        object.__setattr__(self, "stop", stop)
        _check("max_new_tokens", self.max_new_tokens, _is_int(self.max_new_tokens, 1), "an integer above 0")
        number = _is_number(self.temperature) and 0 <= self.temperature < math.inf
        _check("temperature", self.temperature, number, "0 (greedy) or more")
        _check("top_k", self.top_k, _is_int(self.top_k, 0), "0 (all tokens) or more")
        _check("top_p", self.top_p, _is_number(self.top_p) and 0 < self.top_p <= 1, "above 0, at most 1")
        seed_ok = self.seed is None or (_is_int(self.seed, 0) and self.seed < 2**63)
        _check("seed", self.seed, seed_ok, "None, or an integer from 0 to 2**63 - 1")
        _check("stop", stop, all(isinstance(text, str) and text for text in stop), "texts that are not empty")


@dataclass(frozen=True, slots=True)
class DecodedStep:
    """One token for every row that still grows.

    Attributes:
        token_ids: the new token of each row, its end token included; None for a row that had ended.
        pieces: the text of each row that can be shown now, "" for none.
        rows: the whole of each row; the same objects in every step, so they show the newest state.
        done: whether every row has ended; true in the last step, and only there.
    """

    token_ids: tuple[int | None, ...]
    pieces: tuple[str, ...]
    rows: tuple[StreamedText, ...]
    done: bool


class DecodingRows:
    """What a call has written so far, row by row.

    Attributes:
        prompts: token ids of each row.
        texts: the text of each row; one whose `finish_reason` is set has ended.
    """

    def __init__(
        self,
        tokenizer: Detokenizer,
        prompts: Sequence[Sequence[int]],
        options: DecodingOptions,
        end_ids: frozenset[int],
        cancel: Cancel = None,
    ) -> None:
        """Write nothing yet.

        Args:
            tokenizer: for the texts.
            prompts: token ids of each row.
            options: how to choose and when to end.
            end_ids: tokens that end a row; they are no part of its text.
            cancel: ends all rows, or each its own, as "cancelled".

        Raises:
            ConfigurationError: there is no prompt, one is empty, or there is not one event for each row.
        """
        if not prompts or not all(len(prompt) for prompt in prompts):
            raise ConfigurationError("prompts: expected at least one, none of them empty")
        each = list(cancel) if isinstance(cancel, Sequence) else [cancel] * len(prompts)
        if len(each) != len(prompts):
            raise ConfigurationError(f"cancel: expected an event for each of {len(prompts)} rows, got {len(each)}")
        self.prompts = prompts
        self.texts = tuple(StreamedText(tokenizer, options.stop) for _ in prompts)
        self._end_ids, self._cancel = end_ids, each
        self._choose = _Chooser(options, len(prompts))
        self._n_left = options.max_new_tokens
        self._pieces = [""] * len(prompts)  # of rows that were cancelled since the last step

    def growing(self) -> list[int]:
        """Return the rows that go on, after those that have been cancelled are ended."""
        for row, (text, event) in enumerate(zip(self.texts, self._cancel, strict=True)):
            if text.finish_reason is None and event is not None and event.is_set():
                self._pieces[row] += text.finish("cancelled")
        return [row for row, text in enumerate(self.texts) if text.finish_reason is None]

    def take(self, rows: Sequence[int], logits: Tensor | None) -> DecodedStep:
        """Give rows their next tokens, and say what that adds; a row that has been cancelled meanwhile gets none.

        Args:
            rows: those that the forward has read.
            logits: theirs, `[len(rows), n_tokens]`; None if there was no row to read.
        """
        token_ids: list[int | None] = [None] * len(self.texts)
        still = set(self.growing())
        pieces, self._pieces = self._pieces, [""] * len(self.texts)
        if logits is not None and still:
            self._n_left -= 1
            ended: FinishReason | None = None if self._n_left else "length"
            for row, token in self._choose(logits, rows):
                if row in still:
                    token_ids[row] = token
                    pieces[row] += self._write(self.texts[row], token, ended)
        done = all(text.finish_reason is not None for text in self.texts)
        return DecodedStep(tuple(token_ids), tuple(pieces), self.texts, done)

    def _write(self, text: StreamedText, token: int, ended: FinishReason | None) -> str:
        if token in self._end_ids:
            return text.finish("stop")
        piece = text.push(token)
        return piece + text.finish(ended) if ended else piece


class _Chooser:
    """Chooses a token of each row from its logits, greedily or by the row's own random numbers."""

    def __init__(self, options: DecodingOptions, batch: int) -> None:
        self._options = options
        # On the CPU: the same seed gives the same numbers whatever device the model is on.
        self._generators = [torch.Generator() for _ in range(batch)] if options.temperature else []
        for generator in self._generators:
            if options.seed is None:
                generator.seed()
            else:
                generator.manual_seed(options.seed)

    def __call__(self, logits: Tensor, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Return each of these rows with its token, from `[len(rows), n_tokens]`."""
        if not self._generators:
            return list(zip(rows, logits.argmax(dim=-1).tolist(), strict=True))
        on_cpu = logits.float().cpu()
        return [(row, self._sample(own, self._generators[row])) for row, own in zip(rows, on_cpu, strict=True)]

    def _sample(self, logits: Tensor, generator: torch.Generator) -> int:
        options = self._options
        if options.top_k and options.top_k < len(logits):
            values, tokens = logits.topk(options.top_k)  # likeliest first
        else:
            values, tokens = logits.sort(descending=True, stable=True)
        # The largest logit is taken off first, so that a temperature near 0 does not overflow.
        probabilities = ((values - values[0]) / options.temperature).softmax(dim=-1)
        if options.top_p < 1:
            # A token stays if those before it have not reached top_p: the likeliest always does.
            before = probabilities.cumsum(dim=-1) - probabilities
            probabilities = probabilities.masked_fill(before >= options.top_p, 0.0)
        return int(tokens[torch.multinomial(probabilities, 1, generator=generator)])


def _check(name: str, value: object, ok: bool, expected: str) -> None:
    if not ok:
        raise ConfigurationError(f"{name}: expected {expected}, got {value!r}")


def _is_int(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
