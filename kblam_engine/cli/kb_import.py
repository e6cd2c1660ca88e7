"""`kblam kb import`: a file, folder or database of any kind into a knowledge base."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kblam_engine.cli._importing import (
    AliasesOption,
    FormatOption,
    Labels,
    LLMOption,
    Reading,
    ReconcileOption,
    ReplaceOption,
    ReviewOption,
    SourceArgument,
    SourceOptions,
    last_said,
    read_source,
    reconciled,
    source_options,
    write_candidates,
)
from kblam_engine.cli._printing import say
from kblam_engine.cli.kb_common import (
    EncoderOption,
    JSONOption,
    KBOption,
    MultiOption,
    NewFromOption,
    NewNamespaceOption,
    NewTagOption,
    NewToOption,
    TimeoutOption,
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
    format: FormatOption = None,
    option: SourceOptions = None,
    llm: LLMOption = None,
    reconcile: ReconcileOption = False,
    aliases: AliasesOption = None,
    timeout: TimeoutOption = None,
    as_json: JSONOption = False,
) -> None:
    """Add the triples of a file, folder or database, all or none.

    The knowledge base is made if it is missing and there are triples.
    """
    if review and replace_before:
        raise typer.BadParameter("give it when the review is imported", param_hint="--replace")
    if replace_before and source == "-" and "uri" not in source_options(option):
        raise typer.BadParameter("expected --option uri=NAME beside it: all that is read from stdin is one source", param_hint="--replace")
    labels = Labels(namespace, tuple(tag or ()), valid_from, valid_to)
    reading = read_source(source, option, llm, format)  # before a knowledge base is made for a file that cannot be read
    triples = labels.put_on(reading.triples)
    if reconcile or aliases is not None:
        with open_kb(kb) if kb.exists() else nullcontext() as before:
            triples = reconciled(triples, before, aliases)
    if review:
        _write_review(source, triples, reading, kb, as_json)
        return
    if not triples:
        say(f"no triples in {source}" + ("" if kb.exists() else f"; {kb} is not made"), err=True)
        if not kb.exists():
            if as_json:
                nothing = dict.fromkeys(("added", "replaced", "unchanged", "n_triples", "revision", "overruled"), 0)
                print_json({**nothing, "skipped": reading.skipped})
            return
    progress = sys.stderr.isatty()
    with open_kb(kb, create=True, encoder=encoder, multi=multi, timeout=timeout) as base:
        triples, n_overruled = _last_said(base, source, triples)
        told: dict[str, Any] = {"overruled": n_overruled, "skipped": reading.skipped}
        if not replace_before:
            show_result(base, base.add(triples, progress=progress), as_json, **told)
            return
        triples = [_from(reading, triple) for triple in triples]
        with working("looking for what was read before"):
            places = _places(base, source, reading, triples)
        revision = base.revision
        result = base.replace_source(places, triples, namespace=namespace or None, progress=progress)
        n_removed = base.revisions(1)[0].n_removed - result.replaced if base.revision > revision else 0
        show_result(base, result, as_json, n_removed=n_removed, **told)


def _write_review(source: str, triples: list[Triple], reading: Reading, kb: Path, as_json: bool) -> None:
    path = write_candidates(source, triples)
    if as_json:
        print_json({"candidates": len(triples), "file": str(path) if triples else None, "skipped": reading.skipped})
    elif triples:
        say(f"{len(triples)} candidates in {path}; edit it, then: kblam kb import {path} --kb {kb}")
    else:
        say(f"no candidates in {source}", err=True)


def _last_said(base: KnowledgeBase, source: str, triples: list[Triple]) -> tuple[list[Triple], int]:
    """Return what a knowledge base will keep of the triples of one source, and how many values it will not; tell of these."""
    last, n_overruled = last_said(triples, multi=False)
    if len(last) < len(triples) and base.info().multi:
        last, n_overruled = last_said(triples, multi=True)
    if n_overruled:
        later = "value is overruled by a later one" if n_overruled == 1 else "values are overruled by later ones"
        say(f"{n_overruled} {later} of the same name and property in {source}; --multi keeps all", err=True)
    return last, n_overruled


def _from(reading: Reading, triple: Triple) -> Triple:
    """Return a triple that says where it was read, which one out of a source of one's own may not."""
    from kblam_engine.triples import Provenance

    return replace(triple, provenance=Provenance(uri=reading.uri)) if triple.provenance is None else triple


def _places(base: KnowledgeBase, source: str, reading: Reading, triples: list[Triple]) -> set[str]:
    """Return the documents whose triples in a knowledge base are to be replaced; tell where there are none.

    They are those that the triples name, the source itself, of a review those that it is of, and of a folder or archive what
    was once read in it.
    """
    from kblam_engine.sources.review import reviewed_documents

    origins = {triple.provenance for triple in triples if triple.provenance is not None}
    places = {reading.uri} | {origin.place for origin in origins} | reviewed_documents(Path(source))
    if Path(source).is_dir() or source.lower().endswith(".zip"):
        inside = f"{reading.uri.rstrip('/')}/", f"{reading.uri}!/"
        sources = base.stats(max(len(base), 1)).sources
        places |= {place for place, _ in sources if place.startswith(inside)}
    if not any(base.view(source=place).ids() for place in places):
        new = "all of it is new" if triples else "nothing is replaced"
        say(f"nothing in {base.path} is from {reading.uri}, spelled like this; {new}", err=True)
    return places
