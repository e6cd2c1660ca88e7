"""What `kblam eval --sizes` has beside a single run: its options, its folder and its tables."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kblam_engine.cli._measuring import STDOUT
from kblam_engine.cli._printing import new_console, say, styled

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from kblam_engine.evaluation.grid import GridResult, SizeResult, Spread

# Heading and digits of each table; a measure that nothing was measured of has none.
_TABLES = {
    "exact": ("exact", 3),
    "token_f1": ("token F1", 3),
    "rouge_l": ("ROUGE-L", 3),
    "bertscore": ("BERTScore", 3),
    "judge_score": ("judge, 0 to 5", 2),
    "retrieval_top1": ("retrieval top-1", 3),
    "retrieval_top5": ("retrieval top-5", 3),
    "refusal_precision": ("refusal precision", 3),
    "refusal_recall": ("refusal recall", 3),
    "refusal_f1": ("refusal F1", 3),
    "over_refusal": ("over-refusal", 3),
    "ttft_ms_p50": ("time to first token, ms", 0),
    "ms_per_token_p50": ("time per token, ms", 1),
    "peak_rss_mb": ("peak memory, MiB", 0),
}


def sizes_of(sizes: str | None, seeds: int | None, n_triples: int | None) -> list[int]:
    """Return the sizes of a grid, none where it is not one; refuse options that do not go together."""
    if sizes is None:
        if seeds is not None:
            raise typer.BadParameter("needs --sizes; one size will do", param_hint="--seeds")
        return []
    if n_triples is not None:
        raise typer.BadParameter("takes the place of --n-triples: give one of them", param_hint="--sizes")
    parts = [part.strip() for part in sizes.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise typer.BadParameter(
            f"expected whole numbers with commas, such as 10,100,1000, got {sizes!r}", param_hint="--sizes"
        )
    return [int(part) for part in parts]


def cells_folder(target: Path | None) -> Path | None:
    """Return the folder beside the result for what is finished; None where the result goes to no file."""
    if target is None or target == STDOUT or (target.exists() and not target.is_file()):
        return None
    return target.with_name(f"{target.name.removesuffix('.json')}.cells")


def check_cells(target: Path | None) -> None:
    """Refuse a place for finished cells that cannot be one, before the work and not after the first cell."""
    folder = cells_folder(target)
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            errno.ENOTDIR, "expected a folder for finished cells, got a file; move it, or give --json another name", str(folder)
        )
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "finished cells cannot be kept there; give --json another folder", str(folder))


def adapter_digest(adapter: str | None, model: str) -> str:
    """Return the digest of an adapter's files: under the same path, another one may lie tomorrow."""
    from kblam_engine.checkpoint import shipped_adapter

    folder = Path(adapter) if adapter is not None else shipped_adapter(model)
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def show_grid(result: GridResult, *, to_stderr: bool = False) -> None:
    """Print a table for each measure: a row for each system, a column for each size."""
    console = new_console(stderr=to_stderr)
    names = list(dict.fromkeys(name for at in result.sizes for name in at.systems))
    for measure, (title, digits) in _TABLES.items():
        rows = {
            name: [at.systems[name].overall.measures.get(measure) for at in result.sizes] for name in names
        }
        if not any(found is not None for line in rows.values() for found in line):
            continue
        table = _new_table(title, result, console)
        for name, line in rows.items():
            table.add_row(styled(name), *(_cell(found, digits) for found in line))
        console.print(table)
    _show_layers(result, console)
    seeds = result.settings["seeds"]
    console.print(
        f"{result.sizes[0].systems['kblam'].overall.n:,} answers a size, seeds {seeds[0]} to {seeds[-1]}"
        + (": means over the seeds ± 95 % (Student's t)" if len(seeds) > 1 else ""),
        highlight=False,
    )
    for warning in result.warnings:
        say(f"warning: {warning}", err=True)


def _show_layers(result: GridResult, console: Console) -> None:
    """Print retrieval by system and KB layer against the size, where it was measured."""
    from kblam_engine.evaluation.results import BY_LAYER

    for measure in BY_LAYER:
        rows = [
            (name, layer, [_layer(at, name, layer, measure) for at in result.sizes])
            for name, found in result.sizes[0].systems.items()
            for layer in found.layers
        ]
        if rows:
            table = _new_table(f"{_TABLES[measure][0]} by KB layer", result, console)
            for name, layer, line in rows:
                table.add_row(styled(f"{name}, {layer}"), *(_cell(found, 3) for found in line))
            console.print(table)


def _layer(at: SizeResult, name: str, layer: str, measure: str) -> Spread | None:
    found = at.systems[name].layers.get(layer)
    return found.measures.get(measure) if found else None


def _new_table(title: str, result: GridResult, console: Console) -> Table:
    """Print a title, and return a table with a column for each size."""
    from rich.table import Table

    # A narrow table would break a title of its own into several lines.
    console.print(title, style="italic", highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for at in result.sizes:
        table.add_column(f"{at.size:,}", justify="right", no_wrap=True)
    return table


def _cell(found: Spread | None, digits: int) -> str:
    if found is None:
        return "-"
    if len(found.values) < 2 or found.low is None or found.high is None:
        return f"{found.mean:.{digits}f}"
    return f"{found.mean:.{digits}f} ±{max(found.mean - found.low, found.high - found.mean):.{digits}f}"
