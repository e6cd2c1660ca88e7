from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kblam_engine.errors import MissingDependencyError
from kblam_engine.evaluation.metrics import contains
from kblam_engine.evaluation.questions import Question, read_questions
from kblam_engine.training.config import SOURCES as TRAINED_ON
from kblam_engine.triple_files import read_jsonl
from kblam_engine.triples import Triple

FOLDER = Path(__file__).parent / "heldout"
SOURCES = ("elements", "cwe", "edam")
SETS = ("elements.questions", "cwe.questions", "elements.fresh", "cwe.fresh", "edam.fresh", "elements.second", "cwe.second", "edam.second")
REASONS = {"unknown name", "unknown property", "near-miss name"}


def _kb(source: str) -> dict[tuple[str, str], str]:
    return {(t.name, t.property): t.value for t in read_jsonl(FOLDER / f"{source}.kb.jsonl")}


def _source(name: str) -> str:
    return name.split(".")[0]


def _questions(name: str) -> list[Question]:
    return read_questions(FOLDER / f"{name}.jsonl")


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _distractors() -> ModuleType:
    return _script("make_distractors")


@pytest.mark.parametrize("name", SETS)
def test_sizes_and_kinds(name: str) -> None:
    questions, kb = _questions(name), _kb(_source(name))
    kinds = [q.kind for q in questions]
    assert len(kb) >= 100
    assert len(questions) >= 70
    assert kinds.count("simple") >= 36
    assert kinds.count("two_facts") >= 10
    assert kinds.count("follow_up") >= 10
    assert kinds.count("unanswerable") >= 16
    assert len({str(q.messages) for q in questions}) == len(questions)


@pytest.mark.parametrize("name", SETS)
def test_every_answer_is_in_its_support(name: str) -> None:
    kb = _kb(_source(name))
    for question in _questions(name):
        if not question.answerable:
            continue
        assert len(question.answers) == len(question.supports) == (2 if question.kind == "two_facts" else 1)
        for accepted, support in zip(question.answers, question.supports, strict=True):
            assert support in kb, question
            assert all(contains(kb[support], string) for string in accepted), question
            assert len(kb[support].split()) < 40, question


@pytest.mark.parametrize("name", SETS)
def test_follow_ups_are_conversations(name: str) -> None:
    for question in _questions(name):
        if question.kind == "follow_up":
            roles = [message["role"] for message in question.messages]
            assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
            assert len(roles) >= 3


@pytest.mark.parametrize("name", SETS)
def test_names_that_are_asked_about_have_siblings(name: str) -> None:
    kb = _kb(_source(name))
    for question in _questions(name):
        for asked, _ in question.supports:
            if question.answerable:
                assert sum(asked == other for other, _ in kb) >= 4


@pytest.mark.parametrize("name", SETS)
def test_unanswerable_questions_are_so_in_the_whole_source(name: str) -> None:
    try:
        distractors = _distractors().distractors(_source(name))
    except MissingDependencyError as error:
        pytest.skip(str(error))
    kb = _kb(_source(name))
    everywhere = set(kb) | {(t.name, t.property) for t in distractors}
    names = {known.casefold() for known, _ in everywhere}
    assert len(distractors) >= 1000
    assert not set(kb) & {(t.name, t.property) for t in distractors}
    for question in _questions(name):
        if question.answerable:
            continue
        assert question.answers == ()
        assert question.metadata["reason"] in REASONS
        for asked, property_name in question.supports:
            assert (asked, property_name) not in everywhere
            known = asked.casefold() in names
            assert known == (question.metadata["reason"] == "unknown property"), question


@pytest.mark.parametrize("source", SOURCES)
def test_the_knowledge_base_is_what_the_source_says(source: str) -> None:
    from kblam_engine.datasets import load

    try:
        values = {(t.name, t.property): t.value for t in load(source)}
    except MissingDependencyError as error:
        pytest.skip(str(error))
    for key, value in _kb(source).items():
        assert values[key] == value


def test_unknown_names_do_not_occur_in_the_text_of_the_source() -> None:
    for name in SETS:
        try:
            distractors = _distractors().distractors(_source(name))
        except MissingDependencyError as error:
            pytest.skip(str(error))
        for question in _questions(name):
            if question.metadata.get("reason") == "unknown name" and question.supports[0][0] != "Bronze":
                asked = re.escape(question.supports[0][0])
                assert not [t for t in distractors if re.search(rf"\b{asked}\b", t.value, re.IGNORECASE)]


@pytest.mark.parametrize("source", ["elements", "cwe"])
def test_fresh_questions_are_new(source: str) -> None:
    def words(question: Question) -> str:
        return " ".join(" ".join(re.findall(r"\w+", m["content"].casefold())) for m in question.messages)

    old, fresh = _questions(f"{source}.questions"), _questions(f"{source}.fresh")
    assert not {words(q) for q in old} & {words(q) for q in fresh}


@pytest.mark.parametrize("name", [name for name in SETS if not name.endswith(".questions")])
def test_fresh_questions_seldom_use_the_words_of_the_property(name: str) -> None:
    simple = [q for q in _questions(name) if q.kind == "simple"]
    literal = [q for q in simple if q.supports[0][1].casefold() in q.text.casefold()]
    assert len(literal) <= len(simple) / 4


def test_a_million_triples_keep_the_answers_of_the_held_out_sets() -> None:
    _distractors()  # which the other script imports
    million = _script("make_million")
    held = [t for source in SOURCES for t in read_jsonl(FOLDER / f"{source}.kb.jsonl")]
    rival, other = Triple(held[0].name.upper(), held[0].property, "another value"), Triple("Orca 2", "payload", "80 kg")
    assert list(million.million(held, [rival, other])) == [*held, other]
    assert not {*million.FREE, *SOURCES} & set(TRAINED_ON)
