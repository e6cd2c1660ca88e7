"""A grid of evaluations, sizes of the knowledge base times seeds: its statistics and its JSON object.

Pure functions of numbers and triples; `grid_run` asks the questions.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.assembly import Assembly, assemble
from kblam_engine.evaluation.metrics import key_of, mean_interval
from kblam_engine.evaluation.questions import UNANSWERABLE, Question
from kblam_engine.evaluation.results import DEFINITIONS, LARGEST, Metrics, SystemResult, finite
from kblam_engine.triples import Triple

FORMAT = "kblam-eval-grid/1"
MEASURES = tuple(f.name for f in fields(Metrics) if f.name not in ("n", "ci95"))
"""What is averaged over the seeds: every number of `Metrics`."""
_UNBOUNDED = ("ttft_ms_p50", "ms_per_token_p50", "peak_rss_mb")  # all others are shares, at most 1
_GRID_DEFINITIONS = {
    **{name: text for name, text in DEFINITIONS.items() if name != "ci95"},
    "mean": "mean over the seeds; a seed chooses distractors and, under a limit, the questions",
    "low, high": "95 % interval of that mean (Student's t); with one seed the interval of the questions (Wilson)",
    "values": "what each seed gave, in the order of the seeds; a seed with nothing to measure has none",
    "n_kbs": "knowledge bases of a cell: where the triples that hold its answers do not fit into one of that size, "
    "the questions are shared out, each with the triples that hold its own answer",
}


Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Spread:
    """One number over the seeds."""

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, rounded to what a sample can carry."""
        ends = [None if end is None else round(end, 4) for end in (self.low, self.high)]
        values = [round(value, 4) for value in self.values]
        return {"mean": round(self.mean, 4), "low": ends[0], "high": ends[1], "values": values}


@dataclass(frozen=True, slots=True)
class Summary:
    """The questions of one kind, or all, over the seeds."""

    n: int
    """Questions of all seeds together."""
    measures: dict[str, Spread]
    """By name out of `MEASURES`; one without anything to measure is not there."""

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values, null for what was not measured."""
        told = {name: self.measures[name].to_dict() if name in self.measures else None for name in MEASURES}
        return {"n": self.n, **told}


@dataclass(frozen=True, slots=True)
class SystemSummary:
    """The system or one baseline at one size."""

    overall: Summary
    kinds: dict[str, Summary]
    info: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, Summary] = field(default_factory=dict)
    """Retrieval by the attention in each KB layer, where it was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        kinds = {kind: found.to_dict() for kind, found in self.kinds.items()}
        told = {"overall": self.overall.to_dict(), "kinds": kinds, "info": self.info}
        if self.layers:
            told["layers"] = {layer: found.to_dict() for layer, found in self.layers.items()}
        return told


@dataclass(frozen=True, slots=True)
class SizeResult:
    """All that was measured at one size of the knowledge base."""

    size: int
    seeds: tuple[int, ...]
    systems: dict[str, SystemSummary]
    """The system, and after it the baselines."""
    cells: list[dict[str, Any]] = field(default_factory=list)
    """Where each seed's result comes from: its triples, time, commit."""
    answers: list[dict[str, Any]] = field(default_factory=list)
    """The system's answers with the first seed, with their attended triples."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {
            "n_triples": self.size,
            "seeds": list(self.seeds),
            "systems": {name: found.to_dict() for name, found in self.systems.items()},
            "cells": self.cells,
            "answers": self.answers,
        }


@dataclass(frozen=True, slots=True)
class GridResult:
    """Everything a grid found; `to_dict` is the file of `kblam eval --sizes --seeds --json`."""

    sizes: list[SizeResult]
    settings: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the contents as plain JSON values."""
        found = {
            "format": FORMAT,
            **self.settings,
            "warnings": self.warnings,
            "definitions": _GRID_DEFINITIONS,
            "results": [one.to_dict() for one in self.sizes],
        }
        return {key: finite(value) for key, value in found.items()}


@dataclass(frozen=True, slots=True)
class Part:
    """One knowledge base of a cell, and the places of the questions that are asked over it."""

    assembly: Assembly
    places: list[int]


def over_seeds(found: Sequence[Metrics]) -> Summary:
    """Return the mean and its 95 % interval for each number that any seed measured."""
    measures = {}
    for name in MEASURES:
        values = [value for one in found if (value := getattr(one, name)) is not None]
        if values:
            alone = found[0].ci95.get(name) if len(found) == 1 else None
            measures[name] = spread(values, alone, largest=None if name in _UNBOUNDED else LARGEST.get(name, 1.0))
    return Summary(sum(one.n for one in found), measures)


def spread(
    values: Sequence[float], alone: tuple[float, float] | None = None, *, largest: float | None = None
) -> Spread:
    """Return the mean of `values` with its interval, cut off at 0 and at the largest value there can be.

    Args:
        values: one for each seed.
        alone: the interval to take where there is one value.
        largest: 1 for shares.
    """
    mean = sum(values) / len(values)
    low, high = (mean_interval(values) if len(values) > 1 else alone) or (None, None)
    if low is not None and high is not None:
        low, high = max(0.0, low), high if largest is None else min(largest, high)
    return Spread(mean, low, high, tuple(values))


def summarise_seeds(found: Sequence[SystemResult]) -> SystemSummary:
    """Return one system's results with several seeds as one; a kind that a seed's sample lacks has fewer."""
    return SystemSummary(
        over_seeds([one.overall for one in found]),
        _each_over_seeds([one.kinds for one in found]),
        merged_info([one.info for one in found]),
        _each_over_seeds([one.layers for one in found]),
    )


def _each_over_seeds(found: Sequence[Mapping[str, Metrics]]) -> dict[str, Summary]:
    names = dict.fromkeys(name for one in found for name in one)
    return {name: over_seeds([one[name] for one in found if name in one]) for name in names}


def merged_info(found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what was said of a system several times as one; of different numbers the smallest."""
    merged: dict[str, Any] = {}
    for info in found:
        for key, value in info.items():
            known = merged.setdefault(key, value)
            if isinstance(value, int | float) and isinstance(known, int | float):
                merged[key] = min(known, value)
    return merged


def check_sizes(
    sizes: Iterable[int],
    kb_triples: Sequence[Triple],
    questions: Sequence[Question],
    distractors: Iterable[Triple],
) -> tuple[int, ...]:
    """Return the sizes ascending, each once, where the triples are enough for the largest.

    Raises:
        ConfigurationError: no size; one below what a question needs, or above the triples there are.
    """
    wanted = tuple(sorted(set(sizes)))
    if not wanted:
        raise ConfigurationError("sizes: expected at least one, got none")
    needed = max((len(found) for found in _supports(kb_triples, questions)), default=0)
    if wanted[0] < max(1, needed):
        raise ConfigurationError(
            f"sizes: expected at least {max(1, needed)}, the triples that hold one question's answer, got {wanted[0]}"
        )
    everything = assemble(kb_triples, questions, distractors)
    if wanted[-1] > len(everything.triples):
        raise ConfigurationError(
            f"sizes: expected at most {len(everything.triples):,}, for there are {everything.n_from_kb:,} triples in "
            f"the KB and {everything.n_distractors:,} usable distractors, got {wanted[-1]:,}; bring more distractors"
        )
    return wanted


def parts_of(
    kb_triples: Sequence[Triple],
    questions: Sequence[Question],
    asked: Sequence[Question],
    distractors: Sequence[Triple],
    size: int,
    seed: int,
) -> list[Part]:
    """Return the knowledge bases of a cell, each of `size` triples, and who is asked over which.

    One, the same as without a grid, where it holds the supports of all questions. Else the asked questions
    are shared out, so that each meets a knowledge base of that size with its own supports; those without
    supports are dealt out evenly.
    """
    if len(set().union(*_supports(kb_triples, questions))) <= size:
        return [Part(assemble(kb_triples, questions, distractors, size, seed), list(range(len(asked))))]
    parts = []
    # Distractors have no room here: the supports alone are more than `size`, and the KB holds them all.
    for places in shared_out(_supports(kb_triples, asked), size, seed):
        group = [asked[place] for place in places]
        parts.append(Part(assemble(kb_triples, group, (), size, seed), places))
    return parts


def shared_out(needed: Sequence[set[int]], size: int, seed: int = 0) -> list[list[int]]:
    """Return groups of places that together need at most `size` triples, in an order the seed decides.

    Args:
        needed: positions of the triples that each question needs, at most `size` each.
        size: the most a group may need.
        seed: decides who shares a group.
    """
    order = list(range(len(needed)))
    random.Random(seed).shuffle(order)
    groups: list[list[int]] = [[]]
    held: set[int] = set()
    for place in (place for place in order if needed[place]):
        if len(held | needed[place]) > size:
            groups.append([])
            held = set()
        groups[-1].append(place)
        held |= needed[place]
    for turn, place in enumerate(place for place in order if not needed[place]):
        groups[turn % len(groups)].append(place)
    return [sorted(group) for group in groups]


def _supports(kb_triples: Sequence[Triple], questions: Sequence[Question]) -> list[set[int]]:
    """Return for each question the positions of the distinct triples that hold its answer."""
    distinct = {(t.name, t.property, t.value) for t in kb_triples}
    places: dict[tuple[str, str], set[int]] = {}
    for position, (name, prop, _) in enumerate(sorted(distinct)):
        places.setdefault(key_of(name, prop), set()).add(position)
    return [set().union(*(places.get(key_of(*pair), set()) for pair in q.supports)) for q in questions]


@dataclass(frozen=True, slots=True)
class Attention:
    """What a heat map shows."""

    questions: list[str]
    triples: list[str]
    """The supports of the questions in their order, and after them "all others"."""
    weights: list[list[float]]
    """The attention of each question's answer to each triple, 0 to 1 `[n_questions, n_triples]`."""
    supports: list[tuple[int, int]]
    """(question, triple) where the triple holds the question's answer."""


def attention(answers: Iterable[Any], n: int = 20) -> Attention | None:
    """Return the attention of some answers to their supports; None where no answer tells it.

    Args:
        answers: as in the files of `kblam eval --json`.
        n: questions to take, evenly from those with supports and attended triples.
    """
    usable = [found for answer in answers if (found := _attended(answer))]
    if not usable:
        return None
    step = max(1.0, len(usable) / n)
    chosen = [usable[int(i * step)] for i in range(min(n, len(usable)))]
    columns: dict[Key, int] = {}
    triples: list[str] = []
    for _, supports, _ in chosen:
        for name, prop in supports:
            if columns.setdefault(key_of(name, prop), len(triples)) == len(triples):
                triples.append(f"{name}: {prop}")
    weights = [[0.0] * (len(triples) + 1) for _ in chosen]
    marks = []
    for place, (_, supports, attended) in enumerate(chosen):
        marks += [(place, columns[key_of(*pair)]) for pair in supports]
        for key, weight in attended:
            weights[place][columns.get(key, len(triples))] += weight
    return Attention([question for question, _, _ in chosen], [*triples, "all others"], weights, marks)


def _attended(answer: Any) -> tuple[str, list[Key], list[tuple[Key, float]]] | None:
    """Return question, supports and attended triples of an answer; None without them, or in another form."""
    try:
        question = [message["content"] for message in answer["messages"] if message["role"] == "user"][-1]
        supports = [(str(name), str(prop)) for name, prop in answer["supports"]]
        found = [(key_of(t["name"], t["property"]), float(t["weight"])) for t in answer["system"]["attended"]]
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    if answer.get("kind") == UNANSWERABLE:  # its supports are what the KB does not have
        return None
    return (str(question), supports, found) if supports and found else None
