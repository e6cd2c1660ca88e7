"""`kblam kb`: keeping a knowledge base sound, small and safe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kblam_engine.cli._printing import say
from kblam_engine.cli.kb_common import (
    JSONOption,
    KBOption,
    TimeoutOption,
    many,
    open_kb,
    print_json,
    working,
)
from kblam_engine.cli.kb_index import index_notes
from kblam_engine.errors import (
    KnowledgeBaseError,
    KnowledgeBaseLockedError,
)


def register(app: typer.Typer) -> None:
    """Add the commands to `kblam kb`."""
    app.command("verify")(verify)
    app.command("compact")(compact)
    app.command("backup")(backup)


def verify(
    kb: KBOption,
    repair: Annotated[
        bool, typer.Option("--repair", help="First make anew what follows from the triples: embeddings, words, labels.")
    ] = False,
    timeout: TimeoutOption = None,
    as_json: JSONOption = False,
) -> None:
    """Check that triples, words and embeddings agree; exit code 1 if not."""
    problems, notes, count, repaired = _checked(kb, repair, timeout)
    if as_json:
        told = {} if repaired is None else {"repaired": repaired}
        print_json({"ok": not problems, "problems": problems, "notes": notes, "n_triples": count, **told})
    else:
        if repaired is not None:
            say(_as_text(repaired))
        say("\n".join(problems) or f"{many(count or 0, 'triple')}, all sound")
        if notes:
            say("\n".join(notes))
    if problems:
        raise typer.Exit(1)


def _checked(kb: Path, repair: bool, timeout: float | None) -> tuple[list[str], list[str], int | None, dict[str, int] | None]:
    """Return problems, notes, how many triples there are, if they can be counted, and what a repair made anew."""
    from kblam_engine.knowledge_base import problems_at
    from kblam_engine.knowledge_base.store import DATABASE
    from kblam_engine.search.files import index_problems

    try:
        opened = open_kb(kb, timeout=timeout)
    except KnowledgeBaseLockedError:
        raise
    except KnowledgeBaseError:
        if not (kb / DATABASE).exists():  # no damaged one either
            raise
        return problems_at(kb), [], None, None
    with opened as base, working("repairing" if repair else "checking"):
        done = base.repair() if repair else None
        problems = base.verify() if done is None else done.left
        problems += [] if base.path is None else index_problems(base.path)
        counts = None if done is None else {part: n for part, n in done.to_dict().items() if part != "left"}
        return problems, index_notes(base), len(base), counts


def _as_text(repaired: dict[str, int]) -> str:
    texts = {
        "keys": many(repaired["keys"], "key embedding"),
        "values": many(repaired["values"], "value embedding"),
        "properties": many(repaired["properties"], "property embedding"),
        "labels": f"labels of {many(repaired['labels'], 'triple')}",
        "words": "the index of words",
    }
    done = ", ".join(text for part, text in texts.items() if repaired[part])
    return f"made anew: {done}" if done else "nothing to make anew"


def compact(
    kb: KBOption,
    keep_from: Annotated[
        int | None, typer.Option("--keep-from", help="Earliest revision to keep; default: the newest.")
    ] = None,
    timeout: TimeoutOption = None,
    as_json: JSONOption = False,
) -> None:
    """Drop what was removed, with its history, and give the space back."""
    with open_kb(kb, timeout=timeout) as base, working("compacting"):
        done = base.compact(keep_from)
    if as_json:
        print_json({"dropped": done.n_dropped, "bytes_before": done.bytes_before, "bytes_after": done.bytes_after})
    else:
        say(
            f"{many(done.n_dropped, 'removed triple')} dropped; {done.bytes_before / 1e6:.1f} -> {done.bytes_after / 1e6:.1f} MB"
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
        say(f"{many(count, 'triple')}, revision {revision}, copied to {target}")
