"""Read what `kblam eval` and `kblam bench` wrote, check it, and find the runs that belong together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kblam_engine.errors import ImportFileError
from kblam_engine.evaluation import grid, latency, results
from kblam_engine.evaluation.grid import SizeResult, Spread, Summary, SystemSummary
from kblam_engine.evaluation.in_prompt import InPromptResult
from kblam_engine.evaluation.json_fields import (
    count_of,
    load_object,
    number_of,
    numbers_of,
    object_of,
    objects_of,
    optional_object,
    pair_of,
    unexpected,
)
from kblam_engine.evaluation.latency_results import LatencyResult
from kblam_engine.evaluation.metrics import mean_interval
from kblam_engine.evaluation.questions import digest_of
from kblam_engine.evaluation.results import Metrics, SystemResult
from kblam_engine.evaluation.runner import SYSTEM

SAME = ("kb", "questions", "model", "adapter", "encoder", "dtype", "device", "index", "kb_revision", "counterfactual", "judge")
"""What must agree for two runs to differ in nothing but the size of the KB, the seed and the commit."""


@dataclass(frozen=True, slots=True)
class EvaluationRun:
    """One file of `kblam eval`."""

    name: str
    """The file's name without its ending, with as many folders as tell it from the other files."""
    data: dict[str, Any]
    """The whole object, as it was read."""
    systems: dict[str, SystemResult]
    """The system, and after it the baselines."""
    n_triples: int

    @property
    def system(self) -> SystemResult:
        """What the model with the knowledge base reached."""
        return self.systems[SYSTEM]

    @property
    def baselines(self) -> dict[str, SystemResult]:
        """What the baselines reached."""
        return {name: found for name, found in self.systems.items() if name != SYSTEM}

    @property
    def title(self) -> str:
        """The name of the questions, or the run's own where the file does not say."""
        return _title(self.data, self.name)


@dataclass(frozen=True, slots=True)
class BenchRun:
    """One file of `kblam bench`."""

    name: str
    data: dict[str, Any]
    results: list[LatencyResult]
    """One for each size of the knowledge base."""


@dataclass(frozen=True, slots=True)
class GridRun:
    """One file of `kblam eval --sizes`."""

    name: str
    data: dict[str, Any]
    sizes: list[SizeResult]
    """Sizes ascending, at least one."""

    @property
    def systems(self) -> list[str]:
        """The names of the system and of the baselines."""
        return list(dict.fromkeys(name for at in self.sizes for name in at.systems))

    @property
    def title(self) -> str:
        """The name of the questions, or the run's own where the file does not say."""
        return _title(self.data, self.name)


class Runs(NamedTuple):
    """What some files hold, by kind, in the order of the files."""

    evaluations: list[EvaluationRun]
    benches: list[BenchRun]
    grids: list[GridRun]


@dataclass(frozen=True, slots=True)
class Series:
    """Runs with the same questions and settings; they differ in the size of the KB, the seed or the commit."""

    title: str
    by_size: dict[int, list[EvaluationRun]]
    """Size of the KB to its runs, sizes ascending; a run that is there twice is one."""
    copies: tuple[str, ...] = ()
    """Names of the files that hold a run of another one, and are left out."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured number and its 95 % interval, where one is known."""

    value: float
    low: float | None = None
    high: float | None = None


def read_runs(paths: Iterable[Path]) -> Runs:
    """Read files of `kblam eval --json` and `kblam bench --json`, in the order given, each file once.

    Raises:
        ImportFileError: a file is not JSON, or not what these commands write.
        OSError: a file cannot be read.
    """
    once = list({path.resolve(): path for path in paths}.values())
    runs = Runs([], [], [])
    for path, name in zip(once, _names(once), strict=True):
        data = load_object(path)
        try:
            if data.get("format") == results.FORMAT:
                runs.evaluations.append(_evaluation(name, data))
            elif data.get("format") == latency.FORMAT:
                runs.benches.append(_bench(name, data))
            elif data.get("format") == grid.FORMAT:
                runs.grids.append(_grid(name, data))
            else:
                wanted = f"{results.FORMAT}, {grid.FORMAT} or {latency.FORMAT} (kblam eval --json, kblam bench --json)"
                raise unexpected("format", wanted, data.get("format"))
        except ValueError as error:
            raise ImportFileError(path, 0, str(error)) from error
    return runs


def series_of(runs: Sequence[EvaluationRun]) -> list[Series]:
    """Put the runs together that asked the same questions with the same settings, in the order of their first runs."""
    groups: dict[str, dict[Any, list[EvaluationRun]]] = {}
    for run in runs:
        same = [run.data.get(name) for name in (*SAME, "options")]
        key = json.dumps([*same, run.system.overall.n, run.title], sort_keys=True)
        key += str(_questions_digest(run.data))
        filled_from = str(run.data.get("distractors")) if run.data.get("n_distractors") else None
        groups.setdefault(key, {}).setdefault(filled_from, []).append(run)
    found = []
    for by_filling in groups.values():
        # A KB that needed no distractors is the smallest of every series that has them.
        unfilled = by_filling.pop(None, [])
        found.extend([unfilled + filled for filled in by_filling.values()] or [unfilled])
    first = [group[-1] for group in found]
    titles = _distinct([_titles(run, first) for run in first])
    return [_series(title, group) for title, group in zip(titles, found, strict=True)]


def estimate(found: Sequence[Metrics], measure: str) -> Estimate | None:
    """Return one run's share with its own interval; of several runs the mean with the interval of the mean."""
    values = [value for metrics in found if (value := getattr(metrics, measure)) is not None]
    if not values:
        return None
    if len(found) == 1:
        return Estimate(values[0], *found[0].ci95.get(measure, (None, None)))
    mean = sum(values) / len(values)
    interval = mean_interval(values)
    largest = results.LARGEST.get(measure, 1.0)
    return Estimate(mean, max(0.0, interval[0]), min(largest, interval[1])) if interval else Estimate(mean)


def with_quartiles(value: float | None, ends: tuple[float | None, float | None]) -> Estimate | None:
    """Return a median with its quartiles in place of an interval; None where nothing was measured."""
    return None if value is None else Estimate(value, *ends)


def _series(title: str, runs: Sequence[EvaluationRun]) -> Series:
    kept = {_what_ran(run): run for run in reversed(runs)}.values()  # of copies the first
    own = [run for run in runs if any(run is one for one in kept)]
    by_size = {size: [run for run in own if run.n_triples == size] for size in sorted({run.n_triples for run in own})}
    return Series(title, by_size, tuple(run.name for run in runs if not any(run is one for one in own)))


def _what_ran(run: EvaluationRun) -> str:
    """Return what two files have in common only where they hold the same run: its seed, its time, what was said."""
    answers = run.data.get("answers")
    said = [
        (answer.get("kind"), answer["system"].get("text"), answer["system"].get("exact"))
        for answer in (answers if isinstance(answers, list) else [])
        if isinstance(answer, dict) and isinstance(answer.get("system"), dict)
    ]
    shares = run.system.overall.to_dict()
    told = [run.n_triples, run.data.get("seed"), run.data.get("created"), said, shares]
    return json.dumps(told, sort_keys=True, default=str)


def _questions_digest(data: dict[str, Any]) -> str | None:
    """Return the digest of the questions that a file says it asked, or that of those it holds; None without any."""
    if isinstance(data.get("questions_digest"), str):
        return str(data["questions_digest"])
    try:
        return digest_of((a["messages"], a["kind"], a["supports"]) for a in data["answers"]) if data["answers"] else None
    except (KeyError, TypeError):
        return None


def _titles(run: EvaluationRun, others: Sequence[EvaluationRun]) -> list[str]:
    """Return titles for the series that a run stands for, from short to telling."""

    def settings(of: EvaluationRun) -> dict[str, Any]:
        options = of.data.get("options")
        own = {name: of.data.get(name) for name in (*SAME, "distractors")}
        return {
            **own,
            **(options if isinstance(options, dict) else {}),
            "questions asked": of.system.overall.n,
        }

    alike = [settings(other) for other in others if other.title == run.title]
    told = [
        f"{key} {value}"
        for key, value in settings(run).items()
        if any(str(other.get(key)) != str(value) for other in alike)
    ]
    return [run.title, ", ".join([run.title, *told]), f"{run.title}, {run.name}"]


def _title(data: dict[str, Any], name: str) -> str:
    questions = data.get("questions")
    return Path(questions).stem if isinstance(questions, str) and questions else name


def _names(paths: Sequence[Path]) -> list[str]:
    """Name files by their stems, with as many folders before as it takes to tell them apart."""
    candidates = []
    for path in paths:
        full = path.resolve()
        parts = (*full.parent.parts, full.stem)
        candidates.append(["/".join(parts[-n:]) for n in range(1, len(parts) + 1)] + [str(full)])
    return _distinct(candidates)


def _distinct(candidates: Sequence[Sequence[str]]) -> list[str]:
    """Choose from each list, short names first, the first that is in no other list; else its last."""
    chosen = []
    for i, names in enumerate(candidates):
        taken = {name for j, others in enumerate(candidates) if j != i for name in others}
        chosen.append(next((name for name in names if name not in taken), names[-1]))
    return chosen


def _evaluation(name: str, data: dict[str, Any]) -> EvaluationRun:
    baselines = object_of(data, "baselines")
    systems = {SYSTEM: _system(object_of(data, "system"))}
    systems.update({baseline: _system(object_of(baselines, baseline)) for baseline in baselines})
    return EvaluationRun(name, data, systems, count_of(data, "n_triples"))


def _system(data: dict[str, Any]) -> SystemResult:
    kinds = object_of(data, "kinds")
    return SystemResult(
        _metrics(object_of(data, "overall")),
        {kind: _metrics(object_of(kinds, kind)) for kind in kinds},
        object_of(data, "info"),
        {layer: _metrics(object_of(data["layers"], layer)) for layer in optional_object(data, "layers")},
    )


def _metrics(data: dict[str, Any]) -> Metrics:
    intervals = object_of(data, "ci95")
    pairs = {name: pair_of(intervals, name) for name in intervals}
    return Metrics(
        n=count_of(data, "n"),
        ci95={
            name: (low, high) for name, (low, high) in pairs.items() if low is not None and high is not None
        },
        **numbers_of(data, Metrics, except_for=("n", "ci95")),
    )


def _bench(name: str, data: dict[str, Any]) -> BenchRun:
    return BenchRun(name, data, [_latency(item) for item in objects_of(data, "results")])


def _latency(data: dict[str, Any]) -> LatencyResult:
    own = ("n_triples", "embeddings", "ttft_ratio_p25_p75", "per_token_ratio_p25_p75", "search", "kb", "in_prompt")
    return LatencyResult(
        n_triples=count_of(data, "n_triples"),
        embeddings=str(data.get("embeddings")),
        search=str(data.get("search", "exact")),
        kb=None if data.get("kb") is None else str(data["kb"]),
        ttft_ratio_p25_p75=pair_of(data, "ttft_ratio_p25_p75"),
        per_token_ratio_p25_p75=pair_of(data, "per_token_ratio_p25_p75"),
        in_prompt=tuple(
            InPromptResult(name=str(way.get("name")), **numbers_of(way, InPromptResult, except_for=("name",)))
            for way in (objects_of(data, "in_prompt") if "in_prompt" in data else ())
        ),
        **numbers_of(data, LatencyResult, except_for=own),
    )


def _grid(name: str, data: dict[str, Any]) -> GridRun:
    sizes = sorted((_size(item) for item in objects_of(data, "results")), key=lambda one: one.size)
    if not sizes:
        raise unexpected("results", "at least one size", data["results"])
    return GridRun(name, data, sizes)


def _size(data: dict[str, Any]) -> SizeResult:
    seeds, systems = data.get("seeds"), object_of(data, "systems")
    object_of(systems, SYSTEM)
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise unexpected("seeds", "a list of whole numbers", seeds)
    return SizeResult(
        count_of(data, "n_triples"),
        tuple(seeds),
        {name: _system_summary(object_of(systems, name)) for name in systems},
        objects_of(data, "cells"),
        objects_of(data, "answers"),
    )


def _system_summary(data: dict[str, Any]) -> SystemSummary:
    kinds = object_of(data, "kinds")
    overall = _summary(object_of(data, "overall"))
    return SystemSummary(
        overall,
        {kind: _summary(object_of(kinds, kind)) for kind in kinds},
        object_of(data, "info"),
        {layer: _summary(object_of(data["layers"], layer)) for layer in optional_object(data, "layers")},
    )


def _summary(data: dict[str, Any]) -> Summary:
    found = {name: _spread(object_of(data, name)) for name in grid.MEASURES if data.get(name) is not None}
    return Summary(count_of(data, "n"), found)


def _spread(data: dict[str, Any]) -> Spread:
    mean, values = number_of(data, "mean"), data.get("values")
    if mean is None:
        raise unexpected("mean", "a number", None)
    if not isinstance(values, list):
        raise unexpected("values", "a list of numbers", values)
    known = [number for value in values if (number := number_of({"values": value}, "values")) is not None]
    return Spread(mean, number_of(data, "low"), number_of(data, "high"), tuple(known))
