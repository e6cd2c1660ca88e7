"""`kblam kb`: files that triples go to."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kblam_engine.cli._printing import print_exact, say
from kblam_engine.cli.kb_common import (
    AtOption,
    JSONOption,
    KBOption,
    NamespaceOption,
    Part,
    RevisionOption,
    SourceOption,
    TagOption,
    counted,
    many,
    open_kb,
    print_json,
    working,
)

if TYPE_CHECKING:
    from kblam_engine.triples import Triple


def register(app: typer.Typer) -> None:
    """Add the commands to `kblam kb`."""
    app.command("export")(export_file)
    app.command("counterfactual")(counterfactual_file)
    app.command("synthesize")(synthesize_file)


def export_file(
    file: Annotated[
        Path, typer.Argument(help="A .jsonl, .csv or .parquet file, or - for JSONL on stdout.", show_default=False)
    ],
    kb: KBOption,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Of keys and values as well, in a .parquet file.")
    ] = False,
    namespace: NamespaceOption = None,
    tag: TagOption = None,
    source: SourceOption = None,
    at: AtOption = None,
    revision: RevisionOption = None,
    as_json: JSONOption = False,
) -> None:
    """Write every triple to a file, or those that the options choose."""
    from kblam_engine.knowledge_base.reader import PARQUET
    from kblam_engine.triple_files import WRITTEN

    if embeddings and file.suffix.lower() not in PARQUET:
        raise typer.BadParameter(f"expected a .parquet file, got {file}", param_hint="--embeddings")
    _check_suffix(file, (*WRITTEN, *PARQUET))
    with open_kb(kb) as whole:
        base = Part.of(namespace, tag, source, at, revision).view(whole)
        if str(file) == "-":
            _write_lines(base)
            return
        with working(f"writing {file}"):
            count = base.export_file(file, embeddings=embeddings)
    if as_json:
        print_json({"exported": count, "file": str(file)})
    else:
        say(f"exported {many(count, 'triple')} to {file}")


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
    from kblam_engine.triple_files import WRITTEN, write_triples

    _check_suffix(file, WRITTEN)
    with open_kb(kb) as base, working("exchanging values"):
        copy = counterfactual(Random(seed), base)
    if str(file) == "-":
        _write_lines(copy.triples)
        return
    with working(f"writing {file}"):
        count = write_triples(file, copy.triples)
    if as_json:
        counts = {"written": count, "kept": len(copy.kept), "borrowed": len(copy.borrowed)}
        print_json({**counts, "file": str(file)})
    else:
        say(
            f"wrote {many(count, 'triple')} to {file}; {many(len(copy.kept), 'value')} kept, no other being possible; "
            f"{many(len(copy.borrowed), 'value')} borrowed, which another triple has as well"
        )


def synthesize_file(
    file: Annotated[Path, typer.Argument(help="A .jsonl or .csv file to write.", show_default=False)],
    n_pairs: Annotated[
        int, typer.Option("--pairs", min=1, max=900, help="Kinds of objects paired with sources of ideas.")
    ] = 20,
    n_names: Annotated[int, typer.Option("--names", min=1, help="Things per pair.")] = 50,
    seed: Annotated[int, typer.Option("--seed", help="Of every draw.")] = 0,
    likeness: Annotated[
        bool,
        typer.Option(
            "--likeness/--no-likeness", help="Measure whether names tell more of their texts than chance; needs an encoder."
        ),
    ] = True,
    encoder: Annotated[str, typer.Option("--encoder", help="Sentence encoder that measures it.")] = "all-minilm-l6-v2",
    as_json: JSONOption = False,
) -> None:
    """Write invented triples in the manner of KBLaM's synthetic KB.

    From a grammar, without an LLM; for a chat model of your own see docs/training.md.
    """
    from random import Random

    from kblam_engine.sentence_encoder import load_sentence_encoder
    from kblam_engine.training.synthesis import MOST_COMPARED, pairs, synthesize
    from kblam_engine.training.writers import OfflineWriter
    from kblam_engine.triple_files import WRITTEN, write_triples

    _check_suffix(file, WRITTEN)
    measure = load_sentence_encoder(encoder) if likeness else None  # a missing one is told before anything is written
    made = synthesize(OfflineWriter(seed), None, pairs(Random(seed), n_pairs), n_names=n_names, encoder=measure)
    count = write_triples(file, made.triples)
    if as_json:
        told = None if made.likeness is None else round(made.likeness, 4)
        print_json({"written": count, "dropped": made.dropped, "likeness": told, "file": str(file)})
        return
    reasons = ", ".join(f"{reason}: {n}" for reason, n in made.dropped.items() if n) or "none"
    say(f"wrote {many(count, 'triple')} to {file}; things dropped - {reasons}")
    if made.likeness is not None:
        compared = min(MOST_COMPARED, len({triple.name for triple in made.triples}))
        say(f"likeness of {many(compared, 'name')} to their own texts: {made.likeness:.2f} (0.5 is chance)")


def _check_suffix(file: Path, suffixes: Sequence[str]) -> None:
    """Refuse a file of another kind before anything is read for it."""
    if str(file) != "-" and file.suffix.lower() not in suffixes:
        expected = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
        raise typer.BadParameter(f"expected a {expected} file, got {file}", param_hint="FILE")


def _write_lines(triples: Iterable[Triple]) -> None:
    """Write triples to stdout as JSONL, counting them on stderr unless both are one terminal."""
    shown = triples if sys.stdout.isatty() else counted(triples, "writing")
    for triple in shown:
        print_exact(json.dumps(triple.to_dict(), ensure_ascii=False))
