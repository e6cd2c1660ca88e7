"""The states of several calls as one, while their rows are decoded in one batch: each row sees its own KB and no other.

Every call keeps its own state for all of its rows, those that have ended included; what is here only says which row of
which state stands where in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kblam_engine.attention import KBBlock
from kblam_engine.kb_state import KBState

__all__ = ["JoinedStates", "Share"]


@dataclass(frozen=True)
class Share:
    """Some rows of a state that stand one after the other in the batch.

    Attributes:
        state: the state of a call; None: the base model alone.
        rows: of that state, in the order of the batch.
        n_rows: how many the state has in all.
    """

    state: KBState | None
    rows: tuple[int, ...]
    n_rows: int

    @property
    def is_whole(self) -> bool:
        """Whether these are all rows of the state, in order."""
        return self.rows == tuple(range(self.n_rows))

    def widened(self, batch: Tensor, fill_from: Tensor | None = None) -> Tensor:
        """Return one entry for each row of the state, from those of its rows in the batch.

        Args:
            batch: `[len(rows), ...]`.
            fill_from: `[1, ...]`, for rows that have ended; None: zeros.
        """
        if self.is_whole:
            return batch
        shape = (self.n_rows, *batch.shape[1:])
        wide = batch.new_zeros(shape) if fill_from is None else fill_from.expand(shape).clone()
        wide[list(self.rows)] = batch
        return wide

    def narrowed(self, wide: Tensor) -> Tensor:
        """Return the entries of the rows in the batch, out of one for each row of the state."""
        return wide if self.is_whole else wide.expand(self.n_rows, *wide.shape[1:])[list(self.rows)]


@dataclass(frozen=True)
class _StackedBlock(KBBlock):
    """The blocks of several shares, one below the other; each mixes its own values."""

    shares: tuple[Share, ...] = ()
    blocks: tuple[KBBlock | None, ...] = field(default=())

    def mix(self, weights: Tensor) -> Tensor:
        """Weigh the values of every share: `[batch, n_heads, q_len, s]` to `[batch, n_heads, q_len, head_dim]`."""
        parts = []
        for share, block, own in _along(self.shares, self.blocks, weights):
            if block is None:
                parts.append(own.new_zeros(*own.shape[:-1], self.values.shape[-1]))
            else:
                length = block.logits.shape[-1]
                parts.append(share.narrowed(block.mix(share.widened(own[..., :length])).float()))
        return torch.cat(parts)


class JoinedStates(KBState):
    """One state for a batch that is made of shares of several; for the decoding of answers, not for prompts."""

    def __init__(self, shares: Sequence[Share]) -> None:
        """Take the shares in the order of the batch."""
        self._shares = tuple(shares)
        self._blocks: dict[int, tuple[KBBlock | None, ...]] = {}

    @property
    def layers(self) -> frozenset[int]:  # type: ignore[override]
        """Layers that any of the states extends."""
        return frozenset().union(*(share.state.layers for share in self._shares if share.state is not None))

    def on_input_ids(self, input_ids: Tensor) -> None:
        """Tell every state the new tokens of its rows, `[batch, 1]`."""
        for share, own in self._each(input_ids):
            if share.state is not None:
                share.state.on_input_ids(share.widened(own, own[:1]))

    def is_relative(self, layer: int) -> bool:
        """Say whether all states that extend a layer do so relative to the prompt."""
        states = [share.state for share in self._shares if share.state is not None and layer in share.state.layers]
        return all(state.is_relative(layer) for state in states)

    def extend(self, layer: int, hidden: Tensor, prompt_logsumexp: Tensor) -> KBBlock | None:
        """Return the blocks of all states as one."""
        blocks: list[KBBlock | None] = []
        for share, (own, logsumexp) in zip(
            self._shares, zip(self._split(hidden), self._split(prompt_logsumexp), strict=True), strict=True
        ):
            if share.state is None or layer not in share.state.layers:
                blocks.append(None)
                continue
            wide = share.widened(own, own[:1]), share.widened(logsumexp, logsumexp[:1])
            blocks.append(share.state.extend(layer, *wide))
        self._blocks[layer] = tuple(blocks)
        given = [block for block in blocks if block is not None]
        if not given:
            return None
        longest = max(block.logits.shape[-1] for block in given)
        stacked = prompt_logsumexp.new_full((*prompt_logsumexp.shape, longest), -torch.inf)
        for share, block, own in _along(self._shares, blocks, stacked):
            if block is not None:
                own[..., : block.logits.shape[-1]] = share.narrowed(block.logits).to(own.dtype)
        return _StackedBlock(stacked, given[0].values, self._shares, tuple(blocks))

    def observe_weights(self, layer: int, weights: Tensor) -> None:
        """Tell every state the weights of its rows."""
        for share, block, own in _along(self._shares, self._blocks.pop(layer), weights):
            if share.state is not None and block is not None:
                share.state.observe_weights(layer, share.widened(own[..., : block.logits.shape[-1]]))

    def guided(self, logits: Tensor) -> Tensor:
        """Ask every state about its rows."""
        parts = [
            own if share.state is None else share.narrowed(share.state.guided(share.widened(own, own[:1])))
            for share, own in self._each(logits)
        ]
        return torch.cat(parts)

    def _split(self, batch: Tensor) -> tuple[Tensor, ...]:
        return torch.split(batch, [len(share.rows) for share in self._shares])

    def _each(self, batch: Tensor) -> list[tuple[Share, Tensor]]:
        return list(zip(self._shares, self._split(batch), strict=True))


def _along(
    shares: Sequence[Share], blocks: Sequence[KBBlock | None], batch: Tensor
) -> list[tuple[Share, KBBlock | None, Tensor]]:
    parts = torch.split(batch, [len(share.rows) for share in shares])
    return list(zip(shares, blocks, parts, strict=True))
