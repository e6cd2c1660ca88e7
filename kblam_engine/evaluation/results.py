"""Scored answers, their metrics per kind and overall, and the JSON object of `kblam eval`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from kblam_engine.evaluation import metrics
from kblam_engine.evaluation.interface import AnswerLike, Message
from kblam_engine.evaluation.judge import MAX_SCORE
from kblam_engine.evaluation.questions import Question
from kblam_engine.triples import Triple

FORMAT = "kblam-eval/1"
LARGEST = {"judge_score": float(MAX_SCORE)}
"""The largest value of measures that are means and no shares; shares end at 1."""
BY_LAYER = ("retrieval_top1", "retrieval_top5")
"""What is measured in each KB layer."""
DEFINITIONS = {
    "exact": "share of answerable questions whose answer holds one accepted string of every group; "
    "case, spacing and punctuation folded, numbers compared whole; combining marks that are no part of a letter do not count "
    "(vowel signs of Hindi, for example), nor does a point before a number's first digit (.5 is 5)",
    "token_f1": "token F1 against the best accepted string of each group, averaged; answerable questions",
    "rouge_l": "ROUGE-L F1 against the accepted strings and the statements of the supports, the best of them; "
    "answerable questions, where asked for",
    "bertscore": "BERTScore F1 against the same references with token embeddings of all-MiniLM-L6-v2, no idf, not rescaled; "
    "answerable questions, where asked for",
    "judge_score": "mean of a judge's scores of the answers to open-ended questions, 0 to 5, where asked for",
    "retrieval_top1": "share of answerable questions with supports whose first attended triple is a support",
    "retrieval_top5": "share of answerable questions whose supports are all among the first five attended",
    "layers": "with --by-layer: the same two where each KB layer ranks the triples by its attention, mean over heads; sentence "
    "tokens: summed over the prompt; native tokens: over the answer, among the triples that were opened, so a refusal finds none",
    "refusal_precision": "share of refusals that were of unanswerable questions; the system says itself whether it refuses, "
    "while a baseline's answer, and that of an ablation without retrieval, is a refusal where it holds an English phrase of "
    "refusing, such as \"cannot find\" or \"not mentioned\"",
    "refusal_recall": "share of unanswerable questions that were refused",
    "refusal_f1": "harmonic mean of refusal precision and recall; 0 where no refusal was right",
    "over_refusal": "share of answerable questions that were refused",
    "ttft_ms_p50": "median milliseconds to the first token, retrieval included; none of these three where questions were asked in batches",
    "ms_per_token_p50": "median over answers of milliseconds per token after the first",
    "peak_rss_mb": "peak resident memory while answering, MiB; the KB stays loaded for baselines",
    "ci95": "Wilson intervals of the proportions; of judge_score Student's t",
    "null": "nothing to measure, for example exact where every question is unanswerable",
}


_ON_REQUEST = ("judge_score", "judge_reason", "layers")


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """One system's answer to one question, with its scores; None where a score does not apply."""

    text: str
    refused: bool
    confidence: float | None
    attended: list[dict[str, Any]]
    exact: bool | None
    token_f1: float | None
    retrieval_top1: bool | None
    retrieval_top5: bool | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    ttft_ms: float | None
    ms_per_token: float | None
    peak_rss_mb: float | None
    prompt: list[Message] | None = None
    """The conversation a baseline was really given; None for the system."""
    rouge_l: float | None = None
    bertscore: float | None = None
    judge_score: int | None = None
    """0 to 5, of an open-ended question where a judge was given."""
    judge_reason: str | None = None
    layers: dict[str, list[bool]] | None = None
    """Where it was asked for, for each KB layer ("native 20") the two retrieval scores by the attention there."""

    def without_costs(self) -> ScoredAnswer:
        """Return the answer without times and memory."""
        return replace(self, ttft_ms=None, ms_per_token=None, peak_rss_mb=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; of what nobody asked for nothing is said."""
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in told.items() if value is not None or name not in _ON_REQUEST}


@dataclass(frozen=True, slots=True)
class Metrics:
    """Aggregates over the questions of one kind, or over all; None where there was nothing to measure."""

    n: int
    exact: float | None = None
    token_f1: float | None = None
    rouge_l: float | None = None
    bertscore: float | None = None
    judge_score: float | None = None
    retrieval_top1: float | None = None
    retrieval_top5: float | None = None
    refusal_precision: float | None = None
    refusal_recall: float | None = None
    refusal_f1: float | None = None
    over_refusal: float | None = None
    ttft_ms_p50: float | None = None
    ms_per_token_p50: float | None = None
    peak_rss_mb: float | None = None
    ci95: dict[str, tuple[float, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, rounded to what the sample can carry."""
        plain: dict[str, Any] = {
            f.name: _rounded(getattr(self, f.name)) for f in fields(self) if f.name != "ci95"
        }
        plain["ci95"] = {name: [_rounded(low), _rounded(high)] for name, (low, high) in self.ci95.items()}
        return plain


@dataclass(frozen=True, slots=True)
class SystemResult:
    """The metrics of the system or of one baseline."""

    overall: Metrics
    kinds: dict[str, Metrics]
    info: dict[str, Any] = field(default_factory=dict)
    """What the system was given, for example how many triples fit in its context."""
    layers: dict[str, Metrics] = field(default_factory=dict)
    """Retrieval by the attention in each KB layer, under "native 20" or "sentence 3", where it was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        told = {
            "overall": self.overall.to_dict(),
            "kinds": {kind: found.to_dict() for kind, found in self.kinds.items()},
            "info": self.info,
        }
        if self.layers:
            told["layers"] = {layer: found.to_dict() for layer, found in self.layers.items()}
        return told


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Everything a run of `kblam eval` found; `to_dict` is the OUT.json of its contract."""

    system: SystemResult
    baselines: dict[str, SystemResult]
    answers: list[dict[str, Any]]
    """One object a question: its fields, `system` and `baselines` with the scored answers."""
    settings: dict[str, Any]
    """Command, seed, sizes, models, versions, hardware, commit."""
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the contents as plain JSON values."""
        found = {
            "format": FORMAT,
            **self.settings,
            "warnings": self.warnings,
            "definitions": DEFINITIONS,
            "system": self.system.to_dict(),
            "baselines": {name: found.to_dict() for name, found in self.baselines.items()},
            "answers": self.answers,
        }
        return {key: finite(value) for key, value in found.items()}


def score(
    question: Question,
    answer: AnswerLike,
    attended: Sequence[tuple[Triple, float | None]] | None,
    *,
    refused: bool,
    confidence: float | None,
    ttft_ms: float,
    peak_rss_mb: float | None,
    prompt: list[Message] | None = None,
    ranked: Mapping[str, Sequence[Triple]] | None = None,
) -> ScoredAnswer:
    """Score one answer.

    Args:
        question: what was asked.
        answer: what came back.
        attended: triples with their weights, best first; None for a system that does not rank them: no retrieval score.
        refused: whether it is a refusal.
        confidence: that the KB holds the answer, where the system knows.
        ttft_ms: milliseconds to the first token, everything before it included.
        peak_rss_mb: peak memory.
        prompt: the conversation that a baseline was given.
        ranked: for each KB layer the triples by the attention there, where it was asked for.
    """
    hits = None
    if attended is not None and question.answerable:
        hits = metrics.retrieval_hits([(t.name, t.property) for t, _ in attended], question.supports)
    return ScoredAnswer(
        text=answer.text,
        refused=refused,
        confidence=confidence,
        attended=[
            {"name": t.name, "property": t.property, "value": t.value, "weight": weight}
            for t, weight in attended or ()
        ],
        exact=metrics.exact(answer.text, question.answers) if question.answers else None,
        token_f1=metrics.token_f1(answer.text, question.answers) if question.answers else None,
        retrieval_top1=hits and hits[0],
        retrieval_top5=hits and hits[1],
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.usage.prompt_tokens,
        completion_tokens=answer.usage.completion_tokens,
        ttft_ms=ttft_ms,
        # An answer of one token has no "token after the first".
        ms_per_token=answer.ms_per_token if answer.usage.completion_tokens > 1 else None,
        peak_rss_mb=peak_rss_mb,
        prompt=prompt,
        layers=None if ranked is None or not question.answerable else layer_hits(ranked, question.supports),
    )


def layer_hits(
    ranked: Mapping[str, Sequence[Triple]], supports: Sequence[tuple[str, str]]
) -> dict[str, list[bool]] | None:
    """Return for each KB layer whether the first triple is a support, and whether all supports are in the first five."""
    found = {}
    for layer, triples in ranked.items():
        hits = metrics.retrieval_hits([(t.name, t.property) for t in triples], supports)
        if hits is not None:
            found[layer] = list(hits)
    return found or None


def summarise(
    pairs: Iterable[tuple[Question, ScoredAnswer]], info: dict[str, Any] | None = None
) -> SystemResult:
    """Aggregate scored answers per kind, kinds in order of appearance, and overall."""
    scored = list(pairs)
    kinds: dict[str, list[tuple[Question, ScoredAnswer]]] = {}
    for question, answer in scored:
        kinds.setdefault(question.kind, []).append((question, answer))
    return SystemResult(
        aggregate(scored),
        {kind: aggregate(part) for kind, part in kinds.items()},
        info or {},
        aggregate_layers(answer for _, answer in scored),
    )


def _intervals(
    counts: Mapping[str, tuple[int, int]], answers: Sequence[ScoredAnswer]
) -> dict[str, tuple[float, float] | None]:
    """Return the intervals of shares (Wilson) and of the judge's score (Student's t)."""
    scores = [float(a.judge_score) for a in answers if a.judge_score is not None]
    of_scores = metrics.mean_interval(scores)
    if of_scores is not None:
        of_scores = max(0.0, of_scores[0]), min(LARGEST["judge_score"], of_scores[1])
    return {**{name: metrics.wilson(*count) for name, count in counts.items()}, "judge_score": of_scores}


def aggregate_layers(answers: Iterable[ScoredAnswer]) -> dict[str, Metrics]:
    """Return the retrieval scores of each KB layer over the answers that have them."""
    hits: dict[str, list[list[bool]]] = {}
    for answer in answers:
        for layer, found in (answer.layers or {}).items():
            hits.setdefault(layer, []).append(found)
    told = {}
    for layer, found_there in hits.items():
        n = len(found_there)
        counts = {name: sum(one[i] for one in found_there) for i, name in enumerate(BY_LAYER)}
        intervals = {name: metrics.wilson(count, n) for name, count in counts.items()}
        shares = {name: count / n for name, count in counts.items()}
        told[layer] = Metrics(n, ci95={k: v for k, v in intervals.items() if v is not None}, **shares)
    return told


def aggregate(pairs: Sequence[tuple[Question, ScoredAnswer]]) -> Metrics:
    """Aggregate scored answers into one `Metrics`."""
    answers = [answer for _, answer in pairs]
    counts = {
        "exact": _count(a.exact for a in answers),
        "retrieval_top1": _count(a.retrieval_top1 for a in answers),
        "retrieval_top5": _count(a.retrieval_top5 for a in answers),
        "refusal_precision": _count(not q.answerable for q, a in pairs if a.refused),
        "refusal_recall": _count(a.refused for q, a in pairs if not q.answerable),
        "over_refusal": _count(a.refused for q, a in pairs if q.answerable),
    }
    shares = {name: metrics.ratio(*count) for name, count in counts.items()}
    peaks = [a.peak_rss_mb for a in answers if a.peak_rss_mb is not None]
    return Metrics(
        n=len(answers),
        token_f1=_mean(a.token_f1 for a in answers),
        rouge_l=_mean(a.rouge_l for a in answers),
        bertscore=_mean(a.bertscore for a in answers),
        judge_score=_mean(a.judge_score for a in answers),
        ttft_ms_p50=metrics.percentile((a.ttft_ms for a in answers if a.ttft_ms is not None), 50),
        ms_per_token_p50=metrics.percentile(
            (a.ms_per_token for a in answers if a.ms_per_token is not None), 50
        ),
        peak_rss_mb=max(peaks, default=None),
        ci95={name: interval for name, interval in _intervals(counts, answers).items() if interval is not None},
        refusal_f1=metrics.f1_of(shares["refusal_precision"], shares["refusal_recall"]),
        **shares,
    )


def finite(value: Any) -> Any:
    """Return nested JSON values with numbers JSON cannot hold (nan, inf) replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def _count(outcomes: Iterable[bool | None]) -> tuple[int, int]:
    """Return (hits, trials); None is no trial."""
    known = [outcome for outcome in outcomes if outcome is not None]
    return sum(known), len(known)


def _mean(values: Iterable[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _rounded(value: float | int | None) -> float | int | None:
    return round(value, 4) if isinstance(value, float) else value
