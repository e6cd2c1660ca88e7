"""A question set over a counterfactual copy of its knowledge base: what is known by heart is wrong there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.assembly import distinct
from kblam_engine.evaluation.metrics import contains, fold, key_of
from kblam_engine.evaluation.questions import Question
from kblam_engine.training.counterfactual import counterfactual
from kblam_engine.triples import Triple

Key = tuple[str, str]
Groups = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class CopiedSet:
    """A copy of a KB and the questions that can be asked over it.

    Attributes:
        triples: of the copy, each once.
        questions: with the copy's answers; unanswerable ones as they were.
        n_left_out: answerable questions of which nobody can tell what is right over the copy: without supports, with
            one whose value stayed, with an answer that is no support's value ("yes", a sum), or with one triple that
            names the next, which the copy no longer does.
    """

    triples: tuple[Triple, ...]
    questions: tuple[Question, ...]
    n_left_out: int


@dataclass(frozen=True, slots=True)
class _Exchange:
    """What the copy did to the values of each name and property."""

    values: dict[Key, list[tuple[str, str]]]
    """Old and new value of each triple."""
    stayed: set[Key]
    """Where a value could not change."""


def counterfactual_set(seed: int, triples: Iterable[Triple], questions: Sequence[Question]) -> CopiedSet:
    """Exchange the values of a KB inside each property, and give the questions the answers that are right then.

    Each group of accepted strings goes with the support whose value it accepts, and asks for that triple's value in the
    copy; several values of which any counts stay one group. A value that another question of the set asks for keeps the
    strings that question accepts; any other must be in the answer as it stands. Earlier turns of a conversation still
    quote the true values.

    Args:
        seed: decides the copy.
        triples: the KB; a triple that is there twice is one, or the copy would contradict itself.
        questions: about it.

    Raises:
        ConfigurationError: no answerable question is left.
    """
    originals = distinct(triples)
    copy = counterfactual(Random(seed), originals)
    exchange = _Exchange({}, {key_of(originals[at].name, originals[at].property) for at in copy.kept})
    for old, new in zip(originals, copy.triples, strict=True):
        exchange.values.setdefault(key_of(old.name, old.property), []).append((old.value, new.value))
    accepted = _accepted(questions, exchange)
    asked: list[Question] = []
    left_out = 0
    for question in questions:
        groups = _groups(question, exchange, accepted) if question.answerable else question.answers
        if groups is None:
            left_out += 1
        else:
            asked.append(replace(question, answers=groups))
    if not any(question.answerable for question in asked):
        raise ConfigurationError(
            "counterfactual: expected questions whose supports are in the KB and whose answers are the supports' values, got none"
        )
    return CopiedSet(copy.triples, tuple(asked), left_out)


def _groups(question: Question, exchange: _Exchange, accepted: dict[Key, tuple[str, ...]]) -> Groups | None:
    """Return what an answer over the copy must say; None where that cannot be told."""
    keys = list(dict.fromkeys(key_of(*pair) for pair in question.supports))
    if not keys or any(key not in exchange.values or key in exchange.stayed for key in keys) or _chained(keys, exchange):
        return None
    if not question.answers:  # an open-ended question may have none: its evidence changes with the copy
        return ()
    places = _matched(question.answers, [[old for old, _ in exchange.values[key]] for key in keys])
    if places is None:
        return None
    groups = []
    for group, place in zip(question.answers, places, strict=True):
        pairs = exchange.values[keys[place]]
        meant = _meant(group, [old for old, _ in pairs])
        strings = [text for at in meant for text in (pairs[at][1], *accepted.get((keys[place][1], pairs[at][1]), ()))]
        groups.append(tuple(dict.fromkeys(strings)))
    return tuple(groups)


def _chained(keys: Sequence[Key], exchange: _Exchange) -> bool:
    """Tell whether one support names another: the copy breaks that link, and what comes after it is another triple."""
    return any(
        contains(old, name)
        for name, _ in keys
        for key in keys
        if key[0] != name
        for old, _ in exchange.values[key]
    )


def _matched(groups: Groups, values: Sequence[Sequence[str]]) -> list[int] | None:
    """Return for each group the place of the support whose value it accepts; None unless all go together in one way.

    Groups in the order of the supports are taken so, because two supports may have the same value.
    """
    fits = [[bool(_meant(group, of_support)) for of_support in values] for group in groups]
    if len(groups) == len(values) and all(fits[at][at] for at in range(len(groups))):
        return list(range(len(groups)))
    if any(sum(row) != 1 for row in fits):
        return None
    places = [row.index(True) for row in fits]
    return places if set(places) == set(range(len(values))) else None


def _meant(group: Sequence[str], values: Sequence[str]) -> list[int]:
    """Return the places of the values that a group accepts: those equal to one of its strings, or that hold it or are in it."""
    found: set[int] = set()
    for accepted in group:
        equal = {at for at, value in enumerate(values) if fold(value) == fold(accepted)}
        found |= equal or {
            at for at, value in enumerate(values) if contains(value, accepted) or contains(accepted, value)
        }
    return sorted(found)


def _accepted(questions: Sequence[Question], exchange: _Exchange) -> dict[Key, tuple[str, ...]]:
    """Return by property and value what a question for that value alone accepts."""
    found: dict[Key, tuple[str, ...]] = {}
    for question in questions:
        if question.answerable and len(question.supports) == len(question.answers) == 1:
            key = key_of(*question.supports[0])
            pairs = exchange.values.get(key, [])
            # Of several values nobody knows which string is another spelling of which.
            if len(pairs) == 1 and _meant(question.answers[0], [pairs[0][0]]):
                found.setdefault((key[1], pairs[0][0]), question.answers[0])
    return found
