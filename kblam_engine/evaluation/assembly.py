"""Choose the triples an evaluation's knowledge base holds: supports first, then seeded samples."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

from kblam_engine.evaluation.metrics import key_of
from kblam_engine.evaluation.questions import Question
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KBSnapshot

_SHOWN = 3  # examples in a warning
_PAGE = 4096


class StoredTriples(Sequence[Triple]):
    """The triples of a snapshot in its order, read as they are asked for: a million are not held at once."""

    def __init__(self, snapshot: KBSnapshot) -> None:
        self._snapshot = snapshot

    def __len__(self) -> int:
        return len(self._snapshot)

    @overload
    def __getitem__(self, index: int) -> Triple: ...
    @overload
    def __getitem__(self, index: slice) -> list[Triple]: ...
    def __getitem__(self, index: int | slice) -> Triple | list[Triple]:
        places = range(len(self))[index]
        return self._snapshot.triples([places])[0] if isinstance(places, int) else self._snapshot.triples(places)

    def __iter__(self) -> Iterator[Triple]:
        for start in range(0, len(self), _PAGE):
            yield from self[start : start + _PAGE]


@dataclass(frozen=True, slots=True)
class Assembly:
    """The triples of a run's knowledge base, and what had to be done to get them."""

    triples: Sequence[Triple]
    n_from_kb: int
    n_distractors: int
    n_skipped_distractors: int
    """Distractors left out because they would answer a question or replace a triple."""
    warnings: list[str] = field(default_factory=list)


def assemble(
    kb_triples: Iterable[Triple],
    questions: Sequence[Question],
    distractors: Iterable[Triple] = (),
    n_triples: int | None = None,
    seed: int = 0,
) -> Assembly:
    """Return `n_triples` triples that hold every support of the questions.

    All of the KB plus a seeded sample of distractors; where the KB alone is larger than `n_triples`, every
    support plus a seeded sample of the rest. Without `n_triples`: everything. A distractor whose (name,
    property) is that of a KB triple, of a support or of an earlier distractor is skipped.
    """
    rng = random.Random(seed)
    warnings: list[str] = []
    own = distinct(kb_triples)
    supports = {key_of(*pair) for question in questions for pair in question.supports}
    keys = {key_of(t.name, t.property) for t in own}
    _check_supports(questions, keys, warnings)
    others, skipped = _usable(distractors, keys | supports)
    if n_triples is None:
        chosen, extra = own, others
    elif n_triples <= len(own):
        chosen, extra = _reduce(own, supports, n_triples, rng, warnings), []
    else:
        room = n_triples - len(own)
        if room > len(others):
            warnings.append(
                f"asked for {n_triples} triples, got {len(own) + len(others)}: "
                f"{len(own)} in the KB and {len(others)} usable distractors"
            )
        chosen, extra = own, rng.sample(others, min(room, len(others)))
    return Assembly([*chosen, *extra], len(chosen), len(extra), skipped, warnings)


def as_it_is(snapshot: KBSnapshot, questions: Sequence[Question]) -> Assembly:
    """Return every triple of a knowledge base that exists already."""
    triples = StoredTriples(snapshot)
    warnings: list[str] = []
    wanted = {key_of(*pair) for question in questions for pair in question.supports}
    _check_supports(questions, wanted.intersection(key_of(t.name, t.property) for t in triples), warnings)
    return Assembly(triples, len(triples), 0, 0, warnings)


def statements_by_key(triples: Iterable[Triple]) -> dict[tuple[str, str], list[str]]:
    """Return the statements of triples by the compared form of their name and property."""
    found: dict[tuple[str, str], list[str]] = {}
    for triple in triples:
        found.setdefault(key_of(triple.name, triple.property), []).append(triple.statement)
    return found


def distinct(triples: Iterable[Triple]) -> list[Triple]:
    """Drop repeated triples; several values of one (name, property) stay."""
    return list({(t.name, t.property, t.value): t for t in triples}.values())


def _usable(distractors: Iterable[Triple], taken: set[tuple[str, str]]) -> tuple[list[Triple], int]:
    seen = set(taken)
    kept: list[Triple] = []
    skipped = 0
    for triple in distractors:
        key = key_of(triple.name, triple.property)
        if key in seen:
            skipped += 1
        else:
            seen.add(key)
            kept.append(triple)
    return kept, skipped


def _reduce(
    own: list[Triple], supports: set[tuple[str, str]], n_triples: int, rng: random.Random, warnings: list[str]
) -> list[Triple]:
    needed = {i for i, t in enumerate(own) if key_of(t.name, t.property) in supports}
    rest = [i for i in range(len(own)) if i not in needed]
    room = n_triples - len(needed)
    if room < 0:
        warnings.append(
            f"asked for {n_triples} triples, got {len(needed)}: that many are supports of a question"
        )
    keep = needed | set(rng.sample(rest, max(room, 0)))
    return [t for i, t in enumerate(own) if i in keep]


def _check_supports(questions: Sequence[Question], keys: set[tuple[str, str]], warnings: list[str]) -> None:
    """Warn about questions that cannot score: a support is missing, or one that should be is there."""
    absent, present = [], []
    for question in questions:
        for pair in question.supports:
            if question.answerable and key_of(*pair) not in keys:
                absent.append(f"line {question.line} {list(pair)}")
            elif not question.answerable and key_of(*pair) in keys:
                present.append(f"line {question.line} {list(pair)}")
    if absent:
        warnings.append(f"{len(absent)} supports are not in the KB and count as missed: {_some(absent)}")
    if present:
        warnings.append(f"{len(present)} supports of unanswerable questions are in the KB: {_some(present)}")


def _some(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
