"""Words: near-equal words, how telling a word is, what kind of answer is asked for and what kind a value is."""

import pytest
from engine_parts import token_ids
from hypothesis import given
from hypothesis import strategies as st

from kblam_engine.wording import (
    ASKS,
    VALUE_KINDS,
    Rarity,
    asks,
    n_asked,
    same_word,
    short_name,
    spans_of,
    stem,
    value_shape,
    words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Who founded ACME-2?", ["who", "founded", "acme", "2"]),
        ("e-mail2", ["e", "mail", "2"]),
        ("größte Höhe", ["grösste", "höhe"]),
        ("snake_case v1.20", ["snake", "case", "v", "1", "20"]),
        ("北京 \N{GREEK SMALL LETTER ALPHA}β", ["北京", "αβ"]),
        ("?! \N{EM DASH} \N{ROCKET}", []),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NX-117 Unattended hot surface", "nx 117"),
        ("Rule 14b Late filing of a plan", "rule 14 b"),
        ("Chapter 5 § 3 Sound insulation", "chapter 5"),
        ("Orca 2", "orca 2"),
        ("Orca 3 Cold", "orca 3 cold"),
        ("Museum of Small Rivers", "museum of small rivers"),
        ("Late return of 12 tower cranes", "late return of 12 tower cranes"),
    ],
)
def test_what_a_name_is_called_by(name, expected):
    assert " ".join(short_name(name)) == expected


def test_spans():
    text = words("Orca 2, Orca 25 and the orca 2")
    assert spans_of(words("Orca 2"), text) == [range(0, 2), range(6, 8)]
    assert spans_of(words("Orca 3"), text) == spans_of([], text) == spans_of(text * 2, text) == []


@pytest.mark.parametrize(
    ("a", "b"), [("weighs", "weigh"), ("locations", "location"), ("cities", "city"), ("s", "s")]
)
def test_stem_joins_forms_of_a_word(a, b):
    assert stem(a) in (stem(b), stem(b) + "e") or stem(b) == stem(a)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("orca", "orca", 1.0),
        ("hoffmann", "hoffmnan", 0.8),
        ("orcas", "orca", 0.95),
        ("hoffmann", "hofmann", 0.7),
        ("hoffmann", "hofffmann", 0.7),
        ("hoffmann", "hoffmans", 0.5),  # another letter may well be another word
        ("hoffmann", "hoffmenn", 0.5),
        ("orca", "orka", 0.0),  # too short for a mistake
        ("cat", "act", 0.0),
        ("2009", "2008", 0.0),
        ("12345", "12354", 0.0),
        ("narwhal", "orca", 0.0),
        ("hoffmann", "hoffmannium", 0.0),
        ("", "a", 0.0),
    ],
)
def test_same_word(a, b, expected):
    assert same_word(a, b) == same_word(b, a) == expected


@given(st.text("abcs1", max_size=8), st.text("abcs1", max_size=8))
def test_same_word_is_symmetric_and_in_range(a, b):
    assert same_word(a, b) == same_word(b, a)
    assert 0.0 <= same_word(a, b) <= 1.0
    assert (same_word(a, b) == 1.0) == (a == b)


def test_rarity_is_low_for_common_words():
    rarity = Rarity(token_ids, 50_000)
    assert rarity("the") < 0.1 < rarity("orca") <= rarity("supercalifragilistic") <= 1.6
    assert rarity("2009") == 1.0
    assert rarity("a") == 0.1 and rarity("x") == 0.6, "length x is not length y"


@pytest.mark.parametrize(
    ("turn", "kind"),
    [
        ("Who leads it?", "who"),
        ("When was it?", "when"),
        ("Where is it?", "where"),
        ("How many are there?", "many"),
        ("What does it cost?", "cost"),
        ("Which e-mail address?", "mail"),
        ("Why?", "why"),
        ("Mass and length?", "two"),
        ("Is it open?", "yes"),
    ],
)
def test_kind_of_question(turn, kind):
    found = dict(zip(ASKS, asks(turn), strict=True))
    assert found[kind] == 1.0
    assert asks("the mass of it") == [0.0] * len(ASKS)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("12 March 2009", "date"),
        ("40 euros", "money"),
        ("Dr. Lena van Hoffmann", "person"),
        ("a.b@c.example", "address"),
        ("Berlin", "capital"),
    ],
)
def test_kind_of_value(value, kind):
    assert dict(zip(VALUE_KINDS, value_shape(value), strict=True))[kind] == 1.0


def test_number_and_length_of_a_value_are_shares():
    assert value_shape("1,240")[VALUE_KINDS.index("number")] == pytest.approx(0.8)
    assert value_shape("word " * 10)[VALUE_KINDS.index("long")] == pytest.approx(0.5)
    assert value_shape("word " * 100)[VALUE_KINDS.index("long")] == 1.0
    assert value_shape("") == (0.0,) * len(VALUE_KINDS)


@pytest.mark.parametrize(
    ("turn", "wanted"),
    [
        ("How heavy is the Orca 2, and who makes it?", 2),
        ("What do the Orca and the Narwhal cost?", 2),
        ("Who makes it? What does it cost?", 2),
        ("What does the Orca cost?", 1),
        ("And the price?", 1),
        ("  and what does it cost", 1),
        ("And the price and the weight?", 2),
        ("", 1),
    ],
)
def test_how_many_triples_a_turn_asks_for(turn, wanted):
    assert n_asked(turn) == wanted
