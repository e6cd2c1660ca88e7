"""The property lexicon: how people really ask, as data (``lexicon/*.jsonl``, written for this project)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class PropertyPhrases:
    """One property with the ways people ask for it and say it.

    Attributes:
        property: its name, as a column header.
        about: the kinds of things that have it.
        value_kind: number, date, person, short, long, ...
        questions: with ``{n}`` for the name.
        follow_ups: with the name left out.
        answers: with ``{n}`` and ``{v}``.
        near: properties easily confused with it.
        near_questions: a question for each of those, in their order, with ``{n}``.
        values: invented values.
    """

    property: str
    about: tuple[str, ...]
    value_kind: str
    questions: tuple[str, ...]
    follow_ups: tuple[str, ...]
    answers: tuple[str, ...]
    near: tuple[str, ...]
    near_questions: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """All property phrases, invented names for every kind of thing, and what people call some of them.

    Attributes:
        properties: the property phrases.
        names: names by kind of thing.
        called: by name, how somebody who describes the thing instead of quoting its title refers to it.
    """

    properties: tuple[PropertyPhrases, ...]
    names: dict[str, tuple[str, ...]]
    called: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def fold(self, number: int, n_folds: int) -> tuple[Lexicon, Lexicon]:
        """Return two lexicons: every ``n_folds``-th property from ``number`` on, and the other properties."""
        own = self.properties[number::n_folds]
        others = tuple(p for i, p in enumerate(self.properties) if i % n_folds != number)
        return replace(self, properties=own), replace(self, properties=others)

    def without(self, properties: Collection[str]) -> Lexicon:
        """Return a lexicon without these properties (case-folded names): nothing says them, and no question is about them.

        They may still be near ones of others, whose questions are asked as unanswerable: those go too.
        """
        kept = (p for p in self.properties if p.property.casefold() not in properties)
        return replace(self, properties=tuple(_without_near(p, properties) for p in kept))

    def of_kind(self, about: str) -> list[PropertyPhrases]:
        """Return the properties that things of this kind have."""
        return [p for p in self.properties if about in p.about]


@lru_cache(maxsize=1)
def load_lexicon() -> Lexicon:
    """Read every lexicon file in the package."""
    folder = resources.files("kblam_engine.training") / "lexicon"
    properties: dict[str, PropertyPhrases] = {}
    names: dict[str, tuple[str, ...]] = {}
    called: dict[str, tuple[str, ...]] = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".jsonl"):
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            item: dict[str, Any] = json.loads(line)
            if file.name.startswith("names_"):
                names[item["about"]] = names.get(item["about"], ()) + tuple(item["names"])
            elif file.name.startswith("calls_"):
                called[item["name"]] = tuple(item["called"])
            else:
                fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in item.items()}
                phrases = PropertyPhrases(**fields)
                known = properties.get(phrases.property)
                properties[phrases.property] = phrases if known is None else _merged(known, phrases)
    return Lexicon(tuple(properties.values()), names, called)


def _merged(first: PropertyPhrases, second: PropertyPhrases) -> PropertyPhrases:
    """Return one property that two files describe; the first says of what kind its values are."""
    texts = ("about", "questions", "follow_ups", "answers")
    both: dict[str, Any] = {name: tuple(dict.fromkeys(getattr(first, name) + getattr(second, name))) for name in texts}
    return _with_near(replace(first, **both), dict.fromkeys(_near_pairs(first) + _near_pairs(second)))


def _near_pairs(phrases: PropertyPhrases) -> tuple[tuple[str, str], ...]:
    return tuple(zip(phrases.near, phrases.near_questions, strict=True))


def _with_near(phrases: PropertyPhrases, pairs: Iterable[tuple[str, str]]) -> PropertyPhrases:
    pairs = tuple(pairs)
    return replace(phrases, near=tuple(near for near, _ in pairs), near_questions=tuple(asked for _, asked in pairs))


def _without_near(phrases: PropertyPhrases, properties: Collection[str]) -> PropertyPhrases:
    """Return the phrases without near ones of these names, and without questions for others that name one of them.

    Only names of several words count as named: "price" and "example" are words of many a question about other things.
    """
    named = [name for name in properties if " " in name]
    pairs = _near_pairs(phrases)
    kept = [
        (near, asked)
        for near, asked in pairs
        if near.casefold() not in properties and not any(name in asked.casefold() for name in named)
    ]
    return phrases if len(kept) == len(pairs) else _with_near(phrases, kept)


QUESTIONS = (
    "What is the {p} of {n}?",
    "What's the {p} of {n}?",
    "what is {n}'s {p}",
    "{n} {p}?",
    "{n}: {p}?",
    "Which {p} does {n} have?",
    "Can you tell me the {p} of {n}?",
    "Could you look up the {p} for {n}, please?",
    "I need the {p} of {n}.",
    "Do you happen to know the {p} of {n}?",
    "Tell me {n}'s {p}.",
    "For {n}, what is the {p}?",
    "Remind me of the {p} of {n}.",
    "give me the {p} for {n}",
    "Please state the {p} of {n}.",
    "What do you have on {n} under {p}?",
    "What does the knowledge base say about the {p} of {n}?",
    "I'm looking for the {p} of {n}, thanks.",
    "What would you list as the {p} for {n}?",
    "About {n}: what's its {p}?",
    "Describe the {p} of {n}.",
    "Any idea what the {p} of {n} is?",
    "What {p} is recorded for {n}?",
    "how about the {p} of {n}?",
)
"""Phrasings that fit any property: the seed paper's kind of templates and looser ones."""

FOLLOW_UPS = (
    "And the {p}?",
    "What about the {p}?",
    "What is its {p}?",
    "and what's the {p}",
    "Tell me its {p} too.",
    "How about its {p}?",
    "Also the {p}, please.",
    "And its {p}?",
    "Do you know the {p} as well?",
    "OK, and which {p}?",
    "{p}?",
)

TWO_PROPERTIES = (
    "What are the {p1} and the {p2} of {n}?",
    "Give me the {p1} and {p2} of {n}.",
    "I need both the {p1} and the {p2} for {n}.",
    "For {n}, what is the {p1}, and what is the {p2}?",
    "{n}: {p1} and {p2}?",
)

TWO_NAMES = (
    "What is the {p} of {n1} and of {n2}?",
    "Compare the {p} of {n1} and {n2}.",
    "Give me the {p} for both {n1} and {n2}.",
    "What are the {p}s of {n1} and {n2}?",
    "{p} of {n1} vs {n2}?",
)

JOIN_QUESTIONS = (
    "{a} And {b}",
    "{a} Also, {b}",
    "{a} {b}",
    "I have two questions: {a} And {b}",
    "{a} And then: {b}",
)

SMALL_TALK = (
    ("Hi!", "Hello! How can I help you?"),
    ("Good morning, I have some questions.", "Good morning! Please go ahead."),
    ("thanks, that helps", "You are welcome."),
    ("Are you there?", "Yes, I am here."),
)
