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
from kblam_engine.evidence import Examiner
from kblam_engine.evidence_head import EvidenceHead
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
from kblam_engine.training.lexicon import load_lexicon
from kblam_engine.training.native import NativeTrainer, examples
from kblam_engine.training.pools import EncodedWorld
from kblam_engine.training.samples import World, invented_world, scrambled, source_world
from kblam_engine.training.stages import StageResult, Stages
from kblam_engine.wording import Rarity

Report = Callable[[str, int, int, dict[str, float]], None]
"""Called with stage, steps done, steps in all, and the newest numbers."""

MAX_VALUE = 280
"""Real triples with longer values are left out (characters)."""


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
        folder: where the adapter goes; an adapter that is there is replaced. Beside it, in ``<folder>.stages``,
            finished stages are kept: the same run started again goes on after the last of them.
        report: told about progress.

    Raises:
        ModelNotFoundError: there is no such base model or encoder.
        MissingDependencyError: a data source is not installed.
        TrainingError: the loss became NaN.
    """
    loaded = load_base_model(config.model)
    encoder = load_sentence_encoder(config.encoder)
    injection = attach(loaded.model)
    try:
        injection.self_test()
        torch.manual_seed(config.seed)  # the adapter begins with random tensors
        adapter = KnowledgeAdapter(adapter_config(loaded, encoder))
        stages = Stages(Path(f"{folder}.stages"), config, f"{loaded.fingerprint} {encoder.fingerprint}")
        run = _Run(config, loaded, encoder, adapter, report)
        evidence = stages.run("evidence", adapter.evidence, run.evidence)
        native = stages.run("native", adapter.native, lambda: run.native(injection))
    finally:
        injection.detach()
    seconds = evidence.seconds + native.seconds
    loss = native.numbers["validation"]
    path = save_adapter(adapter, folder, render_card(adapter.config, config, loss, evidence.numbers, seconds))
    return TrainResult(path, loss, evidence.numbers, seconds)


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


class _Run:
    """The stages of one run. Each draws from a seed of its own, so that it can be run alone."""

    def __init__(
        self,
        config: TrainConfig,
        loaded: LoadedModel,
        encoder: SentenceEncoder,
        adapter: KnowledgeAdapter,
        report: Report,
    ) -> None:
        self._config, self._loaded, self._encoder = config, loaded, encoder
        self._adapter, self._report = adapter, report
        self._lexicon = load_lexicon().without(config.exclude_properties)

    def _real_worlds(self, random: Random) -> Iterator[World]:
        config = self._config
        for number, source in enumerate(config.sources):
            self._report("data", number + 1, len(config.sources), {})
            triples = [
                t
                for t in datasets.load(source)
                if len(t.value) <= MAX_VALUE
                and t.name not in config.exclude_names
                and t.property.casefold() not in config.exclude_properties
            ]
            random.shuffle(triples)
            yield source_world(random, triples[:60000], config.n_source_entities)

    def evidence(self) -> StageResult:
        """Train the comparison maps and the evidence head."""
        begun = time.perf_counter()
        config, encoder, adapter = self._config, self._encoder, self._adapter
        tokenizer = self._loaded.tokenizer

        def token_ids(text: str) -> list[int]:
            ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
            return ids

        random = Random(f"{config.seed} evidence")
        torch.manual_seed(config.seed)
        examiner = Examiner(Rarity(token_ids, self._loaded.model.config.get_text_config().vocab_size))
        encoded_real = [EncodedWorld(w, encoder) for w in self._real_worlds(random)]
        examined: list[Examined] = []
        for fold in range(config.n_folds):
            # The head must see comparison scores as they are for properties that the comparison never saw.
            head = EvidenceHead(adapter.config.evidence_hidden, encoder.embed_dim)
            own, others = self._lexicon.fold(fold, config.n_folds)
            train_comparison(head, others, encoder, seed=config.seed)
            n = min(350, config.n_entities)
            invented = EncodedWorld(invented_world(random, own, [], n), encoder)
            titled = EncodedWorld(invented_world(random, own, [], n, titles=True), encoder)
            worlds = [*encoded_real, *[invented] * 14, *[titled] * 8]
            share = config.n_questions // config.n_folds

            def progress(done: int, before: int = fold * share) -> None:
                self._report("evidence", before + done, config.n_questions, {})

            retriever = Retriever(encoder, examiner, head)
            examined += make_examined(random, retriever, worlds, share, config.pool_sizes, progress)
        random.shuffle(examined)
        train_comparison(adapter.evidence, self._lexicon, encoder, seed=config.seed)
        held = max(1, len(examined) // 10)
        train_head(adapter.evidence, examined[held:], seed=config.seed)
        return StageResult(validate(adapter.evidence, examined[:held]), time.perf_counter() - begun)

    def native(self, injection: Injection) -> StageResult:
        """Train the native tokens; the best of the validations is kept."""
        begun = time.perf_counter()
        config, loaded = self._config, self._loaded
        tokenizer = loaded.tokenizer
        random = Random(f"{config.seed} native")
        torch.manual_seed(config.seed)
        native = self._adapter.native.to(loaded.device)
        layers = self._adapter.config.native.layers
        attention: list[Any] = [injection.layers[i] for i in layers]
        strengths = [config.write_strength * n for n in residual_lengths(loaded, injection, layers)]
        native.initialise_from(
            loaded.model.get_output_embeddings().weight, [m.o_proj.weight for m in attention], strengths
        )

        def chat_prompt(messages: Any) -> str:
            return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))

        invented = [
            invented_world(random, self._lexicon, [], config.n_entities) for _ in range(config.n_worlds)
        ]
        worlds = [scrambled(random, world) for world in (*self._real_worlds(random), *invented)]
        held_random = Random(f"{config.seed} validation")
        held_world = scrambled(held_random, invented_world(held_random, self._lexicon, [], 200))
        stream = examples(held_random, [held_world], chat_prompt, config.batch)
        held = [next(stream) for _ in range(max(1, config.n_validation // config.batch))]
        statements = StatementTokenizer(tokenizer, int(tokenizer.eos_token_id))
        trainer = NativeTrainer(
            injection, tokenizer, native, statements, steps=config.native_steps, lr=config.lr
        )
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
            self._report("native tokens", step, config.native_steps, numbers)
            if step == config.native_steps:
                break
        native.load_state_dict(kept)
        return StageResult({"validation": best}, time.perf_counter() - begun)


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
