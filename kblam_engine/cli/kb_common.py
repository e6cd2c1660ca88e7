"""What the commands of `kblam kb` share: options, opening, tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kblam_engine.errors import KnowledgeBaseError

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import AddResult, KnowledgeBase
    from kblam_engine.triples import Provenance, Triple

KBOption = Annotated[Path, typer.Option("--kb", help="Directory of the knowledge base.", show_default=False)]
JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
EncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", help="Sentence encoder of a new knowledge base.", show_default=False),
]
MultiOption = Annotated[
    bool, typer.Option("--multi", help="Keep several values of one name and property from now on.")
]
NameArgument = Annotated[str, typer.Argument(help="What the triple is about.", show_default=False)]
PropertyArgument = Annotated[str, typer.Argument(help="Which property of it.", show_default=False)]
ValueArgument = Annotated[str, typer.Argument(help="The value.", show_default=False)]
MetaOption = Annotated[
    list[str] | None, typer.Option("--meta", help="KEY=VALUE to keep beside the triple; repeatable.")
]
_SHOWN_EVERY = 200
_WIDE = 80
"""Columns of a terminal that hold more than the triples themselves."""
_NUMBERS = {"score", "added", "removed", "triples", "id"}
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", help='Only this namespace; "" for triples of none.')
]
TagOption = Annotated[list[str] | None, typer.Option("--tag", help="Only triples with this tag; repeatable.")]
SourceOption = Annotated[str | None, typer.Option("--source", help="Only from this document or URI.")]
AtOption = Annotated[str | None, typer.Option("--at", help="Only what holds at this time, as 2024-03-05.")]
NewNamespaceOption = Annotated[str, typer.Option("--namespace", help="Namespace of what is added.", show_default=False)]
NewTagOption = Annotated[list[str] | None, typer.Option("--tag", help="Tag of what is added; repeatable.")]
NewFromOption = Annotated[str, typer.Option("--from", help="What is added holds from this time on.", show_default=False)]
NewToOption = Annotated[str, typer.Option("--to", help="What is added holds until this time.", show_default=False)]
RevisionOption = Annotated[int | None, typer.Option("--revision", help="As of an earlier revision.")]


@dataclass(frozen=True, slots=True)
class Part:
    """What the options above choose of a knowledge base; without any, all of it."""

    namespace: str | None = None
    tags: tuple[str, ...] = ()
    source: str | None = None
    at: str | None = None
    revision: int | None = None

    @classmethod
    def of(
        cls,
        namespace: str | None = None,
        tag: list[str] | None = None,
        source: str | None = None,
        at: str | None = None,
        revision: int | None = None,
    ) -> Part:
        """Return what the command line says, option by option."""
        return cls(namespace, tuple(tag or ()), source, at, revision)

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return self == Part()

    def view(self, base: KnowledgeBase) -> KnowledgeBase:
        """Return the view that the options ask for, or the knowledge base itself where they ask for none.

        Raises:
            ConfigurationError: there is no such revision, or no longer.
            TripleError: the time is none.
        """
        if self.is_all:
            return base
        return base.view(
            namespace=self.namespace, tags=self.tags, source=self.source, at=self.at, revision=self.revision
        )


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr that something takes its time, where it is a terminal; what it gives changes the words."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(what) as status:
        yield status.update


def counted(triples: Iterable[Triple], what: str) -> Iterator[Triple]:
    """Hand triples on, and show on stderr how many there have been so far, where it is a terminal."""
    with working(what) as tell:
        for n, triple in enumerate(triples, start=1):
            if n % _SHOWN_EVERY == 0:
                tell(f"{what}: {n:,} triples")
            yield triple


def open_kb(
    path: Path, *, create: bool = False, encoder: str | None = None, multi: bool = False
) -> KnowledgeBase:
    """Open a knowledge base.

    Raises:
        KnowledgeBaseError: there is none, or there are shards.
    """
    from kblam_engine.knowledge_base import KnowledgeBase

    try:
        return KnowledgeBase.open(path, encoder=encoder, create=create, multi=multi)
    except KnowledgeBaseError:
        from kblam_engine.cluster import is_sharded

        if not is_sharded(path):
            raise
        raise KnowledgeBaseError(
            f"{path}: expected one knowledge base, got a folder of shards; kblam ask and chat take it, kblam cluster info "
            "describes it, and each folder in it is a knowledge base"
        ) from None


def metadata_of(pairs: list[str] | None) -> dict[str, str]:
    """Return the metadata of `--meta KEY=VALUE`."""
    metadata = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"expected KEY=VALUE, got {pair!r}", param_hint="--meta")
        metadata[key] = value
    return metadata


def provenance_of(document: str, uri: str = "") -> Provenance | None:
    """Return where a triple comes from, as said on the command line."""
    from kblam_engine.triples import Provenance

    return Provenance(document=document, uri=uri) if document or uri else None


def show_result(
    base: KnowledgeBase, result: AddResult, as_json: bool, *, n_removed: int | None = None, **more: Any
) -> None:
    """Say what was added, and what was removed for it where something could be; `more` are fields of the JSON alone."""
    counts = {"added": result.added, "replaced": result.replaced, "unchanged": result.unchanged}
    if n_removed is not None:
        counts["removed"] = n_removed
    if as_json:
        print_json({**counts, "n_triples": len(base), "revision": base.revision, **more})
    else:
        told = ", ".join(f"{n} {what}" for what, n in counts.items())
        typer.echo(f"{told}; {len(base)} triples in {base.path}")


def record_of(id: int, triple: Triple, **more: Any) -> dict[str, Any]:
    """Return a triple of a knowledge base as a JSON object; metadata of the names of other fields stays apart."""
    first = {"id": id, **more}
    if first.keys().isdisjoint(triple.metadata):
        return {**first, **triple.to_dict()}
    parts = {"name": triple.name, "property": triple.property, "value": triple.value}
    return {**first, **parts, **triple.context(), "metadata": dict(triple.metadata)}


def print_triples(ids: Sequence[int], triples: Sequence[Triple], scores: Sequence[float] = ()) -> None:
    """Print triples as a table; with their ids and, if any has one, their sources where it is wide enough."""
    from rich.console import Console

    columns = {name: [str(getattr(triple, name)) for triple in triples] for name in ("name", "property", "value")}
    if Console().width >= _WIDE:
        columns = {"id": list(map(str, ids)), **columns}
        sources = [t.provenance.place if t.provenance else "" for t in triples]
        columns |= {"source": sources} if any(sources) else {}
    if scores:
        columns = {"score": [f"{score:.2f}" for score in scores], **columns}
    print_table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)])


def print_json(data: Any) -> None:
    """Print JSON."""
    typer.echo(json.dumps(data, ensure_ascii=False, indent=2))


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=any(columns), header_style="bold")
    for column in columns:
        # fold: a URL, or a language without spaces, goes on in the next line and is not cut
        table.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: values may contain what rich takes for markup
    Console().print(table)
