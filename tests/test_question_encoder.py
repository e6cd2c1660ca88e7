"""What is added to the sentence encoder where it encodes questions: what it leaves alone, how it learns, how it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from engine_parts import BASE, QUESTION, adapter_config, engine_with, random_adapter

from kblam_engine.adapter import KnowledgeAdapter
from kblam_engine.bert_encoder import BertEncoder, read_recipe
from kblam_engine.checkpoint import load_adapter, save_adapter
from kblam_engine.engine import KBLaM
from kblam_engine.errors import CheckpointError, ConfigurationError
from kblam_engine.injection import attach
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.low_rank import LowRankConfig, LowRankUpdate
from kblam_engine.models import load_base_model
from kblam_engine.models.loading import LoadedModel
from kblam_engine.models.registry import DEFAULT_ENCODER, EMBEDDED
from kblam_engine.sentence_encoder import HashingEncoder, load_sentence_encoder
from kblam_engine.training.config import recipe
from kblam_engine.training.divergence import TrainingError
from kblam_engine.training.evidence import templates
from kblam_engine.training.lexicon import load_lexicon
from kblam_engine.training.pools import EncodedWorld
from kblam_engine.training.question_encoder import train_question_encoder
from kblam_engine.training.recipe import adapter_config as new_config
from kblam_engine.training.retrieval_stage import RetrievalStage
from kblam_engine.training.run import Run
from kblam_engine.training.worlds import World, source_world
from kblam_engine.training.written import Written
from kblam_engine.triples import Triple

TEXTS = ["What is the battery life of the Orca 2?", "x", "", "And how heavy is it, compared with the others? " * 4]


@pytest.fixture(scope="module")
def minilm() -> BertEncoder:
    encoder = load_sentence_encoder()
    assert isinstance(encoder, BertEncoder)
    return encoder


def update_for(encoder: BertEncoder, scale: float = 0.05) -> LowRankUpdate:
    """Return an update with numbers in it, such as a checkpoint holds."""
    torch.manual_seed(3)
    update = LowRankUpdate(encoder.update_config(2))
    with torch.no_grad():
        for left in update.left.values():
            left.normal_(std=scale)
        for value in update.parameters():
            value.copy_(value.bfloat16().float())
    return update


def test_a_new_update_changes_nothing(minilm: BertEncoder) -> None:
    update = LowRankUpdate(minilm.update_config(8))
    np.testing.assert_array_equal(minilm.updated(update).encode(TEXTS), minilm.encode(TEXTS))


def test_an_update_changes_its_own_encoder_only(minilm: BertEncoder) -> None:
    before = minilm.encode(TEXTS)
    updated = minilm.updated(update_for(minilm))
    after = updated.encode(TEXTS)
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(minilm.encode(TEXTS), before)
    assert updated.fingerprint != minilm.fingerprint
    assert updated.fingerprint != minilm.updated(update_for(minilm, 0.06)).fingerprint


def test_an_update_may_compute_in_half_the_bytes(minilm: BertEncoder) -> None:
    update = update_for(minilm)
    whole, halved = minilm.updated(update), minilm.updated(update, torch.bfloat16)
    rows = halved.encode(TEXTS)
    assert rows.dtype == np.float32
    assert 1e-5 < np.abs(rows - whole.encode(TEXTS)).max() < 5e-3
    assert (rows * whole.encode(TEXTS)).sum(1).min() > 0.9998
    assert halved.fingerprint == whole.fingerprint, "the same update: keys are as comparable"


def test_half_the_bytes_mean_few_shapes_and_the_same_embeddings(minilm: BertEncoder, monkeypatch: Any) -> None:
    halved, shapes = minilm.updated(update_for(minilm), torch.bfloat16), set()
    whole = minilm.updated(update_for(minilm))
    forward = BertEncoder._forward

    def seen(self: BertEncoder, ids: torch.Tensor, *others: Any) -> torch.Tensor:
        shapes.add(ids.shape)
        return forward(self, ids, *others)

    texts = [" ".join(["word"] * n) for n in (*range(1, 12), 1_000)]
    expected = whole.encode(texts)
    monkeypatch.setattr(BertEncoder, "_forward", seen)
    for text, row in zip(texts, expected, strict=True):
        assert halved.encode([text])[0] @ row > 0.9995
        assert halved.encode([text, "and another text"])[0] @ row > 0.9995
    assert {q_len % 4 for _, q_len in shapes} == {0}
    assert len({q_len for _, q_len in shapes}) == 5  # 4, 8, 12, 16 and what is cut off


def test_what_is_trained_is_what_encodes(minilm: BertEncoder) -> None:
    update = update_for(minilm)
    rows = minilm.trainable(TEXTS, update)
    np.testing.assert_allclose(rows.detach().numpy(), minilm.updated(update).encode(TEXTS), atol=2e-6)
    rows[0, 0].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in update.parameters())


@pytest.fixture(scope="module")
def small_encoder() -> BertEncoder:
    """Return the first layer of the default encoder: quick to train."""
    folder = EMBEDDED[DEFAULT_ENCODER].require().parent
    whole = read_recipe(folder)
    assert whole is not None
    shape = replace(whole, n_layers=1)
    return BertEncoder(folder, shape, name="small", fingerprint="small", device="cpu", dtype=torch.float32)


@pytest.fixture
def few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam_engine.training.question_encoder.QUESTIONS", 12)


@pytest.mark.usefixtures("few_questions")
def test_questions_learn_to_meet_their_keys(small_encoder: BertEncoder) -> None:
    encoder = small_encoder
    triples = [Triple(f"Unit {n}", p, f"{p[0]}{n}") for n in range(8) for p in ("mass", "hue", "depth rating", "maker")]
    encoded = EncodedWorld(source_world(Random(0), triples, 8), encoder)
    losses: list[float] = []

    def run(seed: int, steps: int) -> LowRankUpdate:
        losses.clear()
        torch.manual_seed(0)
        update = LowRankUpdate(encoder.update_config(4))
        train_question_encoder(
            encoder, update, [templates(encoded)], lambda turn, name: turn.replace(name, "it"), steps=steps, seed=seed,
            progress=lambda done, loss: losses.append(loss),
        )  # fmt: skip
        return update

    run(0, 60)
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])
    assert run(0, 2).digest() == run(0, 2).digest()
    assert run(1, 2).digest() != run(0, 2).digest()


@pytest.mark.usefixtures("few_questions")
def test_a_loss_that_is_not_a_number_stops_at_its_step(small_encoder: BertEncoder) -> None:
    encoder = small_encoder
    triples = [Triple(f"Unit {n}", p, f"{p[0]}{n}") for n in range(8) for p in ("mass", "hue", "depth rating", "maker")]
    encoded = EncodedWorld(source_world(Random(0), triples, 8), encoder)
    update = LowRankUpdate(encoder.update_config(4))
    done: list[int] = []

    def progress(step: int, loss: float) -> None:
        done.append(step)
        if step == 2:
            encoded.keys[:], encoded.property_embeddings[:] = np.nan, np.nan

    with pytest.raises(TrainingError, match="question encoder, step 3: the loss is not a number"):
        train_question_encoder(
            encoder, update, [templates(encoded)], lambda turn, name: turn, steps=9, progress=progress
        )
    assert done == [1, 2]
    assert all(parameter.isfinite().all() for parameter in update.parameters())


@pytest.mark.usefixtures("few_questions")
def test_the_retrieval_stage_trains_one(small_encoder: BertEncoder, tiny_model_folder: Path) -> None:
    config = recipe("smoke", model=str(tiny_model_folder), n_queries=0, n_questions=12)
    loaded = load_base_model(tiny_model_folder, dtype="float32", device="cpu")
    lexicon = load_lexicon()
    lexicon = replace(lexicon, properties=lexicon.properties[:40])
    told: list[str] = []

    def trained() -> KnowledgeAdapter:
        torch.manual_seed(0)
        adapter = KnowledgeAdapter(new_config(config, loaded, small_encoder))
        assert adapter.questions is not None
        before = adapter.questions.digest()
        injection = attach(loaded.model)
        try:
            run = Run(
                config, loaded, small_encoder, injection, lexicon, lambda random: (),
                lambda stage, done, total, numbers: told.append(f"{stage} {done} of {total}"),
            )  # fmt: skip
            RetrievalStage(run, adapter).train(Written(World((), ()), (), ()))
        finally:
            injection.detach()
        assert adapter.questions.digest() != before
        return adapter

    adapter = trained()
    assert [line for line in told if line.startswith("question encoder")] == [
        f"question encoder {n} of 6" for n in range(1, 7)
    ]
    again = trained().state_dict()
    for name, tensor in adapter.state_dict().items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)
    without = replace(config, question_steps=0)
    assert new_config(without, loaded, small_encoder).questions is None
    assert new_config(config, loaded, HashingEncoder()).questions is None


@pytest.fixture(scope="module")
def learned(minilm: BertEncoder) -> Any:
    return random_adapter(adapter_config(minilm, questions=minilm.update_config(2)), scale=0.05)


def test_an_adapter_keeps_its_update(learned: Any, minilm: BertEncoder, tmp_path: Path) -> None:
    folder = save_adapter(learned, tmp_path)
    again = load_adapter(folder, base_fingerprint=BASE, encoder_fingerprint=minilm.fingerprint)
    assert again.config == learned.config
    assert again.question_encoder(minilm).fingerprint == learned.question_encoder(minilm).fingerprint


@pytest.fixture
def engine(learned: Any, minilm: BertEncoder, tiny_llama: Any, tiny_tokenizer: Any) -> Iterator[Any]:
    made = engine_with(tiny_llama, tiny_tokenizer, learned, minilm)
    yield made
    made.injection.detach()


def test_questions_are_encoded_with_it_and_keys_without(engine: Any, minilm: BertEncoder) -> None:
    question = [{"role": "user", "content": QUESTION}]
    with KnowledgeBase.open(":memory:", encoder=minilm) as kb:
        kb.add([Triple("Orca 2", "battery life", "11 hours"), Triple("Orca 2", "maker", "Acme")])
        snapshot = kb.snapshot()
        np.testing.assert_allclose(
            np.asarray(snapshot.key_embeddings, np.float32),
            minilm.encode([t.key_text for t in snapshot.triples(range(2))]),
            atol=1e-3,
        )
        _, rows = engine.retriever.encode(question)
        asked = minilm.updated(engine.adapter.questions)
        np.testing.assert_allclose(rows, asked.encode([QUESTION, QUESTION]), atol=1e-6)
        assert len(engine.retrieve(QUESTION, kb, 2)) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_questions_are_encoded_in_the_type_of_the_base_model(
    dtype: torch.dtype, learned: Any, minilm: BertEncoder, tiny_llama: Any, tiny_tokenizer: Any
) -> None:
    loaded = LoadedModel(tiny_llama.to(dtype), tiny_tokenizer, "tiny-llama", BASE, dtype, torch.device("cpu"))
    made = KBLaM(loaded, minilm, learned)
    try:
        _, rows = made.retriever.encode([{"role": "user", "content": QUESTION}])
    finally:
        made.injection.detach()
    expected = minilm.updated(learned.questions, dtype).encode([QUESTION, QUESTION])
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert made.encoder is minilm, "keys keep their type: they are stored, and compared on other machines"


def test_an_encoder_of_another_shape_is_refused(minilm: BertEncoder) -> None:
    wrong = LowRankConfig(n_layers=2, hidden=384, inner=1536, rank=2)
    for encoder, shape in ((minilm, wrong), (HashingEncoder(384), minilm.update_config(2))):
        adapter = random_adapter(adapter_config(encoder, questions=shape))
        with pytest.raises(CheckpointError, match="question encoder"):
            adapter.question_encoder(encoder)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        LowRankConfig(n_layers=6, hidden=384, inner=1536, rank=0)
