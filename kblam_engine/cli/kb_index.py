"""`kblam kb index`: the index of a knowledge base that is too large to score every key for every question."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kblam_engine.cli._measuring import progress_bar
from kblam_engine.cli._printing import say
from kblam_engine.cli.kb_common import LARGEST, JSONOption, KBOption, open_kb, print_json

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KnowledgeBase
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
                say("the index is removed; every key is scored" if removed else "there was no index")
            return
        _check_device(device)
        from kblam_engine.search.build import build_index

        quiet = as_json or not sys.stderr.isatty()
        with nullcontext(lambda *_: None) if quiet else progress_bar() as progress:
            record = build_index(base.snapshot(), kind, seed=seed, device=device, progress=progress)
    if as_json:
        print_json(shown(record))
    else:
        say(
            f"{record.kind} of {record.n_slots:,} keys in {record.build_s:.1f} s, {record.size_bytes / 1e6:,.1f} MB; finds "
            f"{record.recall:.1%} of the best {record.recall_k}, in {record.time_ratio:.1%} of the time of scoring every key"
        )
    if told := _complaints(record):
        say(told, err=True)


def index_facts(base: KnowledgeBase) -> dict[str, Any]:
    """Return what `kblam kb info` shows of the index of a knowledge base, and whether it is in use."""
    from kblam_engine.errors import KnowledgeBaseError
    from kblam_engine.search.files import read_record

    try:
        record = None if base.path is None else read_record(base.path)
    except KnowledgeBaseError as error:
        return {"index": str(error)}
    if record is None:
        return {"index": None}
    dead, n_slots = _why_dead(record, base), base.snapshot().n_slots
    return {
        **shown(record),
        "index_in_use": dead is None,
        "index_unindexed_slots": n_slots - record.n_slots if dead is None else n_slots,
        "index_note": dead or _complaints(record) or None,
    }


def index_notes(base: KnowledgeBase) -> list[str]:
    """Return what `kblam kb verify` says of an index that is sound, and of no use."""
    from kblam_engine.errors import KnowledgeBaseError
    from kblam_engine.search.files import read_record

    try:
        record = None if base.path is None else read_record(base.path)
    except KnowledgeBaseError:  # that is a problem, and told as one
        return []
    dead = None if record is None else _why_dead(record, base)
    return [] if dead is None else [f"index: {dead}"]


def _why_dead(record: IndexRecord, base: KnowledgeBase) -> str | None:
    """Return why an index cannot serve a knowledge base as it is now; None if it can."""
    from kblam_engine.errors import KnowledgeBaseError
    from kblam_engine.search.build import fits

    try:
        if fits(record, base.snapshot()):
            return None
    except (KnowledgeBaseError, OSError) as error:
        return f"not in use: {error}"
    return (
        "not in use, every key is scored: it is not of this knowledge base as it is now, which was compacted, repaired or "
        "restored since; kblam kb index makes a new one"
    )


def _complaints(record: IndexRecord) -> str:
    """Return what is to be said against an index; nothing where it does well."""
    from kblam_engine.search.following import is_worth_it, shortcomings

    told = "; it ".join(shortcomings(record))
    refused = "" if is_worth_it(record) else "; --index auto scores every key instead"
    return told and f"the index {told}{refused}"


def _check_device(device: str) -> None:
    """Refuse a place where no clusters can be computed, before anything is.

    Raises:
        ConfigurationError: there is no such device.
    """
    from kblam_engine.errors import ConfigurationError

    found = re.fullmatch(r"cpu|cuda(?::([0-9]{1,4}))?", device)
    if found is None:
        raise typer.BadParameter(f"expected cpu, cuda or cuda:N, got {device!r}", param_hint="--device")
    if device != "cpu":
        import torch

        n_devices = torch.cuda.device_count()
        if int(found[1] or 0) >= n_devices:
            raise ConfigurationError(f"--device: expected a GPU that torch sees, got {device}, and it sees {n_devices}; use cpu")


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
