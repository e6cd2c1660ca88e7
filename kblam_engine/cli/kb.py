"""`kblam kb`: look into a knowledge base and change it. Here: changes of single triples."""

from __future__ import annotations

from typing import Annotated

import typer

from kblam_engine.cli import kb_care, kb_files, kb_index, kb_look, kb_names
from kblam_engine.cli.kb_common import (
    EncoderOption,
    JSONOption,
    KBOption,
    MetaOption,
    MultiOption,
    NameArgument,
    PropertyArgument,
    ValueArgument,
    metadata_of,
    open_kb,
    print_json,
    provenance_of,
    show_result,
)
from kblam_engine.errors import ConfigurationError

kb_app = typer.Typer(help="Look into a knowledge base and change it.")
_Namespace = Annotated[str, typer.Option("--namespace", help="Namespace of the triple.", show_default=False)]
_Tags = Annotated[list[str] | None, typer.Option("--tag", help="Tag of the triple; repeatable.")]
_Source = Annotated[str, typer.Option("--source", help="Document id it comes from.", show_default=False)]
_From = Annotated[str, typer.Option("--from", help="It holds from this time on.", show_default=False)]
_To = Annotated[str, typer.Option("--to", help="It holds until this time.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add `kblam kb` to the command line."""
    for module in (kb_look, kb_names, kb_files, kb_care, kb_index):
        module.register(kb_app)
    app.add_typer(kb_app, name="kb")


@kb_app.command("add")
def add(
    name: NameArgument,
    property: PropertyArgument,
    value: ValueArgument,
    kb: KBOption,
    meta: MetaOption = None,
    namespace: _Namespace = "",
    tag: _Tags = None,
    source: _Source = "",
    valid_from: _From = "",
    valid_to: _To = "",
    multi: MultiOption = False,
    encoder: EncoderOption = None,
    as_json: JSONOption = False,
) -> None:
    """Add a triple; a missing knowledge base is made."""
    from kblam_engine.triples import Triple

    known = metadata_of(meta), provenance_of(source), namespace, tuple(tag or ()), valid_from, valid_to
    triple = Triple(name, property, value, *known)
    with open_kb(kb, create=True, encoder=encoder, multi=multi) as base:
        show_result(base, base.add([triple]), as_json)


@kb_app.command("set")
def set_value(
    name: NameArgument,
    property: PropertyArgument,
    value: ValueArgument,
    kb: KBOption,
    meta: MetaOption = None,
    namespace: _Namespace = "",
    tag: _Tags = None,
    source: _Source = "",
    valid_from: _From = "",
    valid_to: _To = "",
    as_json: JSONOption = False,
) -> None:
    """Make VALUE the only value of a name's property."""
    with open_kb(kb) as base:
        before = [triple.value for triple in base.view(namespace=namespace).get_all(name, property)]
        triple_id = base.set(
            name,
            property,
            value,
            metadata_of(meta),
            provenance=provenance_of(source),
            namespace=namespace,
            tags=tag or (),
            valid_from=valid_from,
            valid_to=valid_to,
        )
        revision = base.revision
    if as_json:
        print_json({"id": triple_id, "before": before, "revision": revision})
    else:
        typer.echo(f"{' | '.join(before) or 'nothing'} -> {value.strip()} (revision {revision})")


@kb_app.command("remove")
def remove(
    kb: KBOption,
    name: Annotated[str | None, typer.Argument(help="What it is about.", show_default=False)] = None,
    property: Annotated[str | None, typer.Argument(help="Only this property.", show_default=False)] = None,
    value: Annotated[str | None, typer.Argument(help="Only this value.", show_default=False)] = None,
    ids: Annotated[list[int] | None, typer.Option("--id", help="Only this id; repeatable.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="Only from this document or URI.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", help="Only in this namespace.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Only with this tag; repeatable.")] = None,
    as_json: JSONOption = False,
) -> None:
    """Remove what all of these apply to: a name, a property of it, ids, a source, a namespace, tags."""
    with open_kb(kb) as base:
        count = base.remove(name, property, value, ids=ids, source=source, namespace=namespace, tags=tag or ())
        revision = base.revision
    if not count:
        parts = (name, property, value, *(ids or ()), source, namespace, *(tag or ()))
        wanted = ", ".join(str(part) for part in parts if part is not None)
        raise ConfigurationError(f"no triple matches ({wanted}); kblam kb list --kb {kb} shows what is there")
    if as_json:
        print_json({"removed": count, "revision": revision})
    else:
        typer.echo(f"removed {count} (revision {revision})")


@kb_app.command("rollback")
def rollback(
    revision: Annotated[int, typer.Argument(help="The revision to go back to.", show_default=False)],
    kb: KBOption,
    as_json: JSONOption = False,
) -> None:
    """Make the contents those of an earlier revision again, as a new revision."""
    with open_kb(kb) as base:
        now = base.rollback(revision)
        count = len(base)
    if as_json:
        print_json({"revision": now, "n_triples": count})
    else:
        typer.echo(f"{count} triples, as in revision {revision} (revision {now})")
