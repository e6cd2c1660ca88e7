"""Ask every question of the system and of each baseline, and score what comes back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation import environment, metrics
from kblam_engine.evaluation.assembly import Assembly, StoredTriples, as_it_is, assemble, statements_by_key
from kblam_engine.evaluation.baselines import (
    ABLATIONS,
    WITHOUT_RETRIEVAL,
    Baseline,
    Corpus,
    PromptOptions,
    build_baseline,
    prompt_with_statements,
)
from kblam_engine.evaluation.embedding_cache import CachedEncoder
from kblam_engine.evaluation.interface import EvaluatedModel, Message
from kblam_engine.evaluation.judging import Judge, Judgements, check_judged, judge_answers
from kblam_engine.evaluation.questions import OPEN_ENDED, Question
from kblam_engine.evaluation.results import EvaluationResult, ScoredAnswer, score, summarise
from kblam_engine.evaluation.text_metrics import check_text_metrics, reference_texts, text_scorer
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KBSnapshot

SYSTEM = "kblam"
_MOST_ATTENDED = 10  # triples told of an answer that attended to every one
_WARM_UP: Message = {"role": "user", "content": "Say hello."}

Progress = Callable[[str, int, int], None]
"""Called with the system's name, questions done, and questions in all."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What each system said to the same questions, and what it was given; the system before the baselines."""

    answers: dict[str, list[ScoredAnswer]]
    info: dict[str, dict[str, Any]]


def run_evaluation(
    model: EvaluatedModel,
    kb_triples: Iterable[Triple] | KBSnapshot,
    questions: Sequence[Question],
    distractors: Iterable[Triple] = (),
    n_triples: int | None = None,
    baselines: Sequence[str] = (),
    seed: int = 0,
    *,
    limit: int | None = None,
    text_metrics: Sequence[str] = (),
    prompts: PromptOptions | None = None,
    answer_options: dict[str, Any] | None = None,
    embedding_cache: Path | None = None,
    labels: dict[str, Any] | None = None,
    progress: Progress | None = None,
    by_layer: bool = False,
    judge: Judge | None = None,
) -> EvaluationResult:
    """Evaluate a model on questions about a knowledge base, beside baselines on its base model.

    Every system answers greedily and at most `prompts.max_new_tokens`; one after the other over all
    questions, so that each one's peak memory is its own. Times are of single answers, retrieval included.

    Args:
        model: a `KBLaM`.
        kb_triples: triples the questions are about, or a snapshot of a knowledge base that holds them, asked as it is.
        questions: see `read_questions`.
        distractors: triples to fill the knowledge base with.
        n_triples: size of the knowledge base; None for everything given (see `assemble`).
        baselines: names out of `BASELINES`, `SIZED` and `ABLATIONS`.
        seed: chooses distractors and the in-context baseline's triples, and the questions under `limit`.
        limit: ask only a seeded sample of this many questions.
        text_metrics: names out of `TEXT_METRICS`, scored besides.
        prompts: how the baselines' prompts are built; `max_new_tokens` also holds for the system.
        answer_options: further options of `model.answer`, for example `refusal_threshold` or `max_hops`.
        embedding_cache: folder to keep sentence embeddings in; None encodes every time.
        labels: further settings to write into the result, for example the model's name.
        progress: called after each answer.
        by_layer: score retrieval in every KB layer besides, for the system and its ablations.
        judge: a chat model that scores the answers to open-ended questions.

    Raises:
        ConfigurationError: no questions, none that is open-ended for a judge, a baseline or text metric nobody knows, or an ablation that cannot be.
        MissingDependencyError: a baseline or text metric needs a package that is not installed.
    """
    if not questions:
        raise ConfigurationError("questions: expected at least one, got none")
    check_text_metrics(text_metrics)
    if judge is not None:
        check_judged(questions)
    prompts = prompts or PromptOptions(seed=seed)
    from kblam_engine.knowledge_base import KBSnapshot

    source: Sequence[Triple] | KBSnapshot
    if isinstance(kb_triples, KBSnapshot):
        if n_triples is not None or any(True for _ in distractors):
            raise ConfigurationError("a knowledge base is asked as it is: expected no distractors and no n_triples with it")
        source, assembly = kb_triples, as_it_is(kb_triples, questions)
    else:
        # The KB is filled for all questions, so that a limited run meets the same KB as a full one.
        assembly = assemble(kb_triples, questions, distractors, n_triples, seed)
        source = assembly.triples
    asked = sample_questions(questions, limit, seed)
    answered = ask_systems(
        model,
        source,
        asked,
        baselines,
        prompts=prompts,
        answer_options=answer_options,
        encoder=CachedEncoder(model.encoder, embedding_cache) if embedding_cache else None,
        show_encoding=progress is not None,
        progress=progress,
        by_layer=by_layer,
    )
    # Loaded after the last answer: what a scorer takes is no memory of the systems.
    add_text_metrics(text_metrics, asked, assembly.triples, answered.answers.values())
    settings = settings_of(seed, assembly, prompts, answer_options or {}, labels or {})
    warnings = list(assembly.warnings)
    if judge is not None:
        settings["judge"] = judge.name
        judgements = Judgements(judge)
        systems, told = list(answered.answers.values()), progress or (lambda name, done, total: None)
        n = len(systems) * sum(question.kind == OPEN_ENDED for question in asked)
        judge_answers(judgements, asked, assembly.triples, systems, lambda done: told("judge", done, n))
        warnings += judgements.warnings()
    return result_of(asked, answered, settings, warnings)


def ask_systems(
    model: EvaluatedModel,
    triples: Sequence[Triple] | KBSnapshot,
    questions: Sequence[Question],
    baselines: Sequence[str],
    *,
    prompts: PromptOptions,
    answer_options: dict[str, Any] | None = None,
    encoder: Any = None,
    show_encoding: bool = False,
    progress: Progress | None = None,
    by_layer: bool = False,
) -> Answered:
    """Ask the system and then each baseline all questions over one knowledge base.

    Arguments not named here are those of `run_evaluation`.

    Args:
        model: a `KBLaM`.
        triples: the knowledge base, or what it is made of.
        questions: what is asked, all of it.
        baselines: names out of `BASELINES`, `SIZED` and `ABLATIONS`.
        prompts: how the baselines' prompts are built.
        answer_options: further options of `model.answer`.
        encoder: embeds the triples; None for the model's own.
        show_encoding: whether the sentence encoder shows a progress bar.
        progress: called after each answer.
        by_layer: score retrieval in every KB layer besides.

    Raises:
        ConfigurationError: there is no such baseline, or the model does not have what an ablation takes out.
    """
    names = list(dict.fromkeys(baselines))
    require_ablations(model, names, len(triples))
    with _snapshot_of(triples, encoder or model.encoder, show_encoding) as snapshot:
        corpus = Corpus(StoredTriples(snapshot), snapshot.key_embeddings, model.encoder)
        in_prompt = {n: build_baseline(n, model, corpus, questions, prompts) for n in names if n not in ABLATIONS}
        # What loads on first use must not count as the first answer's time.
        model.generate_text([_WARM_UP], 2)
        options = {"max_new_tokens": prompts.max_new_tokens, **(answer_options or {})}
        model.answer([_WARM_UP], snapshot, **{**options, "max_new_tokens": 2})
        told = progress or (lambda name, done, total: None)
        answers = {
            SYSTEM: _ask_all(SYSTEM, questions, told, lambda q: _ask_system(model, snapshot, q, options, by_layer))
        }
        info: dict[str, dict[str, Any]] = {SYSTEM: {"n_triples": len(triples)}}
        for name in names:
            if name in ABLATIONS:
                ask, info[name] = partial(_ask_ablated, model, name, snapshot, options, by_layer), {"what": ABLATIONS[name]}
            else:
                ask, info[name] = partial(_ask_baseline, model, corpus, in_prompt[name], prompts), in_prompt[name].info
            answers[name] = _ask_all(name, questions, told, ask)
    return Answered(answers, info)


@contextmanager
def _snapshot_of(triples: Sequence[Triple] | KBSnapshot, encoder: Any, progress: bool) -> Iterator[KBSnapshot]:
    from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase

    if isinstance(triples, KBSnapshot):
        yield triples
        return
    with KnowledgeBase.open(":memory:", encoder=encoder, multi=True) as kb:
        kb.add(triples, progress=progress)
        yield kb.snapshot()


def require_ablations(model: EvaluatedModel, names: Sequence[str], n_triples: int) -> None:
    """Check that the ablations among the names can be done; raises what `check_ablations` raises."""
    if any(name in ABLATIONS for name in names):
        from kblam_engine.evaluation.ablations import check_ablations  # which loads torch

        check_ablations(model, names, n_triples)


def result_of(
    questions: Sequence[Question], answered: Answered, settings: dict[str, Any], warnings: list[str]
) -> EvaluationResult:
    """Return the answers to some questions with their metrics."""
    systems = {
        name: summarise(zip(questions, answers, strict=True), answered.info[name])
        for name, answers in answered.answers.items()
    }
    own = answered.answers[SYSTEM]
    theirs = {name: answers for name, answers in answered.answers.items() if name != SYSTEM}
    return EvaluationResult(
        system=systems.pop(SYSTEM),
        baselines=systems,
        answers=[
            _answer_object(q, own[i], {n: a[i] for n, a in theirs.items()}) for i, q in enumerate(questions)
        ],
        settings=settings,
        warnings=warnings,
    )


def sample_questions(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """Return all questions, or a seeded sample in file order: the first ones may all be of one kind."""
    if limit is None or limit >= len(questions):
        return list(questions)
    if limit < 1:
        raise ConfigurationError(f"limit: expected at least 1, got {limit}")
    return [questions[i] for i in sorted(random.Random(seed).sample(range(len(questions)), limit))]


def _ask_all(
    name: str, questions: Sequence[Question], told: Progress, ask: Callable[[Question], ScoredAnswer]
) -> list[ScoredAnswer]:
    answers = []
    told(name, 0, len(questions))
    for question in questions:
        environment.reset_peak_rss()
        answers.append(ask(question))
        told(name, len(answers), len(questions))
    return answers


def _ask_system(
    model: EvaluatedModel,
    snapshot: Any,
    question: Question,
    options: dict[str, Any],
    by_layer: bool = False,
    retrieves: bool = True,
) -> ScoredAnswer:
    """Ask the system or an ablation; one that does not retrieve has opened every triple, and says of no answer that it refuses."""
    watch = None
    if by_layer:
        from kblam_engine.evaluation.ablations import watched  # which loads torch

        model, watch = watched(model)
    answer = model.answer([dict(message) for message in question.messages], snapshot, **options)
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
        ranked=watch.ranked() if watch else None,
    )


def _ask_ablated(
    model: EvaluatedModel,
    name: str,
    snapshot: Any,
    options: dict[str, Any],
    by_layer: bool,
    question: Question,
) -> ScoredAnswer:
    from kblam_engine.evaluation.ablations import ablated  # which loads torch

    other = ablated(model, name, question)
    return _ask_system(other, snapshot, question, options, by_layer, retrieves=name not in WITHOUT_RETRIEVAL)


def _ask_baseline(
    model: EvaluatedModel, corpus: Corpus, baseline: Baseline, prompts: PromptOptions, question: Question
) -> ScoredAnswer:
    start = time.perf_counter()
    chosen = [corpus.triples[i] for i in baseline.select(question)]
    messages = prompt_with_statements(
        question.messages, [t.statement for t in chosen], refusal_instruction=prompts.refusal_instruction
    )
    selection_ms = (time.perf_counter() - start) * 1000
    answer = model.generate_text(messages, prompts.max_new_tokens)
    return score(
        question,
        answer,
        [(triple, None) for triple in chosen] if baseline.ranked else None,
        refused=metrics.is_refusal(answer.text),
        confidence=None,
        ttft_ms=selection_ms + answer.ttft_ms,
        peak_rss_mb=environment.peak_rss_mb(),
        # A prompt with thousands of statements is the same for every question: `info` says how many.
        prompt=messages if baseline.ranked else None,
    )


def add_text_metrics(
    names: Iterable[str],
    questions: Sequence[Question],
    triples: Iterable[Triple],
    systems: Iterable[list[ScoredAnswer]],
) -> None:
    """Score the systems' answers to the answerable questions by text metrics and write that into them.

    Args:
        names: out of `TEXT_METRICS`.
        questions: what was asked.
        triples: their supports among them, for the statements that an answer may look like.
        systems: one list of answers each, in the order of the questions.
    """
    statements = statements_by_key(triples)
    places = [place for place, question in enumerate(questions) if question.answers]
    references = []
    for question in (questions[place] for place in places):
        said = [text for pair in question.supports for text in statements.get(metrics.key_of(*pair), ())]
        references.append(reference_texts(question.answers, said))
    scored = list(systems)
    for name in dict.fromkeys(names):
        scorer, field = text_scorer(name), name.replace("-", "_")
        for answers in scored:
            scores = scorer([answers[place].text for place in places], references)
            for place, value in zip(places, scores, strict=True):
                found: dict[str, Any] = {field: round(value, 6)}
                answers[place] = replace(answers[place], **found)


def _answer_object(question: Question, own: ScoredAnswer, theirs: dict[str, ScoredAnswer]) -> dict[str, Any]:
    return {
        **question.metadata,
        "line": question.line,
        "kind": question.kind,
        "messages": list(question.messages),
        "answers": [list(group) for group in question.answers],
        "supports": [list(pair) for pair in question.supports],
        "system": own.to_dict(),
        "baselines": {name: answer.to_dict() for name, answer in theirs.items()},
    }


def settings_of(
    seed: int,
    assembly: Assembly,
    prompts: PromptOptions,
    answer_options: dict[str, Any],
    labels: dict[str, Any],
) -> dict[str, Any]:
    """Return what is needed to repeat a run, and when and on what it ran."""
    return {
        **labels,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **environment.describe(seed),
        "n_triples": len(assembly.triples),
        "n_from_kb": assembly.n_from_kb,
        "n_distractors": assembly.n_distractors,
        "n_skipped_distractors": assembly.n_skipped_distractors,
        "options": {
            "max_new_tokens": prompts.max_new_tokens,
            "top_k": prompts.top_k,
            "refusal_instruction": prompts.refusal_instruction,
            "context_tokens": prompts.context_tokens,
            **answer_options,
        },
    }
