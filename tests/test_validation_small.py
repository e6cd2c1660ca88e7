"""Knowledge bases of one to ten triples: what they hold, and what is asked about them."""

import json
from itertools import chain
from pathlib import Path

import pytest

from kblam_engine.evaluation.untouched import general_questions
from kblam_engine.training.other_subjects import other_subjects
from kblam_engine.triple_files import read_jsonl
from kblam_engine.triples import Triple
from kblam_engine.wording import words

TESTS = Path(__file__).parent
SMALL = TESTS / "validation" / "small.jsonl"
WRITTEN = TESTS.parent / "kblam_engine" / "training" / "written"


@pytest.fixture(scope="module")
def kbs():
    return [json.loads(line) for line in SMALL.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def questions(kbs):
    return list(chain.from_iterable(kb["questions"] for kb in kbs))


def spelled(text):
    return " ".join(words(text))


def test_sizes(kbs, questions):
    sizes = [len(kb["kb"]) for kb in kbs]
    assert [sum(low <= size <= high for size in sizes) for low, high in ((1, 1), (2, 3), (4, 6), (7, 10))] == [10, 10, 8, 8]
    for kb in kbs:
        answerable = sum(bool(question["supports"]) for question in kb["questions"])
        assert 3 <= answerable <= 5
        assert 6 <= len(kb["questions"]) - answerable <= 8
    assert sum(bool(question["supports"]) for question in questions) >= 130
    assert sum(not question["supports"] for question in questions) >= 210
    assert 0.08 < sum("before" in question for question in questions) / len(questions) < 0.12


def test_what_answers_is_in_the_knowledge_base(kbs):
    for kb in kbs:
        assert set(kb) == {"kb", "questions"}
        pairs = [(triple.name, triple.property) for triple in (Triple(*texts) for texts in kb["kb"])]
        assert len(set(pairs)) == len(pairs)
        for question in kb["questions"]:
            supports = [tuple(support) for support in question["supports"]]
            assert len(set(supports)) == len(supports)
            assert set(supports) <= set(pairs), question
        # Most of what a knowledge base holds is asked: a set that asks the first triple only would say little.
        asked = {tuple(support) for question in kb["questions"] for support in question["supports"]}
        assert len(asked) >= min(3, len(pairs)), kb["kb"]


def test_questions_are_texts_and_none_is_asked_twice(questions):
    assert len({spelled(question["question"]) for question in questions}) == len(questions)
    for question in questions:
        assert set(question) - {"before"} == {"question", "supports"}
        assert question["question"] == question["question"].strip() != ""
        for turn in question.get("before", [["user", "assistant"]]):
            assert len(turn) == 2, question
            assert all(isinstance(text, str) and text.strip() for text in turn)


def test_no_name_is_known_to_training_or_to_what_evaluates(kbs):
    names = {name.casefold() for kb in kbs for name, _, _ in kb["kb"]}
    subjects = [{name.casefold() for name, _, _ in kb["kb"]} for kb in kbs]
    assert sum(map(len, subjects)) == len(names)
    others = [*WRITTEN.glob("*.kb.jsonl"), *TESTS.glob("*/*.kb.jsonl")]
    assert len(others) > 50
    for path in others:
        assert not names & {triple.name.casefold() for triple in read_jsonl(path)}, path.name


def test_no_question_is_one_of_training_or_of_kblam_untouched(questions):
    others = [set(words(text)) for text in (*other_subjects(), *(q.text for q in general_questions()))]
    for text in (question["question"] for question in questions if not question["supports"]):
        asked = set(words(text))
        assert max(len(asked & other) / len(asked | other) for other in others) < 0.75, text
