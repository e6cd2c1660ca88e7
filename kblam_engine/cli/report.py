"""`kblam report`: files of `kblam eval`, grids among them, and `kblam bench` in; tables and plots out."""

from __future__ import annotations

import errno
from pathlib import Path

import typer

from kblam_engine.cli._measuring import write_text
from kblam_engine.cli._printing import say


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("report")(report)


def report(
    files: list[Path] = typer.Argument(
        ..., metavar="FILE", help="What `kblam eval --json` and `kblam bench --json` wrote."
    ),
    output: Path = typer.Option(
        ..., "--output", help="Folder for report.md and the plots; an earlier report there is replaced."
    ),
    plots: bool = typer.Option(True, "--plots/--no-plots", help="Draw plots, which needs matplotlib."),
) -> None:
    """Write tables and plots of evaluations and benchmarks."""
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "expected a folder for the report, got a file", str(output))
    from kblam_engine.evaluation.report import REPORT, build_report
    from kblam_engine.evaluation.runs import read_runs

    drawn: dict[str, str] = {}
    if plots:  # a missing package is told before anything is written
        from kblam_engine.evaluation.plots import draw
    runs = read_runs(files)
    output.mkdir(parents=True, exist_ok=True)
    if plots:
        drawn = draw(*runs, output)
    write_text(output / REPORT, build_report(*runs, drawn))
    for name in (REPORT, *drawn.values()):
        say(str(output / name))
