"""Making one shard: a knowledge base of its own, closed, checked and recorded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from platform import node

from kblam_engine.cluster.manifest import (
    ShardRecord,
    checked,
    digest_of_texts,
    problems,
    read_record,
    write_record,
)
from kblam_engine.errors import EncoderMismatchError, KnowledgeBaseError
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.models.registry import sha256_of
from kblam_engine.triple_files import read_jsonl
from kblam_engine.triples import Triple

INDEXED = 1_000
"""Triples from which on a shard gets the index that is asked for; fewer are all scored in no time."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to make.

    Attributes:
        number: which one.
        parts: the files with its triples, in the order in which they are added.
        folder: where the shards are.
        encoder: name of the sentence encoder.
        encoder_fingerprint: what it has to be wherever this is done.
        settings: digest of everything but the triples that decides what a shard looks like.
        multi: keep several values of a name and property side by side.
        index: exact, tree or ann.
    """

    number: int
    parts: tuple[str, ...]
    folder: str
    encoder: str
    encoder_fingerprint: str
    settings: str
    multi: bool
    index: str


@dataclass(frozen=True, slots=True)
class ShardDone:
    """A shard that is complete, and whether it was before."""

    record: ShardRecord
    was_complete: bool


def make_shard(task: ShardTask) -> ShardDone:
    """Make a shard, unless it is complete; do it anew where its files are not as they were written.

    What a worker that was cut off has encoded is used, as far as the knowledge base had kept it (`Drafts`).

    Raises:
        KnowledgeBaseError: a triple or the folder is not usable.
        OSError: the disk is full, or cannot be written.
    """
    folder = Path(task.folder)
    parts = [Path(part) for part in task.parts]
    source = digest_of_texts(task.settings, *(sha256_of(part) for part in parts))
    name = f"shard-{task.number:05d}-{source[:12]}"
    known = read_record(folder, name)
    if known is not None and known.source == source and not problems(folder, known):
        return ShardDone(known, was_complete=True)
    (folder / f"{name}.json").unlink(missing_ok=True)
    place = folder / name
    if known is not None or not _is_begun(place):
        shutil.rmtree(place, ignore_errors=True)
    record = _filled(task, place, chain.from_iterable(map(read_jsonl, parts)), source)
    write_record(folder, record)
    return ShardDone(record, was_complete=False)


def _filled(task: ShardTask, place: Path, triples: Iterator[Triple], source: str) -> ShardRecord:
    with KnowledgeBase.open(place, encoder=task.encoder, multi=task.multi) as kb:
        kb.add(triples)
        found = kb.info().encoder_fingerprint
        if found not in (None, task.encoder_fingerprint):
            raise EncoderMismatchError(
                f"sentence encoder {task.encoder}: expected {task.encoder_fingerprint} on every machine, got {found} on "
                f"{node()}; install the same one there"
            )
        snapshot = kb.snapshot() if len(kb) else None
        if snapshot is not None:
            snapshot.value_embeddings()  # those of a single triple may still be missing; readers embed nothing
        if snapshot is not None and task.index != "exact" and len(snapshot) >= INDEXED:
            from kblam_engine.search.build import build_index

            build_index(snapshot, "ann" if task.index == "ann" else "tree")
        n_triples, revision, digest = len(kb), kb.revision, kb.info().fingerprint
    log = place / "kb.sqlite-wal"
    if log.exists() and log.stat().st_size:
        raise KnowledgeBaseError(f"{place}: expected all of the database in its file, got a log; is another process using it?")
    return checked(ShardRecord(task.number, place.name, source, n_triples, revision, digest, {}, 0), place)


def _is_begun(place: Path) -> bool:
    """Say whether a folder holds a knowledge base into which nothing has been committed: it may hold drafts."""
    try:
        with KnowledgeBase.open(place, create=False) as kb:
            return kb.revision == 0
    except (KnowledgeBaseError, OSError):
        return False
