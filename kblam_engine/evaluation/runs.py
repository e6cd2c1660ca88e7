"""Read what `kblam eval` and `kblam bench` wrote, check it, and find the runs that belong together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from kblam_engine.errors import ImportFileError
from kblam_engine.evaluation import grid, latency, results
from kblam_engine.evaluation.grid import SizeResult, Spread, Summary, SystemSummary
from kblam_engine.evaluation.latency import LatencyResult
from kblam_engine.evaluation.metrics import mean_interval
from kblam_engine.evaluation.results import Metrics, SystemResult
from kblam_engine.evaluation.runner import SYSTEM

SAME = ("kb", "questions", "model", "adapter", "encoder", "dtype", "device", "counterfactual", "judge")
"""What must agree for two runs to differ in nothing but the size of the KB, the seed and the commit."""
_LARGEST = 1e15  # a number beyond this is no measurement, and may be too large for a float


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
    """Size of the KB to its runs, sizes ascending."""


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
        data = _load(path)
        try:
            if data.get("format") == results.FORMAT:
                runs.evaluations.append(_evaluation(name, data))
            elif data.get("format") == latency.FORMAT:
                runs.benches.append(_bench(name, data))
            elif data.get("format") == grid.FORMAT:
                runs.grids.append(_grid(name, data))
            else:
                wanted = f"{results.FORMAT}, {grid.FORMAT} or {latency.FORMAT} (kblam eval --json, kblam bench --json)"
                raise _unexpected("format", wanted, data.get("format"))
        except ValueError as error:
            raise ImportFileError(path, 0, str(error)) from error
    return runs


def series_of(runs: Sequence[EvaluationRun]) -> list[Series]:
    """Put the runs together that have the same questions and settings, in the order of their first runs."""
    groups: dict[str, dict[Any, list[EvaluationRun]]] = {}
    for run in runs:
        same = [run.data.get(name) for name in (*SAME, "options")]
        key = json.dumps([*same, run.system.overall.n, run.title], sort_keys=True)
        filled_from = str(run.data.get("distractors")) if run.data.get("n_distractors") else None
        groups.setdefault(key, {}).setdefault(filled_from, []).append(run)
    found = []
    for by_filling in groups.values():
        # A KB that needed no distractors is the smallest of every series that has them.
        unfilled = by_filling.pop(None, [])
        found.extend([unfilled + filled for filled in by_filling.values()] or [unfilled])
    first = [group[-1] for group in found]
    titles = _distinct([_titles(run, first) for run in first])
    return [Series(title, _by_size(group)) for title, group in zip(titles, found, strict=True)]


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


def _by_size(runs: Sequence[EvaluationRun]) -> dict[int, list[EvaluationRun]]:
    sizes = sorted({run.n_triples for run in runs})
    return {size: [run for run in runs if run.n_triples == size] for size in sizes}


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


def _load(path: Path) -> dict[str, Any]:
    def refuse(text: str) -> NoReturn:
        raise ValueError(f"{text} is no number of JSON")

    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ImportFileError(path, error.lineno, f"not JSON: {error.msg}, column {error.colno}") from error
    except RecursionError as error:
        raise ImportFileError(path, 0, "not usable: nested too deeply") from error
    except ValueError as error:  # bytes that are no text, or a number of thousands of digits
        raise ImportFileError(path, 0, f"not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ImportFileError(path, 0, f"expected one JSON object, got a {type(data).__name__}")
    return data


def _evaluation(name: str, data: dict[str, Any]) -> EvaluationRun:
    baselines = _object(data, "baselines")
    systems = {SYSTEM: _system(_object(data, "system"))}
    systems.update({baseline: _system(_object(baselines, baseline)) for baseline in baselines})
    return EvaluationRun(name, data, systems, _count(data, "n_triples"))


def _system(data: dict[str, Any]) -> SystemResult:
    kinds = _object(data, "kinds")
    return SystemResult(
        _metrics(_object(data, "overall")),
        {kind: _metrics(_object(kinds, kind)) for kind in kinds},
        _object(data, "info"),
        {layer: _metrics(_object(data["layers"], layer)) for layer in _optional(data, "layers")},
    )


def _metrics(data: dict[str, Any]) -> Metrics:
    intervals = _object(data, "ci95")
    pairs = {name: _pair(intervals, name) for name in intervals}
    return Metrics(
        n=_count(data, "n"),
        ci95={
            name: (low, high) for name, (low, high) in pairs.items() if low is not None and high is not None
        },
        **_numbers(data, Metrics, except_for=("n", "ci95")),
    )


def _bench(name: str, data: dict[str, Any]) -> BenchRun:
    return BenchRun(name, data, [_latency(item) for item in _objects(data, "results")])


def _latency(data: dict[str, Any]) -> LatencyResult:
    own = ("n_triples", "embeddings", "ttft_ratio_p25_p75", "per_token_ratio_p25_p75", "search", "kb")
    return LatencyResult(
        n_triples=_count(data, "n_triples"),
        embeddings=str(data.get("embeddings")),
        search=str(data.get("search", "exact")),
        kb=None if data.get("kb") is None else str(data["kb"]),
        ttft_ratio_p25_p75=_pair(data, "ttft_ratio_p25_p75"),
        per_token_ratio_p25_p75=_pair(data, "per_token_ratio_p25_p75"),
        **_numbers(data, LatencyResult, except_for=own),
    )


def _grid(name: str, data: dict[str, Any]) -> GridRun:
    sizes = sorted((_size(item) for item in _objects(data, "results")), key=lambda one: one.size)
    if not sizes:
        raise _unexpected("results", "at least one size", data["results"])
    return GridRun(name, data, sizes)


def _size(data: dict[str, Any]) -> SizeResult:
    seeds, systems = data.get("seeds"), _object(data, "systems")
    _object(systems, SYSTEM)
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise _unexpected("seeds", "a list of whole numbers", seeds)
    return SizeResult(
        _count(data, "n_triples"),
        tuple(seeds),
        {name: _system_summary(_object(systems, name)) for name in systems},
        _objects(data, "cells"),
        _objects(data, "answers"),
    )


def _system_summary(data: dict[str, Any]) -> SystemSummary:
    kinds = _object(data, "kinds")
    overall = _summary(_object(data, "overall"))
    return SystemSummary(
        overall,
        {kind: _summary(_object(kinds, kind)) for kind in kinds},
        _object(data, "info"),
        {layer: _summary(_object(data["layers"], layer)) for layer in _optional(data, "layers")},
    )


def _summary(data: dict[str, Any]) -> Summary:
    found = {name: _spread(_object(data, name)) for name in grid.MEASURES if data.get(name) is not None}
    return Summary(_count(data, "n"), found)


def _spread(data: dict[str, Any]) -> Spread:
    mean, values = _number(data, "mean"), data.get("values")
    if mean is None:
        raise _unexpected("mean", "a number", None)
    if not isinstance(values, list):
        raise _unexpected("values", "a list of numbers", values)
    known = [number for value in values if (number := _number({"values": value}, "values")) is not None]
    return Spread(mean, _number(data, "low"), _number(data, "high"), tuple(known))


def _numbers(data: dict[str, Any], record: type, *, except_for: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a dataclass of numbers; what the file does not have is None."""
    return {f.name: _number(data, f.name) for f in fields(record) if f.name not in except_for}


def _object(data: dict[str, Any], key: str) -> dict[str, Any]:
    found = data.get(key)
    if not isinstance(found, dict):
        raise _unexpected(key, "an object", found)
    return found


def _optional(data: dict[str, Any], key: str) -> dict[str, Any]:
    return _object(data, key) if data.get(key) is not None else {}


def _objects(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = data.get(key)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise _unexpected(key, "a list of objects", found)
    return found


def _count(data: dict[str, Any], key: str) -> int:
    found = _number(data, key)
    if not isinstance(found, int) or found < 1:
        raise _unexpected(key, "a whole number of at least 1", found)
    return found


def _number(data: dict[str, Any], key: str) -> float | None:
    found = data.get(key)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) < _LARGEST:
        raise _unexpected(key, "a number or null", found)
    return found


def _pair(data: dict[str, Any], key: str) -> tuple[float | None, float | None]:
    found = data.get(key)
    if found is None:
        return None, None
    if not isinstance(found, list) or len(found) != 2:
        raise _unexpected(key, "two numbers", found)
    ends = {"low": found[0], "high": found[1]}
    return _number(ends, "low"), _number(ends, "high")


def _unexpected(key: str, wanted: str, found: object) -> ValueError:
    text = "nothing" if found is None else json.dumps(found, ensure_ascii=False)
    return ValueError(f"{key}: expected {wanted}, got {text if len(text) < 60 else text[:60] + '…'}")
