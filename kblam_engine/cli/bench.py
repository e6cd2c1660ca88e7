"""`kblam bench`: what a knowledge base costs in time and memory, against the base model alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kblam_engine.cli import encoding_bench, kb_bench, published_bench, search_bench
from kblam_engine.cli._answering import IndexOption
from kblam_engine.cli._measuring import (
    STDOUT,
    cell,
    check_target,
    labels_of,
    load_model,
    progress_bar,
    table_console,
    write_json,
)
from kblam_engine.cli._options import (
    DEFAULT_MODEL,
    AdapterOption,
    DeviceOption,
    DtypeOption,
    JSONFileOption,
    ModelOption,
    as_usage,
)

if TYPE_CHECKING:
    from rich.table import Table

    from kblam_engine.evaluation.latency_results import LatencyResult

_PAIRS = typer.Option(20, "--pairs", min=1, help="Questions asked of both, with and without the KB.")
_TOKENS = typer.Option(32, "--max-new-tokens", min=2, help="Longest answer.")
_SEED = typer.Option(0, "--seed", help="Seed of the invented triples and questions.")
_REAL = typer.Option(
    2_000,
    "--real-embeddings",
    min=1,
    help="Triples the sentence encoder embeds; the rest get random unit vectors.",
)
_CHANGES = typer.Option(
    5, "--changes", min=0, help="Triples added and changed to measure updates; 0: none, and --kb is not copied."
)


def register(app: typer.Typer) -> None:
    """Add the group to the application."""
    group = typer.Typer(help="Measure time and memory against the base model alone.")
    group.command("latency")(latency)
    group.command("scale")(scale)
    kb_bench.register(group)
    search_bench.register(group)
    encoding_bench.register(group)
    published_bench.register(group)
    app.add_typer(group, name="bench")


def latency(
    triples: int = typer.Option(10_000, "--triples", min=1, help="Size of the KB."),
    model: ModelOption = DEFAULT_MODEL,
    adapter: AdapterOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    pairs: int = _PAIRS,
    max_new_tokens: int = _TOKENS,
    seed: int = _SEED,
    real_embeddings: int = _REAL,
    index: IndexOption = "auto",
    changes: int = _CHANGES,
    as_json: JSONFileOption = None,
) -> None:
    """Measure time to first token and per token at one KB size."""
    options: dict[str, Any] = {
        "n_pairs": pairs,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "real_up_to": real_embeddings,
        "n_changes": changes,
    }
    _run([triples], [], (model, adapter, dtype, device, index), options, as_json)


def scale(
    triples: list[int] | None = typer.Option(
        None, "--triples", min=1, help="Size of a KB of invented triples; repeat for several.", show_default=False
    ),
    kb: list[Path] | None = typer.Option(
        None,
        "--kb",
        help="Folder of a KB to measure as it is, with questions about its own triples; repeatable.",
        show_default=False,
    ),
    model: ModelOption = DEFAULT_MODEL,
    adapter: AdapterOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    pairs: int = _PAIRS,
    max_new_tokens: int = _TOKENS,
    seed: int = _SEED,
    real_embeddings: int = _REAL,
    index: IndexOption = "auto",
    changes: int = _CHANGES,
    against: list[str] | None = typer.Option(
        None,
        "--against",
        help="in-context or dense: the same questions with triples in the prompt, as many as fit or the nearest; repeatable.",
        show_default=False,
    ),
    top_k: int = typer.Option(5, "--top-k", min=1, help="Triples in the prompt of dense."),
    context_tokens: int = typer.Option(2_048, "--context-tokens", min=1, help="Tokens of in-context, answer included."),
    as_json: JSONFileOption = None,
) -> None:
    """Measure several KBs, one after the other: of invented triples, or --kb.

    An index is built before the first question where --index wants one that is not there. A KB of up to 100,000 triples
    is searched key by key, whatever --index says.
    """
    if not triples and not kb:
        raise typer.BadParameter("expected --triples N or --kb FOLDER, got neither")
    from kblam_engine.evaluation.in_prompt import PromptLimits

    options: dict[str, Any] = {
        "n_pairs": pairs,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "real_up_to": real_embeddings,
        "n_changes": changes,
        "against": tuple(dict.fromkeys(against or ())),
        "limits": PromptLimits(top_k, context_tokens),
    }
    _run(triples or [], kb or [], (model, adapter, dtype, device, index), options, as_json)


def _run(
    sizes: list[int],
    folders: list[Path],
    source: tuple[str, str | None, str | None, str | None, str],
    options: dict[str, Any],
    as_json: Path | None,
) -> None:
    check_target(as_json)
    from kblam_engine.evaluation.environment import describe
    from kblam_engine.evaluation.latency import FORMAT, METHOD, BenchOptions, bench, bench_folders
    from kblam_engine.evaluation.latency_results import growth_exponents
    from kblam_engine.evaluation.results import finite
    from kblam_engine.knowledge_base import KnowledgeBase
    from kblam_engine.models import cache_dir

    with as_usage():
        checked = BenchOptions(**options)
    for folder in folders:  # a wrong path is told at once, not after the seconds that loading takes
        with KnowledgeBase.open(folder, create=False, read_only=True):
            pass
    model, adapter, dtype, device, index = source
    loaded = load_model(model, adapter, None, dtype, device, index)
    results: list[LatencyResult] = []
    with progress_bar() as progress:
        if sizes:
            results += bench(loaded, sizes, checked, embedding_cache=cache_dir() / "embeddings", progress=progress)
        if folders:
            results += bench_folders(loaded, folders, checked, progress=progress)
    found: dict[str, Any] = {
        "format": FORMAT,
        "method": METHOD,
        **labels_of(loaded, model, adapter),
        "index": index,
        **describe(checked.seed),
        "growth_exponents": growth_exponents(results),
        "results": [result.to_dict() for result in results],
    }
    write_json(as_json, finite(found))
    _show(results, to_stderr=as_json == STDOUT)


def _show(results: list[LatencyResult], *, to_stderr: bool) -> None:
    """Print one row a size, and the same questions with triples in the prompt."""
    from kblam_engine.evaluation.latency_results import growth_exponents

    table = _table(
        "triples", "search", "first token ms", "ratio", "per token ms", "ratio", "exact", "retrieval ms", "update ms",
        "B/triple", "peak MB",
    )  # fmt: skip
    for r in results:
        table.add_row(
            f"{r.n_triples:,}",
            r.search,
            f"{cell(r.ttft_ms_base, 0)} → {cell(r.ttft_ms_kb, 0)}",
            cell(r.ttft_ratio, 2),
            f"{cell(r.per_token_ms_base, 1)} → {cell(r.per_token_ms_kb, 1)}",
            cell(r.per_token_ratio, 2),
            cell(r.exact_kb, 2),
            cell(r.retrieval_ms, 1),
            cell(r.update_ms, 1),
            cell(r.anonymous_bytes_per_triple, 0),
            cell(r.peak_rss_mb, 0),
        )
    console = table_console(to_stderr=to_stderr)
    console.print(table)
    told = "base model alone → with the KB; ratios are medians of paired ratios; B/triple: resident anonymous memory"
    console.print(told, highlight=False)
    if any(r.in_prompt for r in results):
        console.print(_in_prompt_table(results))
    exponents = growth_exponents(results)
    if exponents:
        grown = ", ".join(f"{part} {exponent:.2f}" for part, exponent in exponents.items())
        console.print(f"powers of the number of triples that fit: {grown}", highlight=False)
    if any(r.n_synthetic_embeddings for r in results):
        console.print("beyond --real-embeddings the key embeddings are random unit vectors", highlight=False)


def _in_prompt_table(results: list[LatencyResult]) -> Table:
    table = _table(
        "triples", "in the prompt", "triples there", "tokens", "first token ms", "ratio", "per token ms", "ratio", "exact",
        "peak MB",
    )  # fmt: skip
    for r in results:
        for way in r.in_prompt:
            table.add_row(
                f"{r.n_triples:,}",
                way.name,
                cell(way.n_in_prompt, 0),
                cell(way.prompt_tokens, 0),
                cell(way.ttft_ms, 0),
                cell(way.ttft_ratio, 2),
                cell(way.per_token_ms, 1),
                cell(way.per_token_ratio, 2),
                cell(way.exact, 2),
                cell(way.peak_rss_mb, 0),
            )
    return table


def _table(*headings: str) -> Table:
    from rich.table import Table

    table = Table()
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
