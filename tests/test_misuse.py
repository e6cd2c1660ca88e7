"""What the Python API says of arguments that cannot be: expected, got, what to do; no name from inside."""

import json
import logging

import pytest
from conftest import build_llama, build_tokenizer
from engine_parts import QUESTION, build_engine

from kblam_engine import KBLaM, KnowledgeBase, Triple
from kblam_engine.checkpoint import shipped_adapter
from kblam_engine.errors import ConfigurationError, ModelNotFoundError
from kblam_engine.models import load_base_model
from kblam_engine.sentence_encoder import load_sentence_encoder
from kblam_engine.sources import open_source
from kblam_engine.triple_files import whole_file


@pytest.fixture(scope="module")
def engine():
    made = build_engine(build_llama(), build_tokenizer())
    yield made
    made.injection.detach()


@pytest.fixture
def kb(hashing_encoder):
    with KnowledgeBase.open(":memory:", encoder=hashing_encoder) as kb:
        kb.add([Triple("Orca 2", "battery life", "11 hours", {"page": 3}, tags=("sea",))])
        yield kb


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: KnowledgeBase.open(None), "path: expected a folder such as 'company.kb'"),
        (lambda: KnowledgeBase.open(b"company.kb"), "path: expected a folder"),
        (lambda: KBLaM.from_pretrained(None), "model: expected the name of a base model"),
        (lambda: load_base_model(7), "model: expected the name of a base model"),
        (lambda: KBLaM.from_pretrained(adapter=7), "adapter: expected an adapter folder"),
        (lambda: KBLaM.from_pretrained(encoder=7), "encoder: expected the name of a sentence encoder"),
        (lambda: load_sentence_encoder(None), "encoder: expected the name of a sentence encoder"),
    ],
)
def test_what_is_no_path_is_told(call, expected):
    with pytest.raises(ConfigurationError) as caught:
        call()
    assert expected in str(caught.value) and "got " in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_none_are_told(kb):
    for call in (kb.export_file, kb.import_file, kb.backup):
        with pytest.raises(ConfigurationError, match="expected .*, got None"):
            call(None)


@pytest.mark.parametrize(("option", "remedy"), [("max_new_token", "did you mean max_new_tokens"), ("foo", "leave it out")])
def test_an_option_that_there_is_not_is_told(engine, kb, option, remedy):
    for call in (engine.answer, engine.stream):
        with pytest.raises(ConfigurationError, match=f"unknown option {option}: expected max_new_tokens, .*; {remedy}") as caught:
            call(QUESTION, kb, **{option: 1})
        assert "DecodingOptions" not in str(caught.value) and "unknown, chat_template_kwargs" in str(caught.value)


def test_a_question_that_is_too_long_is_told_once(engine, kb):
    told = []
    handler = logging.Handler()
    handler.emit = told.append
    logging.getLogger("transformers").addHandler(handler)
    try:
        with pytest.raises(ConfigurationError, match=r"the question: expected fewer than 2,048 tokens.*got [\d,]+; ask in fewer"):
            engine.answer("Orca " * 3000, kb)
        build_tokenizer()("Orca " * 3000)  # what would have been said
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert len(told) == 1 and "longer than the specified maximum" in told[0].getMessage()


def test_a_model_without_an_adapter_is_told_for_both_ways_in():
    with pytest.raises(ModelNotFoundError, match=r"adapter= \(--adapter FOLDER\)"):
        shipped_adapter("no-such-model")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_drafts_of_files_are_not_named(kb, tmp_path, suffix):
    with pytest.raises(FileNotFoundError) as caught:
        kb.export_file(tmp_path / "none" / f"x.{suffix}")
    assert caught.value.filename == str(tmp_path / "none")
    with pytest.raises(IsADirectoryError) as caught, whole_file(tmp_path / "x.csv") as draft:
        draft.mkdir()
        try:
            open(draft, "w")
        finally:
            draft.rmdir()
    assert caught.value.filename == str(tmp_path / "x.csv")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "pq"])
def test_every_kind_of_export_in_python(kb, tmp_path, suffix):
    pytest.importorskip("pyarrow") if suffix.startswith("p") else None
    file = tmp_path / f"x.{suffix}"
    assert kb.view(tags="sea").export_file(file) == 1
    (triple,) = open_source(file)
    assert (triple.name, triple.value, triple.metadata, triple.tags) == ("Orca 2", "11 hours", {"page": 3}, ("sea",))


def test_exports_with_embeddings_in_python(kb, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    kb.export_file(tmp_path / "x.parquet", embeddings=True)
    assert len(parquet.read_table(tmp_path / "x.parquet").to_pylist()[0]["key_embedding"]) == 64
    with pytest.raises(ConfigurationError, match=r"embeddings: expected a \.parquet file"):
        kb.export_file(tmp_path / "x.jsonl", embeddings=True)
    with pytest.raises(ConfigurationError, match=r"expected a \.jsonl, \.csv or \.parquet file, got \.xml"):
        kb.export_file(tmp_path / "x.xml")
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == '["x.parquet"]'
