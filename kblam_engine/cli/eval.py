"""`kblam eval`: questions, a knowledge base and baselines in; metrics per kind out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kblam_engine.cli._answering import HopsOption, IndexOption
from kblam_engine.cli._grid import adapter_digest, cells_folder, check_cells, show_grid, sizes_of
from kblam_engine.cli._measuring import (
    STDOUT,
    cell,
    check_target,
    labels_of,
    load_model,
    progress_bar,
    write_json,
)
from kblam_engine.cli._options import (
    DEFAULT_MODEL,
    AdapterOption,
    DeviceOption,
    DtypeOption,
    EncoderOption,
    JSONFileOption,
    ModelOption,
    a_threshold,
)
from kblam_engine.cli._printing import new_console, say, styled
from kblam_engine.cli.kb_common import open_kb

if TYPE_CHECKING:
    from rich.console import Console

    from kblam_engine.evaluation import EvaluationResult, Metrics
    from kblam_engine.evaluation.judging import Judge
    from kblam_engine.evaluation.questions import Question
    from kblam_engine.triples import Triple

_COLUMNS = (
    ("n", "n", 0),
    ("exact", "exact", 3),
    ("F1", "token_f1", 3),
    ("top-1", "retrieval_top1", 3),
    ("top-5", "retrieval_top5", 3),
    ("ref.P", "refusal_precision", 3),
    ("ref.R", "refusal_recall", 3),
    ("over", "over_refusal", 3),
    ("1st ms", "ttft_ms_p50", 0),
    ("ms/tok", "ms_per_token_p50", 1),
    ("MB", "peak_rss_mb", 0),
)
_REFUSAL_COLUMNS = (
    ("n", "n", 0), ("precision", "refusal_precision", 3), ("recall", "refusal_recall", 3), ("F1", "refusal_f1", 3),
    ("over-refusal", "over_refusal", 3),
)  # fmt: skip
_JUDGE_COLUMNS = (("n", "n", 0), ("judge", "judge_score", 2))
_LAYER_COLUMNS = (("n", "n", 0), ("top-1", "retrieval_top1", 3), ("top-5", "retrieval_top5", 3))
_TEXT_COLUMNS = (("F1", "token_f1", 3), ("ROUGE-L", "rouge_l", 3), ("BERTScore", "bertscore", 3))


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("eval")(evaluate)


def evaluate(
    more_baselines: list[str] | None = typer.Argument(None, hidden=True, metavar="BASELINE"),
    kb: Path = typer.Option(..., "--kb", help="What the questions are about: triples (.jsonl or .csv), or a knowledge base, asked as it is."),
    questions: Path = typer.Option(..., "--questions", help="Questions, one JSON object a line."),
    distractors: Path | None = typer.Option(None, "--distractors", help="Triples to fill the KB with."),
    n_triples: int | None = typer.Option(
        None,
        "--n-triples",
        min=1,
        help="Size of the KB: filled with distractors, or reduced around the supports.",
    ),
    baseline: list[str] | None = typer.Option(
        None,
        "--baseline",
        help="zero-shot, in-context, bm25, dense, oracle, or all; with their own number of triples: bm25-1, bm25-5, "
        "bm25-10, dense-1, dense-5, dense-10; ablations: encoder-gates, oracle-gates, native-tokens, native-tokens-all, "
        "sentence-tokens, sentence-tokens-all.",
    ),
    text_metrics: list[str] | None = typer.Option(
        None, "--metrics", help="rouge-l, bertscore: score the answers' texts by these, too."
    ),
    judge: str | None = typer.Option(
        None,
        "--judge",
        metavar="MODEL",
        help="Chat model that scores the answers to questions of kind open_ended from 0 to 5: a name, a folder, a "
        "Hugging Face id, or module:function of your own.",
    ),
    copy_seed: int | None = typer.Option(
        None,
        "--counterfactual",
        metavar="SEED",
        help="Exchange the values inside each property first, and ask for those: what the model knows by heart is wrong.",
    ),
    model: ModelOption = DEFAULT_MODEL,
    adapter: AdapterOption = None,
    encoder: EncoderOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    seed: int = typer.Option(0, "--seed", help="Chooses distractors, and the questions under --limit."),
    sizes: str | None = typer.Option(
        None, "--sizes", help="Several sizes of the KB in one run, for example 10,100,1000."
    ),
    seeds: int | None = typer.Option(
        None, "--seeds", min=1, help="With --sizes: this many seeds, from --seed on; means with intervals."
    ),
    limit: int | None = typer.Option(
        None, "--limit", min=1, help="Ask only a sample of this many questions."
    ),
    max_new_tokens: int = typer.Option(
        128, "--max-new-tokens", min=1, help="Longest answer, for every system."
    ),
    top_k: int = typer.Option(5, "--top-k", min=1, help="Statements that bm25 and dense put in the prompt."),
    context_tokens: int | None = typer.Option(
        None, "--context-tokens", min=64, help="Room of the in-context baseline; default: all the model has."
    ),
    refusal_instruction: bool = typer.Option(
        False,
        "--refusal-instruction/--no-refusal-instruction",
        help="Tell baselines to say so when the statements do not contain the answer.",
    ),
    refusal_threshold: float | None = typer.Option(
        None,
        "--refusal-threshold",
        callback=a_threshold,
        help="Confidence below which the system refuses; default: the adapter's.",
    ),
    max_hops: HopsOption = 1,
    by_layer: bool = typer.Option(
        False, "--by-layer", help="Score retrieval in every KB layer, too, by the attention there."
    ),
    index: IndexOption = "auto",
    batch_size: int = typer.Option(
        1, "--batch-size", min=1, help="Questions answered at once: some times faster, but then without times and memory."
    ),
    cache: bool = typer.Option(True, "--cache/--no-cache", help="Keep sentence embeddings for the next run."),
    as_json: JSONFileOption = None,
) -> None:
    """Ask your own questions beside baselines, and score the answers.

    The baselines run on the same base model, with triples in its prompt or without any.
    """
    names = _baselines(baseline or [], more_baselines or [])
    metrics = _text_metrics(text_metrics or [])
    grid = sizes_of(sizes, seeds, n_triples)
    check_target(as_json)
    if grid:
        check_cells(as_json)
    from kblam_engine.evaluation import read_questions, run_evaluation
    from kblam_engine.evaluation.baselines import PromptOptions, check_baselines
    from kblam_engine.evaluation.grid import check_sizes
    from kblam_engine.evaluation.grid_run import run_grid
    from kblam_engine.evaluation.text_metrics import check_text_metrics
    from kblam_engine.models import cache_dir
    from kblam_engine.triple_files import read_triples

    # Mistakes in the files and missing packages first: loading a model takes seconds.
    asked = read_questions(questions)
    snapshot = None
    if kb.is_dir():
        _check_as_it_is({"--distractors": distractors, "--n-triples": n_triples, "--sizes": grid, "--counterfactual": copy_seed})
        snapshot = open_kb(kb).snapshot()
    triples = list(read_triples(kb)) if snapshot is None else []
    if copy_seed is not None:
        triples, asked = _counterfactual(copy_seed, triples, asked)
    fillers = list(read_triples(distractors)) if distractors else []
    prompts = PromptOptions(top_k, refusal_instruction, context_tokens, max_new_tokens, seed)
    judging = None if judge is None else _judge(judge, device, asked)
    check_baselines(names)
    check_text_metrics(metrics)
    if grid:
        check_sizes(grid, triples, asked, fillers)
    loaded = load_model(model, adapter, encoder, dtype, device, index)
    labels: dict[str, Any] = {
        **labels_of(loaded, model, adapter),
        "kb": str(kb),
        "questions": str(questions),
        "distractors": str(distractors) if distractors else None,
    }
    # Only what differs from the usual: a file that says nothing of an option is of a run without it.
    if index != "auto":
        labels["index"] = index
    if snapshot is not None:
        labels["kb_revision"] = snapshot.revision
    if copy_seed is not None:
        labels["counterfactual"] = copy_seed
    options: dict[str, Any] = {
        "limit": limit,
        "text_metrics": metrics,
        "prompts": prompts,
        "answer_options": _answer_options(refusal_threshold, max_hops),
        "embedding_cache": cache_dir() / "embeddings" if cache else None,
        "labels": labels,
        "by_layer": by_layer,
        "judge": judging,
        "batch_size": batch_size,
    }
    if grid:
        labels["adapter_digest"] = adapter_digest(adapter, model)
        options |= {"folder": cells_folder(as_json)}
        each = range(seed, seed + (seeds or 1))
        with progress_bar() as progress:
            found = run_grid(loaded, triples, asked, fillers, grid, each, names, progress=progress, **options)
        write_json(as_json, found.to_dict())
        show_grid(found, to_stderr=as_json == STDOUT)
        return
    with progress_bar() as progress:
        result = run_evaluation(
            loaded, triples if snapshot is None else snapshot, asked, fillers, n_triples, names, seed, progress=progress, **options
        )
    write_json(as_json, result.to_dict())
    show(result, to_stderr=as_json == STDOUT)


def _answer_options(refusal_threshold: float | None, max_hops: int) -> dict[str, Any]:
    """Return what differs from the usual: a file that says nothing of an option is of a run without it."""
    given: dict[str, Any] = {} if refusal_threshold is None else {"refusal_threshold": refusal_threshold}
    return given | ({"max_hops": max_hops} if max_hops > 1 else {})


def _check_as_it_is(given: Mapping[str, object]) -> None:
    for option, value in given.items():
        if value is not None and value != []:
            raise typer.BadParameter(
                "expected a file of triples, got a knowledge base, which is asked as it is; write its triples to a file: "
                "kblam kb export",
                param_hint=option,
            )


def _counterfactual(
    seed: int, triples: list[Triple], questions: list[Question]
) -> tuple[list[Triple], list[Question]]:
    from kblam_engine.evaluation.copies import counterfactual_set

    found = counterfactual_set(seed, triples, questions)
    if found.n_left_out:
        say(f"{found.n_left_out} questions left out: the copy does not change their answers, or does not tell them", err=True)
    return list(found.triples), list(found.questions)


def _judge(name: str, device: str | None, questions: list[Question]) -> Judge:
    from kblam_engine.evaluation.judge_model import load_judge
    from kblam_engine.evaluation.judging import check_judged

    check_judged(questions)
    return load_judge(name, device)


def show(result: EvaluationResult, *, to_stderr: bool = False) -> None:
    """Print one table per kind and one overall, the system's row above those of the baselines."""
    from kblam_engine.evaluation.questions import OPEN_ENDED

    console = new_console(stderr=to_stderr)
    systems = {"kblam": result.system, **result.baselines}
    if len(result.system.kinds) > 1:
        for kind in result.system.kinds:
            console.print(_table(kind, {name: found.kinds[kind] for name, found in systems.items()}))
    overall = {name: found.overall for name, found in systems.items()}
    console.print(_table("all questions", overall))
    if any(found.refusal_f1 is not None for found in overall.values()):
        _print_narrow("refusals, all questions", overall, _REFUSAL_COLUMNS, console)
    if any(found.rouge_l is not None or found.bertscore is not None for found in overall.values()):
        console.print(_table("their texts", overall, _TEXT_COLUMNS))
    if any(found.judge_score is not None for found in overall.values()):
        judged = {name: found.kinds[OPEN_ENDED] for name, found in systems.items()}
        _print_narrow("open-ended answers, scored 0 to 5", judged, _JUDGE_COLUMNS, console)
    show_layers(
        {(name, at): one for name, found in systems.items() for at, one in found.layers.items()}, console
    )
    settings = result.settings
    console.print(
        f"{settings['n_triples']:,} triples ({settings['n_from_kb']:,} of the KB, "
        f"{settings['n_distractors']:,} distractors), seed {settings['seed']}",
        highlight=False,
    )
    for name, found in result.baselines.items():
        if "n_fit" in found.info:
            console.print(
                f"{name}: {found.info['n_fit']:,} of {found.info['n_triples']:,} triples fit in the prompt",
                highlight=False,
            )
    for warning in result.warnings:
        say(f"warning: {warning}", err=True)


def show_layers(found: Mapping[tuple[str, str], Metrics], console: Console) -> None:
    """Print a table of retrieval by system and KB layer; none without any."""
    if found:
        rows = {f"{name}, {layer}": metrics for (name, layer), metrics in found.items()}
        _print_narrow("retrieval by KB layer", rows, _LAYER_COLUMNS, console)


def _print_narrow(
    title: str, rows: dict[str, Metrics], columns: Sequence[tuple[str, str, int]], console: Console
) -> None:
    """Print a table that is narrower than its title, which rich would break into several lines."""
    console.print(title, style="italic", highlight=False)
    console.print(_table(None, rows, columns))


def _table(title: str | None, rows: dict[str, Metrics], columns: Sequence[tuple[str, str, int]] = _COLUMNS) -> Any:
    from rich.table import Table

    # Narrow enough for 80 columns, the width of a pipe: a number cut short says nothing.
    table = Table(title=None if title is None else styled(title, "table.title"), title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for heading, _, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, found in rows.items():
        table.add_row(styled(name), *(cell(getattr(found, field), digits) for _, field, digits in columns))
    return table


def _baselines(named: list[str], following: list[str]) -> list[str]:
    """Return baseline names given as `--baseline a --baseline b`, `--baseline a b` or `--baseline a,b`."""
    from kblam_engine.evaluation.baselines import ABLATIONS, BASELINES, SIZED

    if following and not named:
        raise typer.BadParameter(f"unexpected argument {following[0]!r}")
    names = _names([*named, *following], (*BASELINES, *SIZED, *ABLATIONS, "all"), "--baseline")
    return list(dict.fromkeys([*BASELINES, *(n for n in names if n != "all")])) if "all" in names else names


def _text_metrics(named: list[str]) -> list[str]:
    from kblam_engine.evaluation.text_metrics import TEXT_METRICS

    return _names(named, TEXT_METRICS, "--metrics")


def _names(given: list[str], known: Sequence[str], option: str) -> list[str]:
    """Return the names in options that are repeated or take a list with commas, each once."""
    names = [name.strip() for part in given for name in part.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise typer.BadParameter(
                f"expected {', '.join(known[:-1])} or {known[-1]}, got {name!r}", param_hint=option
            )
    return list(dict.fromkeys(names))
