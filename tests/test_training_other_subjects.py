"""Turns that change the subject: what they are, and the samples they make."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from kblam_engine.evaluation.untouched import general_questions
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.training import evidence
from kblam_engine.training.other_subjects import AT_ONCE_SHARE, change_subject, other_subjects
from kblam_engine.training.pools import EncodedWorld, draw_pool
from kblam_engine.training.samples import Sample, draw
from kblam_engine.training.worlds import source_world
from kblam_engine.triples import Triple
from kblam_engine.wording import words

VALIDATION = Path(__file__).parent / "validation" / "other_subjects.txt"


@pytest.fixture(scope="module")
def world():
    triples = [Triple(f"Unit {n}", prop, f"{prop} {n}") for n in range(12) for prop in ("mass", "maker", "colour")]
    return source_world(Random(0), triples, 12)


def alike(a, b):
    a, b = set(words(a)), set(words(b))
    return len(a & b) / len(a | b)


def test_turns_of_training_are_many_and_of_their_own():
    turns = other_subjects()
    assert len(turns) == len({" ".join(words(turn)) for turn in turns}) >= 400
    validation = [line for line in VALIDATION.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    assert len(validation) >= 50
    for other in [*validation, *(question.text for question in general_questions())]:
        assert max(alike(turn, other) for turn in turns) < 0.75, other


def test_the_subject_changes_after_an_answer(world):
    random, kinds = Random(1), Counter()
    for _ in range(300):
        sample = draw(random, world, unanswerable_share=0.0)
        changed = change_subject(random, sample, world)
        assert (changed.kind, changed.supports, changed.answer) == ("unanswerable", (), None)
        assert changed.messages[-1] in [{"role": "user", "content": turn} for turn in other_subjects()]
        assert set(changed.entities) == {world.known[p].entity for p in sample.supports}
        kinds["at once" if len(changed.messages) == 1 else "later"] += 1
        if len(changed.messages) > 1:
            assert changed.messages[:-2] == sample.messages
            assert changed.messages[-2] == {"role": "assistant", "content": sample.answer}
    assert kinds["at once"] == pytest.approx(300 * AT_ONCE_SHARE, abs=30)


def test_what_was_asked_before_stays_in_the_kb(world):
    random, encoded = Random(2), EncodedWorld(world, HashingEncoder())
    for _ in range(30):
        sample = draw(random, world, unanswerable_share=0.0)
        pool = draw_pool(random, encoded, change_subject(random, sample, world), 10)
        assert set(sample.supports) <= set(pool.members.tolist())


def test_without_an_answer_there_is_no_subject_to_change(world):
    with pytest.raises(ValueError, match="with an answer"):
        change_subject(Random(0), Sample("unanswerable", (), (), None), world)


def test_some_questions_of_the_head_change_the_subject(world, monkeypatch):
    seen = []

    def examine(retriever, messages, table, supports, kind, hidden_query=None):
        seen.append(messages[-1]["content"] in other_subjects())
        assert not (seen[-1] and supports)

    monkeypatch.setattr(evidence, "examine", examine)
    source = evidence.templates(EncodedWorld(world, HashingEncoder()))
    evidence.make_examined(Random(3), None, [source], 600, [10])
    share = (1 - evidence.UNANSWERABLE_SHARE) * evidence.OTHER_SUBJECT_SHARE
    assert sum(seen) == pytest.approx(600 * share, abs=15)
