"""One call's view of its KBs: retrieval at the retrieval layer, then native (and sentence) tokens in the KB layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kblam_engine.adapter import KnowledgeAdapter
from kblam_engine.attention import KBBlock
from kblam_engine.gating import Gates, Unknown, decide
from kblam_engine.hops import following, joined, next_question
from kblam_engine.joined_tokens import Chosen, join, sentence_tokens_of
from kblam_engine.kb_state import KBState
from kblam_engine.knowledge_base import KBSnapshot
from kblam_engine.native_layout import MIN_LOG_GATE, collate
from kblam_engine.native_state import NativeTokenState
from kblam_engine.native_tokens import NativeTokenReader
from kblam_engine.products import Floats
from kblam_engine.retrieval import Message, Questions, Retrieved, Retriever, up_to_question
from kblam_engine.sentence_tokens import SentenceTokenState
from kblam_engine.side_thread import has_idle_cores, in_side_thread
from kblam_engine.statements import Role, StatementSource

HIDDEN_TAIL = 12
"""Positions at the end of the prompt whose hidden states are averaged for the KB query."""


def pool_tail(hidden: Tensor) -> Tensor:
    """Return the mean of the prompt's last hidden states, [batch, hidden] from [batch, q_len, hidden]."""
    return hidden[:, -HIDDEN_TAIL:].float().mean(1)


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

    An adapter with sentence tokens brings those of the same triples besides, in its own KB layers. Rows without a KB,
    or left to the base model, run as the base model; where all rows do, the state takes no layer any more, and the
    stock attention computes them. The selection is kept in ``selections``; the attention that the answer paid to each
    selected triple adds up in ``attention`` and token by token in ``copied``.
    """

    def __init__(
        self,
        adapter: KnowledgeAdapter,
        retriever: Retriever,
        statements: StatementSource,
        unembedding: Callable[[], Tensor],
        rows: Sequence[Row],
        threshold: float,
        max_hops: int = 1,
        unknown: Unknown = "refuse",
    ) -> None:
        """Prepare the call; nothing is computed before the prompt's forward pass.

        Args:
            adapter: the trained tensors.
            retriever: scores and weighs triples.
            statements: turns triples into native tokens.
            unembedding: the LLM head's weight, [vocab, hidden].
            rows: the batch.
            threshold: probability below which a triple does not answer.
            max_hops: how often triples are selected for one answer: 1 is once per turn.
            unknown: what happens with a turn that no triple answers.
        """
        sentence = adapter.config.sentence
        self._native_layers = frozenset(adapter.config.native.layers)
        self._kb_layers = self._native_layers | frozenset(() if sentence is None else sentence.kb_layers)
        layer = adapter.config.retrieval_layer
        self._asks_hidden = layer is not None
        # What needs no hidden state is selected while the layers below the first KB layer compute.
        first = min(self._kb_layers) if layer is None else layer
        self.watch = frozenset({first})
        # Before the selection there is nothing to attend to: sentence tokens may have layers below the retrieval layer.
        self.layers = frozenset(at for at in self._kb_layers if at >= first)
        self._adapter, self._retriever, self._statements = adapter, retriever, statements
        self._unembedding, self._rows = unembedding, rows
        self._threshold, self._unknown = threshold, unknown
        self.selections: tuple[Selection, ...] | None = None
        self._selecting: Future[tuple[Selection, ...]] | None = None
        self._native: NativeTokenState | None = None
        self._sentence: SentenceTokenState | None = None
        self._has_prompt = False
        self._copies = 1  # sequences per row: beams, or several samples of one prompt
        self._hops_left = [max_hops - 1] * len(rows)
        self._written: list[Tensor] = []
        self._ended: set[int] = set()
        self.attention: list[Floats] = []
        self.copied: list[Tensor] = []

    def on_input_ids(self, input_ids: Tensor) -> None:
        """Begin to select with the first forward pass, unless the hidden state has a say; later ones bring the answer."""
        if self._has_prompt:
            if self._native is None:
                return
            self._native.reader.feed(input_ids)
            if any(self._hops_left) and self._copies == 1:  # beams keep their first selection
                self._written += input_ids.unbind(1)
                self._move_on()
            return
        self._has_prompt = True
        self._copies = max(1, len(input_ids) // len(self._rows))
        if self.selections is None:
            if not self._asks_hidden and has_idle_cores(input_ids.device):
                self._selecting = in_side_thread(self._prepared)
            else:
                self.select()
        elif self._copies > 1:
            self.repeat(self._copies)

    def select(self) -> None:
        """Select now, before the prompt's forward pass, unless the hidden state has a say; a second call does nothing."""
        if self.selections is None and not self._asks_hidden:
            self._attend(self._prepared() if self._selecting is None else self._selecting.result())

    def observe(self, layer: int, hidden: Tensor) -> None:
        """Select at the retrieval layer, or wait for what is selected, on the prompt's pass only."""
        if self.selections is not None:
            return
        if self._asks_hidden:
            queries = self._adapter.query_of(pool_tail(hidden[:: self._copies]))
            self._attend(self._prepared(list(queries.cpu().numpy())))
        else:
            self.select()

    def _selected(self, hidden_queries: Sequence[Floats] | None = None) -> tuple[Selection, ...]:
        """Return what is selected for each row; changes nothing."""
        selections = []
        for at, row in enumerate(self._rows):
            if row.snapshot is None:
                selections.append(
                    Selection(None, None, Gates(np.zeros(0, np.float32), MIN_LOG_GATE, False, 0.0))
                )
                continue
            query = None if hidden_queries is None else hidden_queries[at]
            found = self._retriever.retrieve(row.messages, row.snapshot, query)
            asked = Questions.of(row.messages).n_asked
            gates = decide(found.log_odds[: self._adapter.config.n_select], self._threshold, self._unknown, asked)
            selections.append(Selection(row.snapshot, found, gates))
        return tuple(selections)

    def _prepared(self, hidden_queries: Sequence[Floats] | None = None) -> tuple[Selection, ...]:
        """Select, and lay out what is selected; nothing looks at that before `_attend` is told."""
        selections = self._selected(hidden_queries)
        if any(selection.gates.uses_kb for selection in selections):
            self._native = self._lay_out(selections)
            self._sentence = self._sentence_tokens(selections)
        return selections

    def _attend(self, selections: tuple[Selection, ...]) -> None:
        """Let the KB layers attend to what is laid out."""
        self.selections = selections
        self.layers = frozenset() if self._native is None else self._kb_layers
        if self._copies > 1:
            self.repeat(self._copies)

    def _lay_out(self, selections: Sequence[Selection]) -> NativeTokenState:
        """Return the native tokens of the open triples, or of the null triple: nothing else can leak into the answer."""
        unembedding = self._unembedding()
        statements = []
        gate_rows = []
        for selection in selections:
            n = selection.gates.n_open
            chosen = selection.retrieved.triples[:n] if selection.retrieved else ()
            statements.append([self._statements(t) for t in chosen] or [self._statements.null])
            gate_rows.append(selection.gates.triples[:n].tolist() or [selection.gates.null])
        tokens = collate(statements, gate_rows, unembedding.device)
        for i, selection in enumerate(selections):
            if not selection.gates.uses_kb:
                tokens.mask[i] = False
        before = self.attention or [np.zeros(0, np.float32)] * len(statements)
        self.attention = [
            np.pad(old, (0, len(row) - len(old))) for old, row in zip(before, statements, strict=True)
        ]
        return NativeTokenState(NativeTokenReader(self._adapter.native, tokens, unembedding))

    def _sentence_tokens(self, selections: Sequence[Selection]) -> SentenceTokenState | None:
        """Return sentence tokens of the same triples, each with the logit that it has among all candidates."""
        if self._adapter.sentence is None:
            return None
        chosen = []
        for selection in selections:
            positions = np.zeros(0, np.int64) if selection.retrieved is None else selection.retrieved.positions
            chosen.append(Chosen(selection.snapshot, positions[: selection.gates.n_open], len(positions)))
        return sentence_tokens_of(self._adapter.sentence, chosen)

    def _move_on(self) -> None:
        """Select again for every row whose open triples have all been written out."""
        assert self._native is not None and self.selections is not None
        done = (self._native.reader.progress.remaining <= MIN_LOG_GATE).tolist()
        selections = [
            self._next_selection(row) if done[row] and self._hops_left[row] and row not in self._ended else selection
            for row, selection in enumerate(self.selections)
        ]
        if all(new is old for new, old in zip(selections, self.selections, strict=True)):
            return
        self.selections = tuple(selections)
        self._native = self._lay_out(self.selections)
        self._sentence = self._sentence_tokens(self.selections)
        written = torch.stack(self._written, 1)
        if written.shape[1] > 1:
            self._native.reader.feed(written[:, :-1])
        self._native.reader.feed(written[:, -1:])

    def _next_selection(self, row: int) -> Selection:
        """Return a row's selection with the triples that go on from a written one, or as it was."""
        assert self.selections is not None
        selection, messages = self.selections[row], list(up_to_question(self._rows[row].messages))
        self._hops_left[row] -= 1
        if selection.snapshot is None or selection.retrieved is None or not selection.gates.n_open:
            self._hops_left[row] = 0
            return selection
        question = messages[-1]["content"]
        for written in selection.retrieved.triples[: selection.gates.n_open]:
            asked = next_question(self._retriever.examiner, question, written)
            messages[-1] = {"role": "user", "content": asked}
            found = self._retriever.retrieve(messages, selection.snapshot)
            more, gates = following(found, written, self._threshold, self._adapter.config.n_select)
            merged, merged_gates = joined(selection.retrieved, selection.gates, more, gates)
            if merged_gates.n_open > selection.gates.n_open:
                return Selection(selection.snapshot, merged, merged_gates)
        self._hops_left[row] = 0
        return selection

    def is_relative(self, layer: int) -> bool:
        """Native tokens alone are."""
        return self._sentence is None or layer not in self._sentence.layers

    def extend(self, layer: int, hidden: Tensor, prompt_logsumexp: Tensor) -> KBBlock | None:
        """Return the block of the layer's native tokens, sentence tokens, or both."""
        states = [s for s in (self._native, self._sentence) if s is not None and layer in s.layers]
        return join([state.extend(layer, hidden, prompt_logsumexp) for state in states])

    def guided(self, logits: Tensor) -> Tensor:
        """Leave out tokens that would put the value of one triple into the statement of another."""
        return logits if self._native is None else self._native.reader.guided(logits)

    def observe_weights(self, layer: int, weights: Tensor) -> None:
        """Keep which native tokens the newest position attended, at the last KB layer (first beam of each row)."""
        if self._native is None or layer != max(self._native_layers):
            return
        tokens = self._native.reader.tokens
        newest = weights[:: self._copies, :, -1, : tokens.ids.shape[1]].mean(1)  # [rows, s], native tokens come first
        self.copied.append(torch.where(newest.amax(1) > 0.5, newest.argmax(1), -1).cpu())
        for i in range(len(self._rows)):
            if i in self._ended:
                continue
            first = i * self._copies
            shares = torch.zeros(len(self.attention[i]), device=newest.device)
            slots = tokens.slots[first].clamp(max=len(shares) - 1)
            shares.scatter_add_(0, slots, newest[i].float() * tokens.mask[first])
            self.attention[i] += shares.cpu().numpy()

    def end(self, row: int) -> None:
        """Take it that a row's answer is over: what its batch still computes for it is no part of the answer."""
        self._ended.add(row)

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
        for state in (self._native, self._sentence):
            if state is not None:
                state.repeat(n)

    def reorder(self, indices: Tensor) -> None:
        """Follow a beam search."""
        for state in (self._native, self._sentence):
            if state is not None:
                state.reorder(indices)
