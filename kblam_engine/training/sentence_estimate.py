"""What the training of sentence tokens would take: a few of its steps, measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random

import numpy as np
import torch

from kblam_engine.injection import Injection
from kblam_engine.models import LoadedModel
from kblam_engine.products import Floats
from kblam_engine.sentence_encoder import SentenceEncoder
from kblam_engine.sentence_tokens import SentenceTokenAdapter
from kblam_engine.training.config import TrainConfig
from kblam_engine.training.distributed import Processes
from kblam_engine.training.lexicon import Lexicon
from kblam_engine.training.pools import EncodedWorld
from kblam_engine.training.reading import chat_prompts
from kblam_engine.training.sentence import SentenceExample, sentence_examples
from kblam_engine.training.sentence_stage import options_of, sentence_trainer, sentence_world

N_ENTITIES = 60
"""Entities whose triples are encoded to see how long it takes."""
N_STEPS = 2
"""Optimiser steps that are timed, after a longer one that shows the memory."""


class Noise:
    """Stands in for a sentence encoder where only the arithmetic after it is timed."""

    name = fingerprint = "noise"

    def __init__(self, embed_dim: int) -> None:
        """Take the width of the embeddings."""
        self.embed_dim = embed_dim
        self._random = np.random.default_rng(0)

    def encode(self, texts: Sequence[str], *, progress: bool = False) -> Floats:
        """Return random unit vectors, float32 [len(texts), embed_dim]."""
        drawn = self._random.standard_normal((len(texts), self.embed_dim), np.float32)
        unit: Floats = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        return unit


def sentence_seconds(
    config: TrainConfig,
    loaded: LoadedModel,
    encoder: SentenceEncoder,
    sentence: SentenceTokenAdapter,
    injection: Injection,
    lexicon: Lexicon,
    processes: Processes = Processes(),
) -> dict[str, float]:
    """Take a few steps with sentence tokens and return the seconds of the stage's parts in a whole run.

    Args:
        config: the run.
        loaded: the base model.
        encoder: the sentence encoder.
        sentence: what is trained; changed by the steps.
        injection: of the base model.
        lexicon: properties and names to invent a world from.
        processes: those that train together.
    """
    random = Random(config.seed)
    world = sentence_world(random, config, lexicon, N_ENTITIES)
    begun = time.perf_counter()
    EncodedWorld(world, encoder)
    encoding = (time.perf_counter() - begun) / N_ENTITIES
    trainer = sentence_trainer(config, loaded, sentence, injection, processes)
    # Only the sizes of its KBs count here.
    large = EncodedWorld(sentence_world(random, config, lexicon, config.n_large_entities), Noise(encoder.embed_dim))
    stream = sentence_examples(
        random, [large], chat_prompts(loaded), config.batch * config.accumulate, **options_of(config)
    )
    by_size = sorted((next(stream) for _ in range(10)), key=_size)
    trainer.step(by_size[-1])
    mean = sum(map(_size, by_size)) / len(by_size)
    middle = sorted(by_size, key=lambda batch: abs(_size(batch) - mean))[:N_STEPS]
    begun = time.perf_counter()
    for batch in middle:
        trainer.step(batch)
    stepping = (time.perf_counter() - begun) / N_STEPS
    begun = time.perf_counter()
    with torch.no_grad():
        trainer.loss(middle[0][: config.batch])
    validating = time.perf_counter() - begun
    n_entities = config.n_worlds * config.n_entities + config.n_large_entities + config.n_real_entities
    n_batches = -(-max(1, config.n_validation // config.batch) // processes.n)
    return {
        "sentence tokens, embeddings": encoding * n_entities,
        "sentence tokens": stepping * config.sentence_steps,
        "sentence tokens, validation": validating * n_batches * -(-config.sentence_steps // config.validate_every),
    }


def _size(batch: list[SentenceExample]) -> int:
    """Return how much a batch holds: its KB, in triples, and its longest row, in characters."""
    return len(batch[0].triples) + max(len(e.prompt) + len(e.answer) for e in batch)
