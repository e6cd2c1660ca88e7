"""Which of two names that share words a conversation means: "Orca" or "Orca 2", "Globe G95" or "Globe G125".

The evidence head weighs each name by itself, and both may pass. What a person goes by is the words that one of them has
and the other has not, and which of these stand together. Where that is plain, the other one's triple of the same property
is no answer; where it is not, both stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from kblam_engine.triples import Triple
from kblam_engine.word_evidence import TurnWords, turn_words
from kblam_engine.wording import FUNCTION_WORDS, words

LEAST = 0.05
"""Candidates below this probability open no gate, and are not compared."""
MOST = 12
"""Candidates compared at most."""
# A turn with one of these asks for what was not talked about, or for several things.
_OTHERS = frozenset("other others another else one ones both each all every they them these those same instead".split())


def outdone(messages: Sequence[str], triples: Sequence[Triple]) -> list[int]:
    """Return which triples are about a name that is not meant, though one of the same property with a like name is.

    The more probable one goes only where the other's name is said with all its words.

    Args:
        messages: the texts of the conversation, the turn first, then what was said before it, newest first.
        triples: candidates, most probable first.
    """
    found: list[int] = []
    names = [_telling(triple.name) for triple in triples]
    for first, second in combinations(range(len(triples)), 2):
        pair = names[first], names[second]
        if first in found or second in found or pair[0] == pair[1] or pair[0].isdisjoint(pair[1]):
            continue
        if triples[first].property.casefold() == triples[second].property.casefold():
            meaning = meant(*pair, messages)
            if meaning is not None and (meaning.which == 0 or meaning.is_whole):
                found.append(second if meaning.which == 0 else first)
    return found


@dataclass(frozen=True, slots=True)
class Meant:
    """Which of two names is meant.

    Attributes:
        which: 0 or 1.
        is_whole: whether all its words are said.
    """

    which: int
    is_whole: bool


def meant(first: frozenset[str], second: frozenset[str], messages: Sequence[str]) -> Meant | None:
    """Return which of two names a conversation means, None if it does not tell.

    The newest message that says a word of either tells, if every stretch of such words does, and all of them the same.

    Args:
        first: the words of a name.
        second: those of another.
        messages: texts, the turn first, then newest first.
    """
    for age, message in enumerate(messages):
        said = turn_words(message)
        stretches = _stretches(first | second, said)
        if stretches:
            votes = {_vote(first, second, stretch) for stretch in stretches}
            which = votes.pop() if len(votes) == 1 else None
            name = (first, second)[which or 0]
            return None if which is None else Meant(which, name <= frozenset().union(*stretches))
        if not age and not _OTHERS.isdisjoint(said.words):
            return None
    return None


def _vote(first: frozenset[str], second: frozenset[str], stretch: frozenset[str]) -> int | None:
    own = not stretch.isdisjoint(first - second), not stretch.isdisjoint(second - first)
    if own[0] != own[1]:
        return 0 if own[0] else 1
    if not own[0]:  # shared words alone: the whole of the shorter name, or too little
        whole = first <= stretch, second <= stretch
        if whole[0] != whole[1]:
            return 0 if whole[0] else 1
    return None


def _stretches(names: frozenset[str], said: TurnWords) -> list[frozenset[str]]:
    """Return the words of names in a message, typing mistakes allowed, those that stand side by side together."""
    meaning: dict[str, set[str]] = {}
    for word in names:
        for own in said.alike(word):
            meaning.setdefault(own, set()).add(word)
    found: list[set[str]] = []
    beside = False
    for own in said.words:
        if own in meaning:
            if not beside:
                found.append(set())
            # "orcas" is like "orca", but a word that is there itself is that one
            found[-1] |= {own} if own in meaning[own] else meaning[own]
        beside = own in meaning
    return [frozenset(each) for each in found]


def _telling(name: str) -> frozenset[str]:
    return frozenset(word for word in words(name) if word not in FUNCTION_WORDS)
