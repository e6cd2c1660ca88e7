"""Training data: the lexicon's files, invented worlds, samples and pools that make sense, all from a seed."""

import json
from importlib import resources
from random import Random

import numpy as np
import pytest

from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.training import inventions
from kblam_engine.training.lexicon import load_lexicon
from kblam_engine.training.pools import EncodedWorld, draw_pool
from kblam_engine.training.samples import (
    draw,
    follow_up,
    simple,
    two_facts,
    unanswerable,
)
from kblam_engine.training.worlds import invented_world, source_world
from kblam_engine.triples import Triple
from kblam_engine.wording import same_word, words

LEXICON = [
    (file.name, number, json.loads(line))
    for file in sorted((resources.files("kblam_engine.training") / "lexicon").iterdir(), key=lambda f: f.name)
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
]
LISTS = ("questions", "follow_ups", "answers", "near", "near_questions", "values")


@pytest.fixture(scope="module")
def lexicon():
    return load_lexicon()


@pytest.fixture(scope="module")
def world(lexicon):
    return invented_world(Random(1), lexicon, ["a long text about nothing in particular"], 60)


def drawn(world, n=300, seed=0):
    random = Random(seed)
    return [draw(random, world) for _ in range(n)]


# --- lexicon ----------------------------------------------------------------------------------------------


def test_every_line_of_the_lexicon_is_complete():
    for file, number, item in LEXICON:
        where = f"{file}, line {number}"
        if file.startswith("names_"):
            assert item.keys() == {"about", "names"}, where
            assert item["names"] and all(
                isinstance(n, str) and n.strip() == n != "" for n in item["names"]
            ), where
            continue
        if file.startswith("calls_"):
            assert item.keys() == {"name", "called"}, where
            assert len(set(item["called"])) == len(item["called"]) >= 2, where
            assert all(isinstance(c, str) and c.strip() == c not in ("", item["name"]) for c in item["called"]), where
            continue
        assert item.keys() == {"property", "about", "value_kind", *LISTS}, where
        assert isinstance(item["property"], str) and isinstance(item["value_kind"], str), where
        assert item["about"] and isinstance(item["about"], list), where
        for key in LISTS:
            assert item[key], f"{where}: {key} is empty"
            assert all(isinstance(text, str) and text.strip() == text != "" for text in item[key]), (
                f"{where}: {key}"
            )


def test_placeholders_of_the_lexicon():
    for file, number, item in LEXICON:
        if file.startswith(("names_", "calls_")):
            continue
        where = f"{file}, line {number}"
        for question in (*item["questions"], *item["near_questions"]):
            assert question.count("{n}") == 1, f"{where}: {question}"
        for question in item["follow_ups"]:
            assert "{" not in question, f"{where}: {question}"
        for answer in item["answers"]:
            assert answer.count("{v}") == 1 and answer.count("{n}") <= 1, f"{where}: {answer}"
        for text in (*item["near"], *item["values"]):
            assert "{" not in text, f"{where}: {text}"
        assert item["property"] not in item["near"], where
        assert len(item["near"]) == len(item["near_questions"]), where


def test_what_is_described_is_in_the_lexicon(lexicon):
    assert len(lexicon.called) >= 800
    assert lexicon.called.keys() <= {name for names in lexicon.names.values() for name in names}
    own, others = lexicon.fold(0, 2)
    assert own.called == others.called == lexicon.called


def test_the_lexicon_is_large_and_every_kind_has_names(lexicon):
    assert len(lexicon.properties) >= 200
    for kind in {kind for p in lexicon.properties for kind in p.about}:
        assert lexicon.names.get(kind), kind
    for phrases in lexicon.properties:
        Triple(lexicon.names[phrases.about[0]][0], phrases.property, phrases.values[0])


# --- inventions and worlds --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        inventions.word,
        inventions.person,
        inventions.name,
        inventions.number,
        inventions.date,
        inventions.code,
    ],
)
def test_inventions_are_varied_and_come_from_the_seed(make):
    texts = [make(Random(seed)) for seed in range(200)]
    assert texts == [make(Random(seed)) for seed in range(200)]
    assert all(t.strip() == t != "" for t in texts)
    assert len(set(texts)) > 100


def test_near_name_is_another_name():
    random = Random(0)
    for _ in range(500):
        name = inventions.name(random)
        assert inventions.near_name(random, name) != name


def test_worlds_are_consistent(world):
    assert len(world.entities) == 60
    assert [p for e in world.entities for p in e] == list(range(len(world.known)))
    for number, members in enumerate(world.entities):
        known = [world.known[p] for p in members]
        assert len(known) >= 2
        assert {k.entity for k in known} == {number}
        assert len({k.triple.name for k in known}) == 1
        assert len({k.triple.property for k in known}) == len(known)
    assert len({world.known[e[0]].triple.name for e in world.entities}) == 60


def test_world_of_real_triples_leaves_long_values_out(six_triples):
    long = Triple("Orca 2", "history", "x" * 300)
    made = source_world(Random(0), [*six_triples, long], 10)
    assert {k.triple for k in made.known} == set(six_triples)
    assert all(k.phrases is None for k in made.known)
    kinds = {sample.kind for sample in drawn(made, 100)}
    assert kinds == {"simple", "follow_up", "two_facts", "unanswerable"}


def test_the_seed_decides_everything(lexicon):
    def everything(seed):
        random = Random(seed)
        made = invented_world(random, lexicon, [], 12)
        return made, [draw(random, made) for _ in range(50)]

    assert everything(3) == everything(3)
    assert everything(3) != everything(4)


# --- samples ----------------------------------------------------------------------------------------------


def mentions(text, name):
    """Whether most words of a name are in a text, or two of a long one: people shorten; typing mistakes count."""
    said = words(text)
    wanted = words(name)
    return sum(any(same_word(w, s) > 0 for s in said) for w in wanted) >= min(2, len(wanted) / 2)


def conversation(sample):
    return " ".join(m["content"] for m in sample.messages)


def test_all_kinds_are_drawn(world):
    kinds = [s.kind for s in drawn(world)]
    for kind in ("simple", "follow_up", "two_facts", "unanswerable"):
        assert kinds.count(kind) > 15, kind


def test_messages_are_a_chat_that_ends_with_a_question(world):
    for sample in drawn(world):
        roles = [m["role"] for m in sample.messages]
        assert roles == [("user", "assistant")[i % 2] for i in range(len(roles))] and roles[-1] == "user"
        assert all(m["content"].strip() for m in sample.messages)
        assert "{" not in conversation(sample)


def test_supports_are_really_asked_for(world):
    def meant(text, known):
        return mentions(text, known.triple.name) or any(c.casefold() in text.casefold() for c in known.called)

    asked = [
        meant(conversation(sample), world.known[position]) for sample in drawn(world) for position in sample.supports
    ]
    # Now and then a slip of the fingers hits the only telling word that a shortened name has left.
    assert len(asked) > 200 and sum(asked) >= 0.98 * len(asked)


def test_half_of_what_people_describe_is_described(lexicon):
    world = invented_world(Random(1), lexicon, [], 80, titles=True)
    samples = [s for s in (draw(Random(i), world) for i in range(400)) if s.kind == "simple"]
    described = [
        any(c.casefold() in s.messages[-1]["content"].casefold() for c in world.known[s.supports[0]].called)
        for s in samples
        if world.known[s.supports[0]].called
    ]
    assert len(described) > 60 and 0.35 < np.mean(described) < 0.65


def test_some_questions_ask_for_something_that_the_kb_leaves_out_altogether(world):
    absent = [s for s in drawn(world) if s.kind == "unanswerable" and s.hidden in world.entities]
    assert absent and all(not s.supports and not s.entities for s in absent)


def test_number_of_supports(world):
    random = Random(5)
    for _ in range(100):
        assert len(simple(random, world).supports) == 1
        assert len(follow_up(random, world).supports) == 1
        first, second = two_facts(random, world).supports
        assert first != second
        none = unanswerable(random, world)
        assert none.supports == () and none.answer is None


def test_follow_up_names_its_subject_earlier(world):
    random = Random(6)
    for _ in range(100):
        sample = follow_up(random, world)
        assert len(sample.messages) >= 3
        name = world.known[sample.supports[0]].triple.name
        assert mentions(" ".join(m["content"] for m in sample.messages[:-1]), name)


def test_answers_say_the_values_in_order(world):
    for sample in drawn(world):
        if sample.answer is None:
            continue
        lines = sample.answer.split("\n") if len(sample.supports) > 1 else [sample.answer]
        assert len(lines) == len(sample.supports)
        for line, position in zip(lines, sample.supports, strict=True):
            assert world.known[position].triple.value.rstrip(".") in line


def test_unanswerable_questions_of_every_kind(world):
    names = {k.triple.name.casefold() for k in world.known}
    random = Random(7)
    unknown = hidden = 0
    for _ in range(200):
        sample = unanswerable(random, world)
        hidden += bool(sample.hidden)
        unknown += not any(mentions(conversation(sample), n) for n in names)
    assert hidden > 15 and unknown > 10


# --- pools ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoded(world):
    return EncodedWorld(world, HashingEncoder())


@pytest.mark.parametrize("size", [5, 30, 100])
def test_pools_hold_the_supports_and_never_the_hidden(world, encoded, size):
    random = Random(8)
    for sample in drawn(world, 150, seed=8):
        pool = draw_pool(random, encoded, sample, size)
        members = set(pool.members.tolist())
        assert members >= set(sample.supports)
        assert not members & set(sample.hidden)
        assert pool.members[pool.positions_of(sample.supports)].tolist() == list(sample.supports)
        assert len(members) == len(pool) and len(pool) < size + 40


def test_pool_is_a_table_of_its_own(world, encoded):
    pool = draw_pool(Random(0), encoded, drawn(world, 1)[0], 40)
    triples = pool.triples(range(len(pool)))
    encoder = HashingEncoder()
    np.testing.assert_allclose(pool.key_embeddings, encoder.encode([t.key_text for t in triples]), atol=1e-6)
    np.testing.assert_allclose(pool.value_embeddings(), encoder.encode([t.value for t in triples]), atol=1e-6)
    properties = pool.property_embeddings[pool.property_index]
    np.testing.assert_allclose(properties, encoder.encode([t.property for t in triples]), atol=1e-6)
    assert len(pool.property_embeddings) == len({t.property for t in triples})
    for position, triple in enumerate(triples):
        same = pool.positions_of_name(int(pool.name_index[position]))
        assert {t.name for t in pool.triples(same)} == {triple.name} and position in same
