"""`kblam bench store`: what the store of a knowledge base costs, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from kblam_engine.cli._measuring import STDOUT, check_target, progress_bar, write_json
from kblam_engine.cli._options import JSONFileOption
from kblam_engine.cli._printing import new_console


def register(group: typer.Typer) -> None:
    """Add the command to `kblam bench`."""
    group.command("store")(store)


def store(
    triples: list[int] = typer.Option([100_000], "--triples", min=1, help="Size of a KB; repeat for several."),
    folder: Path | None = typer.Option(None, "--folder", help="Where to put it; default: the temporary folder."),
    seed: int = typer.Option(0, "--seed", help="Seed of the invented triples."),
    index: Literal["exact", "tree"] = typer.Option(
        "exact", "--index", help="tree: build one, too, and measure changes with it; minutes at a million triples."
    ),
    encoder: bool = typer.Option(True, "--encoder/--no-encoder", help="Time the default sentence encoder, too."),
    as_json: JSONFileOption = None,
) -> None:
    """Measure import, opening, look-ups, changes until a search shows them, and memory."""
    check_target(as_json)
    from rich.table import Table

    from kblam_engine.evaluation.environment import describe
    from kblam_engine.evaluation.store_bench import GOALS, METHOD, bench_store
    from kblam_engine.sentence_encoder import load_sentence_encoder

    real = load_sentence_encoder() if encoder else None
    with progress_bar() as progress:
        results = [
            bench_store(
                size, folder=folder, seed=seed, tree=index == "tree", encoder=real, progress=progress
            ).to_dict()
            for size in triples
        ]
    write_json(as_json, {"method": METHOD, "goals": GOALS, **describe(seed), "results": results})
    table = Table()
    table.add_column("")
    for result in results:
        table.add_column(f"{result['n_triples']:,}", justify="right")
    table.add_column("goal at 1,000,000", justify="right")
    for part in results[0]:
        if part not in ("n_triples", "goals_met"):
            goal = f"{GOALS[part]:,}" if part in GOALS else ""
            table.add_row(part, *(_cell(result[part], result["goals_met"].get(part)) for result in results), goal)
    new_console(stderr=as_json == STDOUT).print(table)


def _cell(value: object, met: bool | None) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return f"{value:,}" + {None: "", True: " met", False: " missed"}[met]
