from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from kblam_engine.evaluation.metrics import contains
from kblam_engine.evaluation.questions import read_questions
from kblam_engine.training.config import HELD_OUT_PROPERTIES
from kblam_engine.training.written import load_written
from kblam_engine.triple_files import read_jsonl

TESTS = Path(__file__).parent
VALIDATION = TESTS / "validation"
WRITTEN = TESTS.parent / "kblam_engine" / "training" / "written"
SETS = sorted(path for folder in (VALIDATION, WRITTEN) for path in folder.glob("*.kb.jsonl"))
REASONS = {"unknown name", "unknown property", "near-miss name"}


def questions_of(kb: Path) -> Path:
    return kb.with_name(kb.name.replace(".kb.", ".questions."))


@pytest.mark.parametrize("path", SETS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_answers_are_in_the_knowledge_base_and_the_rest_is_not(path: Path) -> None:
    triples = list(read_jsonl(path))
    kb = {(t.name, t.property): t.value for t in triples}
    names = {t.name.casefold() for t in triples}
    questions = read_questions(questions_of(path))
    n_triples, n_questions = (100, 70) if path.parent == VALIDATION else (65, 55)
    assert len(kb) == len(triples) >= n_triples
    assert len({str(q.messages) for q in questions}) == len(questions) >= n_questions
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


@pytest.mark.parametrize("path", SETS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_conversations_take_turns(path: Path) -> None:
    for question in read_questions(questions_of(path)):
        roles = [message["role"] for message in question.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert len(roles) >= (3 if question.kind == "follow_up" else 1)


def test_training_sets_share_neither_names_nor_properties_with_what_evaluates() -> None:
    evaluated = [t for folder in ("heldout", "validation") for p in (TESTS / folder).glob("*.kb.jsonl") for t in read_jsonl(p)]
    names = {t.name.casefold() for t in evaluated}
    for path in SETS:
        if path.parent == WRITTEN:
            triples = list(read_jsonl(path))
            assert not names & {t.name.casefold() for t in triples}, path.name
            assert not HELD_OUT_PROPERTIES & {t.property.casefold() for t in triples}, path.name


def test_written_sets_become_one_world_of_samples() -> None:
    written = load_written()
    assert len(written.samples) == sum(len(read_questions(questions_of(p))) for p in SETS if p.parent == WRITTEN)
    for sample in written.samples:
        if sample.supports:
            assert sample.answer == "\n".join(written.world.known[p].triple.statement for p in sample.supports)
        else:
            assert (sample.kind, sample.answer) == ("unanswerable", None)
            assert sample.entities
    drawn = [written.draw(Random(seed)) for seed in range(300)]
    withheld = [sample for sample in drawn if sample.hidden]
    assert 5 < len(withheld) < 60
    assert all((s.kind, s.supports, s.answer) == ("unanswerable", (), None) for s in withheld)


def test_what_a_run_excludes_is_not_in_its_written_samples() -> None:
    triple = load_written().world.known[0].triple
    name, prop = triple.name, triple.property.casefold()
    for written in (load_written(exclude_names={name}), load_written(exclude_properties={prop})):
        held = {(k.triple.name, k.triple.property.casefold()) for k in written.world.known}
        assert (name, prop) not in held
        assert 0 < len(written.samples) < len(load_written().samples)
    assert name not in {k.triple.name for k in load_written(exclude_names={name}).world.known}


def test_folds_part_the_sets() -> None:
    written = load_written()
    folds = [written.fold(number, 4) for number in range(4)]
    assert sum(len(fold.samples) for fold in folds) == len(written.samples)
    assert not set(folds[0].sets) & set(folds[1].sets)
    assert folds[1].world is written.world
