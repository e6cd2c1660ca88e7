"""The system with a part of it taken out, or made perfect: what each part is worth."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from kblam_engine.evaluation.metrics import key_of
from kblam_engine.evaluation.questions import Question
from kblam_engine.products import Floats
from kblam_engine.retrieval import KeyTable, Message, Retrieved, Retriever, nearest

_SURE = 12.0
"""Log-odds of a gate that is open at any threshold."""


class EncoderGates(Retriever):
    """Opens the triple whose key the sentence encoder finds nearest."""

    def retrieve(
        self, messages: Sequence[Message], table: KeyTable, hidden_query: Floats | None = None
    ) -> Retrieved:
        """Return the candidates in the order of their scores, the first one open."""
        if not len(table):
            return super().retrieve(messages, table, hidden_query)
        positions, _ = nearest(table, self._score(table, self.encode(messages)[1], hidden_query))
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


def ablated(model: Any, name: str, question: Question) -> Any:
    """Return a model that shares everything with `model` but the part that an ablation replaces.

    Args:
        model: a `KBLaM`.
        name: out of `baselines.ABLATIONS`.
        question: what it will be asked.
    """
    other = copy.copy(model)
    usual = model.retriever
    if name == "oracle-gates":
        other.retriever = OracleGates(usual, question.supports)
    else:
        other.retriever = EncoderGates(usual.encoder, usual.examiner, usual.head)
    return other
