"""One call's view of its KBs: retrieval at the retrieval layer, then native tokens in the KB layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kblam_engine.adapter import KnowledgeAdapter
from kblam_engine.attention import KBBlock
from kblam_engine.evidence import Floats
from kblam_engine.gating import Gates, decide
from kblam_engine.kb_state import KBState
from kblam_engine.knowledge_base import KBSnapshot
from kblam_engine.native_layout import MIN_LOG_GATE, collate
from kblam_engine.native_state import NativeTokenState
from kblam_engine.native_tokens import NativeTokenReader
from kblam_engine.retrieval import Message, Retrieved, Retriever
from kblam_engine.statements import Role, StatementSource

HIDDEN_TAIL = 12
"""Positions at the end of the prompt whose hidden states are averaged for the KB query."""


@dataclass(frozen=True)
class Selection:
    """What was selected for one row, and what it decided."""

    snapshot: KBSnapshot | None
    retrieved: Retrieved | None
    gates: Gates


@dataclass(frozen=True)
class Row:
    """One conversation with its KB (None: the base model alone)."""

    messages: Sequence[Message]
    snapshot: KBSnapshot | None


class KnowledgeState(KBState):
    """Selects triples once during the prompt's forward pass, then feeds native tokens to the KB layers.

    Rows without a KB run as the base model. The selection is kept in ``selections``; the attention that the
    answer paid to each selected triple adds up in ``attention`` and token by token in ``copied``.
    """

    def __init__(
        self,
        adapter: KnowledgeAdapter,
        retriever: Retriever,
        statements: StatementSource,
        unembedding: Callable[[], Tensor],
        rows: Sequence[Row],
        threshold: float,
    ) -> None:
        """Prepare the call; nothing is computed before the prompt's forward pass.

        Args:
            adapter: the trained tensors.
            retriever: scores and weighs triples.
            statements: turns triples into native tokens.
            unembedding: the LLM head's weight, [vocab, hidden].
            rows: the batch.
            threshold: probability below which a question is refused.
        """
        self.layers = frozenset(adapter.config.native.layers)
        layer = adapter.config.retrieval_layer
        self.watch = frozenset() if layer is None else frozenset({layer})
        self._adapter, self._retriever, self._statements = adapter, retriever, statements
        self._unembedding, self._rows, self._threshold = unembedding, rows, threshold
        self.selections: tuple[Selection, ...] | None = None
        self._native: NativeTokenState | None = None
        self._copies = 1  # sequences per row: beams, or several samples of one prompt
        self.attention: list[Floats] = []
        self.copied: list[Tensor] = []

    def on_input_ids(self, input_ids: Tensor) -> None:
        """Select before the first forward pass, unless the hidden state has a say; later ones bring the answer."""
        if self._native is not None:
            self._native.reader.feed(input_ids)
            return
        self._copies = max(1, len(input_ids) // len(self._rows))
        if not self.watch:
            self._select([None] * len(self._rows))

    def observe(self, layer: int, hidden: Tensor) -> None:
        """Select at the retrieval layer, on the prompt's pass only."""
        if self.selections is None:
            pooled = hidden[:: self._copies, -HIDDEN_TAIL:].float().mean(1)
            self._select(list(self._adapter.query_of(pooled).cpu().numpy()))

    def _select(self, hidden_queries: Sequence[Floats | None]) -> None:
        selections = []
        for row, query in zip(self._rows, hidden_queries, strict=True):
            if row.snapshot is None:
                selections.append(
                    Selection(None, None, Gates(np.zeros(0, np.float32), MIN_LOG_GATE, False, 0.0))
                )
                continue
            found = self._retriever.retrieve(row.messages, row.snapshot, query)
            gates = decide(found.log_odds[: self._adapter.config.n_select], self._threshold)
            selections.append(Selection(row.snapshot, found, gates))
        self.selections = tuple(selections)
        unembedding = self._unembedding()
        statements = []
        gate_rows = []
        for selection in selections:
            # Only open triples are laid out, or the null triple alone: nothing else can leak into the answer.
            n = selection.gates.n_open
            chosen = selection.retrieved.triples[:n] if selection.retrieved else ()
            statements.append([self._statements(t) for t in chosen] or [self._statements.null])
            gate_rows.append(selection.gates.triples[:n].tolist() or [selection.gates.null])
        tokens = collate(statements, gate_rows, unembedding.device)
        for i, selection in enumerate(selections):
            if selection.snapshot is None:
                tokens.mask[i] = False
        self._native = NativeTokenState(
            NativeTokenReader(self._adapter.native, tokens, unembedding)
        )
        if self._copies > 1:
            self._native.repeat(self._copies)
        self.attention = [np.zeros(len(row), np.float32) for row in statements]

    def extend(self, layer: int, hidden: Tensor, prompt_logsumexp: Tensor) -> KBBlock | None:
        """Return the native tokens' block."""
        return None if self._native is None else self._native.extend(layer, hidden, prompt_logsumexp)

    def observe_weights(self, layer: int, weights: Tensor) -> None:
        """Keep which native tokens the newest position attended, at the last KB layer (first beam of each row)."""
        if self._native is None or layer != max(self.layers):
            return
        newest = weights[:: self._copies, :, -1].mean(1)  # [rows, s]
        tokens = self._native.reader.tokens
        self.copied.append(torch.where(newest.amax(1) > 0.5, newest.argmax(1), -1).cpu())
        for i in range(len(self._rows)):
            first = i * self._copies
            shares = torch.zeros(len(self.attention[i]), device=newest.device)
            slots = tokens.slots[first].clamp(max=len(shares) - 1)
            shares.scatter_add_(0, slots, newest[i].float() * tokens.mask[first])
            self.attention[i] += shares.cpu().numpy()

    def value_slots(self, row: int) -> list[int | None]:
        """Return for each written token the slot whose value it was copied from, or None."""
        if self._native is None:
            return []
        tokens = self._native.reader.tokens
        first = row * self._copies
        out: list[int | None] = []
        for step in self.copied:
            at = int(step[row])
            is_value = at >= 0 and int(tokens.roles[first, at]) in (Role.VALUE_FIRST, Role.VALUE)
            out.append(int(tokens.slots[first, at]) if is_value else None)
        return out

    def repeat(self, n: int) -> None:
        """Follow the batch into beams."""
        if self._native is not None:
            self._native.repeat(n)

    def reorder(self, indices: Tensor) -> None:
        """Follow a beam search."""
        if self._native is not None:
            self._native.reorder(indices)
