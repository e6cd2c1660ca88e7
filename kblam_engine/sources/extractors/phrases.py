"""Who and what a parsed sentence speaks of: subjects, owners and noun phrases, by spaCy's dependency labels and tags."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Token = Any
SUBJECTS = frozenset({"nsubj", "nsubjpass"})
ARTICLES = frozenset({"the", "a", "an"})
_CLAUSE_PARTS = frozenset({"relcl", "acl", "appos", "punct", "cc", "conj", "advcl", "preconj", "predet", "dep"})
_RELATIVES = frozenset({"that", "which", "who", "whom", "whose"})
_INNER_PREPOSITIONS = frozenset({"of", "to", "for", "than", "between"})
_KINDS_OF_PLACE = frozenset({"city", "town", "village", "state", "country", "province", "island", "district", "municipality"})


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
    while tokens and (tokens[0].lower_ in ARTICLES or tokens[0].is_punct or tokens[0].is_space or tokens[0].dep_ == "cc"):
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


def subject_of(verb: Token) -> Token | None:
    """Return the subject of a verb, also of one that shares it with another."""
    for child in verb.children:
        if child.dep_ in SUBJECTS:
            if child.lower_ in _RELATIVES and verb.dep_ == "relcl":
                return described(verb.head)
            return child
    if verb.dep_ in ("conj", "xcomp") and verb.head.pos_ in ("VERB", "AUX"):
        return subject_of(verb.head)
    if verb.dep_ == "acl" and verb.tag_ in ("VBN", "VBG"):
        return described(verb.head)
    if verb.dep_ == "advcl" and verb.tag_ in ("VBN", "VBG") and not any(c.dep_ == "mark" for c in verb.children):
        return subject_of(verb.head)
    return None


def described(noun: Token) -> Token:
    """Return what a noun is said of: in "X is a robot that ..." and "X, a robot that ..." that is X."""
    if noun.dep_ == "attr" and noun.head.lemma_ == "be" and noun.pos_ == "NOUN":
        return subject_of(noun.head) or noun
    if noun.dep_ == "appos" and noun.pos_ == "NOUN":
        return noun.head
    return noun


def objects_of(preposition: Token) -> Iterator[Token]:
    """Yield what a preposition stands before, each that "and" joins for itself."""
    for child in preposition.children:
        if child.dep_ in ("pobj", "pcomp") and child.pos_ != "VERB":
            yield from joined(child)


def owners_of(noun: Token) -> list[Token]:
    """Return whose a noun is: of "the price of X", "X's price", "its price"."""
    owners = [_of_whose(child) if child.lower_ == "whose" else child for child in noun.children if child.dep_ == "poss"]
    for child in noun.children:
        if child.dep_ == "prep" and child.lower_ == "of":
            owners += objects_of(child)
    return owners


def _of_whose(whose: Token) -> Token:
    """Return what "whose" stands for: what its clause describes."""
    clause = next((token for token in whose.ancestors if token.dep_ == "relcl"), None)
    return whose if clause is None else described(clause.head)


def phrase_without(noun: Token, owners: list[Token]) -> tuple[Token, ...]:
    """Return a noun phrase without whose it is: "chief executive" of "the chief executive of Acme"."""
    parts = [{token.i for token in owner.subtree} for owner in owners]
    left_out = set().union(*(part for part in parts if noun.i not in part))  # not of "X, whose price"
    tokens = [t for t in phrase(noun) if t.i not in left_out and t.dep_ not in ("case", "poss")]
    return tuple(t for t in tokens if not (t.dep_ == "prep" and t.lower_ == "of") and t.lower_ not in ARTICLES)
