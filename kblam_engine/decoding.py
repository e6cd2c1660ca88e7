"""The decoding loop: prompts in, one step per token out. Knows token ids and text, but no knowledge base.

The loop is the project's own, and not `generate` of transformers, because the state of a call must be entered
around every forward and never be left active while a caller's code runs between two tokens.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from kblam_engine.answers import FinishReason
from kblam_engine.errors import ConfigurationError
from kblam_engine.streamed_text import Detokenizer, StreamedText

__all__ = ["DecodedStep", "DecodingOptions", "decode", "log_probabilities"]


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """How tokens are chosen, and when an answer ends.

    Attributes:
        max_new_tokens: longest answer, at least 1.
        temperature: 0 for the likeliest token (greedy), higher for more variety.
        top_k: choose among the k likeliest tokens; 0 for all.
        top_p: choose among the likeliest tokens that together have this probability; 1 for all.
        seed: makes sampling reproducible. Every row of a batch starts from it, so that a row's sample is the
            same in any batch; None for a new one each time.
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
        stop = (stop,) if isinstance(stop, str) else tuple(stop or ())
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


def decode(
    model: Any,
    tokenizer: Detokenizer,
    prompts: Sequence[Sequence[int]],
    options: DecodingOptions,
    *,
    end_ids: frozenset[int],
    scope: Callable[[], AbstractContextManager[object]],
    on_token: Callable[[Tensor], None] | None = None,
    cancel: threading.Event | None = None,
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
        scope: entered around every single forward.
        on_token: told the new ids `[batch]` before the forward that reads them, never about the prompt. A row
            that has ended reads a padding id.
        cancel: looked at around every forward; rows that still grow end as "cancelled".

    Raises:
        ConfigurationError: there is no prompt, or one is empty.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ConfigurationError("prompts: expected at least one, none of them empty")
    # A function of its own, so that mistakes are raised by the call and not by the first step.
    return _steps(model, tokenizer, prompts, options, end_ids, scope, on_token, cancel)


def log_probabilities(
    model: Any,
    prompt: Sequence[int],
    continuation: Sequence[int],
    *,
    scope: Callable[[], AbstractContextManager[object]],
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
    forward = _Forward(model, [prompt], 0, scope)
    read: Tensor | None = None
    found = []
    for token in continuation:
        with torch.no_grad():
            logits = forward(read)
        found.append(logits[0].float().log_softmax(-1)[token].cpu())
        read = torch.tensor([token], device=logits.device)
    return torch.stack(found)


def _steps(
    model: Any,
    tokenizer: Detokenizer,
    prompts: Sequence[Sequence[int]],
    options: DecodingOptions,
    end_ids: frozenset[int],
    scope: Callable[[], AbstractContextManager[object]],
    on_token: Callable[[Tensor], None] | None,
    cancel: threading.Event | None,
) -> Iterator[DecodedStep]:
    padding = min(end_ids, default=0)  # any id will do: these positions are masked or never read
    rows = tuple(StreamedText(tokenizer, options.stop) for _ in prompts)
    forward = _Forward(model, prompts, padding, scope)
    choose = _Chooser(options, len(prompts))
    new_ids: Tensor | None = None
    for n_left in range(options.max_new_tokens, 0, -1):
        if cancel is not None and cancel.is_set():
            break
        with torch.no_grad():
            if new_ids is not None and on_token is not None:
                on_token(new_ids)
            logits = forward(new_ids)
            chosen = choose(logits, rows)
        if cancel is not None and cancel.is_set():
            break
        step = _advance(rows, chosen, end_ids, last=n_left == 1)
        yield step
        if step.done:
            return
        ids = [padding if token is None else token for token in step.token_ids]
        new_ids = torch.tensor(ids, device=logits.device)
    yield DecodedStep((None,) * len(rows), tuple(row.finish("cancelled") for row in rows), rows, done=True)


def _advance(
    rows: tuple[StreamedText, ...], chosen: list[int], end_ids: frozenset[int], *, last: bool
) -> DecodedStep:
    token_ids: list[int | None] = []
    pieces: list[str] = []
    for row, token in zip(rows, chosen, strict=True):
        if row.finish_reason is not None:
            token_ids.append(None)
            pieces.append("")
            continue
        token_ids.append(token)
        if token in end_ids:
            pieces.append(row.finish("stop"))
            continue
        piece = row.push(token)
        reason: FinishReason | None = "length" if last else None
        pieces.append(piece + row.finish(reason) if reason else piece)
    done = all(row.finish_reason is not None for row in rows)
    return DecodedStep(tuple(token_ids), tuple(pieces), rows, done)


class _Forward:
    """The model with its KV cache: the prompts first, then one token of each row at a time."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        padding: int,
        scope: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._model = model
        self._scope = scope
        self._cache = DynamicCache(config=model.config)
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        padded = [[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        self._prompt_ids = torch.tensor(padded, device=model.device)  # [batch, q_len]
        self._n_read = torch.tensor(lengths, device=model.device)  # [batch]
        places = torch.arange(longest, device=model.device)
        padding_len = longest - self._n_read[:, None]
        self._positions = (places - padding_len).clamp(min=0)  # [batch, q_len]
        # Without padding there is nothing to mask, and the model takes a faster path.
        self._mask = (places >= padding_len).long() if min(lengths) < longest else None

    def __call__(self, new_ids: Tensor | None) -> Tensor:
        """Return the logits after the prompts (None) or after the new tokens `[batch]`: `[batch, n_tokens]`."""
        if new_ids is None:
            ids, positions = self._prompt_ids, self._positions
        else:
            ids, positions = new_ids[:, None], self._n_read[:, None]
            self._n_read = self._n_read + 1
            if self._mask is not None:
                self._mask = torch.cat([self._mask, self._mask.new_ones(len(ids), 1)], dim=1)
        with self._scope():
            output = self._model(
                input_ids=ids,
                attention_mask=self._mask,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: Tensor = output.logits[:, -1]
        return logits


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

    def __call__(self, logits: Tensor, rows: Sequence[StreamedText]) -> list[int]:
        """Return one token for each row of `[batch, n_tokens]`; 0 where the row has ended."""
        if not self._generators:
            greedy: list[int] = logits.argmax(dim=-1).tolist()
            return greedy
        on_cpu = logits.float().cpu()
        return [
            0 if row.finish_reason is not None else self._sample(row_logits, generator)
            for row_logits, row, generator in zip(on_cpu, rows, self._generators, strict=True)
        ]

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
