"""Evidence in plain words: how a turn mentions names, and what of it a candidate leaves unexplained.

A turn is compared with some twenty names of candidates, one by one. Most words of names are like none of the turn's, so
`TurnWords` keeps for each word only those that it is like, and every feature asks there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kblam_engine.triples import Triple
from kblam_engine.wording import FUNCTION_WORDS, WORD, Rarity, same_word, stem, stems_of, words

__all__ = ["Mention", "Place", "TurnWords", "left_over", "mention_of", "overlap", "places_of", "turn_words", "unexplained"]


class TurnWords:
    """A turn's words and where they stand; each other word is compared with them once."""

    def __init__(self, text: str) -> None:
        """Find the words."""
        self.text = text
        self.words = words(text)
        self.places = tuple(WORD.finditer(text))
        self.at_places = [found.group().casefold() for found in self.places]
        self._by_end: dict[str, list[str]] = {}  # words that are nearly the same share the first letter or the last
        for word in dict.fromkeys((*self.words, *self.at_places)):
            for end in (word[0], "…" + word[-1]):
                self._by_end.setdefault(end, []).append(word)
        self._alike: dict[str, dict[str, float]] = {}

    def alike(self, word: str) -> Mapping[str, float]:
        """Return the turn's words that are like a word up to a typing mistake, and how far: above 0, 1 for equal ones."""
        found = self._alike.get(word)
        if found is None:
            near = (*self._by_end.get(word[0], ()), *self._by_end.get("…" + word[-1], ()))
            found = self._alike[word] = {w: share for w in near if (share := same_word(word, w)) > 0}
        return found

    def alike_any(self, others: Iterable[str]) -> dict[str, float]:
        """Return the turn's words that are like any of others, and how far at most."""
        found: dict[str, float] = {}
        for word in others:
            for own, share in self.alike(word).items():
                found[own] = max(share, found.get(own, 0.0))
        return found


turn_words = lru_cache(maxsize=64)(TurnWords)
"""A turn's words, found once while its candidates are collected and weighed."""


@dataclass(frozen=True, slots=True)
class Place:
    """A word in a turn.

    Attributes:
        word: case-folded.
        tells: whether it is more than a function word.
        marked: whether it is a number, or capitalised within a sentence.
        beside: how much it tells of another name where it stands beside this one's words.
    """

    word: str
    tells: bool
    marked: bool
    beside: float


def places_of(turn: TurnWords, rarity: Rarity) -> list[Place]:
    """Return the words of a turn in order."""
    found = []
    for at, (place, folded) in enumerate(zip(turn.places, turn.at_places, strict=True)):
        word = place.group()
        starts = at == 0 or turn.text[: place.start()].rstrip()[-1:] in (".", "?", "!", ":", "")
        marked = word.isdigit() or (word[0].isupper() and not starts)
        single = len(word) == 1 and word.isalpha()
        beside = 1.0 if marked or single else 0.5 * rarity(folded)
        found.append(Place(folded, folded not in FUNCTION_WORDS, marked, beside))
    return found


def left_over(places: Sequence[Place], of_name: Mapping[str, float], elsewhere: set[int]) -> tuple[float, float]:
    """Return what a name leaves of other names in the turn: capitalised words, telling words beside it.

    Args:
        places: the turn's words.
        of_name: those that are like words of the name.
        elsewhere: numbers of places that are other names of the KB: "How severe are NX-104 and NX-118?"
    """
    hits = [place.word in of_name and at not in elsewhere for at, place in enumerate(places)]
    capitals = beside = 0.0
    for at, place in enumerate(places):
        if hits[at] or not place.tells or at in elsewhere:
            continue
        capitals += place.marked
        if (at > 0 and hits[at - 1]) or (at + 1 < len(hits) and hits[at + 1]):
            beside = max(beside, place.beside)
    return capitals, beside


@dataclass(frozen=True, slots=True)
class Mention:
    """How a turn and the history mention a name.

    Attributes:
        in_turn: weighted share of its words in the turn.
        identifier: how far its most telling word is in the turn.
        in_history: weighted share of its words in one earlier message.
        recency: 1 for the message before the turn, less for earlier ones.
        fuzzy: share in the turn that is only nearly the same word.
    """

    in_turn: float
    identifier: float
    in_history: float
    recency: float
    fuzzy: float


def mention_of(name: Sequence[str], turn: TurnWords, history: Sequence[frozenset[str]], rarity: Rarity) -> Mention:
    """Return how a turn and the messages before it mention the words of a name.

    Args:
        name: its words.
        turn: the turn.
        history: the words of each message before it, oldest first.
        rarity: how telling a word is.
    """
    weights = [0.15 + rarity(w) for w in name] or [1.0]
    total = sum(weights)
    found = [max(turn.alike(w).values(), default=0.0) for w in name] or [0.0]
    # A number in a name ("ERR-2041 Loss of signal") identifies it; without one, its rarest word does.
    numbers = [f for w, f in zip(name, found, strict=False) if w.isdigit()]
    identifier = min(numbers) if numbers else found[int(np.argmax(weights))] if name else 0.0
    share, recency = 0.0, 0.0
    for age, seen in enumerate(reversed(history)):
        covered = sum(w for w, n in zip(weights, name, strict=False) if n in seen) / total
        if covered > share + 0.05:
            share, recency = covered, 1.0 / (1 + age)
    return Mention(
        in_turn=sum(w * f for w, f in zip(weights, found, strict=True)) / total,
        identifier=identifier,
        in_history=share,
        recency=recency,
        fuzzy=sum(w for w, f in zip(weights, found, strict=True) if 0 < f < 0.9) / total,
    )


def unexplained(
    telling: Mapping[str, float], of_name: Mapping[str, float], triple: Triple
) -> tuple[float, float, float]:
    """Return what neither name nor property nor value has: numbers, the most telling word, the share of all that tells.

    Args:
        telling: how telling the words of the turn are.
        of_name: how far they are words of the triple's name, where they are.
        triple: the triple.
    """
    name, prop, value = stems_of(triple.name), stems_of(triple.property), stems_of(triple.value)
    numbers, most, total = 0.0, 0.0, 0.0
    for word, weight in telling.items():
        stemmed = stem(word)
        if stemmed in name or stemmed in prop or stemmed in value:
            continue
        numbers += word.isdigit()
        if word not in FUNCTION_WORDS:
            left = weight * (1.0 - of_name.get(word, 0.0))
            most, total = max(most, left), total + left
    return numbers, most, total / (sum(telling.values()) + 1e-6)


@lru_cache(maxsize=65536)
def _telling_stems(property_name: str) -> tuple[str, ...]:
    return tuple(stem(w) for w in words(property_name) if len(w) > 2 or w not in FUNCTION_WORDS)


def overlap(property_name: str, stems: set[str]) -> float:
    """Return the share of a property's words that a turn has, by their stems."""
    telling = _telling_stems(property_name)
    return sum(s in stems for s in telling) / len(telling) if telling else 0.0
