"""Making one shard: a knowledge base of its own, closed, checked and recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from platform import node

from kblam_engine.cluster.manifest import (
    ShardRecord,
    checked,
    digest_of_texts,
    folder_of,
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
ADD_AT_ONCE = 250_000
"""Triples that a shard gets in one change: what a worker holds of them is 160 MB, and their embeddings."""
MAX_TRIPLES = 2**31 - 1
"""Triples of a shard, as of any knowledge base."""


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


@dataclass(frozen=True, slots=True)
class _Added:
    """How far a shard is: what has been committed to its knowledge base.

    Attributes:
        revision: of the knowledge base.
        parts: how many times `ADD_AT_ONCE` triples are in it.
        replaced: triples that a later one has overruled.
        unchanged: triples that said what another one had said.
    """

    revision: int = 0
    parts: int = 0
    replaced: int = 0
    unchanged: int = 0


def make_shard(task: ShardTask) -> ShardDone:
    """Make a shard, unless it is complete; do it anew where its files are not as they were written.

    What a worker that was cut off has added is used, and what it had encoded as far as the knowledge base had kept it
    (`Drafts`).

    Raises:
        KnowledgeBaseError: a triple or the folder is not usable.
        OSError: the disk is full, or cannot be written.
    """
    folder = Path(task.folder)
    parts = [Path(part) for part in task.parts]
    source = digest_of_texts(task.settings, *(sha256_of(part) for part in parts))
    name = folder_of(task.number, source)
    known = read_record(folder, name)
    if known is not None and known.source == source and not problems(folder, known):
        return ShardDone(known, was_complete=True)
    (folder / f"{name}.json").unlink(missing_ok=True)
    place = folder / name
    begun = _begun(place) if known is None else None
    if begun is None:
        _progress(place).unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)
    record = _filled(task, place, chain.from_iterable(map(read_jsonl, parts)), source, begun or _Added())
    write_record(folder, record)
    _progress(place).unlink(missing_ok=True)
    return ShardDone(record, was_complete=False)


def _filled(task: ShardTask, place: Path, triples: Iterator[Triple], source: str, begun: _Added) -> ShardRecord:
    with KnowledgeBase.open(place, encoder=task.encoder, multi=task.multi) as kb:
        added = _with_all(kb, place, triples, begun)
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
    record = ShardRecord(
        number=task.number,
        folder=place.name,
        source=source,
        n_triples=n_triples,
        revision=revision,
        digest=digest,
        files={},
        size_bytes=0,
        replaced=added.replaced,
        unchanged=added.unchanged,
    )
    return checked(record, place)


def _with_all(kb: KnowledgeBase, place: Path, triples: Iterator[Triple], added: _Added) -> _Added:
    """Add what is missing of a shard's triples, part by part, and write down after each how far it is."""
    next(islice(triples, added.parts * ADD_AT_ONCE, added.parts * ADD_AT_ONCE), None)
    while batch := list(islice(triples, ADD_AT_ONCE)):
        result = kb.add(batch)
        added = _Added(
            kb.revision, added.parts + 1, added.replaced + result.replaced, added.unchanged + result.unchanged
        )
        written = _progress(place).with_suffix(".added.part")
        written.write_text(json.dumps(asdict(added)), "utf-8")
        written.replace(_progress(place))
    return added


def _progress(place: Path) -> Path:
    """Return the file beside a shard's folder that says how far it is."""
    return place.with_name(f"{place.name}.added")


def _begun(place: Path) -> _Added | None:
    """Return how far a shard is that was cut off; None where that is not known for sure, or nothing is there.

    One into which nothing has been committed may hold drafts. One that was cut off between a commit and its note is not
    what the note says, and is made anew.
    """
    try:
        noted = _Added(**json.loads(_progress(place).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        noted = _Added()
    try:
        with KnowledgeBase.open(place, create=False) as kb:
            return noted if kb.revision == noted.revision else None
    except (KnowledgeBaseError, OSError):
        return None
