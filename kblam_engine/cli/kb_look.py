"""`kblam kb`: what is in a knowledge base, and what was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kblam_engine.cli._options import as_usage
from kblam_engine.cli._printing import say
from kblam_engine.cli._tables import print_table
from kblam_engine.cli.kb_common import (
    LARGEST,
    AtOption,
    JSONOption,
    KBOption,
    NameArgument,
    NamespaceOption,
    Part,
    RevisionOption,
    SourceOption,
    TagOption,
    many,
    open_kb,
    print_json,
    record_of,
    tell_none,
    working,
)
from kblam_engine.cli.kb_index import index_facts
from kblam_engine.cli.kb_plot import check_target, plot_stats
from kblam_engine.cli.kb_tables import beside_columns, label_columns, print_columns, print_triples

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KBStats, KnowledgeBase, SearchHit
    from kblam_engine.triples import Triple


def register(app: typer.Typer) -> None:
    """Add the commands to `kblam kb`."""
    commands: dict[str, Callable[..., None]] = {
        "list": list_triples,
        "search": _looking(
            "A question or a few words.", "Find triples by meaning.", lambda kb, text, k: kb.search(text, k)
        ),
        "find": _looking(
            'Words that all occur; "two words" a phrase, robot* a beginning.',
            "Find triples by the words of names, properties and values.",
            lambda kb, words, k: kb.find(words, k),
        ),
        "history": show_history,
        "log": log,
        "diff": show_diff,
        "info": info,
        "stats": stats,
    }
    for name, command in commands.items():
        app.command(name)(command)


def list_triples(
    kb: KBOption,
    name: Annotated[str | None, typer.Option("--name", help="Only triples of this name.")] = None,
    property: Annotated[
        str | None, typer.Option("--property", help="Only triples with this property.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, max=LARGEST, help="At most so many; 0 for all.")] = 50,
    namespace: NamespaceOption = None,
    tag: TagOption = None,
    source: SourceOption = None,
    at: AtOption = None,
    revision: RevisionOption = None,
    as_json: JSONOption = False,
) -> None:
    """List triples."""
    with open_kb(kb) as whole:
        with working("reading"):
            base = Part.of(namespace, tag, source, at, revision).view(whole)
            ids = base.ids(name, property)
            shown = ids[: limit or None]
            triples = base.triples(shown)  # an id keeps its content, whatever changes meanwhile
        if as_json:
            print_json([record_of(i, triple) for i, triple in zip(shown, triples, strict=True)])
            return
        print_triples(shown, triples)
        if len(shown) < len(ids):
            say(f"the first {limit:,}, of {len(ids):,}; --limit 0 shows all", err=True)


def _looking(what: str, summary: str, look: Callable[[KnowledgeBase, str, int], list[SearchHit]]) -> Callable[..., None]:
    """Make a command that looks for triples in a knowledge base or a part of it."""

    def command(
        kb: KBOption,
        text: str = typer.Argument(..., help=what, show_default=False),
        k: Annotated[int, typer.Option("-k", min=1, max=LARGEST, help="How many triples.")] = 10,
        namespace: NamespaceOption = None,
        tag: TagOption = None,
        source: SourceOption = None,
        at: AtOption = None,
        revision: RevisionOption = None,
        as_json: JSONOption = False,
    ) -> None:
        with open_kb(kb) as whole, working("searching"):
            part = Part.of(namespace, tag, source, at, revision).view(whole)
            with as_usage():  # a text without a word in it
                hits = look(part, text, k)
        _show_hits(hits, as_json)

    command.__doc__ = summary
    return command


def show_history(
    name: NameArgument,
    kb: KBOption,
    property: Annotated[str | None, typer.Argument(help="Only this property.", show_default=False)] = None,
    namespace: NamespaceOption = None,
    tag: TagOption = None,
    source: SourceOption = None,
    as_json: JSONOption = False,
) -> None:
    """Show every version of a name's triples, oldest first."""
    with open_kb(kb) as whole, working("reading"):
        versions = Part.of(namespace, tag, source).view(whole).history(name, property)
    if as_json:
        print_json([version.to_dict() for version in versions])
        return
    if not versions:
        tell_none()
        return
    triples = [v.triple for v in versions]
    print_columns(
        {
            "id": [str(v.id) for v in versions],
            "property": [triple.property for triple in triples],
            "value": [triple.value for triple in triples],
            **label_columns(triples),
            **beside_columns(triples),
            "added": [_when(v.added, v.added_at) for v in versions],
            "removed": ["" if v.removed is None else _when(v.removed, v.removed_at) for v in versions],
        }
    )


def log(
    kb: KBOption,
    last: Annotated[int, typer.Option("--last", min=0, max=LARGEST, help="At most so many; 0 for all.")] = 20,
    as_json: JSONOption = False,
) -> None:
    """Show what was changed when, newest first."""
    with open_kb(kb) as base, working("reading"):
        revisions = base.revisions(last + 1 if last else None)  # one more tells whether there are more
        oldest = base.info().oldest_revision
    shown = revisions[: last or None]
    if as_json:
        print_json([{**revision.to_dict(), "readable": revision.number >= oldest} for revision in shown])
        return
    if not shown:
        say("no revisions yet", err=True)
        return
    rows = [
        [
            _when(r.number, r.time),
            r.action if r.number >= oldest else f"{r.action} (compacted)",
            f"+{r.n_added}",
            f"-{r.n_removed}",
            str(r.n_triples),
        ]
        for r in shown
    ]
    print_table(["revision", "change", "added", "removed", "triples"], rows)
    if shown[-1].number < oldest:
        say(f"compacted: cannot be read any more, nor gone back to; the oldest that can is {oldest}", err=True)
    if len(shown) < len(revisions):
        say(f"the newest {len(shown):,}; --last 0 shows all", err=True)


def show_diff(
    before: Annotated[int, typer.Argument(help="The earlier revision.", show_default=False)],
    kb: KBOption,
    after: Annotated[int | None, typer.Argument(help="The later one; default: the newest.", show_default=False)] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, max=LARGEST, help="At most so many; 0 for all. JSON has all.")
    ] = 50,
    namespace: NamespaceOption = None,
    tag: TagOption = None,
    source: SourceOption = None,
    at: AtOption = None,
    as_json: JSONOption = False,
) -> None:
    """Show what one revision has that another has not."""
    with open_kb(kb) as whole, working("comparing"):
        difference = Part.of(namespace, tag, source, at).view(whole).diff(before, after)
    if as_json:
        print_json(difference.to_dict())
        return
    changes = [("-", t) for t in difference.removed] + [("+", t) for t in difference.added]
    changes.sort(key=lambda change: (change[1].name, change[1].property, change[1].namespace, change[0] == "+"))
    shown = changes[: limit or None]
    if shown:
        _print_changes([sign for sign, _ in shown], [triple for _, triple in shown])
    say(f"{len(difference.added):,} added, {len(difference.removed):,} removed")
    if len(shown) < len(changes):
        say(f"… and {len(changes) - len(shown):,} more; --limit 0 shows all", err=True)


def _print_changes(signs: list[str], triples: Sequence[Triple]) -> None:
    columns = {part: [str(getattr(triple, part)) for triple in triples] for part in ("name", "property", "value")}
    print_columns({"": signs, **columns, **label_columns(triples), **beside_columns(triples)})


def info(kb: KBOption, as_json: JSONOption = False) -> None:
    """Show size, revision, sentence encoder and index."""
    with open_kb(kb) as base, working("measuring"):
        facts = {**base.info().to_dict(), **index_facts(base)}
    if as_json:
        print_json(facts)
    else:
        print_table(["", ""], [[key, "-" if value is None else str(value)] for key, value in facts.items()])


def stats(
    kb: KBOption,
    top: Annotated[
        int, typer.Option("--top", min=1, max=LARGEST, help="How many names and properties to show.")
    ] = 10,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw them to this PNG file too.", show_default=False)
    ] = None,
    namespace: NamespaceOption = None,
    tag: TagOption = None,
    source: SourceOption = None,
    at: AtOption = None,
    revision: RevisionOption = None,
    as_json: JSONOption = False,
) -> None:
    """Show what most triples are about, where they come from, and how the knowledge base grew.

    Of a part by namespace, tag, source or time there is no growth: revisions count all triples.
    """
    if plot is not None:
        check_target(plot)
    part = Part.of(namespace, tag, source, at, revision)
    with open_kb(kb) as whole, working("counting"):
        found = part.view(whole).stats(top)
        size = whole.info().size_bytes
    if plot is not None:
        missing = plot_stats(found, plot)
        if missing:
            say(f"{plot}: boxes stand for what no font here has: {missing}", err=True)
    if as_json:
        print_json({**found.to_dict(), "size_bytes": size})
        return
    if not found.n_triples:
        tell_none()
    _print_counts(found)
    if len(found.growth) < found.n_revisions:
        told = f"{len(found.growth)} of {found.n_revisions:,} revisions; kblam kb log --last 0 shows all"
        say(told, err=True)
    held = ", ".join(
        (
            many(found.n_triples, "triple"),
            many(found.n_names, "name"),
            many(found.n_properties, "property", "properties"),
            *([many(found.n_sources, "source")] if found.n_sources else []),
            f"{size / 1e6:,.1f} MB" + ("" if part.is_all else " for the whole knowledge base"),
        )
    )
    say(held + (f"; drawn in {plot}" if plot else ""))


def _print_counts(found: KBStats) -> None:
    for title, counts in (
        ("names", found.names),
        ("properties", found.properties),
        ("sources", found.sources),
        ("tags", found.tags),
        ("namespaces", found.namespaces),
    ):
        if counts:
            print_table([title, "triples"], [[text, f"{n:,}"] for text, n in counts])
    if found.growth:
        print_table(["revision", "triples"], [[_when(r.number, r.time), f"{r.n_triples:,}"] for r in found.growth])


def _show_hits(hits: list[SearchHit], as_json: bool) -> None:
    if as_json:
        print_json([record_of(hit.id, hit.triple, score=round(hit.score, 4)) for hit in hits])
        return
    print_triples([hit.id for hit in hits], [hit.triple for hit in hits], [hit.score for hit in hits])


def _when(revision: int, time: Any) -> str:
    return f"{revision}" if time is None else f"{revision} ({time.astimezone():%Y-%m-%d %H:%M})"
