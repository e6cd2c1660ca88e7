"""`kblam kb index`: the index of a knowledge base that is too large to score every key for every question."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kblam_engine.cli._measuring import progress_bar
from kblam_engine.cli.kb_common import LARGEST, JSONOption, KBOption, open_kb, print_json

if TYPE_CHECKING:
    from kblam_engine.search.files import IndexRecord


def register(app: typer.Typer) -> None:
    """Add the command to `kblam kb`."""
    app.command("index")(index)


def index(
    kb: KBOption,
    kind: Annotated[
        Literal["tree", "ann", "exact"],
        typer.Option("--index", help="tree of clusters, ann (faiss), or exact to remove the index."),
    ] = "tree",
    seed: Annotated[int, typer.Option("--seed", min=0, max=LARGEST, help="Of every draw.")] = 0,
    device: Annotated[str, typer.Option("--device", help="Where clusters are computed: cpu, cuda or cuda:N.")] = "cpu",
    as_json: JSONOption = False,
) -> None:
    """Build an index of the keys, measure it and put it to use; the one before serves until then."""
    with open_kb(kb) as base:
        from kblam_engine.search.files import remove_index

        if kind == "exact":
            assert base.path is not None
            removed = remove_index(base.path)
            if as_json:
                print_json({"removed": removed})
            else:
                typer.echo("the index is removed; every key is scored" if removed else "there was no index")
            return
        from kblam_engine.search.build import build_index

        quiet = as_json or not sys.stderr.isatty()
        with nullcontext(lambda *_: None) if quiet else progress_bar() as progress:
            record = build_index(base.snapshot(), kind, seed=seed, device=device, progress=progress)
    if as_json:
        print_json(shown(record))
    else:
        typer.echo(
            f"{record.kind} of {record.n_slots:,} keys in {record.build_s:.1f} s, {record.size_bytes / 1e6:,.1f} MB; finds "
            f"{record.recall:.1%} of the best {record.recall_k}, in {record.time_ratio:.1%} of the time of scoring every key"
        )


def index_facts(folder: Path | None) -> dict[str, Any]:
    """Return what `kblam kb info` shows of the index in a knowledge base's folder."""
    from kblam_engine.errors import KnowledgeBaseError
    from kblam_engine.search.files import read_record

    try:
        record = None if folder is None else read_record(folder)
    except KnowledgeBaseError as error:
        return {"index": str(error)}
    return {"index": None} if record is None else shown(record)


def shown(record: IndexRecord) -> dict[str, Any]:
    """Return an index's record as fields of a flat JSON object."""
    return {
        "index": record.kind,
        "index_slots": record.n_slots,
        "index_recall": record.recall,
        "index_time_ratio": record.time_ratio,
        "index_build_s": record.build_s,
        "index_size_bytes": record.size_bytes,
        "index_options": record.options,
    }
