"""`kblam kb`: look into a knowledge base and change it. Here: changes of single triples."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from kblam_engine.cli import kb_care, kb_files, kb_import, kb_index, kb_look, kb_names
from kblam_engine.cli._options import as_usage
from kblam_engine.cli._printing import say
from kblam_engine.cli.kb_common import (
    LARGEST,
    EncoderOption,
    JSONOption,
    KBOption,
    MetaOption,
    MultiOption,
    NameArgument,
    NewFromOption,
    NewNamespaceOption,
    NewTagOption,
    NewToOption,
    PropertyArgument,
    TimeoutOption,
    ValueArgument,
    as_known,
    many,
    metadata_of,
    open_kb,
    print_json,
    provenance_of,
    show_result,
    working,
)
from kblam_engine.errors import ConfigurationError

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KnowledgeBase
    from kblam_engine.triples import Triple

_Source = Annotated[str, typer.Option("--source", help="Document id it comes from.", show_default=False)]
_URI = Annotated[str, typer.Option("--uri", help="Where that document is: a URL or a path.", show_default=False)]
_Span = Annotated[
    str, typer.Option("--span", metavar="START-END", help="Characters of that document.", show_default=False)
]
_Extractor = Annotated[str, typer.Option("--extractor", help="What read it there.", show_default=False)]
_Confidence = Annotated[
    float | None, typer.Option("--confidence", min=0, max=1, help="How surely, 0 to 1.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add `kblam kb` to the command line."""
    group = typer.Typer(help="Look into a knowledge base and change it.")
    group.command("add")(add)
    group.command("set")(set_value)
    group.command("remove")(remove)
    group.command("rollback")(rollback)
    for module in (kb_look, kb_names, kb_import, kb_files, kb_care, kb_index):
        module.register(group)
    app.add_typer(group, name="kb")


def add(
    name: NameArgument,
    property: PropertyArgument,
    value: ValueArgument,
    kb: KBOption,
    meta: MetaOption = None,
    namespace: NewNamespaceOption = "",
    tag: NewTagOption = None,
    source: _Source = "",
    uri: _URI = "",
    span: _Span = "",
    extractor: _Extractor = "",
    confidence: _Confidence = None,
    valid_from: NewFromOption = "",
    valid_to: NewToOption = "",
    multi: MultiOption = False,
    encoder: EncoderOption = None,
    timeout: TimeoutOption = None,
    as_json: JSONOption = False,
) -> None:
    """Add a triple; a missing knowledge base is made."""
    from kblam_engine.triples import Triple

    origin = provenance_of(source, uri, span, extractor, confidence)
    with as_usage():
        triple = Triple(
            name, property, value, metadata_of(meta), origin, namespace, tuple(tag or ()), valid_from, valid_to
        )
    with open_kb(kb, create=True, encoder=encoder, multi=multi, timeout=timeout) as base:
        with working("adding"):  # the first needs the sentence encoder
            result = base.add([as_known(base, triple)])
        show_result(base, result, as_json)


def set_value(
    name: NameArgument,
    property: PropertyArgument,
    value: ValueArgument,
    kb: KBOption,
    meta: MetaOption = None,
    namespace: NewNamespaceOption = "",
    tag: NewTagOption = None,
    source: _Source = "",
    uri: _URI = "",
    span: _Span = "",
    extractor: _Extractor = "",
    confidence: _Confidence = None,
    valid_from: NewFromOption = "",
    valid_to: NewToOption = "",
    triple_id: Annotated[
        int | None,
        typer.Option(
            "--id",
            max=LARGEST,
            help="Put it in the place of the triple with this id; namespace, tags and times stay unless given.",
            show_default=False,
        ),
    ] = None,
    timeout: TimeoutOption = None,
    as_json: JSONOption = False,
) -> None:
    """Make VALUE the only value of a name's property, or put it in the place of one triple."""
    from kblam_engine.triples import Triple

    origin = provenance_of(source, uri, span, extractor, confidence)
    with as_usage():
        triple = Triple(
            name, property, value, metadata_of(meta), origin, namespace, tuple(tag or ()), valid_from, valid_to
        )
    with open_kb(kb, timeout=timeout) as base, working("changing"):
        if triple_id is None:
            before = [old.value for old in base.view(namespace=triple.namespace).get_all(name, property)]
            new_id = _set(base, triple)
        else:
            old = base.triple(triple_id)
            before = [old.value]
            new_id = base.replace(triple_id, _placed_as(old, triple))
        revision = base.revision
    if as_json:
        print_json({"id": new_id, "before": before, "revision": revision})
    else:
        say(f"{' | '.join(before) or 'nothing'} -> {value.strip()} (revision {revision})")


def _set(base: KnowledgeBase, triple: Triple) -> int:
    """Make a triple the only one of its name, property and namespace; return its id."""
    return base.set(
        triple.name,
        triple.property,
        triple.value,
        triple.metadata,
        provenance=triple.provenance,
        namespace=triple.namespace,
        tags=triple.tags,
        valid_from=triple.valid_from,
        valid_to=triple.valid_to,
    )


def _placed_as(old: Triple, triple: Triple) -> Triple:
    """Return a triple where an old one is; not what that said of its own value: where it was read, and its metadata."""
    return replace(
        triple,
        namespace=triple.namespace or old.namespace,
        tags=triple.tags or old.tags,
        valid_from=triple.valid_from or old.valid_from,
        valid_to=triple.valid_to or old.valid_to,
    )


def remove(
    kb: KBOption,
    name: Annotated[str | None, typer.Argument(help="What it is about.", show_default=False)] = None,
    property: Annotated[str | None, typer.Argument(help="Only this property.", show_default=False)] = None,
    value: Annotated[str | None, typer.Argument(help="Only this value.", show_default=False)] = None,
    ids: Annotated[list[int] | None, typer.Option("--id", max=LARGEST, help="Only this id; repeatable.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="Only from this document or URI.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", help="Only in this namespace.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Only with this tag; repeatable.")] = None,
    timeout: TimeoutOption = None,
    as_json: JSONOption = False,
) -> None:
    """Remove what all of these apply to: a name, a property of it, ids, a source, a namespace, tags."""
    if name is None and not ids and source is None and namespace is None and not tag:
        raise typer.BadParameter("expected a NAME, --id, --source, --namespace or --tag, got nothing, which would be everything")
    with open_kb(kb, timeout=timeout) as base, working("removing"):
        count = base.remove(name, property, value, ids=ids, source=source, namespace=namespace, tags=tag or ())
        revision = base.revision
    if not count:
        given = [("NAME", name), ("PROPERTY", property), ("VALUE", value), *(("--id", str(one)) for one in ids or ())]
        given += [("--source", source), ("--namespace", namespace), *(("--tag", one) for one in tag or ())]
        # An empty text has to be seen as what it is.
        wanted = ", ".join(text if text.strip() else f"{what} {text!r}" for what, text in given if text is not None)
        raise ConfigurationError(f"no triple matches ({wanted}); kblam kb list --kb {kb} shows what is there")
    if as_json:
        print_json({"removed": count, "revision": revision})
    else:
        say(f"removed {count} (revision {revision})")


def rollback(
    revision: Annotated[int, typer.Argument(help="The revision to go back to.", show_default=False)],
    kb: KBOption,
    timeout: TimeoutOption = None,
    as_json: JSONOption = False,
) -> None:
    """Make the contents those of an earlier revision again, as a new revision."""
    with open_kb(kb, timeout=timeout) as base, working("going back"):
        now = base.rollback(revision)
        count = len(base)
    if as_json:
        print_json({"revision": now, "n_triples": count})
    else:
        say(f"{many(count, 'triple')}, as in revision {revision} (revision {now})")
