"""`kblam kb`: keeping a knowledge base sound, small and safe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kblam_engine.cli.kb_common import JSONOption, KBOption, open_kb, print_json, working


def register(app: typer.Typer) -> None:
    """Add the commands to `kblam kb`."""
    app.command("verify")(verify)
    app.command("compact")(compact)
    app.command("backup")(backup)


def verify(kb: KBOption, as_json: JSONOption = False) -> None:
    """Check that triples, words and embeddings agree; exit code 1 if not."""
    from kblam_engine.search.files import index_problems

    with open_kb(kb) as base, working("checking"):
        problems = base.verify() + ([] if base.path is None else index_problems(base.path))
        count = len(base)
    if as_json:
        print_json({"ok": not problems, "problems": problems, "n_triples": count})
    else:
        typer.echo("\n".join(problems) or f"{count} triples, all sound")
    if problems:
        raise typer.Exit(1)


def compact(
    kb: KBOption,
    keep_from: Annotated[
        int | None, typer.Option("--keep-from", help="Earliest revision to keep; default: the newest.")
    ] = None,
    as_json: JSONOption = False,
) -> None:
    """Drop what was removed, with its history, and give the space back."""
    with open_kb(kb) as base, working("compacting"):
        done = base.compact(keep_from)
    if as_json:
        print_json({"dropped": done.n_dropped, "bytes_before": done.bytes_before, "bytes_after": done.bytes_after})
    else:
        typer.echo(
            f"{done.n_dropped} removed triples dropped; {done.bytes_before / 1e6:.1f} -> {done.bytes_after / 1e6:.1f} MB"
        )


def backup(
    target: Annotated[Path, typer.Argument(help="A folder that does not exist yet.", show_default=False)],
    kb: KBOption,
    as_json: JSONOption = False,
) -> None:
    """Copy the knowledge base, as of one revision, while others use it."""
    with open_kb(kb) as base, working("copying"):
        base.backup(target)
    with open_kb(target) as copy:
        count, revision = len(copy), copy.revision
    if as_json:
        print_json({"backup": str(target), "n_triples": count, "revision": revision})
    else:
        typer.echo(f"{count} triples, revision {revision}, copied to {target}")
