"""`kblam kb`: look into a knowledge base and change it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kblam_engine.errors import ConfigurationError

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import AddResult, KnowledgeBase
    from kblam_engine.triples import Triple

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

kb_app = typer.Typer(help="Look into a knowledge base and change it.")


def register(app: typer.Typer) -> None:
    """Add `kblam kb` to the command line."""
    app.add_typer(kb_app, name="kb")


@kb_app.command("add")
def add(
    name: NameArgument,
    property: PropertyArgument,
    value: ValueArgument,
    kb: KBOption,
    meta: MetaOption = None,
    multi: MultiOption = False,
    encoder: EncoderOption = None,
    as_json: JSONOption = False,
) -> None:
    """Add a triple; a missing knowledge base is made."""
    from kblam_engine.triples import Triple

    triple = Triple(name, property, value, _metadata(meta))
    with _open(kb, create=True, encoder=encoder, multi=multi) as base:
        _show_result(base, base.add([triple]), as_json)


@kb_app.command("list")
def list_triples(
    kb: KBOption,
    name: Annotated[str | None, typer.Option("--name", help="Only triples of this name.")] = None,
    property: Annotated[
        str | None, typer.Option("--property", help="Only triples with this property.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many; 0 for all.")] = 50,
    as_json: JSONOption = False,
) -> None:
    """List triples."""
    with _open(kb) as base:
        triples: Iterable[Triple] = base if name is None else base.get_all(name, property)
        if property is not None:
            triples = (triple for triple in triples if triple.property == property.strip())
        shown = list(islice(triples, limit or None))
        if as_json:
            _print_json([triple.to_dict() for triple in shown])
            return
        _print_table(["name", "property", "value"], [[t.name, t.property, t.value] for t in shown])
        if limit and len(shown) == limit:
            typer.echo(
                f"the first {limit}, of {len(base)} in the knowledge base; --limit 0 shows all", err=True
            )


@kb_app.command("search")
def search(
    text: Annotated[str, typer.Argument(help="A question or a few words.", show_default=False)],
    kb: KBOption,
    k: Annotated[int, typer.Option("-k", min=1, help="How many triples.")] = 10,
    as_json: JSONOption = False,
) -> None:
    """Find triples by meaning."""
    with _open(kb) as base:
        hits = base.search(text, k)
    if as_json:
        _print_json([{"id": hit.id, "score": round(hit.score, 4), **hit.triple.to_dict()} for hit in hits])
        return
    rows = [[f"{hit.score:.2f}", hit.triple.name, hit.triple.property, hit.triple.value] for hit in hits]
    _print_table(["score", "name", "property", "value"], rows)


@kb_app.command("set")
def set_value(
    name: NameArgument,
    property: PropertyArgument,
    value: ValueArgument,
    kb: KBOption,
    meta: MetaOption = None,
    as_json: JSONOption = False,
) -> None:
    """Make VALUE the only value of a name's property."""
    with _open(kb) as base:
        before = [triple.value for triple in base.get_all(name, property)]
        triple_id = base.set(name, property, value, _metadata(meta))
        revision = base.revision
    if as_json:
        _print_json({"id": triple_id, "before": before, "revision": revision})
    else:
        typer.echo(f"{' | '.join(before) or 'nothing'} -> {value.strip()} (revision {revision})")


@kb_app.command("remove")
def remove(
    name: NameArgument,
    kb: KBOption,
    property: Annotated[str | None, typer.Argument(help="Only this property.", show_default=False)] = None,
    value: Annotated[str | None, typer.Argument(help="Only this value.", show_default=False)] = None,
    as_json: JSONOption = False,
) -> None:
    """Remove a name, one property of it, or one value."""
    with _open(kb) as base:
        count = base.remove(name, property, value)
        revision = base.revision
    if not count:
        wanted = ", ".join(part for part in (name, property, value) if part is not None)
        raise ConfigurationError(f"no triple matches ({wanted}); kblam kb list --kb {kb} shows what is there")
    if as_json:
        _print_json({"removed": count, "revision": revision})
    else:
        typer.echo(f"removed {count} (revision {revision})")


@kb_app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="A .jsonl or .csv file of triples.", show_default=False)],
    kb: KBOption,
    multi: MultiOption = False,
    encoder: EncoderOption = None,
    as_json: JSONOption = False,
) -> None:
    """Add the triples of a file, all or none.

    The knowledge base is made if it is missing.
    """
    from kblam_engine.triples import read_triples

    triples = list(read_triples(file))  # before a knowledge base is made for a file that cannot be read
    with _open(kb, create=True, encoder=encoder, multi=multi) as base:
        _show_result(base, base.add(triples, progress=not as_json and sys.stderr.isatty()), as_json)


@kb_app.command("export")
def export_file(
    file: Annotated[
        Path, typer.Argument(help="A .jsonl or .csv file, or - for JSONL on stdout.", show_default=False)
    ],
    kb: KBOption,
    as_json: JSONOption = False,
) -> None:
    """Write every triple to a file."""
    with _open(kb) as base:
        if str(file) == "-":
            for triple in base:
                typer.echo(json.dumps(triple.to_dict(), ensure_ascii=False))
            return
        count = base.export_file(file)
    if as_json:
        _print_json({"exported": count, "file": str(file)})
    else:
        typer.echo(f"exported {count} triples to {file}")


@kb_app.command("counterfactual")
def counterfactual_file(
    file: Annotated[
        Path, typer.Argument(help="A .jsonl or .csv file, or - for JSONL on stdout.", show_default=False)
    ],
    kb: KBOption,
    seed: Annotated[int, typer.Option("--seed", help="Decides which value goes where.")] = 0,
    as_json: JSONOption = False,
) -> None:
    """Write a copy whose values are exchanged within each property.

    For evaluation: what a model answers from memory is wrong there.
    """
    from random import Random

    from kblam_engine.training.counterfactual import counterfactual
    from kblam_engine.triples import write_triples

    with _open(kb) as base:
        copy = counterfactual(Random(seed), base)
    if str(file) == "-":
        for triple in copy.triples:
            typer.echo(json.dumps(triple.to_dict(), ensure_ascii=False))
        return
    count = write_triples(file, copy.triples)
    if as_json:
        counts = {"written": count, "kept": len(copy.kept), "borrowed": len(copy.borrowed)}
        _print_json({**counts, "file": str(file)})
    else:
        typer.echo(
            f"wrote {count} triples to {file}; {len(copy.kept)} keep their values, no other being possible; "
            f"{len(copy.borrowed)} got a value that another triple has as well"
        )


@kb_app.command("synthesize")
def synthesize_file(
    file: Annotated[Path, typer.Argument(help="A .jsonl or .csv file to write.", show_default=False)],
    n_pairs: Annotated[
        int, typer.Option("--pairs", min=1, max=900, help="Kinds of objects paired with sources of ideas.")
    ] = 20,
    n_names: Annotated[int, typer.Option("--names", min=1, help="Things per pair.")] = 50,
    seed: Annotated[int, typer.Option("--seed", help="Of every draw.")] = 0,
    as_json: JSONOption = False,
) -> None:
    """Write invented triples in the manner of KBLaM's synthetic KB.

    From a grammar, without an LLM; for a chat model of your own see kblam_engine.training.synthesis.
    """
    from random import Random

    from kblam_engine.training.synthesis import pairs, triples_of
    from kblam_engine.training.writers import OfflineWriter
    from kblam_engine.triples import write_triples

    writer = OfflineWriter(seed)
    things = [thing for pair in pairs(Random(seed), n_pairs) for thing in writer(*pair, n_names)]
    triples, dropped = triples_of(things)
    count = write_triples(file, triples)
    if as_json:
        _print_json({"written": count, "dropped": dropped, "file": str(file)})
    else:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in dropped.items() if n) or "none"
        typer.echo(f"wrote {count} triples to {file}; things dropped - {reasons}")


@kb_app.command("info")
def info(kb: KBOption, as_json: JSONOption = False) -> None:
    """Show size, revision and sentence encoder."""
    with _open(kb) as base:
        facts = base.info().to_dict()
    if as_json:
        _print_json(facts)
    else:
        _print_table(["", ""], [[key, "-" if value is None else str(value)] for key, value in facts.items()])


@kb_app.command("verify")
def verify(kb: KBOption, as_json: JSONOption = False) -> None:
    """Check that triples and embeddings agree; exit code 1 if not."""
    with _open(kb) as base:
        problems = base.verify()
        count = len(base)
    if as_json:
        _print_json({"ok": not problems, "problems": problems, "n_triples": count})
    else:
        typer.echo("\n".join(problems) or f"{count} triples, all sound")
    if problems:
        raise typer.Exit(1)


def _open(
    path: Path, *, create: bool = False, encoder: str | None = None, multi: bool = False
) -> KnowledgeBase:
    from kblam_engine.knowledge_base import KnowledgeBase

    return KnowledgeBase.open(path, encoder=encoder, create=create, multi=multi)


def _metadata(pairs: list[str] | None) -> dict[str, str]:
    metadata = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"expected KEY=VALUE, got {pair!r}", param_hint="--meta")
        metadata[key] = value
    return metadata


def _show_result(base: KnowledgeBase, result: AddResult, as_json: bool) -> None:
    if as_json:
        counts = {"added": result.added, "replaced": result.replaced, "unchanged": result.unchanged}
        _print_json({**counts, "n_triples": len(base), "revision": base.revision})
    else:
        typer.echo(
            f"{result.added} added, {result.replaced} replaced, {result.unchanged} unchanged; "
            f"{len(base)} triples in {base.path}"
        )


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, ensure_ascii=False, indent=2))


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=any(columns), header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column == "score" else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: values may contain what rich takes for markup
    Console().print(table)
