"""A question set over a counterfactual copy of its knowledge base: what is known by heart is wrong there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.metrics import key_of
from kblam_engine.evaluation.questions import Question
from kblam_engine.training.counterfactual import counterfactual
from kblam_engine.triples import Triple


@dataclass(frozen=True, slots=True)
class CopiedSet:
    """A copy of a KB and the questions that can be asked over it.

    Attributes:
        triples: of the copy.
        questions: with the copy's answers; unanswerable ones as they were.
        n_left_out: answerable questions without supports, or with one whose value stayed.
    """

    triples: tuple[Triple, ...]
    questions: tuple[Question, ...]
    n_left_out: int


def counterfactual_set(seed: int, triples: Iterable[Triple], questions: Sequence[Question]) -> CopiedSet:
    """Exchange the values of a KB inside each property, and give the questions the answers that are right then.

    A value that another question of the set asks for keeps the strings that question accepts; any other must be in the
    answer as it stands. Earlier turns of a conversation still quote the true values.

    Args:
        seed: decides the copy.
        triples: the KB.
        questions: about it.

    Raises:
        ConfigurationError: no answerable question is left.
    """
    originals = list(triples)
    copy = counterfactual(Random(seed), originals)
    kept = set(copy.kept)
    stayed = {key_of(originals[at].name, originals[at].property) for at in kept}
    now: dict[tuple[str, str], list[str]] = {}
    before: dict[tuple[str, str], list[str]] = {}
    for old, new in zip(originals, copy.triples, strict=True):
        now.setdefault(key_of(new.name, new.property), []).append(new.value)
        before.setdefault(key_of(old.name, old.property), []).append(old.value)
    accepted = _accepted(questions, before)
    asked: list[Question] = []
    left_out = 0
    for question in questions:
        keys = [key_of(*pair) for pair in question.supports]
        if not question.answerable:
            asked.append(question)
        elif not keys or not all(key in now and key not in stayed for key in keys):
            left_out += 1
        else:
            # An open-ended question may have no accepted strings: its evidence changes with the copy.
            groups = question.answers and tuple(_strings(value, key[1], accepted) for key in keys for value in now[key])
            asked.append(replace(question, answers=groups))
    if not any(question.answerable for question in asked):
        raise ConfigurationError("counterfactual: expected questions whose supports are in the KB, got none")
    return CopiedSet(copy.triples, tuple(asked), left_out)


def _accepted(
    questions: Sequence[Question], values: dict[tuple[str, str], list[str]]
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return by property and value what a question for that value alone accepts."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for question in questions:
        if question.answerable and len(question.supports) == len(question.answers) == 1:
            key = key_of(*question.supports[0])
            for value in values.get(key, ())[:1]:
                found.setdefault((key[1], value), question.answers[0])
    return found


def _strings(value: str, prop: str, accepted: dict[tuple[str, str], tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((value, *accepted.get((prop, value), ()))))
