"""Stage: train the native tokens on answers over many worlds (DESIGN 3.3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from kblam_engine.injection import Injection
from kblam_engine.models import LoadedModel
from kblam_engine.native_tokens import NativeTokenAdapter
from kblam_engine.sentence_encoder import SentenceEncoder
from kblam_engine.training.checkpoints import Checkpoints
from kblam_engine.training.config import TrainConfig
from kblam_engine.training.distributed import Processes
from kblam_engine.training.lexicon import Lexicon
from kblam_engine.training.mining import Miner
from kblam_engine.training.native import Mining, NativeExample, NativeTrainer, examples
from kblam_engine.training.pools import EncodedWorld
from kblam_engine.training.progress import Progress
from kblam_engine.training.reading import chat_prompts
from kblam_engine.training.run import Run
from kblam_engine.training.stages import Report, StageResult
from kblam_engine.training.steps import Steps
from kblam_engine.training.worlds import World, invented_world, linked, scrambled

N_HELD_ENTITIES = 60
"""Entities of the world that mined batches for validation come from."""


def train_native_tokens(
    run: Run, native: NativeTokenAdapter, checkpoints: Checkpoints, miner: Miner | None = None
) -> StageResult:
    """Train the native tokens; the best of the validations is kept.

    Args:
        run: the run.
        native: what is trained.
        checkpoints: where the stage goes on if it was cut off.
        miner: finds with the trained retrieval layer what is wrong beside what is right; None: nothing is mined.

    Raises:
        TrainingError: the loss became NaN or ran away; the batch is saved beside the checkpoint.
    """
    begun = time.perf_counter()
    config, lexicon = run.config, run.lexicon
    random = Random(f"{config.seed} native")
    torch.manual_seed(config.seed)
    trainer = native_trainer(config, run.loaded, native, run.injection, run.processes)
    chat_prompt = chat_prompts(run.loaded)
    real = list(run.real_worlds(random))
    invented = [answer_world(random, config, lexicon, config.n_entities) for _ in range(config.n_worlds)]
    worlds = [*(scrambled(random, world) for world in real), *invented]
    mining = held_mining = None
    if miner is not None and config.mined_share > 0:
        large = answer_world(random, config, lexicon, config.n_large_entities)
        encoded = _encoded((large, *real), run.encoder, run.report)
        mining = Mining(miner, encoded, config.mined_share, config.kb_sizes)
        validating = answer_world(Random(f"{config.seed} mined validation"), config, lexicon, N_HELD_ENTITIES)
        held_mining = replace(mining, worlds=_encoded((validating,), run.encoder))
    held = held_batches(config, lexicon, chat_prompt, held_mining)
    progress = Progress(trainer, random)
    progress.restore(checkpoints)
    batches = examples(
        random, worlds, chat_prompt, config.batch * config.accumulate,
        kinds=config.answer_kinds, style_share=config.style_share, mining=mining,
    )  # fmt: skip
    steps = Steps("native tokens", config.native_steps, config, held, checkpoints, run.report)
    return steps.take(progress, batches, begun)


def native_trainer(
    config: TrainConfig,
    loaded: LoadedModel,
    native: NativeTokenAdapter,
    injection: Injection,
    processes: Processes = Processes(),
) -> NativeTrainer:
    """Return a trainer of native tokens that begin in closed form, and alike in all processes."""
    native = native.to(loaded.device)
    layers = native.config.layers
    attention: list[Any] = [injection.layers[i] for i in layers]
    strengths = [config.write_strength * n for n in write_lengths(loaded, injection, layers)]
    native.initialise_from(
        loaded.model.get_output_embeddings().weight, [m.o_proj.weight for m in attention], strengths
    )
    processes.broadcast(native)
    return NativeTrainer(
        injection,
        loaded.tokenizer,
        native,
        steps=config.native_steps,
        lr=config.lr,
        accumulate=config.accumulate,
        processes=processes,
    )


def answer_world(random: Random, config: TrainConfig, lexicon: Lexicon, n_entities: int) -> World:
    """Return an invented world for the training of answers: things that name each other, texts that nothing expects."""
    world = scrambled(random, invented_world(random, lexicon, [], n_entities))
    return linked(random, world, config.chain_share)


def _encoded(
    worlds: Sequence[World], encoder: SentenceEncoder, report: Report = lambda *_: None
) -> list[EncodedWorld]:
    encoded = []
    for number, world in enumerate(worlds):
        encoded.append(EncodedWorld(world, encoder))
        report("sentence embeddings", number + 1, len(worlds), {})
    return encoded


def held_batches(
    config: TrainConfig, lexicon: Lexicon, chat_prompt: Callable[[Any], str], mining: Mining | None = None
) -> list[list[NativeExample]]:
    """Return the batches that validate, from a world that training does not see; ``mining`` from another one."""
    random = Random(f"{config.seed} validation")
    world = answer_world(random, config, lexicon, 200)
    stream = examples(
        random, [world], chat_prompt, config.batch,
        kinds=config.answer_kinds, style_share=config.style_share, mining=mining,
    )  # fmt: skip
    return [next(stream) for _ in range(max(1, config.n_validation // config.batch))]


@torch.no_grad()
def write_lengths(loaded: LoadedModel, injection: Injection, layers: tuple[int, ...]) -> list[float]:
    """Return how long an attention's output must be to write as much as the residual stream before it holds.

    Where a layer adds its attention's output as it is, that is the mean length of the residual stream. Where it puts
    a norm between them (Gemma, OLMo 2), far less does: a longer output would drown the prompt's at the smallest weight.

    Args:
        loaded: the base model; it reads one short chat.
        injection: of the base model.
        layers: decoder layers.
    """
    passed: dict[int, list[Tensor]] = {}  # by layer: what its attention gave, and what was made of that
    paths = {id(module): path for path, module in injection.decoder.named_modules()}
    handles = []
    for i in layers:
        attention = injection.layers[i]
        layer = injection.decoder.get_submodule(paths[id(attention)].rpartition(".")[0])
        handles.append(attention.register_forward_hook(lambda _, args, out, i=i: passed.update({i: [out[0]] * 2})))

        def follow(_: nn.Module, args: tuple[Any, ...], out: Any, i: int = i) -> None:
            if i in passed and args and args[0] is passed[i][1]:
                passed[i][1] = out

        handles += [m.register_forward_hook(follow) for m in layer.children() if m is not attention]
    text = "What is the capital of France? The capital of France is Paris."
    ids = torch.tensor([loaded.tokenizer(text)["input_ids"]], device=loaded.device)
    try:
        states = injection.decoder(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    finally:
        for handle in handles:
            handle.remove()

    def length(states: Tensor) -> float:
        # The first positions are attention sinks with enormous states.
        return float(states[0, 4:].float().norm(dim=-1).mean())

    return [length(states[i]) * (length(passed[i][0]) / length(passed[i][1])) for i in layers]
