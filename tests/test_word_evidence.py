"""Words of a turn beside words of names: what the index of a turn's words finds, and what it may not pass over."""

import pytest
from engine_parts import token_ids
from hypothesis import given
from hypothesis import strategies as st

from kblam_engine.triples import Triple
from kblam_engine.word_evidence import (
    TurnWords,
    left_over,
    mention_of,
    overlap,
    places_of,
    turn_words,
    unexplained,
)
from kblam_engine.wording import Rarity, same_word

RARITY = Rarity(token_ids, 50_000)
WORDS = st.text("abcdeés12", min_size=1, max_size=7)


@given(st.lists(WORDS, max_size=8), WORDS)
def test_no_word_that_is_alike_is_passed_over(said, word):
    turn = TurnWords(" ".join(said))
    expected = {w: same_word(word, w) for w in turn.words if same_word(word, w) > 0}
    assert turn.alike(word) == expected
    assert turn.alike(word) == expected  # the second time from what is kept


def test_of_several_words_the_best_counts():
    turn = TurnWords("How long do the Orcas and the Orka last?")
    assert turn.alike_any(["orca", "orka"]) == {"orcas": same_word("orca", "orcas"), "orka": 1.0}
    assert turn.alike_any([]) == {}


def test_a_turn_is_read_once():
    assert turn_words("Who founded Acme?") is turn_words("Who founded Acme?")


@pytest.mark.parametrize(
    ("text", "marked"),
    [("How long is Acme's Orca 2?", ["acme", "orca", "2"]), ("Who? Is Orca in?", ["orca"]), ("", [])],
)
def test_capitals_within_a_sentence_and_numbers_are_marked(text, marked):
    assert [place.word for place in places_of(TurnWords(text), RARITY) if place.marked] == marked


def test_what_stands_beside_a_name_may_be_part_of_another():
    turn = TurnWords("How long is the Orca Mini?")
    places, of_name = places_of(turn, RARITY), turn.alike_any(["orca"])
    assert left_over(places, of_name, set()) == (1.0, 1.0)
    at = turn.words.index("mini")
    assert left_over(places, of_name, {at}) == (0.0, 0.0)  # it is another name of the KB


def test_mentions_by_turn_history_and_slips():
    turn, history = TurnWords("How heavy is the Orka?"), [frozenset({"orca", "mini"}), frozenset({"yes"})]
    mention = mention_of(["orca"], turn, history, RARITY)
    assert (mention.in_turn, mention.identifier, mention.fuzzy) == (0.0, 0.0, 0.0)  # too short for slips
    assert (mention.in_history, mention.recency) == (1.0, 0.5)
    slip = mention_of(["hoffmann"], TurnWords("Who is Hofmann?"), [], RARITY)
    assert slip.in_turn == slip.identifier == same_word("hoffmann", "hofmann") < 1.0
    assert (slip.fuzzy, slip.in_history, slip.recency) == (1.0, 0.0, 0.0)
    assert mention_of([], turn, [], RARITY).in_turn == 0.0


def test_what_nothing_explains():
    triple = Triple("Orca 2", "battery life", "11 hours")
    turn = TurnWords("How many hours does the Orca 2 last in 2031?")
    telling = dict.fromkeys(turn.words, 0.5)
    numbers, most, share = unexplained(telling, turn.alike_any(["orca", "2"]), triple)
    assert numbers == 1.0 and most == 0.5
    left = ["many", "last", "2031"]  # function words tell nothing, whatever their weight
    assert share == pytest.approx(sum(telling[w] for w in left) / sum(telling.values()))


def test_overlap_is_by_stems():
    assert overlap("battery weights", {"weight"}) == 0.5
    assert overlap("of battery", {"of", "batter"}) == 1.0  # short function words do not count
    assert overlap("?", {"of"}) == 0.0
