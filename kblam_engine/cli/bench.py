"""`kblam bench`: what a knowledge base costs in time and memory, against the base model alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kblam_engine.cli import encoding_bench, kb_bench, published_bench, search_bench
from kblam_engine.cli._measuring import STDOUT, check_target, labels_of, load_model, progress_bar, write_json
from kblam_engine.cli._options import (
    DEFAULT_MODEL,
    AdapterOption,
    DeviceOption,
    DtypeOption,
    JSONFileOption,
    ModelOption,
)

if TYPE_CHECKING:
    from kblam_engine.evaluation.latency import LatencyResult

_PAIRS = typer.Option(20, "--pairs", min=1, help="Questions asked of both, with and without the KB.")
_TOKENS = typer.Option(32, "--max-new-tokens", min=2, help="Longest answer.")
_SEED = typer.Option(0, "--seed", help="Seed of the invented triples and questions.")
_REAL = typer.Option(
    2_000,
    "--real-embeddings",
    min=1,
    help="Triples the sentence encoder embeds; the rest get random unit vectors.",
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
    as_json: JSONFileOption = None,
) -> None:
    """Measure time to first token and per token at one KB size."""
    options = {
        "n_pairs": pairs,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "real_up_to": real_embeddings,
    }
    _run([triples], (model, adapter, dtype, device), options, as_json)


def scale(
    triples: list[int] = typer.Option(..., "--triples", min=1, help="Size of a KB; repeat for several."),
    model: ModelOption = DEFAULT_MODEL,
    adapter: AdapterOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    pairs: int = _PAIRS,
    max_new_tokens: int = _TOKENS,
    seed: int = _SEED,
    real_embeddings: int = _REAL,
    as_json: JSONFileOption = None,
) -> None:
    """Measure several KB sizes, one after the other."""
    options = {
        "n_pairs": pairs,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "real_up_to": real_embeddings,
    }
    _run(triples, (model, adapter, dtype, device), options, as_json)


def _run(
    sizes: list[int],
    source: tuple[str, str | None, str | None, str | None],
    options: dict[str, int],
    as_json: Path | None,
) -> None:
    check_target(as_json)
    from kblam_engine.evaluation.environment import describe
    from kblam_engine.evaluation.latency import FORMAT, METHOD, BenchOptions, bench
    from kblam_engine.evaluation.results import finite
    from kblam_engine.models import cache_dir

    checked = BenchOptions(**options)
    model, adapter, dtype, device = source
    loaded = load_model(model, adapter, None, dtype, device)
    with progress_bar() as progress:
        results = bench(loaded, sizes, checked, embedding_cache=cache_dir() / "embeddings", progress=progress)
    found: dict[str, Any] = {
        "format": FORMAT,
        "method": METHOD,
        **labels_of(loaded, model, adapter),
        **describe(checked.seed),
        "results": [result.to_dict() for result in results],
    }
    write_json(as_json, finite(found))
    _show(results, to_stderr=as_json == STDOUT)


def _show(results: list[LatencyResult], *, to_stderr: bool) -> None:
    """Print one row a size."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for heading in ("triples", "first token ms", "ratio", "per token ms", "ratio", "retrieval ms", "peak MB"):
        table.add_column(heading, justify="right")
    for r in results:
        table.add_row(
            f"{r.n_triples:,}",
            f"{_cell(r.ttft_ms_base, 0)} → {_cell(r.ttft_ms_kb, 0)}",
            _cell(r.ttft_ratio, 2),
            f"{_cell(r.per_token_ms_base, 1)} → {_cell(r.per_token_ms_kb, 1)}",
            _cell(r.per_token_ratio, 2),
            _cell(r.retrieval_ms, 1),
            _cell(r.peak_rss_mb, 0),
        )
    console = Console(stderr=to_stderr)
    console.print(table)
    console.print("base model alone → with the KB; ratios are medians of paired ratios", highlight=False)
    if any(r.n_synthetic_embeddings for r in results):
        console.print("beyond --real-embeddings the key embeddings are random unit vectors", highlight=False)


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
