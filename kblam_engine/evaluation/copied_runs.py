"""A run over a KB beside one over its counterfactual copy: exact answers to the same questions, and their difference."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kblam_engine.evaluation.markdown import header, number, row, with_interval
from kblam_engine.evaluation.metrics import mean_interval
from kblam_engine.evaluation.runner import SYSTEM
from kblam_engine.evaluation.runs import SAME, Estimate, EvaluationRun, GridRun

COUNTERFACTUAL = "counterfactual"
"""In the settings of a run: the seed of the copy that it was asked over."""
ALL = "all"
"""Questions of every kind."""
_HEADINGS = ("questions", "triples", "system", "kind", "n of the KB", "n of the copy", "paired", "KB", "copy", "copy − KB")
_NOTE = (
    "Exact answers. Over the copy, answers from memory are wrong; only questions whose answer it changes are asked. Shares and "
    "difference are of the questions that both were asked, in brackets the 95 % interval of the mean difference; where files do "
    "not tell each answer (of a grid: all but the system's with the first seed), shares are of all questions, and nothing is "
    "subtracted."
)
Asked = tuple[str, int]
"""A question by conversation and kind, and which time it was asked."""


@dataclass(frozen=True, slots=True)
class _Exact:
    """Exact answers of one system to the questions of one kind."""

    n: int
    """Questions that the share is of; where the file does not tell each answer, all of the kind."""
    share: float
    each: dict[Asked, float]
    """1 or 0 by question, where the file tells it."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """One run at one size."""

    run: EvaluationRun | GridRun
    size: int
    seeds: tuple[Any, ...]
    has_distractors: bool
    systems: dict[str, dict[str, _Exact]]
    """By system and kind."""


def counterfactuals(evaluations: Sequence[EvaluationRun], grids: Sequence[GridRun]) -> list[str]:
    """Return a table of exact answers over KBs and over their counterfactual copies; empty without a pair."""
    found = list(_all(evaluations, grids))
    lines: list[str] = []
    for copied in found:
        if copied.run.data.get(COUNTERFACTUAL) is None:
            continue
        over_kb = [one for one in found if _belong(one, copied)]
        for real in over_kb:
            title = copied.run.title if len(over_kb) == 1 else f"{copied.run.title}, {real.run.name}"
            for name, kinds in copied.systems.items():
                for kind, exact in kinds.items():
                    known = real.systems.get(name, {}).get(kind)
                    if known is not None:
                        lines.append(row(title, f"{copied.size:,}", name, kind, *_cells(known, exact)))
    return [*header(*_HEADINGS), *dict.fromkeys(lines), "", _NOTE] if lines else []


def _cells(real: _Exact, copied: _Exact) -> list[str]:
    """Return numbers of questions, shares and difference, the last only of questions that both were asked."""
    both = [key for key in copied.each if key in real.each]
    if not both:
        return [str(real.n), str(copied.n), "–", number(real.share), number(copied.share), with_interval(None)]
    apart = [copied.each[key] - real.each[key] for key in both]
    mean = sum(apart) / len(apart)
    interval = mean_interval(apart)
    low, high = (max(-1.0, interval[0]), min(1.0, interval[1])) if interval else (None, None)
    shares = [number(sum(one.each[key] for key in both) / len(both)) for one in (real, copied)]
    return [str(real.n), str(copied.n), str(len(both)), *shares, with_interval(Estimate(mean, low, high))]


def _belong(real: _Measured, copied: _Measured) -> bool:
    """Tell whether two runs differ in nothing but the copy; a limit may differ, for questions are paired one by one."""
    if real.run.data.get(COUNTERFACTUAL) is not None or type(real.run) is not type(copied.run) or real.size != copied.size:
        return False
    names = [name for name in (*SAME, "options") if name != COUNTERFACTUAL]
    if real.has_distractors or copied.has_distractors:  # these are another seed's, or of another file
        names.append("distractors")
        if real.seeds != copied.seeds:
            return False
    told = [json.dumps([one.run.data.get(name) for name in names], sort_keys=True) for one in (real, copied)]
    return told[0] == told[1]


def _all(evaluations: Sequence[EvaluationRun], grids: Sequence[GridRun]) -> Iterator[_Measured]:
    """Yield every run at every size."""
    for run in evaluations:
        answers = run.data.get("answers")
        systems = {
            name: {
                kind: _exact(metrics.n, metrics.exact, _each(answers, name, kind))
                for kind, metrics in {ALL: found.overall, **found.kinds}.items()
                if metrics.exact is not None
            }
            for name, found in run.systems.items()
        }
        yield _Measured(run, run.n_triples, (run.data.get("seed"),), bool(run.data.get("n_distractors")), systems)
    for grid in grids:
        for at in grid.sizes:
            systems = {
                name: {
                    kind: _exact(summary.n, summary.measures["exact"].mean, _each(at.answers, name, kind), len(at.seeds))
                    for kind, summary in {ALL: found.overall, **found.kinds}.items()
                    if "exact" in summary.measures
                }
                for name, found in at.systems.items()
            }
            yield _Measured(grid, at.size, at.seeds, any(cell.get("n_distractors") for cell in at.cells), systems)


def _exact(n: int, share: float, each: dict[Asked, float], n_seeds: int = 1) -> _Exact:
    """Return exact answers; a grid tells each answer of its first seed only, so the number of all is another."""
    return _Exact(len(each) if each and n_seeds == 1 else n, share, each)


def _each(answers: Any, name: str, kind: str) -> dict[Asked, float]:
    """Return whether each answer of a system was exact, by what was asked; nothing where the file does not tell.

    A question is known by its conversation and kind: copies of files made by earlier versions have no lines. Asked twice,
    it is paired in the order of the file.
    """
    found: dict[Asked, float] = {}
    times: Counter[str] = Counter()
    for answer in answers if isinstance(answers, list) else []:
        try:
            scored: Mapping[str, Any] = answer["system"] if name == SYSTEM else answer["baselines"][name]
            exact = scored["exact"]
            told = json.dumps([answer["kind"], answer["messages"]], sort_keys=True)
        except (KeyError, TypeError):
            continue
        if not isinstance(exact, bool) or kind not in (ALL, answer["kind"]):
            continue
        times[told] += 1
        found[told, times[told]] = float(exact)
    return found
