"""The system with a part of it taken out, or made perfect: what each part is worth."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.ablated_states import NativeOnlyState, SentenceOnlyState, Watch
from kblam_engine.evaluation.baselines import ABLATIONS, WITHOUT_RETRIEVAL
from kblam_engine.evaluation.metrics import key_of
from kblam_engine.evaluation.questions import Question
from kblam_engine.key_table import KeyTable
from kblam_engine.products import Floats
from kblam_engine.retrieval import Message, Retrieved, Retriever, nearest

_SURE = 12.0
"""Log-odds of a gate that is open at any threshold."""
MOST_NATIVE = 2_000
"""Triples whose native tokens a layer can attend to all at once: about 20 tokens each, in every layer and head."""


class EncoderGates(Retriever):
    """Opens the triple whose key the sentence encoder finds nearest; the LLM's hidden state has no say in it."""

    def retrieve(
        self, messages: Sequence[Message], table: KeyTable, hidden_query: Floats | None = None
    ) -> Retrieved:
        """Return the candidates in the order of their scores, the first one open."""
        del hidden_query
        if not len(table):
            return super().retrieve(messages, table)
        positions, _ = nearest(table, self._score(table, self.encode(messages)[1], None))
        log_odds = np.full(len(positions), -_SURE, np.float32)
        log_odds[0] = _SURE
        return Retrieved(positions, tuple(table.triples(positions)), log_odds)


class OracleGates(Retriever):
    """Opens the supports of one question."""

    def __init__(self, usual: Retriever, supports: Sequence[tuple[str, str]]) -> None:
        """Keep (name, property) of the supports, in the order in which they are asked for."""
        super().__init__(usual.encoder, usual.examiner, usual.head)
        self._supports = [key_of(*pair) for pair in supports]

    def retrieve(
        self, messages: Sequence[Message], table: KeyTable, hidden_query: Floats | None = None
    ) -> Retrieved:
        """Return the supports alone; none without any."""
        del messages, hidden_query
        place = {key: i for i, key in enumerate(self._supports)}
        found = [
            (place[key], position, triple)
            for position, triple in enumerate(table.triples(range(len(table))))
            if (key := key_of(triple.name, triple.property)) in place
        ]
        found.sort(key=lambda each: each[:2])
        # A little less for every further one: the likelier triple is written first.
        log_odds = np.array([_SURE - 0.1 * i for i in range(len(found))], np.float32)
        positions = np.array([position for _, position, _ in found], np.int64)
        return Retrieved(positions, tuple(triple for _, _, triple in found), log_odds)


class EveryTriple(Retriever):
    """Opens all there is: no retrieval layer."""

    def retrieve(
        self, messages: Sequence[Message], table: KeyTable, hidden_query: Floats | None = None
    ) -> Retrieved:
        """Return every triple in the order of the KB, all alike."""
        del messages, hidden_query
        n = len(table)
        return Retrieved(np.arange(n), tuple(table.triples(range(n))), np.full(n, _SURE, np.float32))


def check_ablations(model: Any, names: Iterable[str], n_triples: int) -> None:
    """Check that the model has what the ablations take out, and that they can be done at this size.

    Args:
        model: a `KBLaM`.
        names: of systems; those out of `baselines.ABLATIONS` count.
        n_triples: size of the largest KB.

    Raises:
        ConfigurationError: an ablation wants sentence tokens and the adapter has none, or too many native tokens.
    """
    for name in names:
        if name not in ABLATIONS:
            continue
        if name.startswith("sentence-tokens") and model.adapter.sentence is None:
            raise ConfigurationError(
                f"{name}: expected an adapter with sentence tokens, got one without: train one with "
                "`kblam train --sentence-steps N` and name it as adapter= (--adapter)"
            )
        if name == "native-tokens" and model.adapter.sentence is None:
            raise ConfigurationError(
                f"{name}: expected an adapter with sentence tokens, got one without: the system is native tokens alone, leave it out"
            )
        if name == "native-tokens-all" and n_triples > MOST_NATIVE:
            raise ConfigurationError(
                f"{name}: expected a KB of at most {MOST_NATIVE:,} triples, got {n_triples:,}: every token of every statement "
                "would be attended to; run it by itself with smaller sizes"
            )


def ablated(model: Any, name: str, question: Question) -> Any:
    """Return a model that shares everything with `model` but the part that an ablation replaces.

    Args:
        model: a `KBLaM`.
        name: out of `baselines.ABLATIONS`.
        question: what it will be asked.
    """
    other, usual = copy.copy(model), model.retriever
    parts = usual.encoder, usual.examiner, usual.head
    if name == "oracle-gates":
        other.retriever = OracleGates(usual, question.supports)
    elif name == "encoder-gates":
        other.retriever = EncoderGates(*parts)
    else:
        other.state_type = SentenceOnlyState if name.startswith("sentence") else NativeOnlyState
    if name in WITHOUT_RETRIEVAL:
        other.retriever = EveryTriple(*parts)
        other.adapter = copy.copy(model.adapter)
        other.adapter.config = replace(model.adapter.config, n_select=sys.maxsize, retrieval_layer=None)
    return other


def watched(model: Any) -> tuple[Any, Watch]:
    """Return a model that shares everything with `model`, and what tells the attention in each KB layer of its last answer."""
    other, watch = copy.copy(model), Watch(model.state_type)
    other.state_type = watch
    return other, watch
