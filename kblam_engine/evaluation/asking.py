"""Put questions to the system, to an ablation and to a baseline, and score what comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kblam_engine.evaluation import environment, metrics
from kblam_engine.evaluation.baselines import (
    WITHOUT_RETRIEVAL,
    Baseline,
    Corpus,
    PromptOptions,
    prompt_with_statements,
)
from kblam_engine.evaluation.interface import AnswerLike, EvaluatedModel
from kblam_engine.evaluation.questions import Question
from kblam_engine.evaluation.results import ScoredAnswer, score
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KBSnapshot

_MOST_ATTENDED = 10  # triples told of an answer that attended to every one

Progress = Callable[[str, int, int], None]
"""Called with the system's name, questions done, and questions in all."""
Ask = Callable[[Sequence[Question]], list[ScoredAnswer]]
"""Answers some questions at once and scores the answers."""


@dataclass(frozen=True, slots=True)
class SystemOptions:
    """How the system and its ablations are asked."""

    answer: dict[str, Any] = field(default_factory=dict)
    """Options of `KBLaM.answer`."""
    by_layer: bool = False
    """Whether retrieval is scored in every KB layer besides; one question at a time."""


def ask_all(name: str, questions: Sequence[Question], told: Progress, ask: Ask, batch_size: int) -> list[ScoredAnswer]:
    """Ask all questions, `batch_size` at once; with more than one the answers come without times and memory.

    Both would be those of the batch, which nobody waits for who asks one question.
    """
    answers: list[ScoredAnswer] = []
    told(name, 0, len(questions))
    for start in range(0, len(questions), batch_size):
        environment.reset_peak_rss()
        found = ask(questions[start : start + batch_size])
        for answer in found:
            answers.append(answer if batch_size == 1 else answer.without_costs())
            told(name, len(answers), len(questions))
    return answers


def ask_system(
    model: EvaluatedModel, snapshot: KBSnapshot, options: SystemOptions, questions: Sequence[Question]
) -> list[ScoredAnswer]:
    """Ask the system some questions at once, or, where each KB layer is watched, one after the other."""
    if options.by_layer:
        return [_watched(model, snapshot, options, question, retrieves=True) for question in questions]
    answers = model.answer_batch([_messages(question) for question in questions], snapshot, **options.answer)
    return [_scored(question, answer) for question, answer in zip(questions, answers, strict=True)]


def ask_ablated(
    model: EvaluatedModel, name: str, snapshot: KBSnapshot, options: SystemOptions, questions: Sequence[Question]
) -> list[ScoredAnswer]:
    """Ask an ablation, one question after the other: what replaces a part of the system knows one conversation."""
    from kblam_engine.evaluation.ablations import ablated  # which loads torch

    return [
        _watched(ablated(model, name, question), snapshot, options, question, retrieves=name not in WITHOUT_RETRIEVAL)
        for question in questions
    ]


def ask_baseline(
    model: EvaluatedModel, corpus: Corpus, baseline: Baseline, prompts: PromptOptions, questions: Sequence[Question]
) -> list[ScoredAnswer]:
    """Ask a baseline some questions at once; finding the triples is part of its time to the first token."""
    start = time.perf_counter()
    chosen = [[corpus.triples[i] for i in baseline.select(question)] for question in questions]
    given = [
        prompt_with_statements(
            question.messages, [t.statement for t in triples], refusal_instruction=prompts.refusal_instruction
        )
        for question, triples in zip(questions, chosen, strict=True)
    ]
    selection_ms = (time.perf_counter() - start) * 1000
    answers = model.answer_batch(given, None, max_new_tokens=prompts.max_new_tokens)
    return [
        score(
            question,
            answer,
            [(triple, None) for triple in triples] if baseline.ranked else None,
            refused=metrics.is_refusal(answer.text),
            confidence=None,
            ttft_ms=selection_ms + answer.ttft_ms,
            peak_rss_mb=environment.peak_rss_mb(),
            # A prompt with thousands of statements is the same for every question: `info` says how many.
            prompt=messages if baseline.ranked else None,
        )
        for question, triples, messages, answer in zip(questions, chosen, given, answers, strict=True)
    ]


def _watched(
    model: EvaluatedModel, snapshot: KBSnapshot, options: SystemOptions, question: Question, *, retrieves: bool
) -> ScoredAnswer:
    """Ask one question of the system or of an ablation."""
    watch = None
    if options.by_layer:
        from kblam_engine.evaluation.ablations import watched  # which loads torch

        model, watch = watched(model)
    (answer,) = model.answer_batch([_messages(question)], snapshot, **options.answer)
    return _scored(question, answer, watch.ranked() if watch else None, retrieves=retrieves)


def _scored(
    question: Question,
    answer: AnswerLike,
    ranked: dict[str, list[Triple]] | None = None,
    *,
    retrieves: bool = True,
) -> ScoredAnswer:
    """Score an answer; one without retrieval has opened every triple, and nothing in it says that it refuses."""
    attended = [(attended.triple, round(attended.weight, 6)) for attended in answer.attended]
    if not retrieves:
        attended = sorted(attended, key=lambda each: -each[1])[:_MOST_ATTENDED]
    return score(
        question,
        answer,
        attended,
        refused=answer.refused if retrieves else metrics.is_refusal(answer.text),
        confidence=answer.confidence if retrieves else None,
        ttft_ms=answer.ttft_ms,
        peak_rss_mb=environment.peak_rss_mb(),
        ranked=ranked,
    )


def _messages(question: Question) -> list[dict[str, str]]:
    return [dict(message) for message in question.messages]
