"""Run the system and each baseline over all questions, and score what comes back."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation import environment, metrics
from kblam_engine.evaluation.asking import (
    Ask,
    Progress,
    SystemOptions,
    ask_ablated,
    ask_all,
    ask_baseline,
    ask_system,
)
from kblam_engine.evaluation.assembly import Assembly, StoredTriples, as_it_is, assemble, statements_by_key
from kblam_engine.evaluation.baselines import (
    ABLATIONS,
    Corpus,
    PromptOptions,
    build_baseline,
    check_baselines,
)
from kblam_engine.evaluation.embedding_cache import CachedEncoder
from kblam_engine.evaluation.interface import EvaluatedModel, Message
from kblam_engine.evaluation.judging import Judge, Judgements, check_judged, judge_answers
from kblam_engine.evaluation.questions import OPEN_ENDED, Question, field_warnings, questions_digest
from kblam_engine.evaluation.results import EvaluationResult, ScoredAnswer, summarise
from kblam_engine.evaluation.text_metrics import check_text_metrics, reference_texts, text_scorer
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KBSnapshot

SYSTEM = "kblam"
_WARM_UP: Message = {"role": "user", "content": "Say hello."}


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
    batch_size: int = 1,
) -> EvaluationResult:
    """Evaluate a model on questions about a knowledge base, beside baselines on its base model.

    Every system answers greedily and at most `prompts.max_new_tokens`; one after the other over all
    questions, each made just before and dropped after, so that each one's peak memory is its own. Times are of single answers, retrieval included;
    with a `batch_size` above 1 neither is told.

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
        batch_size: questions that are answered at once; ablations and `by_layer` take them one by one all the same.

    Raises:
        ConfigurationError: no questions, no batch, none that is open-ended for a judge, a baseline or text metric nobody knows, or an ablation that cannot be.
        MissingDependencyError: a baseline or text metric needs a package that is not installed.
    """
    if not questions:
        raise ConfigurationError("questions: expected at least one, got none")
    check_batch_size(batch_size)
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
        batch_size=batch_size,
    )
    # Loaded after the last answer: what a scorer takes is no memory of the systems.
    add_text_metrics(text_metrics, asked, assembly.triples, answered.answers.values())
    settings = settings_of(seed, assembly, prompts, answer_options or {}, labels or {}, batch_size)
    settings |= {"limit": limit, "questions_digest": questions_digest(asked)}
    warnings = [*assembly.warnings, *field_warnings(asked), *fit_warnings(answered.info)]
    if judge is not None:
        settings["judge"] = judge.name
        judgements = Judgements(judge)
        systems, told = list(answered.answers.values()), progress or (lambda name, done, total: None)
        n = len(systems) * sum(question.kind == OPEN_ENDED for question in asked)
        judge_answers(judgements, asked, assembly.triples, systems, lambda done: told("judge", done, n))
        warnings += judgements.warnings() if n else [f"judge {judge.name}: {nothing_to_judge(len(asked))}"]
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
    batch_size: int = 1,
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
        batch_size: questions that are answered at once.

    Raises:
        ConfigurationError: there is no such baseline, or the model does not have what an ablation takes out.
    """
    names = list(dict.fromkeys(baselines))
    check_baselines(names)
    require_ablations(model, names, len(triples))
    with _snapshot_of(triples, encoder or model.encoder, show_encoding) as snapshot:
        corpus = Corpus(StoredTriples(snapshot), snapshot.key_embeddings, model.encoder)
        # What loads on first use must not count as the first answer's time.
        model.generate_text([_WARM_UP], 2)
        options = {"max_new_tokens": prompts.max_new_tokens, **(answer_options or {})}
        model.answer([_WARM_UP], snapshot, **{**options, "max_new_tokens": 2})
        asked = SystemOptions(options, by_layer)
        told = progress or (lambda name, done, total: None)
        answers: dict[str, list[ScoredAnswer]] = {}
        info: dict[str, dict[str, Any]] = {}
        for name in (SYSTEM, *names):
            ask: Ask
            # Made here and not before: an index of a baseline would count as memory of all that are asked before it.
            if name == SYSTEM:
                ask, info[name] = partial(ask_system, model, snapshot, asked), {"n_triples": len(triples)}
            elif name in ABLATIONS:
                ask, info[name] = partial(ask_ablated, model, name, snapshot, asked), {"what": ABLATIONS[name]}
            else:
                baseline = build_baseline(name, model, corpus, questions, prompts)
                ask, info[name] = partial(ask_baseline, model, corpus, baseline, prompts), baseline.info
                del baseline
            answers[name] = ask_all(name, questions, told, ask, batch_size)
            del ask
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


def fit_warnings(info: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what has to be said of baselines that had no room for a single triple; `info` as in `Answered`."""
    return [
        f"{name}: not one of {found['n_triples']:,} triples fits beside the questions in {found['context_tokens']:,} tokens, "
        "so it answers without any; give it more room (context_tokens) or fewer max_new_tokens"
        for name, found in info.items()
        if found.get("n_fit") == 0 and found["n_triples"]
    ]


def nothing_to_judge(n_asked: int) -> str:
    """Return what has to be said of a sample that a judge has nothing to do with."""
    return f'none of the {n_asked:,} questions asked has kind "{OPEN_ENDED}", so nothing was judged; ask more (limit)'


def check_batch_size(batch_size: int) -> None:
    """Raise ConfigurationError where not even one question is answered at once."""
    if batch_size < 1:
        raise ConfigurationError(f"batch_size: expected at least 1, got {batch_size}")


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
    batch_size: int = 1,
) -> dict[str, Any]:
    """Return what is needed to repeat a run, and when and on what it ran; of batches only where there are any."""
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
        **({"batch_size": batch_size} if batch_size > 1 else {}),
    }
