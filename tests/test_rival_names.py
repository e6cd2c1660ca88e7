"""Which of two names that share words is meant: by the words that one has and the other has not, and what stands together."""

import pytest

from kblam_engine.rival_names import Meant, meant, outdone
from kblam_engine.triples import Triple
from kblam_engine.wording import words

KETTLE, PRO = "Halden Kettle", "Halden Kettle Pro"
G95, G125 = "Globe G95", "Globe G125"


def which(first, second, *messages):
    found = meant(frozenset(words(first)), frozenset(words(second)), messages)
    return None if found is None else found.which


@pytest.mark.parametrize(
    ("names", "turn", "expected"),
    [
        ((KETTLE, PRO), "How much is the Halden Kettle?", 0),
        ((KETTLE, PRO), "How much is the Halden Kettle Pro?", 1),
        ((KETTLE, PRO), "what about the pro", 1),
        ((KETTLE, PRO), "price of the kettle pro?", 1),
        ((KETTLE, PRO), "price of the Halden Kettel Pro?", 1),  # a typing mistake
        ((KETTLE, PRO), "The Halden Kettle or the Halden Kettle Pro?", None),
        ((KETTLE, PRO), "the kettle and the pro", None),
        ((KETTLE, PRO), "How much is the kettle?", None),  # of which both have the word
        ((KETTLE, PRO), "When do you open?", None),
        ((G95, G125), "How bright is the Globe G95?", 0),
        ((G95, G125), "How bright is the Globe G125?", 1),
        ((G95, G125), "How bright is the Globe?", None),
        ((G95, G125), "G95 or G125?", None),
        (("reset-zone", "reset-zones"), "what does reset-zone do", 0),
        (("reset-zone", "reset-zones"), "what does reset-zones do", 1),
    ],
)
def test_what_a_turn_means(names, turn, expected):
    assert which(*names, turn) == expected
    mirrored = {None: None, 0: 1, 1: 0}[expected]
    assert which(names[1], names[0], turn) == mirrored


def test_what_was_said_before_counts_where_the_turn_says_no_name():
    assert which(KETTLE, PRO, "What colour is it?", "The price of Halden Kettle Pro is 89 euros.") == 1
    assert which(KETTLE, PRO, "What colour is it?", "It is 1.", "How much is the Halden Kettle?") == 0
    assert which(KETTLE, PRO, "What colour is it?", "The Halden Kettle and the Halden Kettle Pro.", "The Pro?") is None
    assert which(KETTLE, PRO, "And the other one?", "The price of Halden Kettle Pro is 89 euros.") is None


def test_a_name_is_whole_with_all_its_words():
    first, second = frozenset(words(KETTLE)), frozenset(words(PRO))
    assert meant(first, second, ["the Pro"]) == Meant(1, is_whole=False)
    assert meant(first, second, ["the Halden Kettle Pro"]) == Meant(1, is_whole=True)


def test_only_triples_of_the_same_property_are_outdone():
    triples = [Triple(PRO, "price", "89"), Triple(KETTLE, "Price", "49"), Triple(KETTLE, "power", "2"), Triple("Fan", "price", "3")]
    assert outdone(["How much is the Halden Kettle Pro?"], triples) == [1]
    assert outdone(["How much is the Halden Kettle?"], triples) == [0]  # said with all its words, though less probable
    assert outdone(["How much is the Pro?"], triples[1::-1]) == []  # the more probable stays: "Pro" alone is not enough
    assert outdone(["How much are they?"], triples) == []
