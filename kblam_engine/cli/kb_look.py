"""`kblam kb`: what is in a knowledge base, and what was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kblam_engine.cli.kb_common import (
    AtOption,
    JSONOption,
    KBOption,
    NameArgument,
    NamespaceOption,
    Part,
    RevisionOption,
    SourceOption,
    TagOption,
    open_kb,
    print_json,
    print_table,
    print_triples,
    record_of,
    working,
)
from kblam_engine.cli.kb_index import index_facts
from kblam_engine.cli.kb_plot import check_target, plot_stats

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KnowledgeBase, SearchHit

_COLUMNS = ["name", "property", "value"]


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
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many; 0 for all.")] = 50,
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
            typer.echo(f"the first {limit}, of {len(ids)}; --limit 0 shows all", err=True)


def _looking(what: str, summary: str, look: Callable[[KnowledgeBase, str, int], list[SearchHit]]) -> Callable[..., None]:
    """Make a command that looks for triples in a knowledge base or a part of it."""

    def command(
        kb: KBOption,
        text: str = typer.Argument(..., help=what, show_default=False),
        k: Annotated[int, typer.Option("-k", min=1, help="How many triples.")] = 10,
        namespace: NamespaceOption = None,
        tag: TagOption = None,
        source: SourceOption = None,
        at: AtOption = None,
        revision: RevisionOption = None,
        as_json: JSONOption = False,
    ) -> None:
        with open_kb(kb) as whole, working("searching"):
            hits = look(Part.of(namespace, tag, source, at, revision).view(whole), text, k)
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
    rows = [
        [
            str(v.id),
            v.triple.property,
            v.triple.value,
            _when(v.added, v.added_at),
            "" if v.removed is None else _when(v.removed, v.removed_at),
        ]
        for v in versions
    ]
    print_table(["id", "property", "value", "added", "removed"], rows)


def log(
    kb: KBOption,
    last: Annotated[int, typer.Option("--last", min=0, help="At most so many; 0 for all.")] = 20,
    as_json: JSONOption = False,
) -> None:
    """Show what was changed when, newest first."""
    with open_kb(kb) as base:
        revisions = base.revisions(last or None)
    if as_json:
        print_json([revision.to_dict() for revision in revisions])
        return
    rows = [
        [_when(r.number, r.time), r.action, f"+{r.n_added}", f"-{r.n_removed}", str(r.n_triples)] for r in revisions
    ]
    print_table(["revision", "change", "added", "removed", "triples"], rows)


def show_diff(
    before: Annotated[int, typer.Argument(help="The earlier revision.", show_default=False)],
    kb: KBOption,
    after: Annotated[int | None, typer.Argument(help="The later one; default: the newest.", show_default=False)] = None,
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
    rows = [["-", t.name, t.property, t.value] for t in difference.removed]
    rows += [["+", t.name, t.property, t.value] for t in difference.added]
    print_table(["", *_COLUMNS], sorted(rows, key=lambda row: (row[1:3], row[0] == "+")))


def info(kb: KBOption, as_json: JSONOption = False) -> None:
    """Show size, revision, sentence encoder and index."""
    with open_kb(kb) as base, working("measuring"):
        facts = {**base.info().to_dict(), **index_facts(base.path)}
    if as_json:
        print_json(facts)
    else:
        print_table(["", ""], [[key, "-" if value is None else str(value)] for key, value in facts.items()])


def stats(
    kb: KBOption,
    top: Annotated[int, typer.Option("--top", min=1, help="How many names and properties to show.")] = 10,
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
    """Show what most triples are about, where they come from, and how the knowledge base grew."""
    if plot is not None:
        check_target(plot)
    with open_kb(kb) as whole, working("counting"):
        found = Part.of(namespace, tag, source, at, revision).view(whole).stats(top)
        size = whole.info().size_bytes
    if plot is not None:
        plot_stats(found, plot)
    if as_json:
        print_json({**found.to_dict(), "size_bytes": size})
        return
    for title, counts in (
        ("names", found.names),
        ("properties", found.properties),
        ("sources", found.sources),
        ("tags", found.tags),
        ("namespaces", found.namespaces),
    ):
        if counts:
            print_table([title, "triples"], [[text, f"{n:,}"] for text, n in counts])
    growth = [[_when(r.number, r.time), f"{r.n_triples:,}"] for r in found.growth]
    print_table(["revision", "triples"], growth)
    held = f"{found.n_triples:,} triples, {found.n_names:,} names, {found.n_properties:,} properties"
    sources = f", {found.n_sources:,} sources" if found.n_sources else ""
    typer.echo(f"{held}{sources}, {size / 1e6:,.1f} MB" + (f"; drawn in {plot}" if plot else ""))


def _show_hits(hits: list[SearchHit], as_json: bool) -> None:
    if as_json:
        print_json([record_of(hit.id, hit.triple, score=round(hit.score, 4)) for hit in hits])
        return
    print_triples([hit.id for hit in hits], [hit.triple for hit in hits], [hit.score for hit in hits])


def _when(revision: int, time: Any) -> str:
    return f"{revision}" if time is None else f"{revision} ({time.astimezone():%Y-%m-%d %H:%M})"
