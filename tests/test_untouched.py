"""Chat that a KB has nothing to do with: what is asked and read, and what is compared."""

import json
import math
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from conftest import build_llama
from engine_parts import build_engine, user

from kblam_engine import KnowledgeBase
from kblam_engine.cli import untouched
from kblam_engine.decoding import log_probabilities
from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.untouched import (
    GeneralQuestion,
    NeutralPassage,
    UntouchedOptions,
    general_questions,
    measure_untouched,
    neutral_passages,
)
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triple_files import write_triples

NEVER, ALWAYS = 1 - 1e-12, 1e-6
QUESTIONS = [GeneralQuestion("small talk", "Hello!"), GeneralQuestion("arithmetic", "What is 2 plus 2?")]
PASSAGES = [NeutralPassage("Write about rain.", "It rains."), NeutralPassage("And tea?", "Tea is hot, and good.")]


@pytest.fixture(scope="module")
def engine(tiny_tokenizer):
    made = build_engine(build_llama(), tiny_tokenizer)
    yield made
    made.injection.detach()


def measured(engine, kb, threshold, **options):
    given = UntouchedOptions(max_new_tokens=6, refusal_threshold=threshold, **options)
    return measure_untouched(engine, kb, given, questions=QUESTIONS, passages=PASSAGES)


def test_the_questions_are_a_hundred_of_seven_kinds():
    questions = general_questions()
    kinds = Counter(question.kind for question in questions)
    assert len(questions) == len({q.text for q in questions}) == 100
    assert list(kinds) == [
        "small talk",
        "writing",
        "arithmetic",
        "coding",
        "advice",
        "general knowledge",
        "translation",
    ]
    assert min(kinds.values()) >= 12
    assert all(q.text[0].isupper() and q.text[-1] in ".!?:" or ":" in q.text or q.text[-1].isdigit() for q in questions)


def test_the_passages_are_prose_after_a_request():
    passages = neutral_passages()
    assert len(passages) == len({p.request for p in passages}) >= 20
    for passage in passages:
        assert passage.request.startswith("Write a few sentences about ")
        assert 40 <= len(passage.text.split()) <= 120 and passage.text.endswith(".")


def test_a_kb_that_opens_nothing_leaves_every_bit(engine, memory_kb):
    result = measured(engine, memory_kb, NEVER)
    assert result.unchanged == 1.0
    assert result.perplexity == result.perplexity_without > 1 and result.perplexity_change == 0.0
    assert all(p.nats == p.nats_without and p.opened == () for p in result.passages)
    assert all(a.text == a.text_without and a.opened == () for a in result.answers)
    assert result.n_triples == 6 and result.refusal_threshold == NEVER


def test_triples_that_open_are_told_and_change_answers_and_perplexity(engine, memory_kb):
    result = measured(engine, memory_kb, ALWAYS)
    assert result.unchanged == 0.0 and result.perplexity_change != 0.0
    for item in (*result.answers, *result.passages):
        assert len(item.opened) == engine.adapter.config.n_select
    assert all(answer.text != answer.text_without for answer in result.answers)
    found = engine.retrieve("Hello!", memory_kb, k=4)
    assert set(result.answers[0].opened) == {f.triple for f in found}
    assert result.answers[0].confidence == pytest.approx(found[0].score, abs=1e-4)


def test_perplexity_is_that_of_one_pass_over_the_passage(engine, memory_kb):
    result = measured(engine, memory_kb, NEVER)
    total = n_tokens = 0
    for passage in PASSAGES:
        prompt = engine.prompt_ids(user(passage.request))
        written = engine.tokenizer(passage.text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = build_llama()(input_ids=torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1]
        total -= float(logits.log_softmax(-1).gather(1, torch.tensor(written)[:, None]).sum())
        n_tokens += len(written)
    assert sum(p.n_tokens for p in result.passages) == n_tokens
    assert result.perplexity == pytest.approx(math.exp(total / n_tokens), rel=1e-4)


def test_forced_tokens_are_read_as_an_answer_is_written(engine, memory_kb):
    """The log-probability of a greedy answer's tokens is the highest at every step."""
    prompt = engine.prompt_ids(user("Hello!"))
    with torch.no_grad():
        ids = engine.lm.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False, pad_token_id=2)[0]
    written = ids[len(prompt) :].tolist()
    best = log_probabilities(engine.lm, prompt, written, scope=nullcontext)
    assert best.shape == (5,) and best.dtype == torch.float32
    for at in range(5):
        other = [*written[:at], (written[at] + 1) % 320]
        assert log_probabilities(engine.lm, prompt, other, scope=nullcontext)[at] < best[at]
    for empty in ([], written), (prompt, []):
        with pytest.raises(ConfigurationError, match="at least one token"):
            log_probabilities(engine.lm, *empty, scope=nullcontext)


def test_the_result_is_json(engine, memory_kb):
    data = json.loads(json.dumps(measured(engine, memory_kb, ALWAYS, seed=3).to_dict()))
    assert (data["n_triples"], data["n_questions"], data["n_passages"]) == (6, 2, 2)
    assert data["kinds"] == {kind: {"n": 1, "unchanged": 0, "opened": 1} for kind in ("small talk", "arithmetic")}
    assert data["unchanged"] == 0.0 and data["opened"] == 2 and data["max_new_tokens"] == 6
    assert set(data["answers"][0]["opened"][0]) == {"name", "property", "value"}
    assert data["passages"][0]["perplexity"] != data["passages"][0]["perplexity_without"]
    same = measured(engine, memory_kb, NEVER).to_dict()["answers"][0]
    assert same["unchanged"] and "text_without" not in same and same["text"]


def test_everything_can_come_after_a_question_about_the_kb(engine, memory_kb, monkeypatch):
    seen = []
    prompt_ids = engine.prompt_ids
    monkeypatch.setattr(engine, "prompt_ids", lambda messages, *more: seen.append(messages) or prompt_ids(messages, *more))
    later = measured(engine, memory_kb, NEVER, after_question=True)
    assert later.unchanged == 1.0 and later.perplexity == later.perplexity_without
    known = {t.statement for t in memory_kb}
    asked = [messages for messages in seen if messages[-1]["content"] in {q.text for q in QUESTIONS}]
    assert asked and {len(messages) for messages in seen} == {3}
    for first, reply, _ in asked:
        assert first["role"] == "user" and reply["role"] == "assistant" and reply["content"] in known
        assert any(t.name in first["content"] and t.property in first["content"] for t in memory_kb)
    assert later.to_dict()["after_question"] is True
    assert later.perplexity != measured(engine, memory_kb, NEVER).perplexity
    assert measured(engine, memory_kb, ALWAYS, after_question=True).unchanged == 0.0


def test_a_sample_is_seeded_and_in_order(engine, memory_kb):
    def asked(seed):
        options = UntouchedOptions(max_new_tokens=1, refusal_threshold=NEVER, limit=3, seed=seed)
        result = measure_untouched(engine, memory_kb, options, passages=[*PASSAGES, *PASSAGES])
        assert len(result.passages) == 3
        return [answer.question for answer in result.answers]

    texts = [question.text for question in general_questions()]
    first = asked(1)
    assert first == asked(1) != asked(2)
    assert sorted(first, key=texts.index) == first


def test_progress_is_told(engine, memory_kb):
    seen = []
    options = UntouchedOptions(max_new_tokens=1)
    measure_untouched(
        engine, memory_kb, options, questions=QUESTIONS, passages=PASSAGES, progress=lambda *told: seen.append(told)
    )
    assert seen == [("answers", 1, 2), ("answers", 2, 2), ("passages", 1, 2), ("passages", 2, 2)]


@pytest.mark.parametrize("options", [{"max_new_tokens": 0}, {"limit": 0}, {"seed": -1}], ids=str)
def test_wrong_options(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        UntouchedOptions(**options)


def test_nothing_to_compare(engine, memory_kb):
    with pytest.raises(ConfigurationError, match="at least one question"):
        measure_untouched(engine, memory_kb, questions=[], passages=PASSAGES)
    with pytest.raises(ConfigurationError, match="refusal_threshold"):
        measured(engine, memory_kb, 1.0)


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def model(engine, monkeypatch):
    monkeypatch.setattr(untouched, "load_model", lambda *source: engine)
    monkeypatch.setattr("kblam_engine.evaluation.untouched.neutral_passages", lambda: PASSAGES)


def test_the_command_takes_files_and_knowledge_bases(kblam, model, six_triples, tmp_path):
    write_triples(tmp_path / "six.jsonl", six_triples)
    with KnowledgeBase.open(tmp_path / "six.kb", encoder=HashingEncoder()) as kb:
        kb.add(six_triples)
    written = []
    for name in ("six.jsonl", "six.kb"):
        arguments = ["--kb", tmp_path / name, "--refusal-threshold", ALWAYS, "--limit", 2, "--max-new-tokens", 4]
        code, out, err = kblam("untouched", *arguments, "--seed", 5, "--json", tmp_path / "out.json")
        assert (code, err) == (0, "")
        assert "unchanged" in out and "6 triples, refusal threshold 1e-06" in out and "changed: " in out
        assert "perplexity of 2 passages" in " ".join(out.split())
        written.append(json.loads((tmp_path / "out.json").read_text()))
    one, other = written
    assert one["format"] == "kblam-untouched/1" and one["model"] == "smollm2-135m" and one["seed"] == 5
    assert (one["n_triples"], one["n_questions"], one["refusal_threshold"]) == (6, 2, ALWAYS)
    assert one["answers"] == other["answers"] and one["perplexity"] == other["perplexity"]


def test_the_json_goes_to_stdout_alone(kblam, model, six_triples, tmp_path):
    write_triples(tmp_path / "six.jsonl", six_triples)
    arguments = ["--kb", tmp_path / "six.jsonl", "--limit", 1, "--max-new-tokens", 1, "--json", "-"]
    code, out, err = kblam("untouched", *arguments)
    assert code == 0 and json.loads(out)["n_questions"] == 1 and "perplexity of 1 passages" in " ".join(err.split())


def test_mistakes_are_told_before_the_model_loads(kblam, tmp_path, monkeypatch):
    monkeypatch.setattr(untouched, "load_model", None)
    for arguments in (["--kb", tmp_path / "none.jsonl"], ["--kb", tmp_path, "--json", tmp_path / "no" / "x.json"]):
        code, out, err = kblam("untouched", *arguments)
        assert (code, out) == (1, "") and err.startswith("kblam: ") and err.count("\n") == 1
