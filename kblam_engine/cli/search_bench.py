"""`kblam bench search`: what searching keys costs by the size of the knowledge base, and what indexes miss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kblam_engine.cli._measuring import STDOUT, check_target, progress_bar, table_console, write_json
from kblam_engine.cli._options import JSONFileOption
from kblam_engine.errors import ConfigurationError

if TYPE_CHECKING:
    from kblam_engine.evaluation.latency import Progress
    from kblam_engine.evaluation.real_keys import RealKeys
    from kblam_engine.evaluation.search_bench import SearchResult
    from kblam_engine.sentence_encoder import SentenceEncoder

_COLUMNS = ("keys", "synthetic", "search", "query ms", "cpu ms", "÷ exact", "recall", "build s", "cpu s", "disk B", "resident B")


def register(group: typer.Typer) -> None:
    """Add the command to `kblam bench`."""
    group.command("search")(search)


def search(
    triples: list[int] = typer.Option([10_000, 100_000], "--triples", min=100, help="Number of keys; repeatable."),
    real: int = typer.Option(
        100_000, "--real", min=100, help="Keys of real triples that are embedded; the others are synthetic."
    ),
    kb: Path | None = typer.Option(
        None, "--kb", help="Take the keys of this KB, which need no embedding, instead of the data sets'."
    ),
    index: list[str] = typer.Option(["tree", "ann"], "--index", help="What to measure beside exact; repeatable."),
    folder: Path | None = typer.Option(None, "--folder", help="Where to build; default: the temporary folder."),
    seed: int = typer.Option(0, "--seed", help="Seed of every draw."),
    plot: Path | None = typer.Option(None, "--plot", help="Draw times and recall into this PNG."),
    as_json: JSONFileOption = None,
) -> None:
    """Measure scoring every key, a tree of clusters and faiss on keys of real data."""
    check_target(as_json)
    if not set(index) <= {"tree", "ann"}:
        raise typer.BadParameter(f"expected tree or ann, got {', '.join(index)}", param_hint="--index")
    from kblam_engine.evaluation.environment import describe
    from kblam_engine.evaluation.search_bench import (
        FORMAT,
        METHOD,
        bench_search,
        growth_exponents,
        local_exponents,
    )
    from kblam_engine.sentence_encoder import load_sentence_encoder

    encoder = load_sentence_encoder()
    results: list[SearchResult] = []
    with ExitStack() as stack:
        progress = stack.enter_context(progress_bar())
        measured = bench_search(
            triples,
            encoder,
            _keys_of_datasets(triples, real, encoder) if kb is None else _keys_of_kb(stack, kb, triples, seed, encoder),
            kinds=index,
            folder=folder,
            seed=seed,
            progress=progress,
        )
        for result in measured:
            results.append(result)
            # After each: a run of hours that breaks off leaves what it had.
            found = {
                "format": FORMAT,
                "method": METHOD,
                **describe(seed),
                "growth_exponents": growth_exponents(results),
                "growth_exponents_between_sizes": local_exponents(results),
            }
            if as_json != STDOUT:
                write_json(as_json, {**found, "results": [one.to_dict() for one in results]})
    if as_json == STDOUT:
        write_json(as_json, {**found, "results": [one.to_dict() for one in results]})
    if plot is not None:
        from kblam_engine.evaluation.search_plot import draw_search

        draw_search(results, plot)
    _show(results, to_stderr=as_json == STDOUT)


def _show(results: list[SearchResult], *, to_stderr: bool) -> None:
    """Print one row a kind and size, then how time grows: over all sizes, and from each to the next."""
    from rich.table import Table

    from kblam_engine.evaluation.search_bench import growth_exponents, local_exponents

    table = Table(*_COLUMNS)
    for r in results:
        table.add_row(
            f"{r.n_keys:,}",
            f"{r.n_synthetic:,}",
            r.kind,
            f"{r.query_ms:.1f}",
            f"{r.query_cpu_ms:.1f}",
            f"{r.cpu_ratio:.3f}",
            f"{r.recall:.3f}",
            f"{r.build_s:.0f}",
            f"{r.build_cpu_s:.0f}",
            f"{r.disk_bytes_per_key:,.0f}",
            f"{r.resident_bytes_per_key:.0f}",
        )
    console = table_console(to_stderr=to_stderr)
    console.print(table)
    between = local_exponents(results)
    for kind, exponent in growth_exponents(results).items():
        steps = ", ".join(f"{step['from']:,} to {step['to']:,}: {step['exponent']:.2f}" for step in between[kind])
        console.print(f"{kind}: processor time grows as keys ^ {exponent:.2f} ({steps})", highlight=False)


def _keys_of_datasets(sizes: list[int], real: int, encoder: SentenceEncoder) -> Callable[[Path, Progress], RealKeys]:
    from kblam_engine.evaluation.real_keys import keys_of_datasets
    from kblam_engine.models import cache_dir

    return lambda _, progress: keys_of_datasets(
        min(real, max(sizes)), min(sizes), encoder, cache_dir() / "real_keys", progress
    )


def _keys_of_kb(
    stack: ExitStack, folder: Path, sizes: list[int], seed: int, encoder: SentenceEncoder
) -> Callable[[Path, Progress], RealKeys]:
    from kblam_engine.evaluation.real_keys import keys_of_kb
    from kblam_engine.knowledge_base import KnowledgeBase

    kb = stack.enter_context(KnowledgeBase.open(folder, encoder=encoder, create=False, read_only=True))
    if not len(kb):
        raise ConfigurationError(f"{folder}: expected a knowledge base with triples in it, got an empty one")
    return lambda place, progress: keys_of_kb(kb, max(sizes), min(sizes), place / "real", seed, progress)
