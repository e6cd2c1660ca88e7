"""Answers of the engine on a tiny random model: streams, what an answer says, chats, options, errors."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from engine_parts import QUESTION, SHORT, copying_engine, engine_fixture, same, user  # noqa: F401

from kblam_engine.errors import ConfigurationError, EncoderMismatchError, KBLaMError
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.sentence_encoder import HashingEncoder

# --- streams, cancelling, stop texts ----------------------------------------------------------------------


def test_pieces_of_a_stream_join_to_its_answer(engine, memory_kb):
    stream = engine.stream(QUESTION, memory_kb, max_new_tokens=30)
    pieces = list(stream)
    assert "".join(pieces) == stream.answer.text != ""
    assert all(pieces) and len(pieces) > 1
    same(stream.answer, engine.answer(QUESTION, memory_kb, max_new_tokens=30))


def test_closing_a_stream_stops_it(engine, memory_kb):
    calls = []
    handle = engine.lm.get_input_embeddings().register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        stream = engine.stream(QUESTION, memory_kb, max_new_tokens=30)
        pieces = [next(stream), next(stream)]
        n_calls = len(calls)
        stream.close()
        assert list(stream) == [] and len(calls) == n_calls < 30
    finally:
        handle.remove()
    assert stream.answer.text == "".join(pieces)
    assert stream.answer.finish_reason == "cancelled"


def test_a_stream_has_no_answer_before_it_begins(engine, memory_kb):
    with pytest.raises(ConfigurationError, match="has not begun"):
        _ = engine.stream(QUESTION, memory_kb).answer


def test_answer_so_far_is_not_kept_for_the_whole(engine, memory_kb):
    stream = engine.stream(QUESTION, memory_kb, **SHORT)
    next(stream)
    early = stream.answer
    list(stream)
    assert stream.answer.usage.completion_tokens > early.usage.completion_tokens
    assert stream.answer.finish_reason != "cancelled"


def test_cancel_stops_within_one_token(engine, memory_kb):
    cancel = threading.Event()
    stream = engine.stream(QUESTION, memory_kb, cancel=cancel, max_new_tokens=50)
    next(stream)
    n_tokens = stream.answer.usage.completion_tokens
    cancel.set()
    list(stream)
    assert stream.answer.finish_reason == "cancelled"
    assert stream.answer.usage.completion_tokens == n_tokens


def test_cancelled_before_it_begins(engine, memory_kb):
    cancel = threading.Event()
    cancel.set()
    answer = engine.answer(QUESTION, memory_kb, cancel=cancel)
    assert (answer.text, answer.finish_reason, answer.usage.completion_tokens) == ("", "cancelled", 0)
    assert answer.attended == () and not answer.refused


def test_stop_text_ends_the_answer_and_is_no_part_of_it(engine, memory_kb):
    whole = engine.answer(QUESTION, memory_kb, max_new_tokens=30)
    stop = whole.text[5:7]
    at = whole.text.index(stop)
    for given in (stop, [stop], ("never there", stop)):
        answer = engine.answer(QUESTION, memory_kb, max_new_tokens=30, stop=given)
        assert answer.text == whole.text[:at].rstrip() and answer.finish_reason == "stop"
        assert all(end <= len(answer.text) for a in answer.attended for _, end in a.spans)


def test_length(engine, memory_kb):
    answer = engine.answer(QUESTION, memory_kb, max_new_tokens=3)
    assert answer.usage.completion_tokens == 3 and answer.finish_reason == "length"


def test_usage_counts(engine, memory_kb):
    answer = engine.answer(QUESTION, memory_kb, max_new_tokens=5)
    assert answer.usage.prompt_tokens == len(engine.prompt_ids(user(QUESTION)))
    assert answer.usage.completion_tokens == 5
    assert answer.usage.n_triples == 6
    assert answer.ttft_ms > 0 and answer.ms_per_token > 0


def test_seeds_make_sampling_reproducible(engine, memory_kb):
    def sample(seed, kb=memory_kb):
        return engine.answer(QUESTION, kb, temperature=2.0, seed=seed, max_new_tokens=20).text

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1
    batch = engine.answer_batch([QUESTION] * 2, memory_kb, temperature=2.0, seed=1, max_new_tokens=20)
    assert {a.text for a in batch} == {sample(1)}


# --- what an answer says ----------------------------------------------------------------------------------


def test_attended_weights_and_spans(engine, memory_kb, six_triples):
    ids = {memory_kb.snapshot().triple(p): int(memory_kb.snapshot().ids[p]) for p in range(6)}
    for question in (QUESTION, "Who founded Acme Robotics?", "annual traffic of Port of Varnholm"):
        answer = engine.answer(question, memory_kb, max_new_tokens=40)
        assert 0 < len(answer.attended) <= 4
        assert 0 <= sum(a.weight for a in answer.attended) <= 1.0 + 1e-6
        assert all(0 <= a.weight <= 1 for a in answer.attended)
        assert 0 <= answer.confidence <= 1
        for attended in answer.attended:
            assert attended.id == ids[attended.triple]
            for start, end in attended.spans:
                assert 0 <= start < end <= len(answer.text)
        assert answer.to_dict()["attended"][0]["name"] == answer.attended[0].triple.name


def test_spans_point_at_the_value_that_was_copied(tiny_tokenizer, memory_kb):
    """With an adapter that copies whatever the rules say, a value is written out and its span is exact."""
    engine = copying_engine(tiny_tokenizer)
    answer = engine.answer("founder of Acme Robotics", memory_kb, max_new_tokens=60)
    assert answer.text == "The founder of Acme Robotics is Lena Hoffmann."
    assert answer.finish_reason == "stop" and not answer.refused
    best = answer.attended[0]
    assert best.triple.value == "Lena Hoffmann" and best.weight > 0.9
    ((start, end),) = best.spans
    assert answer.text[start:end] == "Lena Hoffmann"


def test_two_triples_are_written_once_each(tiny_tokenizer, memory_kb, six_triples):
    engine = copying_engine(tiny_tokenizer, n_select=2)
    answer = engine.answer("founder and founding date of Acme Robotics", memory_kb, max_new_tokens=120)
    lines = answer.text.split("\n")
    assert sorted(lines) == sorted(t.statement for t in six_triples[:2])
    assert answer.finish_reason == "stop"
    for attended in answer.attended:
        ((start, end),) = attended.spans
        assert answer.text[start:end] == attended.triple.value
        assert attended.weight == pytest.approx(0.5, abs=0.15)


def test_refusal_is_said_and_marked(tiny_tokenizer, memory_kb):
    engine = copying_engine(tiny_tokenizer)
    answer = engine.answer("founder of Acme Robotics", memory_kb, refusal_threshold=1 - 1e-12)
    assert answer.refused and answer.text == "I cannot find that in the knowledge base."
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as empty:
        answer = engine.answer("founder of Acme Robotics", empty)
    assert answer.refused and answer.confidence == 0.0 and answer.attended == ()
    assert answer.text == "I cannot find that in the knowledge base."


def test_retrieve_gives_what_an_answer_selects(engine, memory_kb):
    found = engine.retrieve(QUESTION, memory_kb, k=3)
    assert len(found) == 3
    scores = [f.score for f in found]
    assert scores == sorted(scores, reverse=True) and all(0 <= s <= 1 for s in scores)
    answer = engine.answer(QUESTION, memory_kb, **SHORT)
    assert answer.confidence == pytest.approx(scores[0], abs=1e-4)
    assert {f.id for f in found} <= {a.id for a in answer.attended}


# --- chats ------------------------------------------------------------------------------------------------


def test_system_message_and_earlier_turns_are_read(engine, memory_kb):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who founded Acme Robotics?"},
        {"role": "assistant", "content": "Lena Hoffmann."},
        {"role": "user", "content": "And when?"},
    ]
    prompt = engine.chat_prompt(chat)
    assert prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert prompt.endswith("And when?<|im_end|>\n<|im_start|>assistant\n")
    answer = engine.answer(chat, memory_kb, **SHORT)
    assert answer.text != engine.answer(chat[-1:], memory_kb, **SHORT).text
    same(engine.generate(tuple(chat), memory_kb, **SHORT), answer)


def test_assistant_last_is_continued(engine, memory_kb):
    chat = [*user(QUESTION), {"role": "assistant", "content": "The battery life"}]
    assert engine.chat_prompt(chat).endswith("<|im_start|>assistant\nThe battery life")
    answer = engine.answer(chat, memory_kb, **SHORT)
    assert answer.usage.completion_tokens == 12
    if engine.adapter.config.retrieval_layer is None:  # the unfinished answer asks for nothing
        plain = engine.answer(QUESTION, memory_kb, **SHORT)
        assert answer.confidence == pytest.approx(plain.confidence, abs=1e-4)


def test_system_message_alone(engine, memory_kb):
    chat = [{"role": "system", "content": "Talk about the Orca 2."}]
    assert engine.chat_prompt(chat).endswith("<|im_start|>assistant\n")
    assert engine.answer(chat, memory_kb, **SHORT).usage.completion_tokens == 12


def test_messages_are_not_changed(engine, memory_kb):
    chat = user(QUESTION)
    engine.answer(chat, memory_kb, **SHORT)
    assert chat == user(QUESTION)


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 2.5},
        {"max_new_tokens": "many"},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"seed": -1},
        {"seed": "x"},
        {"stop": [""]},
        {"stop": [1]},
        {"stop": 5},
        {"refusal_threshold": 0.0},
        {"refusal_threshold": 1.0},
        {"refusal_threshold": "half"},
        {"refusal_threshold": float("nan")},
        {"refusal_threshold": True},
        {"beams": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("with_kb", [True, False])
def test_wrong_options(engine, memory_kb, options, with_kb):
    kb = memory_kb if with_kb else None
    with pytest.raises(ConfigurationError):
        engine.answer(QUESTION, kb, **options)
    with pytest.raises(ConfigurationError):
        engine.stream(QUESTION, kb, **options)


@pytest.mark.parametrize(
    "question",
    [
        "",
        "  \n",
        [],
        None,
        5,
        {"role": "user", "content": "x"},
        ["hello"],
        [None],
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "tool", "content": "x"}],
        [{"role": ["user"], "content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": " "}],
    ],
    ids=str,
)
def test_wrong_questions(engine, memory_kb, question):
    for kb in (memory_kb, None):
        with pytest.raises(ConfigurationError):
            engine.answer(question, kb)
    with pytest.raises(ConfigurationError):
        engine.retrieve(question, memory_kb)


@pytest.mark.parametrize("kb", ["company.kb", 5, {"a": 1}])
def test_wrong_kb(engine, kb):
    with pytest.raises(ConfigurationError):
        engine.answer(QUESTION, kb)


def test_wrong_number_of_kbs(engine, memory_kb):
    with pytest.raises(ConfigurationError, match="2 KBs for 1 questions"):
        engine.answer_batch([QUESTION], [memory_kb] * 2)


def test_closed_kb(engine, six_triples):
    kb = KnowledgeBase.open(":memory:", encoder=HashingEncoder())
    kb.add(six_triples)
    kb.close()
    with pytest.raises(KBLaMError):
        engine.answer(QUESTION, kb)


def test_kb_of_another_encoder(engine, six_triples):
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder(32)) as kb:
        kb.add(six_triples)
        with pytest.raises(EncoderMismatchError, match="hashing-32:v1.*hashing-64:v1"):
            engine.answer(QUESTION, kb)
        with pytest.raises(EncoderMismatchError):
            engine.stream(QUESTION, kb)
        with pytest.raises(EncoderMismatchError):
            engine.retrieve(QUESTION, kb)


@pytest.mark.parametrize("at_call", [0, 3])
def test_exception_of_a_forward_reaches_the_caller_at_once(engine, memory_kb, at_call):
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) > at_call:
            raise MemoryError("no room")

    handle = engine.lm.lm_head.register_forward_pre_hook(fail)
    try:
        with pytest.raises(MemoryError, match="no room"):
            engine.answer(QUESTION, memory_kb, **SHORT)
        assert len(calls) == at_call + 1
        calls.clear()
        stream = engine.stream(QUESTION, memory_kb, **SHORT)
        with pytest.raises(MemoryError, match="no room"):
            list(stream)
    finally:
        handle.remove()
    assert engine.injection.state is None
    assert engine.answer(QUESTION, memory_kb, **SHORT).finish_reason == "length"


def test_exception_in_a_thread_reaches_its_caller_only(engine, memory_kb, hashing_encoder, monkeypatch):
    expected = engine.answer(QUESTION, memory_kb, **SHORT)
    encode = engine.encoder.encode

    def sometimes(texts, **options):
        if any("poison" in t for t in texts):
            raise OSError("disk gone")
        return encode(texts, **options)

    monkeypatch.setattr(engine.encoder, "encode", sometimes)
    with ThreadPoolExecutor(3) as pool:
        good = [pool.submit(engine.answer, QUESTION, memory_kb, **SHORT) for _ in range(3)]
        bad = pool.submit(engine.answer, "poison", memory_kb, **SHORT)
        with pytest.raises(OSError, match="disk gone"):
            bad.result(timeout=60)
        for future in good:
            same(future.result(timeout=60), expected)


def test_what_is_longer_than_the_model_can_read_is_told_at_once(engine, memory_kb):
    long = "word " * 3000
    expected = r"expected fewer than 2,048 tokens, what the base model can read, got \d"
    for ask in (engine.answer, engine.stream):
        with pytest.raises(ConfigurationError, match=f"the question: {expected}"):
            ask(long, memory_kb)
    with pytest.raises(ConfigurationError, match=f"question 1: {expected}"):
        engine.answer_batch([QUESTION, long], memory_kb)
