"""`kblam bench published`: this system beside KBLaM and AtlasKV's HiKVP as published, in one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from kblam_engine.cli._measuring import (
    STDOUT,
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
    from kblam_engine.evaluation.published_bench import SystemResult

_COLUMNS = ("triples", "system", "first token ms", "÷ ours", "per token ms", "÷ ours", "÷ base", "B/triple", "÷ ours", "peak MB")


def register(group: typer.Typer) -> None:
    """Add the command to `kblam bench`."""
    group.command("published")(published)


def published(
    triples: list[int] = typer.Option([10_000], "--triples", min=1, help="Size of a KB; repeat for several."),
    model: ModelOption = DEFAULT_MODEL,
    adapter: AdapterOption = None,
    system: list[str] = typer.Option(["kblam", "hikvp"], "--system", help="What to measure beside; repeatable."),
    questions: int = typer.Option(20, "--questions", min=1, help="Questions put to every system."),
    max_new_tokens: int = typer.Option(32, "--max-new-tokens", min=2, help="Longest answer."),
    seed: int = typer.Option(0, "--seed", help="Seed of triples, questions and random maps."),
    real_embeddings: int = typer.Option(
        2_000, "--real-embeddings", min=1, help="Triples the sentence encoder embeds; the rest get random unit vectors."
    ),
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    as_json: JSONFileOption = None,
) -> None:
    """Measure time and memory against KBLaM and HiKVP as published, with random maps."""
    check_target(as_json)
    from kblam_engine.evaluation.environment import describe
    from kblam_engine.evaluation.latency import BenchOptions
    from kblam_engine.evaluation.published_bench import FORMAT, METHOD, PUBLISHED, bench_published
    from kblam_engine.models import cache_dir

    if not set(system) <= set(PUBLISHED):
        raise typer.BadParameter(f"expected {' or '.join(PUBLISHED)}, got {', '.join(system)}", param_hint="--system")
    with as_usage():
        options = BenchOptions(n_pairs=questions, max_new_tokens=max_new_tokens, seed=seed, real_up_to=real_embeddings)
    engine = load_model(model, adapter, None, dtype, device)
    results: list[SystemResult] = []
    found = {"format": FORMAT, "method": METHOD, **labels_of(engine, model, adapter), **describe(seed)}
    with progress_bar() as progress:
        for size in triples:
            results += bench_published(
                engine, size, options, systems=system, embedding_cache=cache_dir() / "embeddings", progress=progress
            )
            # After each size: a run that breaks off leaves what it had.
            if as_json != STDOUT:
                write_json(as_json, {**found, "results": [result.to_dict() for result in results]})
    if as_json == STDOUT:
        write_json(as_json, {**found, "results": [result.to_dict() for result in results]})
    _show(results, to_stderr=as_json == STDOUT)


def _show(results: list[SystemResult], *, to_stderr: bool) -> None:
    from rich.table import Table

    table = Table()
    for heading in _COLUMNS:
        table.add_column(heading, justify="left" if heading == "system" else "right")
    for r in results:
        table.add_row(
            f"{r.n_triples:,}",
            r.system,
            _cell(r.ttft_cpu_ms, 0),
            _cell(r.ttft_over_ours, 2),
            _cell(r.per_token_cpu_ms, 1),
            _cell(r.per_token_over_ours, 2),
            _cell(r.per_token_over_base, 2),
            f"{r.resident_bytes_per_triple + r.mapped_bytes_per_triple:,.0f}",
            _cell(r.bytes_over_ours, 1),
            _cell(r.peak_mb, 0),
        )
    console = table_console(to_stderr=to_stderr)
    console.print(table)
    console.print("times are of the processor; ratios are medians of paired ratios, on a GPU of the clock", highlight=False)


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
