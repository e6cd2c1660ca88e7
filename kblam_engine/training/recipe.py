"""The whole recipe: data, comparison maps, evidence head, native tokens; one call, reproducible from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch

from kblam_engine import datasets
from kblam_engine.adapter import AdapterConfig, KnowledgeAdapter
from kblam_engine.bert_encoder import BertEncoder
from kblam_engine.checkpoint import save_adapter
from kblam_engine.errors import ConfigurationError
from kblam_engine.injection import attach
from kblam_engine.models import LoadedModel, load_base_model
from kblam_engine.native_tokens import NativeTokenConfig
from kblam_engine.retrieval import Retriever
from kblam_engine.sentence_encoder import SentenceEncoder, load_sentence_encoder
from kblam_engine.training import distributed
from kblam_engine.training.card import render_card
from kblam_engine.training.checkpoints import EVERY
from kblam_engine.training.config import TrainConfig
from kblam_engine.training.left_out import folded, folded_names
from kblam_engine.training.lexicon import load_lexicon
from kblam_engine.training.metrics import METRICS, Metrics, validations
from kblam_engine.training.mining import Miner
from kblam_engine.training.native_stage import train_native_tokens
from kblam_engine.training.own_data import digest_of, own_worlds
from kblam_engine.training.question_encoder import RANK
from kblam_engine.training.reading import examiner_for
from kblam_engine.training.retrieval_stage import RetrievalStage
from kblam_engine.training.run import Run
from kblam_engine.training.sentence_stage import add_sentence_tokens
from kblam_engine.training.stages import Report, Stages
from kblam_engine.training.worlds import World, source_world
from kblam_engine.training.written import load_written

HEAD_UNITS = 64
"""Hidden units of each member of the evidence head."""
MAX_VALUE = 280
"""Real triples with longer values are left out (characters)."""


@dataclass(frozen=True)
class TrainResult:
    """What a run produced.

    Attributes:
        folder: the adapter folder.
        validation_loss: of the kept adapter, mean nats per answer token on worlds that training never saw.
        evidence: numbers of the evidence head on questions that it never saw.
        seconds: how long it took.
        sentence_loss: of the sentence tokens, as ``validation_loss`` is of the native ones; None: there are none.
    """

    folder: Path
    validation_loss: float
    evidence: dict[str, float]
    seconds: float
    sentence_loss: float | None = None


def train(
    config: TrainConfig,
    folder: str | Path,
    report: Report = lambda *_: None,
    *,
    checkpoint_every: int = EVERY,
) -> TrainResult:
    """Train an adapter and write its folder.

    Processes that a launcher started (torchrun, ``accelerate launch``) train it together: all of them call this, the
    first reports and writes, and all return the same.

    Args:
        config: the run.
        folder: where the adapter goes; an adapter that is there is replaced. Beside it, in ``<folder>.stages``,
            finished stages, a checkpoint of the native tokens and the run's ``metrics.jsonl`` are kept: the same run
            started again goes on where it was cut off.
        report: told about progress.
        checkpoint_every: optimiser steps of the native tokens between two checkpoints; decides no result.

    Raises:
        ConfigurationError: ``checkpoint_every`` is below 1, or all that a source holds is left out.
        ModelNotFoundError: there is no such base model or encoder.
        MissingDependencyError: a data source is not installed, or accelerate for several processes.
        ImportFileError: the user's own data cannot be read.
        TrainingError: in any stage, a loss is not a number; of native or sentence tokens, the gradient or a validation is
            not, or the loss ran away; or a finished stage left a tensor that is not finite. No adapter is written.
    """
    processes = distributed.start()
    loaded = load_base_model(config.model, dtype=config.dtype, device=processes.device)
    encoder = load_sentence_encoder(config.encoder)
    injection = attach(loaded.model)
    try:
        injection.self_test()
        torch.manual_seed(config.seed)  # the adapter begins with random tensors
        adapter = KnowledgeAdapter(adapter_config(config, loaded, encoder))
        made_for = " ".join([loaded.fingerprint, encoder.fingerprint, *([digest_of(config.data)] if config.data else [])])
        # Sentence tokens decide nothing of the other stages: added to a finished run, they are all that is trained.
        stages = Stages(Path(f"{folder}.stages"), replace(config, sentence_steps=0), made_for, processes)
        checkpoints = stages.checkpoints("native", checkpoint_every)
        metrics = Metrics(stages.folder / METRICS, stages.key[:12])
        lexicon = load_lexicon().without(config.exclude_properties)

        def tell(stage: str, done: int, total: int, numbers: dict[str, float]) -> None:
            if processes.is_main:
                metrics(stage, done, total, numbers)
                report(stage, done, total, numbers)

        def worlds(random: Random) -> Iterator[World]:
            return real_worlds(config, random, tell)

        run = Run(config, loaded, encoder, injection, lexicon, worlds, tell, processes)
        retrieval = RetrievalStage(run, adapter)
        written = load_written(config.exclude_names, config.exclude_properties)
        evidence = stages.run(
            "retrieval", retrieval.module, lambda: processes.from_main(lambda: retrieval.train(written))
        )
        native = stages.run(
            "native",
            adapter.native,
            lambda: train_native_tokens(run, adapter.native, checkpoints, miner(adapter, loaded, encoder)),
        )
        seconds = evidence.seconds + native.seconds
        sentence_loss = None
        if config.sentence_steps:
            later = Stages(stages.folder, config, made_for, processes)
            sentence = add_sentence_tokens(run, later, adapter, later.checkpoints("sentence", checkpoint_every))
            sentence_loss = sentence.numbers["validation"]
            seconds += sentence.seconds
    finally:
        injection.detach()
    loss = native.numbers["validation"]

    def save() -> Path:
        done = validations(stages.folder / METRICS, stages.key[:12])
        card = render_card(adapter.config, config, loss, evidence.numbers, seconds, sentence_loss, done)
        return save_adapter(adapter, folder, card)

    path = processes.from_main(save)
    return TrainResult(path, loss, evidence.numbers, seconds, sentence_loss)


def miner(adapter: KnowledgeAdapter, loaded: LoadedModel, encoder: SentenceEncoder) -> Miner:
    """Return what selects triples as an answer with this adapter would."""
    retriever = Retriever(adapter.question_encoder(encoder), examiner_for(loaded), adapter.evidence)
    return Miner(retriever, adapter.config.refusal_threshold, adapter.config.n_select)


def adapter_config(config: TrainConfig, loaded: LoadedModel, encoder: SentenceEncoder) -> AdapterConfig:
    """Return the configuration of an adapter for this model: four KB layers in the last third.

    Args:
        config: the run. With ``n_queries`` a hidden state joins the KB query, at 0.6 of the depth; with
            ``question_steps`` an encoder that can take an update gets one for questions.
        loaded: the base model.
        encoder: the sentence encoder.
    """
    model = loaded.model.config.get_text_config()
    n = model.num_hidden_layers
    layers = tuple(sorted({min(n - 1, int(n * share)) for share in (0.68, 0.81, 0.91)} | {n - 1}))
    head_dim = getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads
    native = NativeTokenConfig(layers, model.hidden_size, model.num_attention_heads, head_dim)
    questions = None
    if config.question_steps and isinstance(encoder, BertEncoder):
        questions = encoder.update_config(RANK)
    return AdapterConfig(
        loaded.name,
        loaded.fingerprint,
        encoder.name,
        encoder.fingerprint,
        encoder.embed_dim,
        native,
        evidence_hidden=HEAD_UNITS * config.n_members,
        retrieval_layer=min(int(n * 0.6), layers[0] - 1) if config.n_queries > 0 else None,
        questions=questions,
    )


def real_worlds(config: TrainConfig, random: Random, report: Report = lambda *_: None) -> Iterator[World]:
    """Yield one world of real triples per source, and those of the user's own data, without what the run leaves out.

    Raises:
        MissingDependencyError: a data source is not installed.
        ImportFileError: the user's data cannot be read.
        ConfigurationError: there is nothing in a source or in the user's data to train on.
    """
    yield from own_worlds(config, random)
    left_out = folded_names(config.exclude_names)
    for number, source in enumerate(config.sources):
        report("data", number + 1, len(config.sources), {})
        triples = [
            t
            for t in datasets.load(source)
            if len(t.value) <= MAX_VALUE
            and folded(t.name) not in left_out
            and t.property.casefold() not in config.exclude_properties
        ]
        if not triples:
            raise ConfigurationError(f"{source}: everything in it is left out of training; take it out of sources")
        random.shuffle(triples)
        yield source_world(random, triples[:60000], config.n_source_entities)
