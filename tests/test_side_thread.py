"""Retrieval beside the forward pass: where it runs, what it hands over, and that the answers are the same."""

import threading

import pytest
import torch
from conftest import build_llama
from engine_parts import build_engine

from kblam_engine import KnowledgeBase, Triple, knowledge_state
from kblam_engine.errors import KBLaMError
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.side_thread import has_idle_cores, in_side_thread

TRIPLES = [Triple("Orca 2", "battery life", "18 hours"), Triple("Orca 2", "colour", "grey"), Triple("Narwhal", "colour", "white")]
QUESTIONS = ["What is the battery life of Orca 2?", "What colour is the Narwhal?", "Who wrote Hamlet?"]


def test_work_is_done_in_another_thread_without_gradients():
    seen = in_side_thread(lambda: (threading.current_thread().name, torch.is_grad_enabled())).result()
    assert seen == ("kblam-retrieval", False)


def test_an_error_comes_out_where_the_result_is_asked_for():
    def fail():
        raise KBLaMError("the disk is gone")

    with pytest.raises(KBLaMError, match="the disk is gone"):
        in_side_thread(fail).result()


@pytest.mark.parametrize(("threads", "cores", "idle"), [(1, 1, False), (1, 2, True), (2, 2, False), (4, 8, True)])
def test_cores_are_idle_where_torch_leaves_as_many_as_it_takes(monkeypatch, threads, cores, idle):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert has_idle_cores(torch.device("cpu")) is idle
    assert has_idle_cores(torch.device("cuda"))


@pytest.fixture(scope="module")
def engine(tiny_tokenizer):
    made = build_engine(build_llama(), tiny_tokenizer, refusal_threshold=1e-6)
    yield made
    made.injection.detach()


@pytest.fixture
def kb(engine):
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as kb:
        kb.add(TRIPLES)
        yield kb


@pytest.fixture
def threads_used(engine, monkeypatch):
    used = []
    retrieve = engine.retriever.retrieve

    def watched(*arguments):
        used.append(threading.current_thread().name)
        return retrieve(*arguments)

    monkeypatch.setattr(engine.retriever, "retrieve", watched)
    return used


def answers_of(engine, kb, monkeypatch, idle):
    monkeypatch.setattr(knowledge_state, "has_idle_cores", lambda _: idle)
    answers = engine.answer_batch(QUESTIONS, kb, max_new_tokens=8)
    return [(a.text, a.refused, a.confidence, a.attended) for a in answers]


def test_the_same_is_answered_whether_cores_are_idle_or_not(engine, kb, monkeypatch, threads_used):
    beside = answers_of(engine, kb, monkeypatch, True)
    assert set(threads_used) == {"kblam-retrieval"} and any(attended for *_, attended in beside)
    threads_used.clear()
    assert answers_of(engine, kb, monkeypatch, False) == beside
    assert threads_used and "kblam-retrieval" not in threads_used


def test_a_hidden_state_that_has_a_say_is_waited_for(tiny_tokenizer, kb, monkeypatch):
    monkeypatch.setattr(knowledge_state, "has_idle_cores", lambda _: True)
    monkeypatch.setattr(knowledge_state, "in_side_thread", lambda _: pytest.fail("nothing can be selected yet"))
    engine = build_engine(build_llama(), tiny_tokenizer, retrieval_layer=1, refusal_threshold=1e-6)
    assert engine.answer(QUESTIONS[0], kb, max_new_tokens=4).attended
    engine.injection.detach()


def test_what_fails_beside_the_forward_pass_fails_the_call(engine, kb, monkeypatch):
    monkeypatch.setattr(knowledge_state, "has_idle_cores", lambda _: True)

    def fail(*_):
        raise KBLaMError("the disk is gone")

    monkeypatch.setattr(engine.retriever, "retrieve", fail)
    with pytest.raises(KBLaMError, match="the disk is gone"):
        engine.answer(QUESTIONS[0], kb)


def test_a_stream_tells_what_is_selected_whether_it_has_begun_or_not(engine, kb, monkeypatch):
    monkeypatch.setattr(knowledge_state, "has_idle_cores", lambda _: True)
    early, late = (engine.stream(QUESTIONS[0], kb=kb, max_new_tokens=8) for _ in range(2))
    first = early.selected
    next(late)
    assert first.triples and late.selected == first
