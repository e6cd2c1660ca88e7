"""Stage: train sentence tokens on answers over many worlds, after everything else and apart from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import torch

from kblam_engine.adapter import KnowledgeAdapter
from kblam_engine.injection import Injection
from kblam_engine.models import LoadedModel
from kblam_engine.sentence_encoder import SentenceEncoder
from kblam_engine.sentence_tokens import SentenceTokenAdapter
from kblam_engine.training.checkpoints import Checkpoints
from kblam_engine.training.config import TrainConfig
from kblam_engine.training.distributed import Processes
from kblam_engine.training.lexicon import Lexicon
from kblam_engine.training.pools import EncodedWorld
from kblam_engine.training.progress import Progress
from kblam_engine.training.reading import chat_prompts
from kblam_engine.training.run import Run
from kblam_engine.training.sentence import SentenceExample, SentenceTrainer, sentence_examples
from kblam_engine.training.stages import StageResult, Stages
from kblam_engine.training.steps import Steps
from kblam_engine.training.worlds import World, invented_world, linked

STAGE = "sentence tokens"


def new_sentence_tokens(config: TrainConfig, injection: Injection, embed_dim: int) -> SentenceTokenAdapter:
    """Return untrained sentence tokens for a model: random adapters, its own query heads.

    Args:
        config: the run; its seed decides the adapters.
        injection: of the base model.
        embed_dim: width of the sentence embeddings.

    Raises:
        SeamError: a KB layer has no query head to start from.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return SentenceTokenAdapter.from_injection(injection, embed_dim)


def add_sentence_tokens(run: Run, stages: Stages, adapter: KnowledgeAdapter, checkpoints: Checkpoints) -> StageResult:
    """Run the stage, or take it from the folder, and give the adapter its sentence tokens.

    Args:
        run: the run.
        stages: finished stages of the run.
        adapter: what gets them.
        checkpoints: where the stage goes on if it was cut off.
    """
    sentence = new_sentence_tokens(run.config, run.injection, run.encoder.embed_dim)
    result = stages.run("sentence", sentence, lambda: train_sentence_tokens(run, sentence, checkpoints))
    adapter.add_sentence_tokens(sentence)
    return result


def train_sentence_tokens(run: Run, sentence: SentenceTokenAdapter, checkpoints: Checkpoints) -> StageResult:
    """Train sentence tokens; the best of the validations is kept.

    Args:
        run: the run.
        sentence: what is trained, as ``new_sentence_tokens`` made it.
        checkpoints: where the stage goes on if it was cut off.

    Raises:
        TrainingError: the loss became NaN or ran away; the batch is saved beside the checkpoint.
    """
    begun = time.perf_counter()
    config = run.config
    random = Random(f"{config.seed} sentence")
    torch.manual_seed(config.seed)
    trainer = sentence_trainer(config, run.loaded, sentence, run.injection, run.processes)
    chat_prompt = chat_prompts(run.loaded)
    worlds = list(_encoded_worlds(run, random))
    held = held_batches(config, run.encoder, run.lexicon, chat_prompt)
    progress = Progress(trainer, random)
    progress.restore(checkpoints)
    batches = sentence_examples(random, worlds, chat_prompt, config.batch * config.accumulate, **options_of(config))
    steps = Steps(STAGE, config.sentence_steps, config, held, checkpoints, run.report)
    return steps.take(progress, batches, begun)


def sentence_trainer(
    config: TrainConfig,
    loaded: LoadedModel,
    sentence: SentenceTokenAdapter,
    injection: Injection,
    processes: Processes = Processes(),
) -> SentenceTrainer:
    """Return a trainer of sentence tokens that begin alike in all processes."""
    processes.broadcast(sentence)
    return SentenceTrainer(
        injection,
        loaded.tokenizer,
        sentence,
        steps=config.sentence_steps,
        accumulate=config.accumulate,
        processes=processes,
    )


def _encoded_worlds(run: Run, random: Random) -> Iterator[EncodedWorld]:
    """Yield every world of the run with its embeddings."""
    sizes = [run.config.n_entities] * run.config.n_worlds + [run.config.n_large_entities]
    worlds = [*run.real_worlds(random), *(sentence_world(random, run.config, run.lexicon, n) for n in sizes)]
    for number, world in enumerate(worlds):
        yield EncodedWorld(world, run.encoder)
        run.report("sentence embeddings", number + 1, len(worlds), {})


def sentence_world(random: Random, config: TrainConfig, lexicon: Lexicon, n_entities: int) -> World:
    """Return an invented world in which some things name each other."""
    return linked(random, invented_world(random, lexicon, [], n_entities), config.chain_share)


def options_of(config: TrainConfig) -> dict[str, Any]:
    """Return what a run says of questions and KBs, for ``sentence_examples``."""
    return {"kinds": config.answer_kinds, "style_share": config.style_share, "sizes": config.kb_sizes}


def held_batches(
    config: TrainConfig, encoder: SentenceEncoder, lexicon: Lexicon, chat_prompt: Callable[[Any], str]
) -> list[list[SentenceExample]]:
    """Return the batches that validate, from a world that training does not see."""
    random = Random(f"{config.seed} sentence validation")
    world = EncodedWorld(sentence_world(random, config, lexicon, 200), encoder)
    stream = sentence_examples(random, [world], chat_prompt, config.batch, **options_of(config))
    return [next(stream) for _ in range(max(1, config.n_validation // config.batch))]
