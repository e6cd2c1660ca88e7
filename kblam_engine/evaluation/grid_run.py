"""Run a grid of evaluations, sizes of the knowledge base times seeds, with one model; keep what is finished."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.asking import Progress
from kblam_engine.evaluation.assembly import Assembly
from kblam_engine.evaluation.baselines import PromptOptions, check_baselines
from kblam_engine.evaluation.embedding_cache import CachedEncoder
from kblam_engine.evaluation.grid import (
    GridResult,
    SizeResult,
    check_sizes,
    merged_info,
    parts_of,
    summarise_seeds,
)
from kblam_engine.evaluation.grid_cells import Cell, Plan, keep, kept
from kblam_engine.evaluation.interface import EvaluatedModel
from kblam_engine.evaluation.judging import FILE, Judge, Judgements, check_judged, judge_answers
from kblam_engine.evaluation.questions import OPEN_ENDED, Question, field_warnings, questions_digest
from kblam_engine.evaluation.results import ScoredAnswer, summarise
from kblam_engine.evaluation.runner import (
    SYSTEM,
    Answered,
    add_text_metrics,
    ask_systems,
    check_batch_size,
    fit_warnings,
    nothing_to_judge,
    require_ablations,
    sample_questions,
    settings_of,
)
from kblam_engine.evaluation.text_metrics import check_text_metrics
from kblam_engine.triples import Triple

# What of a cell goes into the grid's file; the rest is the same for all, or too large.
_OF_A_CELL = ("seed", "n_kbs", "n_from_kb", "n_distractors", "created", "commit", "hardware")
_OF_ONE_CELL = frozenset(
    ("seed", "n_triples", "n_kbs", "n_from_kb", "n_distractors", "n_skipped_distractors", "questions_digest")
)
_OF_AN_ANSWER = ("text", "refused", "confidence", "exact", "attended")


def run_grid(
    model: EvaluatedModel,
    kb_triples: Iterable[Triple],
    questions: Sequence[Question],
    distractors: Iterable[Triple] = (),
    sizes: Sequence[int] = (100,),
    seeds: Sequence[int] = (0,),
    baselines: Sequence[str] = (),
    *,
    limit: int | None = None,
    text_metrics: Sequence[str] = (),
    prompts: PromptOptions | None = None,
    answer_options: dict[str, Any] | None = None,
    embedding_cache: Path | None = None,
    labels: dict[str, Any] | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
    by_layer: bool = False,
    judge: Judge | None = None,
    batch_size: int = 1,
) -> GridResult:
    """Evaluate a model at several sizes of the knowledge base with several seeds.

    Each size and seed is what `run_evaluation` does with them, where one knowledge base of that size can hold
    the answers of all questions; else the questions are shared out over several (see `parts_of`). Sizes come
    ascending, so that a larger knowledge base cannot raise a smaller one's peak memory. Every text is encoded
    once. Arguments not named here are those of `run_evaluation`.

    Args:
        model: a `KBLaM`.
        kb_triples: triples the questions are about.
        questions: see `read_questions`.
        distractors: triples to fill the knowledge bases with.
        sizes: triples in the knowledge base.
        seeds: each chooses distractors and, under `limit`, questions.
        baselines: names out of `BASELINES`, `SIZED` and `ABLATIONS`.
        limit: ask only a sample of this many questions, another one for each seed.
        text_metrics: names out of `TEXT_METRICS`, scored when all is answered.
        prompts: how the baselines' prompts are built; its seed is not used.
        answer_options: further options of `model.answer`.
        embedding_cache: folder to keep sentence embeddings in; None keeps them until the end.
        labels: further settings to write into the result.
        folder: where to keep finished cells; one that is there from an equal plan is not run again.
        progress: called after each answer, with the size, answers given and answers in all.
        by_layer: score retrieval in every KB layer besides, for the system and its ablations.
        judge: a chat model that scores the answers to open-ended questions when all is answered; what it says is kept
            in `folder`, too.
        batch_size: questions that are answered at once; times and memory are told for 1 alone.

    Raises:
        ConfigurationError: no questions, seeds or batch, a size or ablation that cannot be, an unknown baseline or text metric.
        FileExistsError: the folder is a file.
        MissingDependencyError: a baseline or text metric needs a package that is not installed.
    """
    plan = Plan(
        list(kb_triples), list(questions), list(distractors), tuple(dict.fromkeys(baselines)), limit,
        prompts or PromptOptions(), answer_options or {}, labels or {}, by_layer, batch_size,
    )  # fmt: skip
    if not plan.questions or not seeds:
        raise ConfigurationError(f"expected questions and seeds, got {len(questions)} and {len(seeds)}")
    check_batch_size(batch_size)
    check_text_metrics(text_metrics)
    if judge is not None:
        check_judged(plan.questions)
    ascending = check_sizes(sizes, plan.kb_triples, plan.questions, plan.distractors)
    require_ablations(model, plan.baselines, ascending[-1])
    check_baselines(plan.baselines)
    mark = plan.mark()
    if folder is not None:  # before the first cell, which may take an hour
        folder.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    with ExitStack() as until_the_end:
        cache = embedding_cache or Path(until_the_end.enter_context(TemporaryDirectory()))
        encoder = CachedEncoder(model.encoder, cache)
        for size in ascending:
            for place, seed in enumerate(dict.fromkeys(seeds)):
                cell = kept(folder, plan, mark, size, seed)
                told = _counter(progress, plan, size, place, len(dict.fromkeys(seeds)))
                if cell is None:
                    cell = _run(model, encoder, plan, size, seed, told)
                    keep(folder, mark, cell)
                told(0, done=True)
                cells.append(cell)
    # Loaded after the last answer: what a scorer takes is no memory of the systems.
    _add_text_metrics(text_metrics, cells, plan.kb_triples)
    warnings = _judge(judge, cells, plan, folder, progress) if judge is not None else []
    return _grid_result(cells, plan, warnings, {} if judge is None else {"judge": judge.name})


def _judge(
    judge: Judge, cells: Sequence[Cell], plan: Plan, folder: Path | None, progress: Progress | None
) -> list[str]:
    """Have the open-ended answers of all cells judged; return what could not be."""
    judgements = Judgements(judge, None if folder is None else folder / FILE)
    of_each = [
        len(cell.answered.answers) * sum(question.kind == OPEN_ENDED for question in cell.asked) for cell in cells
    ]
    for place, cell in enumerate(cells):
        before = sum(of_each[:place])

        def told(done: int, before: int = before) -> None:
            if progress:
                progress("judge", before + done, sum(of_each))

        judge_answers(judgements, cell.asked, plan.kb_triples, cell.answered.answers.values(), told)
    none = [f"{cell.size:,} triples, seed {cell.seed}: {nothing_to_judge(len(cell.asked))}" for cell, n in zip(cells, of_each, strict=True) if not n]
    return [*judgements.warnings(), *(f"judge {judge.name}: {text}" for text in none)]


Told = Callable[..., None]


def _counter(progress: Progress | None, plan: Plan, size: int, place: int, n_seeds: int) -> Told:
    """Return what counts one cell's answers up inside the bar of its size."""
    each = min(plan.limit or len(plan.questions), len(plan.questions)) * (1 + len(plan.baselines))
    given = place * each

    def told(n: int = 1, *, done: bool = False) -> None:
        nonlocal given
        given = (place + 1) * each if done else given + n
        if progress:
            progress(f"{size:,} triples", given, n_seeds * each)

    return told


def _run(model: EvaluatedModel, encoder: CachedEncoder, plan: Plan, size: int, seed: int, told: Told) -> Cell:
    prompts = replace(plan.prompts, seed=seed)
    asked = sample_questions(plan.questions, plan.limit, seed)
    parts = parts_of(plan.kb_triples, plan.questions, asked, plan.distractors, size, seed)
    answers: dict[str, dict[int, ScoredAnswer]] = {}
    infos: dict[str, list[dict[str, Any]]] = {}
    told(0)
    for part in parts:
        answered = ask_systems(
            model,
            part.assembly.triples,
            [asked[place] for place in part.places],
            plan.baselines,
            prompts=prompts,
            answer_options=plan.answer_options,
            encoder=encoder,
            progress=lambda name, done, total: told(int(done > 0)),
            by_layer=plan.by_layer,
            batch_size=plan.batch_size,
        )
        for name, found in answered.answers.items():
            answers.setdefault(name, {}).update(zip(part.places, found, strict=True))
            infos.setdefault(name, []).append(answered.info[name])
    in_order = {name: [found[place] for place in range(len(asked))] for name, found in answers.items()}
    merged = Answered(in_order, {name: merged_info(found) for name, found in infos.items()})
    first: Assembly = parts[0].assembly
    settings = settings_of(seed, first, prompts, plan.answer_options, plan.labels, plan.batch_size)
    settings.update({"limit": plan.limit, "n_kbs": len(parts), "questions_digest": questions_digest(asked)})
    warnings = dict.fromkeys(
        [*(text for part in parts for text in part.assembly.warnings), *field_warnings(asked), *fit_warnings(merged.info)]
    )
    return Cell(size, seed, asked, merged, settings, list(warnings))


def _add_text_metrics(names: Sequence[str], cells: Sequence[Cell], triples: Iterable[Triple]) -> None:
    """Score the answers of all cells at once: a scorer takes seconds to load."""
    if not names:
        return
    asked = [question for cell in cells for question in cell.asked]
    together = {
        name: [answer for cell in cells for answer in cell.answered.answers[name]]
        for name in cells[0].answered.answers
    }
    add_text_metrics(names, asked, triples, list(together.values()))
    for name, answers in together.items():
        start = 0
        for cell in cells:
            end = start + len(cell.asked)
            cell.answered.answers[name][:] = answers[start:end]
            start = end


# --- from cells to the result -------------------------------------------------------------------------------------


def _grid_result(
    cells: Sequence[Cell], plan: Plan, more_warnings: Sequence[str], more_settings: Mapping[str, Any]
) -> GridResult:
    by_size: dict[int, list[Cell]] = {}
    for cell in cells:
        by_size.setdefault(cell.size, []).append(cell)
    warnings = [*dict.fromkeys(text for cell in cells for text in cell.warnings), *more_warnings]
    for what in ("commit", "hardware", "versions"):
        found = {json.dumps(cell.settings.get(what), sort_keys=True) for cell in cells}
        if len(found) > 1:
            warnings.append(f"not all cells have the same {what}: {' and '.join(sorted(found))}")
    last = {key: value for key, value in cells[-1].settings.items() if key not in _OF_ONE_CELL}
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    return GridResult(
        [_size_result(size, found) for size, found in by_size.items()],
        {
            **last,
            **more_settings,
            # Of this command, which may have found all its cells finished.
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "sizes": list(by_size),
            "seeds": seeds,
            "n_questions": len(plan.questions),
        },
        warnings,
    )


def _size_result(size: int, cells: Sequence[Cell]) -> SizeResult:
    results = [
        {
            name: summarise(zip(cell.asked, answers, strict=True), cell.answered.info[name])
            for name, answers in cell.answered.answers.items()
        }
        for cell in cells
    ]
    return SizeResult(
        size,
        tuple(cell.seed for cell in cells),
        {name: summarise_seeds([found[name] for found in results]) for name in results[0]},
        [{key: cell.settings.get(key) for key in _OF_A_CELL} for cell in cells],
        [
            {
                "line": question.line,
                "kind": question.kind,
                "messages": list(question.messages),
                "supports": [list(pair) for pair in question.supports],
                "system": {key: getattr(answer, key) for key in _OF_AN_ANSWER},
            }
            for question, answer in zip(cells[0].asked, cells[0].answered.answers[SYSTEM], strict=True)
        ],
    )
