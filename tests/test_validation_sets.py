from __future__ import annotations

from pathlib import Path

import pytest

from kblam_engine.evaluation.metrics import contains
from kblam_engine.evaluation.questions import read_questions
from kblam_engine.triples import read_jsonl

FOLDER = Path(__file__).parent / "validation"
SETS = sorted(path.name.removesuffix(".kb.jsonl") for path in FOLDER.glob("*.kb.jsonl"))
REASONS = {"unknown name", "unknown property", "near-miss name"}


@pytest.mark.parametrize("name", SETS)
def test_answers_are_in_the_knowledge_base_and_the_rest_is_not(name: str) -> None:
    triples = list(read_jsonl(FOLDER / f"{name}.kb.jsonl"))
    kb = {(t.name, t.property): t.value for t in triples}
    names = {t.name.casefold() for t in triples}
    questions = read_questions(FOLDER / f"{name}.questions.jsonl")
    assert len(kb) == len(triples) >= 100
    assert len({str(q.messages) for q in questions}) == len(questions) >= 70
    for question in questions:
        if question.answerable:
            assert len(question.answers) == len(question.supports) == 1 + (question.kind == "two_facts")
            for accepted, support in zip(question.answers, question.supports, strict=True):
                assert contains(kb[support], accepted[0]), question
        else:
            # The two oldest sets name neither a reason nor what is absent.
            assert question.metadata.get("reason", "unknown name") in REASONS
            for support in question.supports:
                assert support not in kb, question
                known = support[0].casefold() in names
                assert known == (question.metadata["reason"] == "unknown property"), question


@pytest.mark.parametrize("name", SETS)
def test_conversations_take_turns(name: str) -> None:
    for question in read_questions(FOLDER / f"{name}.questions.jsonl"):
        roles = [message["role"] for message in question.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert len(roles) >= (3 if question.kind == "follow_up" else 1)
