"""A turn that no triple answers: refused, or left to the base model to the last bit."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import build_llama, build_tokenizer
from engine_parts import (
    BASE,
    QUESTION,
    SHORT,
    adapter_config,
    build_engine,
    copying_engine,
    random_adapter,
    same,
    user,
)

from kblam_engine.engine import KBLaM
from kblam_engine.errors import ConfigurationError
from kblam_engine.gating import decide
from kblam_engine.injection import KBCache, attach
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.knowledge_state import Row
from kblam_engine.models import LoadedModel
from kblam_engine.native_layout import MIN_LOG_GATE
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.sentence_tokens import SentenceTokenAdapter
from kblam_engine.triples import Triple

NEVER, ALWAYS = 1 - 1e-12, 1e-6
HELLO = "Hello! Write a haiku about rain."


def with_sentence_tokens(retrieval_layer):
    """Return an engine whose sentence tokens begin below its retrieval layer."""
    encoder, attached = HashingEncoder(), attach(build_llama())
    adapter = random_adapter(adapter_config(encoder, retrieval_layer=retrieval_layer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapter.add_sentence_tokens(SentenceTokenAdapter.from_injection(attached, encoder.embed_dim))
    attached.detach()
    loaded = LoadedModel(build_llama(), build_tokenizer(), "tiny-llama", BASE, torch.float32, torch.device("cpu"))
    return KBLaM(loaded, encoder, adapter.requires_grad_(False))


@pytest.fixture(
    scope="module",
    params=[(None, False), (1, False), (None, True), (1, True)],
    ids=["sentence embeddings", "hidden state too", "sentence tokens", "sentence tokens, hidden state"],
)
def engine(request, tiny_tokenizer):
    layer, sentence = request.param
    made = (
        with_sentence_tokens(layer) if sentence else build_engine(build_llama(), tiny_tokenizer, retrieval_layer=layer)
    )
    yield made
    made.injection.detach()


@contextmanager
def logits_of(engine):
    """Collect the logits of every forward pass."""
    seen = []
    handle = engine.lm.register_forward_hook(lambda module, args, output: seen.append(output.logits.clone()))
    try:
        yield seen
    finally:
        handle.remove()


# --- gates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odds", [[], [-1.0, -2.0]])
def test_no_gate_opens_for_the_base_model(odds):
    log_odds = np.array(odds, np.float32)
    gates, refusal = decide(log_odds, 0.5, "base"), decide(log_odds, 0.5)
    assert not gates.refused and not gates.uses_kb and gates.null == MIN_LOG_GATE
    assert (gates.triples == MIN_LOG_GATE).all() and len(gates.triples) == len(odds)
    assert refusal.refused and refusal.uses_kb and refusal.confidence == gates.confidence


def test_an_open_triple_is_the_same_either_way():
    log_odds = np.array([2.0, -2.0], np.float32)
    one, other = decide(log_odds, 0.5, "base"), decide(log_odds, 0.5, "refuse")
    assert one.uses_kb and one.n_open == 1
    assert np.array_equal(one.triples, other.triples)
    assert (one.null, one.refused, one.confidence) == (other.null, other.refused, other.confidence)


# --- single answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_hops", [1, 3])
def test_the_base_model_answers_to_the_last_bit(engine, memory_kb, max_hops):
    with logits_of(engine) as expected:
        alone = engine.answer(QUESTION, **SHORT)
    with logits_of(engine) as found:
        answer = engine.answer(
            QUESTION, memory_kb, unknown="base", refusal_threshold=NEVER, max_hops=max_hops, **SHORT
        )
    assert len(found) == len(expected) == 12
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert answer.text == alone.text and answer.finish_reason == alone.finish_reason
    assert not answer.refused and not answer.grounded and answer.attended == ()
    assert answer.usage.n_triples == 6 and 0 < answer.confidence < 1
    told = answer.to_dict()
    assert told["grounded"] is False and told["refused"] is False and told["attended"] == []


def test_it_is_refused_unless_asked_otherwise(engine, memory_kb):
    refused = engine.answer(QUESTION, memory_kb, refusal_threshold=NEVER, **SHORT)
    assert refused.refused and not refused.grounded and refused.attended
    same(engine.answer(QUESTION, memory_kb, refusal_threshold=NEVER, unknown="refuse", **SHORT), refused)
    assert refused.text != engine.answer(QUESTION, **SHORT).text


def test_what_triples_answer_is_the_same_either_way(engine, memory_kb):
    options = {"refusal_threshold": ALWAYS, **SHORT}
    answer = engine.answer(QUESTION, memory_kb, unknown="base", **options)
    same(answer, engine.answer(QUESTION, memory_kb, **options))
    assert answer.grounded and answer.to_dict()["grounded"] is True
    assert answer.text != engine.answer(QUESTION, **SHORT).text


def test_an_empty_kb_answers_as_none(engine):
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as empty:
        answer = engine.answer(QUESTION, empty, unknown="base", **SHORT)
    same(answer, engine.answer(QUESTION, **SHORT))


def test_streams_and_chats_take_the_option(engine, memory_kb):
    options = {"unknown": "base", "refusal_threshold": NEVER, **SHORT}
    alone = engine.answer(QUESTION, **SHORT)
    stream = engine.stream(QUESTION, memory_kb, **options)
    assert "".join(stream) == alone.text and not stream.answer.grounded and not stream.answer.refused
    assert engine.generate(user(QUESTION), memory_kb, **options).text == alone.text
    sampled = {"temperature": 1.0, "seed": 4}
    assert engine.answer(QUESTION, memory_kb, **options, **sampled).text == engine.answer(
        QUESTION, **SHORT, **sampled
    ).text


def test_without_a_kb_the_option_changes_nothing(engine):
    same(engine.answer(QUESTION, unknown="base", **SHORT), engine.answer(QUESTION, **SHORT))


def test_beams_are_those_of_the_base_model(engine, memory_kb):
    ids = torch.tensor([engine.prompt_ids(user(QUESTION))])
    options = {"num_beams": 3, "do_sample": False, "max_new_tokens": 8, "pad_token_id": 2}
    state = engine.new_state([Row(user(QUESTION), engine.snapshot_of(memory_kb))], NEVER, unknown="base")
    with engine.injection.use(state):
        found = engine.lm.generate(ids, past_key_values=KBCache(state, config=engine.lm.config), **options)
    assert torch.equal(found, engine.lm.generate(ids, **options))


@pytest.mark.parametrize("unknown", [None, "", "Base", "kb", True, ["base"]], ids=str)
@pytest.mark.parametrize("with_kb", [True, False])
def test_wrong_choices(engine, memory_kb, unknown, with_kb):
    kb = memory_kb if with_kb else None
    for ask in (engine.answer, engine.stream, engine.generate):
        with pytest.raises(ConfigurationError, match='unknown: expected "refuse" or "base", got'):
            ask(QUESTION, kb, unknown=unknown)


# --- batches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_hops", [1, 3])
def test_rows_of_a_batch_go_their_own_ways(engine, memory_kb, max_hops):
    best = {q: engine.retrieve(q, memory_kb, k=1)[0].score for q in (QUESTION, HELLO)}
    known, foreign = sorted(best, key=best.__getitem__, reverse=True)
    assert best[known] > best[foreign] + 1e-4
    threshold = (best[known] + best[foreign]) / 2
    options = {"unknown": "base", "refusal_threshold": threshold, "max_hops": max_hops, **SHORT}
    questions, kbs = [known, foreign, known], [memory_kb, memory_kb, None]
    together = engine.answer_batch(questions, kbs, **options)
    assert [answer.grounded for answer in together] == [True, False, False]
    assert not any(answer.refused for answer in together)
    for question, kb, answer in zip(questions, kbs, together, strict=True):
        same(answer, engine.answer(question, kb, **options))
    assert together[1].text == engine.answer(foreign, **SHORT).text


def test_a_batch_of_the_base_model_alone_is_that_batch_without_a_kb(engine, memory_kb):
    questions = [QUESTION, HELLO]
    with logits_of(engine) as expected:
        engine.answer_batch(questions, None, **SHORT)
    with logits_of(engine) as found:
        engine.answer_batch(questions, memory_kb, unknown="base", refusal_threshold=NEVER, **SHORT)
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_row_that_moves_on_leaves_the_base_models_row_alone(tiny_tokenizer):
    maker, boss = Triple("Orca 2", "maker", "Acme"), Triple("Acme", "boss", "Lena Hoffmann")
    asked = "What is the boss of the maker of Orca 2?"
    engine = copying_engine(tiny_tokenizer)
    try:
        with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as kb:
            kb.add([maker, boss])
            scores = [engine.retrieve(q, kb, k=2) for q in (asked, HELLO)]
            threshold = (min(f.score for f in scores[0]) + scores[1][0].score) / 2
            assert scores[1][0].score < threshold < scores[0][-1].score
            options = {"unknown": "base", "refusal_threshold": threshold, "max_hops": 2, "max_new_tokens": 80}
            moved, base = engine.answer_batch([asked, HELLO], kb, **options)
            assert moved.text == f"{maker.statement}\n{boss.statement}" and moved.grounded
            same(moved, engine.answer(asked, kb, **options))
            same(base, engine.answer(HELLO, kb, **options))
            assert not base.grounded and base.text == engine.answer(HELLO, max_new_tokens=80).text
    finally:
        engine.injection.detach()
