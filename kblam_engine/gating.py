"""From probabilities to gates: which triples an answer may attend to, and whether it is a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from kblam_engine.native_layout import MIN_LOG_GATE
from kblam_engine.products import Floats

OPEN_FLOOR = -0.5
"""Log-gates are pushed apart around the decision, so that an answer is never half a refusal: an open gate is at least
this, a shut one ``MIN_LOG_GATE``, and its triple stays out of the attention."""
FURTHER_SHARE = 0.4
"""Of the threshold: where a question asks for more triples than are open, the next best need this much."""
Unknown = Literal["refuse", "base"]
"""What happens with a turn that no triple answers: it is refused, or the base model answers it without the KB."""
UNKNOWN: tuple[Unknown, ...] = get_args(Unknown)


@dataclass(frozen=True)
class Gates:
    """The decision about one question.

    Attributes:
        triples: float32 [n], log-gates of the selected triples.
        null: log-gate of the null triple.
        refused: whether the null triple won.
        confidence: probability that the KB holds the answer.
    """

    triples: Floats
    null: float
    refused: bool
    confidence: float

    @property
    def n_open(self) -> int:
        """How many triples the answer may attend to: the first ones."""
        return int((self.triples > MIN_LOG_GATE).sum())

    @property
    def uses_kb(self) -> bool:
        """Whether the answer attends to the KB at all: to triples, or to the null triple."""
        return self.refused or self.n_open > 0


def decide(log_odds: Floats, threshold: float, unknown: Unknown = "refuse", n_asked: int = 1) -> Gates:
    """Return the gates for the selected triples.

    Args:
        log_odds: float32 [n], best first, that each triple answers (part of) the question.
        threshold: probability below which the best triple does not answer.
        unknown: what happens then; "base" leaves every gate shut, that of the null triple too.
        n_asked: how many triples the question asks for. Once one is open, the others have to pass less.
    """
    refuses = unknown == "refuse"
    if not len(log_odds):
        return Gates(np.zeros(0, np.float32), 0.0 if refuses else MIN_LOG_GATE, refuses, 0.0)
    shifted = log_odds - _log_odds(threshold)
    log_p = -np.logaddexp(0.0, -shifted)
    opens = shifted >= 0
    if opens.any():
        opens[:n_asked] |= log_odds[:n_asked] >= _log_odds(FURTHER_SHARE * threshold)
    refused = refuses and not bool(opens.any())
    # A triple that is not asked for stays out altogether: siblings share the name, so their statements match the
    # answer as well as the right one does, and several gates ajar together would outweigh it.
    gates = np.where(opens, np.maximum(log_p, OPEN_FLOOR), MIN_LOG_GATE)
    null = 0.0 if refused else MIN_LOG_GATE
    confidence = float(np.exp(-np.logaddexp(0.0, -log_odds[0])))
    return Gates(np.maximum(gates, MIN_LOG_GATE).astype(np.float32), null, refused, confidence)


def _log_odds(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))
