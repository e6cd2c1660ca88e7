"""Samples that are hard on purpose: scrambled texts, slips of the fingers, near-miss names; and what is left out."""

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from kblam_engine.datasets import DATASETS, debian
from kblam_engine.errors import ConfigurationError
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.training import inventions, recipe, samples
from kblam_engine.training.config import HELD_OUT_PROPERTIES, HELD_OUT_SOURCES, SOURCES, TrainConfig
from kblam_engine.training.lexicon import load_lexicon
from kblam_engine.training.pools import EncodedWorld, draw_pool
from kblam_engine.training.samples import Sample, unanswerable
from kblam_engine.training.worlds import invented_world, scrambled, source_world
from kblam_engine.triples import Triple
from kblam_engine.wording import same_word, words

HELD_OUT = Path(__file__).parent / "heldout"
TEXT = "whatever the keeper of the old light wrote down in the winter of that year"


@pytest.fixture(scope="module")
def lexicon():
    return load_lexicon()


@pytest.fixture(scope="module")
def world(lexicon):
    return invented_world(Random(1), lexicon, [TEXT], 120)


# --- scrambled names and values ---------------------------------------------------------------------------


def texts(world, field):
    return [getattr(k.triple, field) for k in world.known]


@pytest.mark.parametrize(("field", "least"), [("name", 4), ("value", 5)])
def test_scrambled_texts_keep_their_words(world, field, least):
    changed = scrambled(Random(0), world, share=1.0)
    n_changed = 0
    for before, after in zip(texts(world, field), texts(changed, field), strict=True):
        assert Counter(after.split()) == Counter(before.split())
        n_changed += after != before
        if len(before.split()) < least:
            assert after == before, "short ones stay"
    long = sum(len(text.split()) >= least for text in texts(world, field))
    assert long > 20 and n_changed > 0.9 * long


def test_scrambling_leaves_the_rest_alone(world):
    before = [k.triple for k in world.known]
    changed = scrambled(Random(0), world, share=1.0)
    assert [k.triple for k in world.known] == before
    assert changed.entities == world.entities
    for old, new in zip(world.known, changed.known, strict=True):
        assert new.triple.property == old.triple.property
        assert (new.phrases, new.entity) == (old.phrases, old.entity)
    for entity in changed.entities:
        assert len({changed.known[p].triple.name for p in entity}) == 1, "an entity still has one name"


def test_share_of_scrambled_texts(world):
    long = [i for i, value in enumerate(texts(world, "value")) if len(value.split()) >= 5]
    assert scrambled(Random(0), world, share=0.0) == world
    changed = scrambled(Random(0), world)
    n = sum(texts(changed, "value")[i] != texts(world, "value")[i] for i in long)
    assert 0.1 * len(long) < n < 0.5 * len(long)
    assert scrambled(Random(0), world) == changed != scrambled(Random(1), world)


# --- slips of the fingers ---------------------------------------------------------------------------------


def slips_of(text):
    """Return every text that is one slip away: neighbours swapped, a character left out, or one doubled."""
    swapped = {text[:i] + text[i + 1] + text[i] + text[i + 2 :] for i in range(len(text) - 1)}
    left_out = {text[:i] + text[i + 1 :] for i in range(len(text))}
    doubled = {text[:i] + text[i] + text[i:] for i in range(len(text))}
    return swapped | left_out | doubled


@pytest.mark.parametrize("text", ["Varnholm", "Port of Varnholm", "Orca-2041 Signal", "Ærøskøbing 12"])
def test_a_slip_changes_a_text_by_one_edit(text):
    made = {inventions.slip(Random(seed), text) for seed in range(200)}
    assert made <= slips_of(text) - {text}
    assert len(made) > 8
    assert {len(t) - len(text) for t in made} == {-1, 0, 1}


def test_a_slip_is_inside_a_word():
    """First and last letters, digits and spaces stay, so that it is still seen which name is meant."""
    for seed in range(300):
        slipped = inventions.slip(Random(seed), "Varnholm Kestrel 2041")
        before, after = "Varnholm Kestrel 2041".split(), slipped.split()
        assert len(after) == 3 and after[2] == "2041"
        assert [w[0] for w in after] == [w[0] for w in before]
        assert all(same_word(a.lower(), b.lower()) >= 0.7 for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("text", ["", "Orca", "12345678", "ab cd ef", "A1B2C3D4"])
def test_texts_without_room_for_a_slip_stay(text):
    assert {inventions.slip(Random(seed), text) for seed in range(20)} == {text}


def test_another_letter_is_another_name_and_a_slip_is_not():
    assert same_word("varnholm", "varnhelm") < same_word("varnholm", "varnhlm") == same_word("varnholm", "varnnholm")


# --- questions without an answer --------------------------------------------------------------------------


@pytest.fixture
def near_misses(monkeypatch):
    """A function that draws unanswerable questions about names that are not there: (sample, what was typed)."""
    monkeypatch.setattr(samples, "_ask_about", lambda random, known, typed: typed)
    monkeypatch.setattr(samples, "_unknown_property", lambda *_: None)
    monkeypatch.setattr(samples, "_absent", lambda *_: None)

    def draw(random, world):
        while True:
            sample = unanswerable(random, world)
            if sample is not None:
                yield sample, sample.messages[-1]["content"]

    return draw


def test_shortened_near_misses_say_more_than_the_name_that_is_there(near_misses):
    """Half of a catalogue title may be all that two items share: asked by it alone, the question has an answer."""
    random = Random(2)
    names = list({inventions.identified(random) for _ in range(60)})
    names += [f"{inventions.word(random)} {inventions.word(random)} {kind} of Varnholm" for kind in ("Bank", "Trail")]
    held = source_world(random, [Triple(n, p, "x") for n in names for p in ("owner", "state")], 100)
    shortened = 0
    for sample, typed in islice(near_misses(random, held), 1500):
        (entity,) = sample.entities
        name = held.known[held.entities[entity][0]].triple.name
        assert Counter(words(typed)) - Counter(words(name)), f"{typed!r} names {name!r}"
        shortened += len(typed.split()) < len(name.split())
    assert shortened > 300


def test_near_misses_are_no_names_of_the_world(near_misses, world):
    names = {k.triple.name.casefold() for k in world.known}
    random = Random(3)
    for sample, typed in islice(near_misses(random, world), 500):
        assert not any(set(words(typed)) <= set(words(name)) for name in names)
        assert sample.supports == () and sample.answer is None
        assert typed.casefold() not in names


def test_pools_hold_the_entities_that_a_question_is_about(world):
    """A near miss is one only beside the name that it misses; an unknown property only beside its name."""
    encoded = EncodedWorld(world, HashingEncoder())
    random = Random(4)
    with_entities = 0
    for _ in range(300):
        sample = unanswerable(random, world)
        pool = set(draw_pool(random, encoded, sample, 10).members.tolist())
        with_entities += bool(sample.entities)
        assert bool(sample.entities) != bool(sample.hidden)
        for entity in sample.entities:
            assert pool >= set(world.entities[entity])
        assert not pool & set(sample.hidden)
    assert with_entities > 100


def test_entities_of_a_pool_come_whole_but_for_the_hidden(world):
    encoded = EncodedWorld(world, HashingEncoder())
    first = world.entities[3]
    sample = Sample("unanswerable", (), (), None, hidden=(first[0],), entities=(3, 5))
    members = set(draw_pool(Random(0), encoded, sample, 5).members.tolist())
    assert members == {*first[1:], *world.entities[5]}


def test_tiny_pools_are_tiny_and_hold_what_is_asked_for(world):
    encoded = EncodedWorld(world, HashingEncoder())
    random = Random(5)
    for _ in range(200):
        sample = samples.draw(random, world)
        pool = set(draw_pool(random, encoded, sample, 2).members.tolist())
        assert set(sample.supports) <= pool and not pool & set(sample.hidden)
        assert 1 <= len(pool) <= max(2, len(sample.supports))


def test_tiny_pools_mostly_hold_what_an_unanswerable_question_is_closest_to(world):
    """Over "the battery life of Orca 2", a question for that of the Kite must be refused."""
    encoded = EncodedWorld(world, HashingEncoder())
    random = Random(6)
    held, alike = 0, 0
    for _ in range(300):
        sample = unanswerable(random, world)
        pool = draw_pool(random, encoded, sample, 1)
        assert len(pool) == 1 and not set(pool.members.tolist()) & set(sample.hidden)
        if sample.alike:
            alike += 1
            held += pool.members.tolist() == list(sample.alike)
    assert alike > 100 and 0.6 < held / alike < 0.9


# --- what training must not see ---------------------------------------------------------------------------


def test_lexicon_without_properties(lexicon):
    gone = {lexicon.properties[0].property.casefold(), lexicon.properties[7].property.casefold(), "no such property"}
    less = lexicon.without(gone)
    assert len(less.properties) == len(lexicon.properties) - 2
    assert less.names == lexicon.names
    assert not gone & {p.property.casefold() for p in less.properties}
    made = invented_world(Random(0), less, [], 100)
    assert not gone & {k.triple.property.casefold() for k in made.known}


def test_folds_of_the_lexicon_share_no_property(lexicon):
    folds = [lexicon.fold(number, 3) for number in range(3)]
    everything = {p.property for p in lexicon.properties}
    for own, others in folds:
        own, others = ({p.property for p in part.properties} for part in (own, others))
        assert not own & others and own | others == everything
    assert sum(len(own.properties) for own, _ in folds) == len(everything)


def test_excluded_names_and_properties_are_in_no_world(monkeypatch, lexicon):
    """Whatever their case: in real worlds, and in what invented worlds are made of."""
    real = [Triple(f"Unit {n}", p, f"value {n}") for n in range(30) for p in ("Density", "hue", "SYMBOL", "mass")]
    monkeypatch.setattr(recipe.datasets, "load", lambda source: list(real))
    shared = lexicon.properties[0].property
    config = TrainConfig(
        sources=("vital", "wordnet"),
        exclude_names=frozenset({"Unit 3"}),
        exclude_properties=frozenset({"density", "symbol", shared.casefold()}),
    )
    made = list(recipe.real_worlds(config, Random(0)))
    assert len(made) == 2
    for world in made:
        assert {k.triple.property for k in world.known} == {"hue", "mass"}
        names = {k.triple.name for k in world.known}
        assert len(names) == 29 and "Unit 3" not in names
    assert shared not in {p.property for p in lexicon.without(config.exclude_properties).properties}


def test_any_data_set_but_those_of_the_evaluation_may_be_a_source():
    free = tuple(name for name in DATASETS if name not in HELD_OUT_SOURCES)
    assert set(SOURCES) < set(free) and len(free) == len(DATASETS) - 3
    assert TrainConfig(sources=free).sources == free
    for name in HELD_OUT_SOURCES:
        with pytest.raises(ConfigurationError, match=f"debian.*got {name} .{name}: kept for evaluation"):
            TrainConfig(sources=("debian", name))
        assert list(HELD_OUT.glob(f"{name}*.jsonl")), "there are questions about it"
    with pytest.raises(ConfigurationError, match="got pokemon$"):
        TrainConfig(sources=("vital", "pokemon"))


def test_a_source_that_is_no_default_becomes_a_world(monkeypatch):
    sample = (Path(__file__).parent / "dataset_samples" / "debian.txt").read_text(encoding="utf-8")
    monkeypatch.setattr(debian, "_dump", lambda: sample)
    config = TrainConfig(sources=("debian",))
    (world,) = recipe.real_worlds(config, Random(0))
    told = {(k.triple.name, k.triple.property): k.triple.value for k in world.known}
    assert told["abacus", "section"] == "math"
    assert "description" not in {property for _, property in told}, "a property of the evaluation"
    nothing = replace(config, exclude_names=frozenset(t.name for t in debian.triples()))
    with pytest.raises(ConfigurationError, match="debian: everything in it is left out"):
        list(recipe.real_worlds(nothing, Random(0)))


def test_held_out_properties_are_those_of_the_evaluation_kbs():
    asked = set()
    for name in ("elements", "cwe", "edam"):
        for line in (HELD_OUT / f"{name}.kb.jsonl").read_text("utf-8").splitlines():
            asked.add(json.loads(line)["property"].casefold())
    # "kind" is a word of every second catalogue.
    assert asked - {"kind"} == HELD_OUT_PROPERTIES == TrainConfig().exclude_properties
