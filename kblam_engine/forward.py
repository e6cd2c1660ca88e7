"""The base model with its KV cache, for rows that come and go. Knows token ids, but no text and no knowledge base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

__all__ = ["Forward"]

Scope = Callable[[], AbstractContextManager[object]]
"""Entered around a forward."""


class Forward:
    """A causal language model of transformers in the middle of some rows: the prompts first, then token by token.

    Rows of different lengths are padded on the left, with the position ids that each would have alone.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], padding: int) -> None:
        """Take the prompts; nothing is computed yet.

        Args:
            model: the language model.
            prompts: token ids of each row; none may be empty.
            padding: any token id; what stands at padded places is never read.
        """
        self._model = model
        self._cache = DynamicCache(config=model.config)
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        padded = [[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        self._prompt_ids: Tensor | None = torch.tensor(padded, device=model.device)  # [batch, q_len]
        self._n_read = torch.tensor(lengths, device=model.device)  # [batch]
        places = torch.arange(longest, device=model.device)
        # Without padding there is nothing to mask, and the model takes a faster path.
        self._mask = (places >= longest - self._n_read[:, None]).long() if min(lengths) < longest else None

    @property
    def can_join(self) -> bool:
        """Whether rows can join and padding can go: not where a layer keeps a window of the newest tokens only."""
        return all(type(layer) is DynamicLayer for layer in self._cache.layers)

    def __call__(self, new_ids: Tensor | None, scope: Scope) -> Tensor:
        """Return the logits after the prompts (None) or after the new tokens `[batch]`: `[batch, n_tokens]`."""
        if new_ids is None:
            assert self._prompt_ids is not None
            ids, longest = self._prompt_ids, self._prompt_ids.shape[1]
            places = torch.arange(longest, device=ids.device)
            positions = (places - (longest - self._n_read[:, None])).clamp(min=0)  # [batch, q_len]
            self._prompt_ids = None
        else:
            ids, positions = new_ids[:, None], self._n_read[:, None]
            self._n_read = self._n_read + 1
            if self._mask is not None:
                self._mask = torch.cat([self._mask, self._mask.new_ones(len(ids), 1)], dim=1)
        # An index, and not "the last 1": a slice is not contiguous, and torch then copies the output matrix for every
        # row of the batch (in bfloat16 on a CPU half the time of a short prompt).
        last = torch.tensor([ids.shape[1] - 1], device=ids.device)
        with scope():
            output = self._model(
                input_ids=ids,
                attention_mask=self._mask,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=last,
            )
        logits: Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order; what all of them have as padding goes as well."""
        chosen = torch.tensor(rows, device=self._n_read.device)
        self._cache.batch_select_indices(chosen)
        self._n_read = self._n_read[chosen]
        if self._mask is None:
            return
        self._mask = self._mask[chosen]
        unused = int(self._mask.argmax(1).min())  # the first place that any row reads
        if unused and self.can_join:
            self._mask = self._mask[:, unused:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, unused:], layer.values[:, :, unused:]
        if bool(self._mask.all()):
            self._mask = None

    def join(self, other: Forward) -> None:
        """Take the rows of another one of the same model after these; both have read their prompts."""
        longest = max(self._length, other._length)
        padded = bool(longest - self._length or longest - other._length)
        if padded or self._mask is not None or other._mask is not None:
            self._mask = torch.cat([self._padded_mask(longest), other._padded_mask(longest)])
        for mine, theirs in zip(self._cache.layers, other._cache.layers, strict=True):
            mine.keys = torch.cat([_padded(mine.keys, longest), _padded(theirs.keys, longest)])
            mine.values = torch.cat([_padded(mine.values, longest), _padded(theirs.values, longest)])
        self._n_read = torch.cat([self._n_read, other._n_read])

    @property
    def _length(self) -> int:
        return int(self._cache.get_seq_length())

    def _padded_mask(self, length: int) -> Tensor:
        mask = self._n_read.new_ones(len(self._n_read), self._length) if self._mask is None else self._mask
        return torch.nn.functional.pad(mask, (length - mask.shape[1], 0))


def _padded(cached: Tensor, length: int) -> Tensor:
    """Pad `[batch, n_heads, k_len, head_dim]` on the left of its third dimension."""
    return torch.nn.functional.pad(cached, (0, 0, length - cached.shape[2], 0))
