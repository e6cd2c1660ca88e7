"""What the stages of one training run share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from kblam_engine.injection import Injection
from kblam_engine.models import LoadedModel
from kblam_engine.sentence_encoder import SentenceEncoder
from kblam_engine.training.config import TrainConfig
from kblam_engine.training.distributed import Processes
from kblam_engine.training.lexicon import Lexicon
from kblam_engine.training.stages import Report
from kblam_engine.training.worlds import World


@dataclass(frozen=True)
class Run:
    """The parts of a run that no stage changes.

    Attributes:
        config: what was asked for.
        loaded: the frozen base model.
        encoder: the frozen sentence encoder.
        injection: of the base model.
        lexicon: properties and names to invent worlds from.
        real_worlds: draws worlds of real triples.
        report: told about progress.
        processes: those that train together; all of them run every stage, and all have the same tensors after it.
    """

    config: TrainConfig
    loaded: LoadedModel
    encoder: SentenceEncoder
    injection: Injection
    lexicon: Lexicon
    real_worlds: Callable[[Random], Iterable[World]]
    report: Report = lambda *_: None
    processes: Processes = Processes()
