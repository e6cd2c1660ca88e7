"""Sentence encoders: what encode promises, our forward pass against sentence-transformers, threads."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from kblam_engine.bert_encoder import BertEncoder, read_recipe
from kblam_engine.errors import ConfigurationError, MissingDependencyError, ModelNotFoundError
from kblam_engine.models.registry import DEFAULT_ENCODER, EMBEDDED
from kblam_engine.sentence_encoder import (
    HashingEncoder,
    SentenceEncoder,
    TransformersEncoder,
    load_sentence_encoder,
)

TEXTS = [
    "the founder of Acme Robotics",
    "Lena Hoffmann",
    "What is the battery life of the Orca 2?",
    "x",
    "",
    "an unusual long value " * 30,
    "日本 naïve Ångström 1,240",
    "Who founded the company that makes the robot which inspects the hulls of ships in harbour?",
]


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    return load_sentence_encoder()


@pytest.fixture(scope="module")
def minilm_folder() -> Path:
    return EMBEDDED[DEFAULT_ENCODER].require().parent


@pytest.fixture(scope="module")
def reference(minilm_folder: Path) -> TransformersEncoder:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm_folder), device="cpu")
    return TransformersEncoder(model, name="reference", fingerprint="reference")


@pytest.mark.parametrize("name", [DEFAULT_ENCODER, "hashing", "hashing-200"])
def test_rows_are_normalised_float32_in_order(name: str) -> None:
    encoder = load_sentence_encoder(name)
    rows = encoder.encode(TEXTS)
    assert rows.dtype == np.float32
    assert rows.shape == (len(TEXTS), encoder.embed_dim)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    for index, text in enumerate(TEXTS):
        np.testing.assert_allclose(rows[index], encoder.encode([text])[0], atol=1e-5)
    assert encoder.encode([]).shape == (0, encoder.embed_dim)


def test_equal_texts_are_encoded_once(minilm: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(minilm, BertEncoder)
    seen: list[str] = []
    encode = minilm._encode

    def record(texts: list[str], progress: bool) -> np.ndarray:
        seen.extend(texts)
        return encode(texts, progress)

    monkeypatch.setattr(minilm, "_encode", record)
    rows = minilm.encode(["a", "b", "a", "c", "b"])
    assert seen == ["a", "b", "c"]
    assert np.array_equal(rows[0], rows[2])
    assert np.array_equal(rows[1], rows[4])


def test_matches_sentence_transformers(minilm: SentenceEncoder, reference: TransformersEncoder) -> None:
    texts = [f"{text} {number}" for text in TEXTS for number in range(12)] + TEXTS
    np.testing.assert_allclose(minilm.encode(texts), reference.encode(texts), atol=1e-5)
    np.testing.assert_allclose(minilm.encode(TEXTS[:1]), reference.encode(TEXTS[:1]), atol=1e-5)


def test_threads_equal_serial(minilm: SentenceEncoder, reference: TransformersEncoder) -> None:
    short = [text[:120] for text in TEXTS]
    jobs = [short[start:] + short[:start] for start in range(len(short))]
    for encoder in (minilm, reference, HashingEncoder()):
        serial = [encoder.encode(job) for job in jobs]
        with ThreadPoolExecutor(4) as pool:
            for one, other in zip(serial, pool.map(encoder.encode, jobs), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_question_is_nearest_to_its_key(minilm: SentenceEncoder, hashing_encoder: HashingEncoder) -> None:
    keys = [
        "the founder of Acme Robotics",
        "the battery life of Orca 2",
        "the founding date of Acme Robotics",
    ]
    for encoder in (minilm, hashing_encoder):
        scores = encoder.encode(keys) @ encoder.encode(["What is the battery life of the Orca 2?"])[0]
        assert int(scores.argmax()) == 1


def test_loaded_once_and_named(minilm: SentenceEncoder) -> None:
    assert load_sentence_encoder() is minilm
    assert minilm.name == DEFAULT_ENCODER
    assert minilm.fingerprint == "all-minilm-l6-v2:53aa51172d14"
    assert minilm.embed_dim == 384
    assert HashingEncoder().name == "hashing"
    assert HashingEncoder(32).fingerprint != HashingEncoder(64).fingerprint
    assert load_sentence_encoder("hashing-32").embed_dim == 32


def test_progress_changes_nothing(minilm: SentenceEncoder, capsys: pytest.CaptureFixture[str]) -> None:
    assert np.array_equal(minilm.encode(TEXTS), minilm.encode(TEXTS, progress=True))
    assert capsys.readouterr().out == ""


def small_copy(folder: Path, target: Path, **files: dict[str, object]) -> Path:
    """Copy the folder of the embedded encoder, with keys of its JSON files changed."""
    shutil.copytree(folder, target)
    for name, changes in files.items():
        path = target / name.replace("__", "/").replace("_json", ".json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target


def test_folder_with_first_token_pooling(minilm_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    folder = small_copy(minilm_folder, tmp_path / "cls", **{"1_Pooling__config_json": pooling})
    encoder = load_sentence_encoder(folder)
    assert isinstance(encoder, BertEncoder)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)


def test_other_models_go_through_sentence_transformers(minilm_folder: Path, tmp_path: Path) -> None:
    pooling = {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}
    folder = small_copy(minilm_folder, tmp_path / "max", **{"1_Pooling__config_json": pooling})
    assert read_recipe(folder) is None
    encoder = load_sentence_encoder(folder)
    assert isinstance(encoder, TransformersEncoder)
    np.testing.assert_allclose(np.linalg.norm(encoder.encode(TEXTS), axis=1), 1.0, atol=1e-5)
    assert encoder.fingerprint.startswith("max:")


def test_what_the_forward_pass_declines(minilm_folder: Path, tmp_path: Path) -> None:
    assert read_recipe(minilm_folder) is not None
    for number, changes in enumerate(
        ({"model_type": "mpnet"}, {"hidden_act": "relu"}, {"position_embedding_type": "relative_key"})
    ):
        folder = small_copy(minilm_folder, tmp_path / str(number), config_json=changes)
        assert read_recipe(folder) is None
        shutil.rmtree(folder)


def test_unknown_encoder_lists_what_exists(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=DEFAULT_ENCODER):
        load_sentence_encoder("no-such-encoder")
    with pytest.raises(ModelNotFoundError, match="modules.json"):
        load_sentence_encoder(tmp_path)
    with pytest.raises(ModelNotFoundError, match="cannot load the sentence encoder"):
        load_sentence_encoder("nobody/nothing")
    with pytest.raises(ModelNotFoundError, match="unknown sentence encoder"):
        load_sentence_encoder("smollm2-135m")


def test_changed_or_missing_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from kblam_engine import sentence_encoder

    card = EMBEDDED[DEFAULT_ENCODER]
    monkeypatch.setattr(sentence_encoder, "_loaded", {})
    monkeypatch.setitem(EMBEDDED, DEFAULT_ENCODER, dataclasses.replace(card, sha256="0" * 64))
    with pytest.raises(ModelNotFoundError, match="expected sha256 0000"):
        load_sentence_encoder()
    monkeypatch.setitem(EMBEDDED, DEFAULT_ENCODER, dataclasses.replace(card, package="no-such-package"))
    with pytest.raises(MissingDependencyError, match="pip install no-such-package"):
        load_sentence_encoder()


def test_mistakes_are_named(minilm: SentenceEncoder) -> None:
    with pytest.raises(ConfigurationError, match="list of strings"):
        minilm.encode("one string")
    with pytest.raises(ConfigurationError, match="index 1"):
        minilm.encode(["a", 3])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="dtype"):
        load_sentence_encoder(dtype="int8")


def test_bfloat16_is_close(minilm: SentenceEncoder) -> None:
    rough = load_sentence_encoder(dtype=torch.bfloat16)
    assert rough is not minilm
    similarity = (rough.encode(TEXTS) * minilm.encode(TEXTS)).sum(axis=1)
    assert similarity.min() > 0.99
