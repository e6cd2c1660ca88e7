"""Statements in a parsed sentence: who, what, whom, by the dependency labels and tags of spaCy's English models.

Works on spaCy tokens and imports nothing of spaCy. What it yields are spans of tokens: names and values are said
in the words of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from kblam_engine.sources.extractors.phrases import (
    Token,
    described,
    joined,
    objects_of,
    owners_of,
    phrase,
    phrase_without,
    subject_of,
)

_UNSURE = frozenset({"may", "might", "could", "would", "should"})
_CONDITIONS = frozenset({"if", "unless", "whether"})

# Who did it, by the verb: "Lena founded Acme" and "Acme was founded by Lena" are (Acme, founder, Lena).
AGENTS = {
    "author": "author", "build": "builder", "compose": "composer", "create": "creator", "design": "designer",
    "develop": "developer", "direct": "director", "discover": "discoverer", "edit": "editor", "found": "founder",
    "illustrate": "illustrator", "invent": "inventor", "lead": "leader", "manage": "manager",
    "manufacture": "manufacturer", "operate": "operator", "own": "owner", "paint": "painter", "produce": "producer",
    "publish": "publisher", "write": "author", "establish": "founder", "make": "maker", "release": "publisher",
}  # fmt: skip
# What these tell of is there before and after: where and when it is done is said of who does it.
_ONGOING = frozenset({"lead", "make", "manage", "manufacture", "operate", "own", "produce"})
_PARTICIPLES = {"build": "built", "write": "written"}
# Verbs and adjectives whose complement is a measure of the subject.
MEASURES = {
    "weigh": "weight", "cost": "price", "last": "duration", "tall": "height", "high": "height", "long": "length",
    "wide": "width", "deep": "depth", "old": "age", "thick": "thickness", "heavy": "weight",
}  # fmt: skip
_LOCATED = frozenset({"locate", "situate", "base"})
_DATES, _PLACES = frozenset({"DATE", "TIME"}), frozenset({"GPE", "LOC", "FAC"})


class Statement(NamedTuple):
    """Something a sentence says; `subject` is a token or, for what the rules worded themselves, its phrase."""

    subject: Token
    property: str
    value: tuple[Token, ...]
    confidence: float


def statements(sentence: Any) -> Iterator[Statement]:
    """Yield what a parsed sentence says; nothing for questions."""
    if sentence.text.rstrip().endswith("?"):
        return
    has_verb = any(_is_verb(token) for token in sentence)
    for token in sentence:
        if _is_verb(token) and _is_asserted(token):
            yield from _copula(token) if token.lemma_ == "be" else _verb(token)
        elif token.dep_ == "appos" and (has_verb or _is_set_off(token)):
            yield from _apposition(token)
        if token.pos_ in ("PROPN", "NOUN"):
            yield from _noun(token)


def _is_verb(token: Token) -> bool:
    """Say whether a token is a full verb; one with an object is, whatever the tagger took it for."""
    if token.pos_ in ("VERB", "AUX"):
        return token.dep_ not in ("aux", "auxpass")
    return token.dep_ == "ROOT" and {"nsubj", "dobj"} <= {child.dep_ for child in token.children}


def _is_asserted(verb: Token) -> bool:
    """Say whether a verb is stated as so: not negated, not a possibility, not a condition."""
    for child in verb.children:
        if child.dep_ == "neg" or (child.dep_ == "aux" and child.lower_ in _UNSURE):
            return False
        if child.dep_ == "mark" and child.lower_ in _CONDITIONS:
            return False
        if child.dep_ == "advcl" and any(c.dep_ == "mark" and c.lower_ in _CONDITIONS for c in child.children):
            return False
    return not (verb.dep_ in ("conj", "xcomp") and verb.head.pos_ in ("VERB", "AUX")) or _is_asserted(verb.head)


def _copula(verb: Token) -> Iterator[Statement]:
    subject = subject_of(verb)
    if subject is None or subject.lower_ in ("there", "this", "these", "those", "what"):
        return
    for child in verb.children:
        if child.dep_ in ("attr", "acomp", "oprd"):
            yield from _is(subject, child)
        elif child.dep_ == "prep" and child.lower_ in ("in", "at", "on", "near"):
            for place in objects_of(child):
                prop = "location" if place.ent_type_ in _PLACES else f"is {child.lower_}"
                yield Statement(subject, prop, phrase(place), 0.7)
        elif child.dep_ == "prep" and child.lower_ in ("from", "by", "with", "for", "within"):
            for thing in objects_of(child):
                yield Statement(subject, f"is {child.lower_}", phrase(thing), 0.6)


def _is(subject: Token, complement: Token) -> Iterator[Statement]:
    """Yield what "subject is complement" says: a property of what the subject belongs to, or a description."""
    owners = owners_of(subject)
    if owners and subject.pos_ == "NOUN":
        yield from _owned_is(owners, _words(phrase_without(subject, owners)), complement)
        return
    if complement.dep_ == "acomp":
        amount = [child for child in complement.children if child.dep_ == "npadvmod"]
        if amount and complement.lemma_ in MEASURES:
            yield Statement(subject, MEASURES[complement.lemma_], phrase(amount[0], whole=True), 0.85)
        for child in complement.children:
            if child.dep_ == "prep":
                for thing in objects_of(child):
                    yield Statement(subject, f"{complement.lower_} {child.lower_}", phrase(thing), 0.6)
        return
    # "X is the capital of Y": a property of Y as well.
    of = [child for child in complement.children if child.dep_ == "prep" and child.lower_ == "of"]
    the = any(child.lower_ == "the" for child in complement.children)
    proper = [thing for child in of for thing in objects_of(child) if thing.pos_ == "PROPN"]
    if of and the and proper and subject.pos_ in ("PROPN", "PRON"):
        for thing in proper:
            yield Statement(thing, _words(phrase_without(complement, proper)), phrase(subject), 0.75)
    for value in joined(complement):
        yield Statement(subject, "description", phrase(value, whole=True), 0.75)
        yield from _with(subject, value)


def _owned_is(owners: list[Token], prop: str, complement: Token) -> Iterator[Statement]:
    """Yield from "the leader of X is Y" that Y is X's leader, from "its runway is 2 km long" its runway length."""
    amount = [child for child in complement.children if child.dep_ == "npadvmod"]
    if complement.dep_ == "acomp" and amount and complement.lemma_ in MEASURES:
        for owner in owners:
            yield Statement(owner, f"{prop} {MEASURES[complement.lemma_]}", phrase(amount[0], whole=True), 0.85)
        return
    for value in joined(complement):
        is_name = value.pos_ == "PROPN"
        for owner in owners:
            yield Statement(owner, prop, phrase(value, whole=not is_name), 0.85)
        if is_name:
            yield from _with(value, value)


def _with(subject: Token, noun: Token) -> Iterator[Statement]:
    """Yield the measures in "a city with a population of 3,000", the origin in "a dish from Italy"."""
    for child in noun.children:
        if child.dep_ == "prep" and child.lower_ == "from":
            for place in objects_of(child):
                if place.ent_type_ in _PLACES:
                    yield Statement(subject, "origin", phrase(place), 0.7)
        if child.dep_ == "prep" and child.lower_ == "with":
            for thing in objects_of(child):
                yield from _has(subject, thing)


def _has(subject: Token, thing: Token) -> Iterator[Statement]:
    """Yield what having something says: "a payload of 80 kg" is a payload, "12 offices" a number of them."""
    of = [value for child in thing.children if child.dep_ == "prep" and child.lower_ == "of" for value in objects_of(child)]
    numbers = [child for child in thing.children if child.dep_ == "nummod"]
    own = [child for child in thing.children if child.dep_ == "poss" and child.pos_ == "PRON"]
    if own and thing.pos_ == "NOUN":  # "has its headquarters in Graz"
        for place in (c for c in (*thing.children, *thing.head.children) if c.dep_ == "prep" and c.lower_ in ("in", "at")):
            for where in objects_of(place):
                yield Statement(subject, _words(phrase_without(thing, own)), phrase(where), 0.8)
    elif of and thing.pos_ == "NOUN":
        yield Statement(subject, _words(phrase_without(thing, of)), phrase(of[0], whole=True), 0.85)
    elif numbers and thing.pos_ == "NOUN" and thing.tag_ == "NNS":
        named = tuple(t for t in phrase(thing) if t.i > numbers[0].i)
        yield Statement(subject, f"number of {_words(named)}", phrase(numbers[0]), 0.8)
    else:
        yield Statement(subject, "has", phrase(thing), 0.6)


def _verb(verb: Token) -> Iterator[Statement]:
    subject = subject_of(verb)
    if subject is None or subject.lower_ in ("there", "this", "these", "those", "what"):
        return
    passive = verb.tag_ == "VBN" and (
        verb.dep_ in ("acl", "advcl")
        or any(child.dep_ in ("auxpass", "nsubjpass") for child in verb.children)
        or (verb.dep_ == "conj" and any(child.dep_ == "auxpass" for child in verb.head.children))
    )
    # The tense stays: of "found" alone nobody knows what it is of.
    word = verb.lower_ if passive or verb.tag_ in ("VBD", "VBN") else verb.lemma_
    if any(child.dep_ == "aux" and child.lower_ == "can" for child in verb.children):
        word = f"can {word}"
    owners = owners_of(subject) if subject.pos_ == "NOUN" else []
    made = [] if passive or owners else _made(verb)
    for who in joined(subject) if not owners else owners:
        for child in verb.children:
            if owners:
                yield from _of_owned(who, _words(phrase_without(subject, owners)), verb, word, child)
            elif child.dep_ == "agent":
                for agent in objects_of(child):
                    yield Statement(who, AGENTS.get(verb.lemma_, f"{word} by"), phrase(agent), 0.85)
            elif child.dep_ in ("dobj", "oprd", "attr"):
                yield from _object(who, verb, word, child)
            elif child.dep_ in ("prep", "dative") and child.pos_ == "ADP" and not made:
                yield from _preposition(who, verb, word, child)
    for thing in made:
        for child in verb.children:
            if child.dep_ == "prep":
                yield from _preposition(thing, verb, _participle(verb.lemma_), child)


def _made(verb: Token) -> list[Token]:
    """Return what came to be by a verb: "Lena founded Acme in 2014" says when Acme was founded, and nothing of when Lena was."""
    if verb.lemma_ not in AGENTS or verb.lemma_ in _ONGOING:
        return []
    return [thing for child in verb.children if child.dep_ == "dobj" for thing in joined(child)]


def _participle(lemma: str) -> str:
    return _PARTICIPLES.get(lemma) or (f"{lemma}d" if lemma.endswith("e") else f"{lemma}ed")


def _of_owned(who: Token, noun: str, verb: Token, word: str, child: Token) -> Iterator[Statement]:
    """Yield what is said of something that somebody has: of "the headquarters of X are located in Y", "its battery lasts ..."."""
    if child.dep_ in ("prep", "agent"):
        for thing in objects_of(child):
            located = verb.lemma_ in _LOCATED and child.lower_ in ("in", "at", "on", "near")
            prop = noun if located else f"{noun} {word} {child.lower_}"
            yield Statement(who, prop, phrase(thing), 0.75 if located else 0.65)
    elif child.dep_ in ("dobj", "oprd"):
        for thing in joined(child):
            yield Statement(who, f"{noun} {MEASURES.get(verb.lemma_, word)}", phrase(thing), 0.7)


def _object(who: Token, verb: Token, word: str, child: Token) -> Iterator[Statement]:
    for thing in joined(child):
        if verb.lemma_ in AGENTS and thing.pos_ in ("PROPN", "PRON"):
            yield Statement(thing, AGENTS[verb.lemma_], phrase(who), 0.8)
        elif verb.lemma_ in ("have", "feature", "include", "contain"):
            yield from _has(who, thing) if verb.lemma_ == "have" else [Statement(who, word, phrase(thing), 0.65)]
        else:
            prop = MEASURES.get(verb.lemma_, word)
            yield Statement(who, prop, phrase(thing), 0.8 if prop != word else 0.65)


def _preposition(who: Token, verb: Token, word: str, preposition: Token) -> Iterator[Statement]:
    for thing in objects_of(preposition):
        kind = thing.ent_type_
        prop = f"{word} {preposition.lower_}"
        if verb.lemma_ == "bear":
            prop = "date of birth" if kind in _DATES else "place of birth" if kind in _PLACES else prop
        elif verb.lemma_ == "die" and preposition.lower_ in ("in", "on", "at"):
            prop = "date of death" if kind in _DATES else "place of death" if kind in _PLACES else prop
        elif verb.lemma_ in _LOCATED and preposition.lower_ in ("in", "at", "on", "near"):
            prop = "location"
        elif verb.lemma_ in ("serve", "work") and preposition.lower_ == "as":
            prop = "role"
        yield Statement(who, prop, phrase(thing), 0.8 if prop != f"{word} {preposition.lower_}" else 0.65)


def _apposition(token: Token) -> Iterator[Statement]:
    head = token.head
    if not (head.pos_ in ("PROPN", "NOUN") or head.ent_type_) or token.pos_ not in ("PROPN", "NOUN"):
        return
    if token.pos_ == "NOUN":
        name, noun = head, token
    elif head.pos_ == "NOUN":
        name, noun = token, head
    elif token.ent_type_ in _PLACES and head.ent_type_ in _PLACES:
        yield Statement(head, "location", phrase(token), 0.75)
        return
    else:
        return
    owners = owners_of(noun)
    if owners and name.pos_ == "PROPN" and all(_has_one(owner, noun) for owner in owners):
        for owner in owners:
            yield Statement(owner, _words(phrase_without(noun, owners)), phrase(name), 0.8)
    elif phrase(noun):
        yield Statement(name, "description", phrase(noun), 0.75)


def _is_set_off(token: Token) -> bool:
    """Say whether an apposition is marked as one; without a verb, "Colour red" and "Top speed: 2 m/s" are none."""
    between = token.doc[min(token.i, token.head.i) : max(token.i, token.head.i)]
    return any(mark.text in (",", "(", "–", "—") for mark in between)


def _has_one(owner: Token, noun: Token) -> bool:
    """Say whether "the maker of X" is the maker that X has; "a maker of robots" only says what kind of maker."""
    if owner.pos_ in ("PROPN", "PRON"):
        return True
    is_any = any(child.lower_ in ("a", "an") for child in noun.children)
    return not is_any and any(child.dep_ in ("det", "poss") for child in owner.children)


def _noun(token: Token) -> Iterator[Statement]:
    """Yield what stands before a name: "the Danish start-up GripTech", "chief engineer Tomás Rivera"."""
    nationality = [c for c in token.children if c.dep_ in ("amod", "compound") and c.ent_type_ == "NORP"]
    named = next((c for c in token.children if c.dep_ == "appos" and c.pos_ == "PROPN"), None)
    if nationality and token.pos_ == "NOUN" and (named is not None or token.dep_ in ("attr", "appos")):
        who = named if named is not None else described(token)
        yield Statement(who, "nationality", (nationality[0],), 0.7)


def _words(tokens: tuple[Token, ...]) -> str:
    """Return a property in words: lower case at a sentence's beginning, nouns in their basic form left alone."""
    return " ".join(token.text if token.pos_ == "PROPN" else token.lower_ for token in tokens)
