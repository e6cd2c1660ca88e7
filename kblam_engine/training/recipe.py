"""The whole recipe: data, comparison maps, evidence head, native tokens; one call, reproducible from a seed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from kblam_engine import datasets
from kblam_engine.adapter import AdapterConfig, KnowledgeAdapter
from kblam_engine.checkpoint import save_adapter
from kblam_engine.errors import KBLaMError
from kblam_engine.evidence import EvidenceHead, Examiner, Rarity
from kblam_engine.injection import Injection, attach
from kblam_engine.models import LoadedModel, load_base_model
from kblam_engine.native_tokens import NativeTokenConfig
from kblam_engine.retrieval import Retriever
from kblam_engine.sentence_encoder import SentenceEncoder, load_sentence_encoder
from kblam_engine.statements import StatementTokenizer
from kblam_engine.training.card import render_card
from kblam_engine.training.comparison import train_comparison
from kblam_engine.training.config import TrainConfig
from kblam_engine.training.evidence import Examined, make_examined, train_head, validate
from kblam_engine.training.lexicon import Lexicon, load_lexicon
from kblam_engine.training.native import NativeExample, NativeTrainer, examples
from kblam_engine.training.pools import EncodedWorld
from kblam_engine.training.samples import World, invented_world, source_world

Report = Callable[[str, int, int, dict[str, float]], None]
"""Called with stage, steps done, steps in all, and the newest numbers."""

MAX_VALUE = 120
"""Real triples with longer values are not used for the native tokens (characters)."""


class TrainingError(KBLaMError):
    """Training cannot go on: the loss is not a number."""


@dataclass(frozen=True)
class TrainResult:
    """What a run produced.

    Attributes:
        folder: the adapter folder.
        validation_loss: of the kept adapter, mean nats per answer token on worlds that training never saw.
        evidence: numbers of the evidence head on questions that it never saw.
        seconds: how long it took.
    """

    folder: Path
    validation_loss: float
    evidence: dict[str, float]
    seconds: float


def train(config: TrainConfig, folder: str | Path, report: Report = lambda *_: None) -> TrainResult:
    """Train an adapter and write its folder.

    Args:
        config: the run.
        folder: where the adapter goes; an adapter that is there is replaced.
        report: told about progress.

    Raises:
        ModelNotFoundError: there is no such base model or encoder.
        MissingDependencyError: a data source is not installed.
        TrainingError: the loss became NaN.
    """
    begun = time.perf_counter()
    torch.manual_seed(config.seed)
    random = Random(config.seed)
    loaded = load_base_model(config.model)
    encoder = load_sentence_encoder(config.encoder)
    injection = attach(loaded.model)
    try:
        injection.self_test()
        adapter = KnowledgeAdapter(adapter_config(loaded, encoder))
        lexicon = load_lexicon()
        real = list(_real_worlds(random, config, report))
        evidence = _train_evidence(random, config, loaded, encoder, adapter, lexicon, real, report)
        loss = _train_native(random, config, loaded, injection, adapter, lexicon, real, report)
    finally:
        injection.detach()
    seconds = time.perf_counter() - begun
    card = render_card(adapter.config, config, loss, evidence, seconds)
    path = save_adapter(adapter, folder, card)
    return TrainResult(path, loss, evidence, seconds)


def adapter_config(loaded: LoadedModel, encoder: SentenceEncoder) -> AdapterConfig:
    """Return the configuration of an adapter for this model: four KB layers in the last third."""
    config = loaded.model.config.get_text_config()
    n = config.num_hidden_layers
    layers = tuple(sorted({min(n - 1, int(n * share)) for share in (0.68, 0.81, 0.91)} | {n - 1}))
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    native = NativeTokenConfig(layers, config.hidden_size, config.num_attention_heads, head_dim)
    return AdapterConfig(
        loaded.name, loaded.fingerprint, encoder.name, encoder.fingerprint, encoder.embed_dim, native
    )


def _real_worlds(random: Random, config: TrainConfig, report: Report) -> Iterator[World]:
    for number, source in enumerate(config.sources):
        report("data", number, len(config.sources), {})
        triples = [
            t
            for t in datasets.load(source)
            if len(t.value) <= MAX_VALUE and t.name not in config.exclude_names
        ]
        random.shuffle(triples)
        yield source_world(random, triples[:60000], config.n_source_entities)


def _train_evidence(
    random: Random,
    config: TrainConfig,
    loaded: LoadedModel,
    encoder: SentenceEncoder,
    adapter: KnowledgeAdapter,
    lexicon: Lexicon,
    real: list[World],
    report: Report,
) -> dict[str, float]:
    def token_ids(text: str) -> list[int]:
        ids: list[int] = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    examiner = Examiner(Rarity(token_ids, loaded.model.config.vocab_size))
    encoded_real = [EncodedWorld(w, encoder) for w in real]
    examined: list[Examined] = []
    for fold in range(config.n_folds):
        # The head must see comparison scores as they are for properties that the comparison never saw.
        head = EvidenceHead(adapter.config.evidence_hidden, encoder.embed_dim)
        train_comparison(head, lexicon.part(lambda i: i % config.n_folds != fold), encoder, seed=config.seed)
        own = lexicon.part(lambda i: i % config.n_folds == fold)
        invented = EncodedWorld(invented_world(random, own, [], min(350, config.n_entities)), encoder)
        worlds = [*[invented] * max(1, 2 * len(encoded_real)), *encoded_real]
        share = config.n_questions // config.n_folds

        def progress(done: int, before: int = fold * share) -> None:
            report("evidence", before + done, config.n_questions, {})

        retriever = Retriever(encoder, examiner, head)
        examined += make_examined(random, retriever, worlds, share, config.pool_sizes, progress)
    random.shuffle(examined)
    train_comparison(adapter.evidence, lexicon, encoder, seed=config.seed)
    held = max(1, len(examined) // 10)
    train_head(adapter.evidence, examined[held:], seed=config.seed)
    return validate(adapter.evidence, examined[:held])


def _train_native(
    random: Random,
    config: TrainConfig,
    loaded: LoadedModel,
    injection: Injection,
    adapter: KnowledgeAdapter,
    lexicon: Lexicon,
    real: list[World],
    report: Report,
) -> float:
    tokenizer = loaded.tokenizer
    native = adapter.native.to(loaded.device)
    attention: list[Any] = [injection.layers[i] for i in adapter.config.native.layers]
    strengths = [
        config.write_strength * n for n in residual_lengths(loaded, injection, adapter.config.native.layers)
    ]
    native.initialise_from([module.o_proj.weight for module in attention], strengths)

    def chat_prompt(messages: Any) -> str:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))

    worlds = [
        *real,
        *(invented_world(random, lexicon, [], config.n_entities) for _ in range(config.n_worlds)),
    ]
    held_random = Random(config.seed + 1)
    held_world = invented_world(held_random, lexicon, [], 200)
    held: list[tuple[World, list[NativeExample]]] = []
    stream = examples(held_random, [held_world], chat_prompt, config.batch)
    for _ in range(max(1, config.n_validation // config.batch)):
        held.append(next(stream))
    statements = StatementTokenizer(tokenizer, int(tokenizer.eos_token_id))
    trainer = NativeTrainer(injection, tokenizer, native, statements, steps=config.native_steps, lr=config.lr)
    best, kept = float("inf"), copy.deepcopy(native.state_dict())
    for step, (world, batch) in enumerate(examples(random, worlds, chat_prompt, config.batch), start=1):
        loss = trainer.step(world, batch)
        if loss != loss:
            raise TrainingError(
                f"native tokens: the loss is not a number at step {step}; lower the learning rate"
            )
        numbers = {"loss": loss}
        if step % config.validate_every == 0 or step == config.native_steps:
            with torch.no_grad():
                numbers["validation"] = sum(float(trainer.loss(w, b)) for w, b in held) / len(held)
            if numbers["validation"] < best:
                best, kept = numbers["validation"], copy.deepcopy(native.state_dict())
        report("native tokens", step, config.native_steps, numbers)
        if step == config.native_steps:
            break
    native.load_state_dict(kept)
    return best


@torch.no_grad()
def residual_lengths(loaded: LoadedModel, injection: Injection, layers: tuple[int, ...]) -> list[float]:
    """Return the mean length of the residual stream before each of the layers, on one short chat."""
    text = "What is the capital of France? The capital of France is Paris."
    ids = torch.tensor([loaded.tokenizer(text, add_special_tokens=False)["input_ids"]], device=loaded.device)
    seen: list[Tensor] = list(
        loaded.model.get_decoder()(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    )
    # The first positions are attention sinks with enormous states.
    return [float(seen[i][0, 4:].float().norm(dim=-1).mean()) for i in layers]
