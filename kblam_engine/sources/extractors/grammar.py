"""Statements in a parsed sentence: who, what, whom, by the dependency labels and tags of spaCy's English models.

Works on spaCy tokens and imports nothing of spaCy. What it yields are spans of tokens: names and values are said
in the words of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

Token = Any
SUBJECTS = frozenset({"nsubj", "nsubjpass"})
_CLAUSE_PARTS = frozenset({"relcl", "acl", "appos", "punct", "cc", "conj", "advcl", "preconj", "predet", "dep"})
_RELATIVES = frozenset({"that", "which", "who", "whom", "whose"})
_ARTICLES = frozenset({"the", "a", "an"})
_UNSURE = frozenset({"may", "might", "could", "would", "should"})
_CONDITIONS = frozenset({"if", "unless", "whether"})
_INNER_PREPOSITIONS = frozenset({"of", "to", "for", "than", "between"})

# Who did it, by the verb: "Lena founded Acme" and "Acme was founded by Lena" are (Acme, founder, Lena).
AGENTS = {
    "author": "author", "build": "builder", "compose": "composer", "create": "creator", "design": "designer",
    "develop": "developer", "direct": "director", "discover": "discoverer", "edit": "editor", "found": "founder",
    "illustrate": "illustrator", "invent": "inventor", "lead": "leader", "manage": "manager",
    "manufacture": "manufacturer", "operate": "operator", "own": "owner", "paint": "painter", "produce": "producer",
    "publish": "publisher", "write": "author", "establish": "founder", "make": "maker", "release": "publisher",
}  # fmt: skip
# Verbs and adjectives whose complement is a measure of the subject.
MEASURES = {
    "weigh": "weight", "cost": "price", "last": "duration", "tall": "height", "high": "height", "long": "length",
    "wide": "width", "deep": "depth", "old": "age", "thick": "thickness", "heavy": "weight",
}  # fmt: skip
_KINDS_OF_PLACE = frozenset({"city", "town", "village", "state", "country", "province", "island", "district", "municipality"})
_LOCATED = frozenset({"locate", "situate", "base"})
_DATES, _PLACES = frozenset({"DATE", "TIME"}), frozenset({"GPE", "LOC", "FAC"})


class Statement(NamedTuple):
    """Something a sentence says; `subject` is a token or, for what the rules worded themselves, its phrase."""

    subject: Token
    property: str
    value: tuple[Token, ...]
    confidence: float


def phrase(token: Token, *, whole: bool = False) -> tuple[Token, ...]:
    """Return the noun phrase of a head: without clauses, appositions and what is joined by "and", unless `whole`.

    The tokens are neighbours, and begin with no article.
    """
    token = _named_kind(token)
    kept = {token.i}

    def add(head: Token) -> None:
        for child in head.children:
            if head is token and child.dep_ in ("conj", "cc") and not _is_choice(token):
                continue  # `joined` gives them, each for itself
            outside = child.dep_ in _CLAUSE_PARTS and not (child.dep_ == "punct" and child.text in ("-", "/"))
            if _is_choice(head) and child.dep_ in ("conj", "cc", "punct"):
                outside = False
            if not whole and (outside or (child.dep_ == "prep" and child.lower_ not in _INNER_PREPOSITIONS)):
                continue
            if whole and child.dep_ in ("relcl", "appos", "advcl"):
                continue
            kept.add(child.i)
            add(child)

    add(token)
    first = last = token.i
    while first - 1 in kept:
        first -= 1
    while last + 1 in kept:
        last += 1
    tokens = list(token.doc[first : last + 1])
    while tokens and (tokens[0].lower_ in _ARTICLES or tokens[0].is_punct or tokens[0].is_space or tokens[0].dep_ == "cc"):
        if tokens[0].text in ('"', "“", "'"):
            break
        tokens.pop(0)
    while tokens and (tokens[-1].is_space or tokens[-1].dep_ == "cc" or (tokens[-1].is_punct and tokens[-1].text not in ('"', "”", ")", "'", "%"))):
        tokens.pop()
    return tuple(tokens)


def _named_kind(token: Token) -> Token:
    """Return Dijon for "the city of Dijon"."""
    if token.lemma_ not in _KINDS_OF_PLACE:
        return token
    of = [child for child in token.children if child.dep_ == "prep" and child.lower_ == "of"]
    names = [thing for child in of for thing in child.children if thing.dep_ == "pobj" and thing.pos_ == "PROPN"]
    return names[0] if names else token


def joined(token: Token) -> Iterator[Token]:
    """Yield a token and what is joined to it by "and"; not by "or" or "but"."""
    yield token
    if _is_choice(token):
        return
    for child in token.children:
        if child.dep_ == "conj" and child.pos_ in ("NOUN", "PROPN", "NUM", "PRON", "X"):
            yield from joined(child)


def _is_choice(token: Token) -> bool:
    """Say whether a noun is one of several, of which only one holds: "red or blue"."""
    return any(child.dep_ == "cc" and child.lower_ in ("or", "nor", "but") for child in token.children)


def statements(sentence: Any) -> Iterator[Statement]:
    """Yield what a parsed sentence says; nothing for questions."""
    if sentence.text.rstrip().endswith("?"):
        return
    for token in sentence:
        if _is_verb(token) and _is_asserted(token):
            yield from _copula(token) if token.lemma_ == "be" else _verb(token)
        elif token.dep_ == "appos":
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


def subject_of(verb: Token) -> Token | None:
    """Return the subject of a verb, also of one that shares it with another."""
    for child in verb.children:
        if child.dep_ in SUBJECTS:
            if child.lower_ in _RELATIVES and verb.dep_ == "relcl":
                return _described(verb.head)
            return child
    if verb.dep_ in ("conj", "xcomp") and verb.head.pos_ in ("VERB", "AUX"):
        return subject_of(verb.head)
    if verb.dep_ == "acl" and verb.tag_ in ("VBN", "VBG"):
        return _described(verb.head)
    if verb.dep_ == "advcl" and verb.tag_ in ("VBN", "VBG") and not any(c.dep_ == "mark" for c in verb.children):
        return subject_of(verb.head)
    return None


def _described(noun: Token) -> Token:
    """Return what a noun is said of: in "X is a robot that ..." and "X, a robot that ..." that is X."""
    if noun.dep_ == "attr" and noun.head.lemma_ == "be" and noun.pos_ == "NOUN":
        return subject_of(noun.head) or noun
    if noun.dep_ == "appos" and noun.pos_ == "NOUN":
        return noun.head
    return noun


def _objects(preposition: Token) -> Iterator[Token]:
    for child in preposition.children:
        if child.dep_ in ("pobj", "pcomp") and child.pos_ != "VERB":
            yield from joined(child)


def _copula(verb: Token) -> Iterator[Statement]:
    subject = subject_of(verb)
    if subject is None or subject.lower_ in ("there", "this", "these", "those", "what"):
        return
    for child in verb.children:
        if child.dep_ in ("attr", "acomp", "oprd"):
            yield from _is(subject, child)
        elif child.dep_ == "prep" and child.lower_ in ("in", "at", "on", "near"):
            for place in _objects(child):
                prop = "location" if place.ent_type_ in _PLACES else f"is {child.lower_}"
                yield Statement(subject, prop, phrase(place), 0.7)
        elif child.dep_ == "prep" and child.lower_ in ("from", "by", "with", "for", "within"):
            for thing in _objects(child):
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
                for thing in _objects(child):
                    yield Statement(subject, f"{complement.lower_} {child.lower_}", phrase(thing), 0.6)
        return
    # "X is the capital of Y": a property of Y as well.
    of = [child for child in complement.children if child.dep_ == "prep" and child.lower_ == "of"]
    the = any(child.lower_ == "the" for child in complement.children)
    proper = [thing for child in of for thing in _objects(child) if thing.pos_ == "PROPN"]
    if of and the and proper and subject.pos_ in ("PROPN", "PRON"):
        for thing in proper:
            yield Statement(thing, _words(phrase_without(complement, proper)), (subject,), 0.75)
    for value in joined(complement):
        yield Statement(subject, "description", phrase(value, whole=True), 0.75)
        yield from _with(subject, value)


def owners_of(noun: Token) -> list[Token]:
    """Return whose a noun is: of "the price of X", "X's price", "its price"."""
    owners = [_of_whose(child) if child.lower_ == "whose" else child for child in noun.children if child.dep_ == "poss"]
    for child in noun.children:
        if child.dep_ == "prep" and child.lower_ == "of":
            owners += _objects(child)
    return owners


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


def _of_whose(whose: Token) -> Token:
    """Return what "whose" stands for: what its clause describes."""
    clause = next((token for token in whose.ancestors if token.dep_ == "relcl"), None)
    return whose if clause is None else _described(clause.head)


def phrase_without(noun: Token, owners: list[Token]) -> tuple[Token, ...]:
    """Return a noun phrase without whose it is: "chief executive" of "the chief executive of Acme"."""
    parts = [{token.i for token in owner.subtree} for owner in owners]
    left_out = set().union(*(part for part in parts if noun.i not in part))  # not of "X, whose price"
    tokens = [t for t in phrase(noun) if t.i not in left_out and t.dep_ not in ("case", "poss")]
    return tuple(t for t in tokens if not (t.dep_ == "prep" and t.lower_ == "of") and t.lower_ not in _ARTICLES)


def _with(subject: Token, noun: Token) -> Iterator[Statement]:
    """Yield the measures in "a city with a population of 3,000", the origin in "a dish from Italy"."""
    for child in noun.children:
        if child.dep_ == "prep" and child.lower_ == "from":
            for place in _objects(child):
                if place.ent_type_ in _PLACES:
                    yield Statement(subject, "origin", phrase(place), 0.7)
        if child.dep_ == "prep" and child.lower_ == "with":
            for thing in _objects(child):
                yield from _has(subject, thing)


def _has(subject: Token, thing: Token) -> Iterator[Statement]:
    """Yield what having something says: "a payload of 80 kg" is a payload, "12 offices" a number of them."""
    of = [value for child in thing.children if child.dep_ == "prep" and child.lower_ == "of" for value in _objects(child)]
    numbers = [child for child in thing.children if child.dep_ == "nummod"]
    own = [child for child in thing.children if child.dep_ == "poss" and child.pos_ == "PRON"]
    if own and thing.pos_ == "NOUN":  # "has its headquarters in Graz"
        for place in (c for c in (*thing.children, *thing.head.children) if c.dep_ == "prep" and c.lower_ in ("in", "at")):
            for where in _objects(place):
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
    word = verb.lower_ if passive else verb.lemma_
    if any(child.dep_ == "aux" and child.lower_ == "can" for child in verb.children):
        word = f"can {word}"
    owners = owners_of(subject) if subject.pos_ == "NOUN" else []
    for who in joined(subject) if not owners else owners:
        for child in verb.children:
            if owners:
                yield from _of_owned(who, _words(phrase_without(subject, owners)), verb, word, child)
            elif child.dep_ == "agent":
                for agent in _objects(child):
                    yield Statement(who, AGENTS.get(verb.lemma_, f"{word} by"), phrase(agent), 0.85)
            elif child.dep_ in ("dobj", "oprd", "attr"):
                yield from _object(who, verb, word, child)
            elif child.dep_ in ("prep", "dative") and child.pos_ == "ADP":
                yield from _preposition(who, verb, word, child)


def _of_owned(who: Token, noun: str, verb: Token, word: str, child: Token) -> Iterator[Statement]:
    """Yield what is said of something that somebody has: of "the headquarters of X are located in Y", "its battery lasts ..."."""
    if child.dep_ in ("prep", "agent"):
        for thing in _objects(child):
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
    for thing in _objects(preposition):
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
    if owners and name.pos_ == "PROPN":
        for owner in owners:
            yield Statement(owner, _words(phrase_without(noun, owners)), phrase(name), 0.8)
    elif phrase(noun):
        yield Statement(name, "description", phrase(noun), 0.75)


def _noun(token: Token) -> Iterator[Statement]:
    """Yield what stands before a name: "the Danish start-up GripTech", "chief engineer Tomás Rivera"."""
    nationality = [c for c in token.children if c.dep_ in ("amod", "compound") and c.ent_type_ == "NORP"]
    named = next((c for c in token.children if c.dep_ == "appos" and c.pos_ == "PROPN"), None)
    if nationality and token.pos_ == "NOUN" and (named is not None or token.dep_ in ("attr", "appos")):
        who = named if named is not None else _described(token)
        yield Statement(who, "nationality", (nationality[0],), 0.7)


def _words(tokens: tuple[Token, ...]) -> str:
    """Return a property in words: lower case at a sentence's beginning, nouns in their basic form left alone."""
    return " ".join(token.text if token.pos_ == "PROPN" else token.lower_ for token in tokens)
