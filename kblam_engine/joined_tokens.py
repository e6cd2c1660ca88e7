"""Sentence tokens beside native tokens: what one layer attends to when an adapter brings both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kblam_engine.attention import KBBlock
from kblam_engine.key_table import KeyTable
from kblam_engine.sentence_tokens import SentenceTokenAdapter, SentenceTokenState


@dataclass(frozen=True)
class JoinedBlock(KBBlock):
    """Several blocks in one softmax, each mixing its values in its own way; made by `join`.

    Attributes:
        logits: `[batch, n_heads, q_len, s]`, s of the parts one after the other.
        values: of the first part; the others keep theirs.
        parts: the blocks.
    """

    parts: tuple[KBBlock, ...]

    def mix(self, weights: Tensor) -> Tensor:
        """Weigh the values of every part and add up, in float32."""
        shares = torch.split(weights, [part.logits.shape[-1] for part in self.parts], -1)
        mixed = [part.mix(own).float() for part, own in zip(self.parts, shares, strict=True)]
        return torch.stack(mixed).sum(0)


def join(blocks: Sequence[KBBlock | None]) -> KBBlock | None:
    """Return one block of all that are not None; a single one stays as it is, and none gives None."""
    parts = tuple(block for block in blocks if block is not None)
    if len(parts) < 2:
        return parts[0] if parts else None
    q_len = max(part.logits.shape[2] for part in parts)
    # What only the last positions attend to is masked for the others.
    logits = [
        torch.nn.functional.pad(part.logits.float(), (0, 0, q_len - part.logits.shape[2], 0), value=-torch.inf)
        for part in parts
    ]
    return JoinedBlock(torch.cat(logits, -1), parts[0].values, parts)


@dataclass(frozen=True)
class Chosen:
    """The triples of one row that sentence tokens are made of.

    Attributes:
        table: the KB; None: the row has no KB.
        positions: int64 [n], of the chosen triples in it.
        among: how many candidates they were chosen from.
    """

    table: KeyTable | None
    positions: NDArray[np.int64]
    among: int


def sentence_tokens_of(adapter: SentenceTokenAdapter, chosen: Sequence[Chosen]) -> SentenceTokenState:
    """Return sentence tokens of the chosen triples, a KB per row."""
    nothing = np.zeros((0, adapter.config.embed_dim), np.float32)
    keys, values = [], []
    for row in chosen:
        if row.table is None or not len(row.positions):
            keys.append(nothing)
            values.append(nothing)
        else:
            keys.append(np.asarray(row.table.key_embeddings[row.positions], np.float32))
            values.append(np.asarray(row.table.value_embeddings()[row.positions], np.float32))
    return SentenceTokenState(
        adapter,
        [torch.from_numpy(rows) for rows in keys],
        [torch.from_numpy(rows) for rows in values],
        among=[row.among for row in chosen],
    )
