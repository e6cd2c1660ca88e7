"""Attention states for evaluations: how much attention each KB layer pays to each triple, and one kind of tokens alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from kblam_engine.knowledge_state import KnowledgeState, Selection
from kblam_engine.native_state import NativeTokenState
from kblam_engine.products import Floats
from kblam_engine.sentence_tokens import SentenceTokenState
from kblam_engine.triples import Triple

NATIVE, SENTENCE = "native", "sentence"


class WatchedState(KnowledgeState):
    """Keeps the attention that each open triple gets in every KB layer, of one conversation.

    ``layer_attention`` has, by kind of token and layer, float32 [n_open]: the mean over heads, for sentence tokens
    summed over the positions of the prompt, as the authors of KBLaM measure it (section 5), and for native tokens over
    the answer and the position before it, which are all that attend to them.
    """

    kinds: tuple[str, ...] = (NATIVE, SENTENCE)

    def __init__(self, *arguments: Any) -> None:
        """Take what `KnowledgeState` takes."""
        super().__init__(*arguments)
        self.layer_attention: dict[tuple[str, int], Floats] = {}

    @property
    def watched(self) -> list[tuple[str, int]]:
        """Kind and layer of all that can be ranked; sentence tokens pruned to their best have lost their places."""
        config = self._adapter.config
        layers = [(NATIVE, layer) for layer in config.native.layers]
        if config.sentence is not None and config.sentence.top_k is None:
            layers += [(SENTENCE, layer) for layer in config.sentence.kb_layers]
        return [found for found in layers if found[0] in self.kinds]

    def ranked(self) -> dict[tuple[str, int], list[Triple]]:
        """Return the triples that each layer attended to, the most attended first; none where none was open."""
        triples: Sequence[Triple] = ()
        if self.selections is not None and self.selections[0].retrieved is not None:
            triples = self.selections[0].retrieved.triples
        found = {}
        for at in self.watched:
            mass = self.layer_attention.get(at, np.zeros(0, np.float32))
            found[at] = [triples[i] for i in np.argsort(-mass, kind="stable") if mass[i] > 0]
        return found

    def observe_weights(self, layer: int, weights: Tensor) -> None:
        """Add up the weights of the first row; native tokens come before sentence tokens."""
        super().observe_weights(layer, weights)
        if self.selections is None or not self.selections[0].gates.n_open:
            return
        n_open, n_native = self.selections[0].gates.n_open, 0
        each = weights[0].mean(0).float()  # [q_len, s]
        if self._native is not None and layer in self._native_layers:
            tokens = self._native.reader.tokens
            n_native = tokens.ids.shape[1]
            mass = each.new_zeros(n_open)
            own = each[:, :n_native].sum(0) * tokens.mask[0]
            mass.scatter_add_(0, tokens.slots[0].clamp(max=n_open - 1), own)
            self._add(NATIVE, layer, mass)
        is_sentence_layer = self._sentence is not None and layer in self._sentence.layers
        if is_sentence_layer and (SENTENCE, layer) in self.watched and (SENTENCE, layer) not in self.layer_attention:
            self._add(SENTENCE, layer, each[:, n_native : n_native + n_open].sum(0))

    def _add(self, kind: str, layer: int, mass: Tensor) -> None:
        found = mass.cpu().numpy().astype(np.float32)
        before = self.layer_attention.get((kind, layer), np.zeros(0, np.float32))
        # A further hop opens more triples, behind those there were.
        self.layer_attention[kind, layer] = found + np.pad(before, (0, len(found) - len(before)))


class NativeOnlyState(WatchedState):
    """Native tokens alone, where an adapter brings sentence tokens as well."""

    kinds = (NATIVE,)

    def _sentence_tokens(self, selections: Sequence[Selection]) -> SentenceTokenState | None:
        return None


class SentenceOnlyState(WatchedState):
    """Sentence tokens alone; a refusal is written from the null triple as ever, which has no sentence token.

    The attention to a triple is that of all KB layers together. With several hops, the next triples are selected at the
    first written token: only native tokens tell when a triple has been written.
    """

    kinds = (SENTENCE,)

    def _lay_out(self, selections: Sequence[Selection]) -> NativeTokenState:
        nothing = np.zeros(0, np.float32)
        bare = [replace(one, gates=replace(one.gates, triples=nothing)) for one in selections]
        before, self.attention = self.attention or [nothing] * len(selections), []
        state = super()._lay_out(bare)
        # A further hop opens more triples, behind those there were.
        self.attention = [
            np.pad(old, (0, max(1, one.gates.n_open) - len(old))) for old, one in zip(before, selections, strict=True)
        ]
        return state

    def _add(self, kind: str, layer: int, mass: Tensor) -> None:
        super()._add(kind, layer, mass)
        if kind == SENTENCE:
            self.attention[0] += mass.cpu().numpy()


class Watch:
    """Makes the states of a model, and keeps the last one: `KBLaM.state_type` for one thread."""

    def __init__(self, state_type: Callable[..., KnowledgeState]) -> None:
        """Watch states of this type, or those of `WatchedState` where it watches nothing."""
        watches = isinstance(state_type, type) and issubclass(state_type, WatchedState)
        self._type: Callable[..., Any] = state_type if watches else WatchedState
        self._state: WatchedState | None = None

    def __call__(self, *arguments: Any) -> KnowledgeState:
        """Return a new state."""
        made: WatchedState = self._type(*arguments)
        self._state = made
        return made

    def ranked(self) -> dict[str, list[Triple]]:
        """Return for each KB layer of the last call, under "native 20" or "sentence 3", its triples, best first."""
        found = {} if self._state is None else self._state.ranked()
        return {f"{kind} {layer}": triples for (kind, layer), triples in found.items()}
