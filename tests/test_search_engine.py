"""The engine over a KB that is too large to keep its keys: whatever searches them, the answer is the same."""

import pytest
from engine_parts import engine_fixture, same  # noqa: F401

from kblam_engine import KnowledgeBase, Triple, retrieval
from kblam_engine.search.build import build_index
from kblam_engine.search.device import DeviceIndex, DeviceKeys
from kblam_engine.search.indexes import Indexes

QUESTIONS = ["What is the price of Orca 12?", "Who founded Orca 7?"]


@pytest.fixture
def kb(tmp_path, hashing_encoder):
    with KnowledgeBase.open(tmp_path / "big.kb", encoder=hashing_encoder) as kb:
        kb.add([Triple(f"Orca {n // 3}", ("founder", "price", "colour")[n % 3], f"value {n}") for n in range(150)])
        yield kb


@pytest.mark.parametrize("wanted", ["exact", "tree", "ann"])
def test_the_answer_does_not_depend_on_the_index(engine, kb, monkeypatch, wanted):
    small = engine.answer_batch(QUESTIONS, kb, max_new_tokens=6)
    if wanted != "exact":
        build_index(kb.snapshot(), wanted)
    monkeypatch.setattr(retrieval, "KEPT_KEYS", 10)
    monkeypatch.setattr(engine, "indexes", Indexes(wanted))
    large = engine.answer_batch(QUESTIONS, kb, max_new_tokens=6)
    assert engine.indexes.of(kb.snapshot()).kind == wanted
    for one, other in zip(small, large, strict=True):
        same(one, other)
    kb.set("Orca 12", "price", "another price")
    triples = [found.triple.value for found in engine.retrieve(QUESTIONS[0], kb, 20)]
    assert "another price" in triples


def test_auto_measures_the_prefill_of_the_model(engine, kb):
    assert 0 < engine._prefill_seconds() < 60
    assert engine.indexes.wanted == "auto" and engine.indexes.of(kb.snapshot()).kind == "exact"


def test_the_answer_is_that_of_keys_on_a_device(engine, kb, monkeypatch):
    monkeypatch.setattr(retrieval, "KEPT_KEYS", 10)
    before = engine.answer_batch(QUESTIONS, kb, max_new_tokens=6)
    monkeypatch.setattr(engine, "indexes", Indexes("auto", every_key=DeviceKeys("cpu", 1 << 30)))
    for one, other in zip(before, engine.answer_batch(QUESTIONS, kb, max_new_tokens=6), strict=True):
        same(one, other)
    assert isinstance(engine.indexes.of(kb.snapshot()).index, DeviceIndex)
