"""`kblam kb import`: a file, folder or database of any kind into a knowledge base."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kblam_engine.cli._importing import (
    AliasesOption,
    Labels,
    LLMOption,
    Reading,
    ReconcileOption,
    ReplaceOption,
    ReviewOption,
    SourceArgument,
    SourceOptions,
    read_source,
    reconciled,
    write_candidates,
)
from kblam_engine.cli.kb_common import (
    EncoderOption,
    JSONOption,
    KBOption,
    MultiOption,
    NewFromOption,
    NewNamespaceOption,
    NewTagOption,
    NewToOption,
    open_kb,
    print_json,
    show_result,
    working,
)

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KnowledgeBase
    from kblam_engine.triples import Triple


def register(app: typer.Typer) -> None:
    """Add the command to `kblam kb`."""
    app.command("import")(import_file)


def import_file(
    source: SourceArgument,
    kb: KBOption,
    multi: MultiOption = False,
    encoder: EncoderOption = None,
    namespace: NewNamespaceOption = "",
    tag: NewTagOption = None,
    valid_from: NewFromOption = "",
    valid_to: NewToOption = "",
    replace_before: ReplaceOption = False,
    review: ReviewOption = False,
    option: SourceOptions = None,
    llm: LLMOption = None,
    reconcile: ReconcileOption = False,
    aliases: AliasesOption = None,
    as_json: JSONOption = False,
) -> None:
    """Add the triples of a file, folder or database, all or none.

    The knowledge base is made if it is missing.
    """
    if review and replace_before:
        raise typer.BadParameter("give it when the review is imported", param_hint="--replace")
    labels = Labels(namespace, tuple(tag or ()), valid_from, valid_to)
    reading = read_source(source, option, llm)  # before a knowledge base is made for a file that cannot be read
    triples = labels.put_on(reading.triples)
    if reconcile or aliases is not None:
        with open_kb(kb) if kb.exists() else nullcontext() as before:
            triples = reconciled(triples, before, aliases)
    if review:
        path = write_candidates(source, triples)
        if as_json:
            print_json({"candidates": len(triples), "file": str(path), "skipped": reading.skipped})
        else:
            typer.echo(f"{len(triples)} candidates in {path}; edit it, then: kblam kb import {path} --kb {kb}")
        return
    progress = sys.stderr.isatty()
    with open_kb(kb, create=True, encoder=encoder, multi=multi) as base:
        if not replace_before:
            show_result(base, base.add(triples, progress=progress), as_json, skipped=reading.skipped)
            return
        triples = [_from(reading, triple) for triple in triples]
        with working("looking for what was read before"):
            places = _places(base, source, reading, triples)
        revision = base.revision
        result = base.replace_source(places, triples, namespace=namespace or None, progress=progress)
        n_removed = base.revisions(1)[0].n_removed - result.replaced if base.revision > revision else 0
        show_result(base, result, as_json, n_removed=n_removed, skipped=reading.skipped)


def _from(reading: Reading, triple: Triple) -> Triple:
    """Return a triple that says where it was read, which one out of a file of triples may not."""
    from kblam_engine.triples import Provenance

    return replace(triple, provenance=Provenance(uri=reading.uri)) if triple.provenance is None else triple


def _places(base: KnowledgeBase, source: str, reading: Reading, triples: list[Triple]) -> set[str]:
    """Return the documents whose triples in a knowledge base are to be replaced; tell where there are none.

    They are those that the triples name, the source itself, and of a folder or archive what was once read in it.
    """
    origins = {triple.provenance for triple in triples if triple.provenance is not None}
    places = {reading.uri} | {origin.place for origin in origins}
    if Path(source).is_dir() or source.lower().endswith(".zip"):
        inside = f"{reading.uri.rstrip('/')}/", f"{reading.uri}!/"
        sources = base.stats(max(len(base), 1)).sources
        places |= {place for place, _ in sources if place.startswith(inside)}
    if not any(base.view(source=place).ids() for place in places):
        typer.echo(f"nothing in {base.path} is from {reading.uri}, spelled like this; all of it is new", err=True)
    return places
