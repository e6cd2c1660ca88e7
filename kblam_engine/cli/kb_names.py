"""`kblam kb`: names that may mean one thing, and making them one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kblam_engine.cli._options import as_usage
from kblam_engine.cli._printing import say
from kblam_engine.cli._tables import print_table
from kblam_engine.cli.kb_common import (
    AtOption,
    JSONOption,
    KBOption,
    NamespaceOption,
    Part,
    RevisionOption,
    SourceOption,
    TagOption,
    TimeoutOption,
    open_kb,
    print_json,
    working,
)

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KnowledgeBase


def register(app: typer.Typer) -> None:
    """Add the commands to `kblam kb`."""
    app.command("duplicates")(duplicates)
    app.command("merge")(merge)


def duplicates(
    kb: KBOption,
    threshold: Annotated[float, typer.Option("--threshold", min=0, max=1, help="0 to 1, how alike two spellings are.")] = 0.85,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many; 0 for all.")] = 50,
    namespace: NamespaceOption = None,
    tag: TagOption = None,
    source: SourceOption = None,
    at: AtOption = None,
    revision: RevisionOption = None,
    as_json: JSONOption = False,
) -> None:
    """List names that may mean one thing, with what they share; for `kblam kb merge`."""
    from kblam_engine.sources.names import duplicates_in

    with open_kb(kb) as whole, working("comparing names"):
        base = Part.of(namespace, tag, source, at, revision).view(whole)
        pairs = duplicates_in(base, threshold=threshold)
        counts = _counts(base)
    shown = pairs[: limit or None]
    if as_json:
        print_json(
            [
                {
                    "name": pair.name,
                    "other": pair.other,
                    "triples": [counts[pair.name], counts[pair.other]],
                    "score": pair.score,
                    "reason": pair.reason,
                }
                for pair in shown
            ]
        )
        return
    rows = [
        [f"{p.score:.2f}", _shown(p.name, p.other), str(counts[p.name]), _shown(p.other, p.name), str(counts[p.other]), p.reason]
        for p in shown
    ]
    if not rows:
        say(f"no two of {len(counts):,} names look like one thing")
        return
    print_table(["score", "name", "triples", "other", "triples", "why"], rows)
    if len(shown) < len(pairs):
        say(f"the first {len(shown)} of {len(pairs)}; --limit 0 shows all", err=True)
    if pairs:
        say(f"where two are one thing: kblam kb merge KEEP OTHER --kb {kb}", err=True)


def merge(
    keep: Annotated[str, typer.Argument(help="The name to keep.", show_default=False)],
    others: Annotated[list[str], typer.Argument(help="Names of the same thing.", show_default=False)],
    kb: KBOption,
    timeout: TimeoutOption = None,
    as_json: JSONOption = False,
) -> None:
    """Give the triples of other names the name to keep; a rollback undoes it.

    Names may be typed in another Unicode form than theirs; two that look alike are told apart by giving both.
    """
    from kblam_engine.knowledge_base.merging import check_names
    from kblam_engine.sources.names import stored_spellings

    with open_kb(kb, timeout=timeout) as base, working("merging"):
        before = base.revision
        keep, *others = stored_spellings(base.snapshot().names, [keep, *others])
        with as_usage():
            check_names(keep, others)
        done = base.merge(keep, *others)
        after = base.revision
    if as_json:
        print_json({**done.to_dict(), "revision": after})
        return
    say(
        f"{done.moved} moved to {keep.strip()}, {done.same} were there already, {len(done.overruled)} overruled "
        f"(revision {after}); undo: kblam kb rollback {before} --kb {kb}"
    )
    if done.overruled:
        rows = [[t.property, t.value, str(t.metadata["written"])] for t in done.overruled]
        print_table(["property", "overruled value", "of"], rows)


def _shown(name: str, other: str) -> str:
    """Return a name for a table, with what is different about it where it looks like the other."""
    import unicodedata

    from kblam_engine.sources.names import normal

    if normal(name) != normal(other):
        return name
    told = []
    if not unicodedata.is_normalized("NFC", name):
        told.append("Unicode NFD" if unicodedata.is_normalized("NFD", name) else "Unicode, mixed forms")
    elif not unicodedata.is_normalized("NFC", other):
        told.append("Unicode NFC")
    if name != " ".join(name.split(" ")).strip() or any(char.isspace() and char != " " for char in name):
        told.append("other spaces")
    return f"{name} ({', '.join(told)})" if told else name


def _counts(base: KnowledgeBase) -> dict[str, int]:
    import numpy as np

    snapshot = base.snapshot()
    counts = np.bincount(snapshot.name_index, minlength=len(snapshot.names))
    return dict(zip(snapshot.names, counts.tolist(), strict=True))
