"""What the training of sentence tokens would take: a few of its steps, measured."""

from __future__ import annotations

import time
from random import Random

import torch

from kblam_engine.injection import Injection
from kblam_engine.models import LoadedModel
from kblam_engine.sentence_encoder import SentenceEncoder
from kblam_engine.sentence_tokens import SentenceTokenAdapter
from kblam_engine.training.config import TrainConfig
from kblam_engine.training.distributed import Processes
from kblam_engine.training.lexicon import Lexicon
from kblam_engine.training.pools import EncodedWorld
from kblam_engine.training.reading import chat_prompts
from kblam_engine.training.sentence import SentenceExample, sentence_examples
from kblam_engine.training.sentence_stage import sentence_trainer
from kblam_engine.training.worlds import invented_world

N_ENTITIES = 60
"""Entities whose triples are encoded to see how long it takes."""
N_STEPS = 2
"""Optimiser steps that are timed, after a longer one that shows the memory."""


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
    world = invented_world(random, lexicon, [], N_ENTITIES)
    begun = time.perf_counter()
    encoded = EncodedWorld(world, encoder)
    encoding = (time.perf_counter() - begun) / N_ENTITIES
    trainer = sentence_trainer(config, loaded, sentence, injection, processes)
    stream = sentence_examples(random, [encoded], chat_prompts(loaded), config.batch * config.accumulate)
    by_length = sorted((next(stream) for _ in range(10)), key=_length)
    trainer.step(by_length[-1])
    middle = by_length[len(by_length) // 2 :][:N_STEPS]
    begun = time.perf_counter()
    for batch in middle:
        trainer.step(batch)
    stepping = (time.perf_counter() - begun) / N_STEPS
    begun = time.perf_counter()
    with torch.no_grad():
        trainer.loss(middle[0][: config.batch])
    validating = time.perf_counter() - begun
    n_entities = config.n_worlds * config.n_entities + len(config.sources) * config.n_source_entities
    n_batches = -(-max(1, config.n_validation // config.batch) // processes.n)
    return {
        "sentence tokens, embeddings": encoding * n_entities,
        "sentence tokens": stepping * config.sentence_steps,
        "sentence tokens, validation": validating * n_batches * -(-config.sentence_steps // config.validate_every),
    }


def _length(batch: list[SentenceExample]) -> int:
    """Return how long the longest row of a batch is, in characters."""
    return max(len(e.prompt) + len(e.answer) for e in batch)
