"""What a report sets side by side: a system and its baselines, refusals by kind of question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kblam_engine.evaluation.grid import Summary
from kblam_engine.evaluation.markdown import header, number, row, with_interval
from kblam_engine.evaluation.metrics import f1_of, mean_interval
from kblam_engine.evaluation.questions import UNANSWERABLE
from kblam_engine.evaluation.results import LARGEST, Metrics
from kblam_engine.evaluation.runner import SYSTEM
from kblam_engine.evaluation.runs import Estimate, EvaluationRun, GridRun

_MEASURES = {"exact": "exact", "token_f1": "token F1", "rouge_l": "ROUGE-L", "bertscore": "BERTScore", "judge_score": "judge"}


@dataclass(frozen=True, slots=True)
class Refusals:
    """How well questions of one kind are told from those without an answer; None where nothing was measured."""

    precision: float | None
    recall: float | None
    f1: float | None


def refusals(over: float | None, n: int, recall: float | None, n_unanswerable: int) -> Refusals:
    """Return the refusals among the questions of one kind and all unanswerable ones.

    Args:
        over: share of the kind's questions that were refused.
        n: questions of the kind.
        recall: share of the unanswerable questions that were refused.
        n_unanswerable: how many those are.
    """
    if over is None or recall is None:
        return Refusals(None, recall, None)
    right, wrong = recall * n_unanswerable, over * n
    precision = right / (right + wrong) if right + wrong else None
    return Refusals(precision, recall, f1_of(precision, recall))


def refusals_by_kind(runs: Sequence[EvaluationRun]) -> list[str]:
    """Return a table with a line for each kind of answerable question, run and system; none without refusals."""
    lines = []
    for run in runs:
        for name, found in run.systems.items():
            none = found.kinds.get(UNANSWERABLE)
            if none is None or none.refusal_recall is None:
                continue
            for kind, of_kind in found.kinds.items():
                if of_kind.over_refusal is None:
                    continue
                at = refusals(of_kind.over_refusal, of_kind.n, none.refusal_recall, none.n)
                cells = map(number, (of_kind.over_refusal, at.precision, at.recall, at.f1))
                lines.append(row(run.name, name, kind, of_kind.n, *cells))
    if not lines:
        return []
    heading = header("run", "system", "kind", "n", "over-refusal", "precision", "recall", "F1")
    return [*heading, *lines, "", "Refusals among the questions of the kind and all unanswerable ones of the run."]


def grid_refusals(found: Mapping[str, Summary], kind: str, measure: str) -> Estimate | None:
    """Return "over_refusal", or the "refusal_f1" of a kind and the unanswerable questions, from means over seeds."""
    none, of_kind = found.get(UNANSWERABLE), found.get(kind)
    over = of_kind.measures.get("over_refusal") if of_kind else None
    if of_kind is None or over is None:
        return None
    if measure == "over_refusal":
        return Estimate(over.mean, over.low, over.high)
    recall = none.measures.get("refusal_recall") if none else None
    if none is None or recall is None:
        return None
    f1 = refusals(over.mean, of_kind.n, recall.mean, none.n).f1
    return None if f1 is None else Estimate(f1)


def differences(runs: Sequence[EvaluationRun]) -> list[str]:
    """Return a table of the system minus each baseline on the same questions; empty without baselines."""
    shown = _measured(metrics for run in runs for found in run.systems.values() for metrics in [found.overall])
    lines = []
    for run in runs:
        for name in run.baselines:
            cells = [with_interval(_paired(run, name, measure)) for measure in shown]
            lines.append(row(run.name, f"{run.n_triples:,}", name, *cells))
    if not lines:
        return []
    note = "The system minus the baseline, question by question; in brackets the 95 % interval of the mean difference (Student's t)."
    return [*header("run", "triples", "baseline", *(_MEASURES[m] for m in shown)), *lines, "", note]


def grid_differences(run: GridRun) -> list[str]:
    """Return a table of the system minus each baseline against the size, seed by seed; empty without baselines."""
    lines = []
    for measure, label in _MEASURES.items():
        for name in run.systems[1:]:
            found = [_over_seeds(at.systems, name, measure) for at in run.sizes]
            if any(found):
                lines.append(row(f"{label} − {name}", *map(with_interval, found)))
    if not lines:
        return []
    note = (
        "In brackets the 95 % interval over the seeds (Student's t): it holds what a seed changes, and not how far other questions "
        "of the same sort would differ."
    )
    return ["", *header(f"{SYSTEM} minus the baseline", *(f"{at.size:,}" for at in run.sizes)), *lines, "", note]


def _measured(found: Iterable[Metrics]) -> list[str]:
    every = list(found)
    return [measure for measure in _MEASURES if any(getattr(one, measure) is not None for one in every)]


def _paired(run: EvaluationRun, name: str, measure: str) -> Estimate | None:
    """Return the mean difference with its interval; without the answers, the difference of the means alone."""
    apart = []
    answers = run.data.get("answers")
    for answer in answers if isinstance(answers, list) else []:
        try:
            own, theirs = answer["system"][measure], answer["baselines"][name][measure]
        except (KeyError, TypeError):
            continue
        if isinstance(own, int | float) and isinstance(theirs, int | float):
            apart.append(float(own) - float(theirs))
    if len(apart) > 1:
        return _difference(sum(apart) / len(apart), apart, measure)
    ends = [getattr(run.systems[of].overall, measure) for of in (SYSTEM, name)]
    return None if None in ends else Estimate(ends[0] - ends[1])


def _over_seeds(systems: Mapping[str, Any], name: str, measure: str) -> Estimate | None:
    if name not in systems:
        return None
    own, theirs = (systems[of].overall.measures.get(measure) for of in (SYSTEM, name))
    if own is None or theirs is None:
        return None
    if len(own.values) == len(theirs.values) > 1:
        apart = [a - b for a, b in zip(own.values, theirs.values, strict=True)]
        return _difference(own.mean - theirs.mean, apart, measure)
    return Estimate(own.mean - theirs.mean)


def _difference(mean: float, apart: Sequence[float], measure: str) -> Estimate:
    """Return a mean difference with its interval (Student's t), which ends where differences of the measure do."""
    largest, interval = LARGEST.get(measure, 1.0), mean_interval(apart)
    return Estimate(mean, max(-largest, interval[0]), min(largest, interval[1])) if interval else Estimate(mean)
