"""Questions that answers are trained on: the paper's kinds and proportions, chains, styles, and what they are refused for."""

import json
from collections import Counter
from random import Random

import pytest

from kblam_engine.errors import ConfigurationError
from kblam_engine.training import samples
from kblam_engine.training.config import ANSWER_KINDS, TrainConfig, recipe
from kblam_engine.training.instructions import bare, chain, draw_answered, in_style, multi_entity, open_ended
from kblam_engine.training.lexicon import load_lexicon
from kblam_engine.training.question_frames import (
    AS_LIST,
    AS_SENTENCE,
    AS_VALUE,
    OPEN_ENDS,
    PAPER_QUESTIONS,
    PAPER_SEVERAL,
)
from kblam_engine.training.samples import Sample
from kblam_engine.training.worlds import invented_world, linked, source_world
from kblam_engine.triples import Triple

PAPER = {"unanswerable": 2, "simple": 6, "several": 6, "open_ended": 6}
"""Of the 20 micro-batches of a step in the paper."""
GROUPS = {"follow_up": "simple", "two_facts": "several", "multi_entity": "several", "chain": "several"}


@pytest.fixture(scope="module")
def world():
    return linked(Random(2), invented_world(Random(1), load_lexicon(), [], 200))


def asked(sample):
    return sample.messages[-1]["content"]


# --- kinds ------------------------------------------------------------------------------------------------


def test_kinds_come_in_the_papers_proportions(world):
    random = Random(0)
    found = Counter(GROUPS.get(kind, kind) for kind in (draw_answered(random, world).kind for _ in range(4000)))
    assert found.keys() == PAPER.keys()
    for kind, weight in PAPER.items():
        assert found[kind] / 4000 == pytest.approx(weight / 20, abs=0.03), kind


def test_weights_choose_the_kinds(world):
    random = Random(0)
    kinds = (("chain", 1.0), ("open_ended", 0.0), ("unanswerable", 3.0))
    found = Counter(draw_answered(random, world, kinds).kind for _ in range(400))
    assert found.keys() == {"chain", "unanswerable"} and 60 < found["chain"] < 140


@pytest.mark.parametrize(
    "changes",
    [
        {"answer_kinds": (("riddle", 1.0),)},
        {"answer_kinds": (("simple", 1.0), ("simple", 1.0))},
        {"answer_kinds": (("simple", 0.0),)},
        {"answer_kinds": (("simple", 2.0), ("chain", -1.0))},
        {"answer_kinds": ()},
        {"style_share": 1.2},
        {"mined_share": -0.1},
        {"chain_share": 2.0},
        {"kb_sizes": (100, 10)},
        {"kb_sizes": (0, 10)},
        {"n_large_entities": 0},
    ],
    ids=str,
)
def test_wrong_configurations_of_answers_are_refused(changes):
    with pytest.raises(ConfigurationError):
        recipe("smoke", **changes)


def test_the_configuration_is_json():
    told = json.loads(json.dumps(TrainConfig().to_dict()))
    assert dict(told["answer_kinds"]) == dict(ANSWER_KINDS) and told["kb_sizes"] == [10, 10_000]


def test_a_world_without_siblings_or_links_is_asked_other_kinds():
    triples = [Triple(f"Ship {i}", "tonnage", str(i)) for i in range(30)]
    lonely = source_world(Random(0), triples, 30)
    random = Random(0)
    found = {draw_answered(random, lonely).kind for _ in range(300)}
    assert found == {"simple", "multi_entity", "open_ended", "unanswerable"}
    alone = source_world(Random(0), triples[:1], 1)
    assert {multi_entity(random, alone).kind, chain(random, alone).kind} == {"simple"}


def test_every_answer_holds_the_values_that_are_asked_for(world):
    random = Random(3)
    for _ in range(600):
        sample = draw_answered(random, world)
        assert (sample.answer is None) == (not sample.supports)
        for at in sample.supports:
            assert world.known[at].triple.value in sample.answer


# --- several triples --------------------------------------------------------------------------------------


def test_two_or_three_triples_are_asked_for_in_the_papers_frames(world):
    random = Random(0)
    drawn = [s for s in (multi_entity(random, world) for _ in range(400)) if s.kind == "multi_entity"]
    assert {len(s.supports) for s in drawn} == {2, 3}
    starts = {frame.partition("{")[0].strip() for frame in PAPER_SEVERAL}
    for sample in drawn:
        triples = [world.known[at].triple for at in sample.supports]
        assert len({t.name for t in triples}) == len(triples)
        assert all(t.key_text in asked(sample) for t in triples)
        assert any(asked(sample).startswith(start) for start in starts)
        assert sample.answer == "\n".join(t.statement for t in triples)


def test_links_are_values_that_name_other_things(world):
    assert len(world.links) > 20
    for at, entity in world.links:
        target = world.known[world.entities[entity][0]].triple.name
        assert world.known[at].triple.value == target != world.known[at].triple.name
    plain = invented_world(Random(1), load_lexicon(), [], 200)
    changed = [a for a, b in zip(plain.known, world.known, strict=True) if a.triple != b.triple]
    assert {k.phrases.value_kind for k in changed} <= {"person", "place", "short"}
    assert world.entities == plain.entities and linked(Random(2), plain, 0.0) == plain


def test_people_are_linked_to_people(world):
    people = {"person", "employee", "artist", "scientist", "athlete", "historical figure"}
    of_people = [entity for at, entity in world.links if world.known[at].phrases.value_kind == "person"]
    assert of_people
    for entity in of_people:
        assert set.intersection(*(set(world.known[at].phrases.about) for at in world.entities[entity])) & people


def test_a_chain_needs_the_second_triple_of_what_the_first_one_names(world):
    random = Random(0)
    for _ in range(200):
        sample = chain(random, world)
        first, second = (world.known[at].triple for at in sample.supports)
        assert sample.kind == "chain" and first.value == second.name
        assert first.property in asked(sample), "the way to the second triple is in the question"
        assert second.value not in asked(sample) or second.value in asked(sample).split()
        assert sample.answer == f"{first.statement}\n{second.statement}"


# --- open ends and styles ---------------------------------------------------------------------------------


def test_open_ended_answers_begin_with_the_statement(world):
    random = Random(0)
    ends = {end for end, _ in OPEN_ENDS}
    for _ in range(200):
        sample = open_ended(random, world)
        statement = world.known[sample.supports[0]].triple.statement
        assert sample.answer.startswith(f"{statement} ") and len(sample.answer) > len(statement) + 20
        assert any(asked(sample).casefold().endswith(f"{end}?") for end in ends)
        assert "{" not in sample.answer.removeprefix(statement)


def test_a_bare_value_is_the_end_of_its_statement():
    triple = Triple("The Hague Hotel", "head of the house", "Dr. Ana Is")
    assert bare(triple) == "Dr. Ana Is."
    assert bare(Triple("Acme", "motto", "Onward.")) == "Onward."


@pytest.mark.parametrize("n", [1, 2])
def test_the_style_follows_from_the_wording(world, n):
    supports = tuple(world.entities[5][:n])
    triples = [world.known[at].triple for at in supports]
    full, short = "\n".join(t.statement for t in triples), "\n".join(bare(t) for t in triples)
    sample = Sample("simple", ({"role": "user", "content": "What about it?"},), supports, full)
    answers = {}
    for seed in range(200):
        styled = in_style(Random(seed), world, sample)
        answers.setdefault(styled.answer, set()).add(asked(styled).replace("What about it?", "{q}"))
    assert styled.supports == supports
    if n == 1:
        assert answers == {full: set(AS_SENTENCE), short: set(AS_VALUE)}
    else:
        assert answers == {short: set(AS_LIST)}


def test_a_plain_question_is_answered_by_statements(world):
    random = Random(0)
    for _ in range(300):
        sample = draw_answered(random, world, (("simple", 1.0), ("follow_up", 1.0), ("multi_entity", 1.0)), 0.0)
        assert sample.answer == "\n".join(world.known[at].triple.statement for at in sample.supports)


def test_the_wording_does_not_tell_what_has_no_answer(world):
    random = Random(0)
    marks = [frame.replace("{q}", "").strip() for frame in (*AS_VALUE, *AS_SENTENCE)] + [end for end, _ in OPEN_ENDS]

    def share(kind):
        texts = [asked(draw_answered(random, world, ((kind, 1.0),))) for _ in range(300)]
        return sum(any(mark.casefold() in text.casefold() for mark in marks) for text in texts) / 300

    assert share("unanswerable") > 0.4 and share("simple") > 0.2


def test_the_papers_frames_ask_for_one_triple(world):
    random = Random(0)
    starts = tuple(frame.partition("{")[0] for frame in PAPER_QUESTIONS)
    texts = [asked(draw_answered(random, world, (("simple", 1.0),), 0.0)) for _ in range(300)]
    assert sum(text.startswith(starts) for text in texts) > 60
    assert len(PAPER_QUESTIONS) == 16 and len(PAPER_SEVERAL) == 13


def test_what_retrieval_is_trained_on_has_no_styles(world):
    random = Random(0)
    kinds = {samples.draw(random, world).kind for _ in range(300)}
    assert kinds == {"simple", "follow_up", "two_facts", "unanswerable"}
