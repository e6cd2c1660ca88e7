"""Building an index of a knowledge base, measuring it, and opening it again."""

from __future__ import annotations

import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kblam_engine.errors import ConfigurationError, KnowledgeBaseError
from kblam_engine.knowledge_base import KBSnapshot
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.search.exact import scan
from kblam_engine.search.files import IndexRecord, building, publish, read_record, reading
from kblam_engine.search.interface import KeyIndex
from kblam_engine.search.recall import N_QUERIES, K, fitting_beam, measure, sample_queries
from kblam_engine.search.snapshot_search import some_slots
from kblam_engine.search.tree_files import open_tree, write_tree
from kblam_engine.search.tree_growth import Progress, find_clusters

BuiltKind = Literal["tree", "ann"]
_Made = tuple[KeyIndex, dict[str, Any]]
_CHECKED = 64
"""Keys that are compared from the end, where copies of a knowledge base part, and as many from everywhere."""


def build_index(
    snapshot: KBSnapshot,
    kind: BuiltKind = "tree",
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
) -> IndexRecord:
    """Build an index of all keys of a knowledge base on disk, measure it, and put it to use.

    Others read and write the knowledge base meanwhile. What is added after the snapshot is found all the same.

    Args:
        snapshot: of the knowledge base.
        kind: "tree" or "ann".
        seed: of every draw.
        device: where clusters are computed.
        progress: called with what is being done, keys done, keys in all.

    Raises:
        ConfigurationError: the knowledge base is in memory, empty or a kind is unknown.
        KnowledgeBaseError: faiss cannot write its file.
        KnowledgeBaseLockedError: another process is building one.
        MissingDependencyError: "ann", and faiss is not installed.
        OSError: it cannot be written; nothing is left of it, and the index before stays in use.
    """
    folder = snapshot.folder
    if folder is None or not snapshot.n_slots:
        raise ConfigurationError("expected a knowledge base on disk with triples in it, got one in memory or without")
    if kind not in ("tree", "ann"):
        raise ConfigurationError(f'index: expected "tree" or "ann", got {kind!r}')
    begun = time.perf_counter()
    segment = snapshot.key_segment()
    with building(folder) as draft:
        make = _make_tree if kind == "tree" else _make_ann
        index, options = make(draft, segment, seed, device, progress)
        build_s = time.perf_counter() - begun
        queries = sample_queries(segment, seed=seed + 1)
        measured = measure(index, segment, queries)
        return publish(
            draft,
            lambda name, size, files: IndexRecord(
                kind=kind,
                folder=name,
                kb_id=snapshot.kb_id,
                generation=snapshot.generation,
                n_slots=len(segment),
                keys=keys_check(segment, len(segment)),
                recall=round(measured.recall, 4),
                recall_k=K,
                recall_queries=N_QUERIES,
                time_ratio=round(measured.time_ratio, 4),
                build_s=round(build_s, 2),
                size_bytes=size,
                options=options,
                files=files,
            ),
        )


def fits(record: IndexRecord, snapshot: KBSnapshot) -> bool:
    """Say whether an index may serve a snapshot: it is of this knowledge base and generation, and of no later keys.

    Later ones are those added after the snapshot, which does not know them, or those of a copy that this knowledge base
    was restored over. The keys read for it are few: it can be asked anywhere, also by what only shows the index.
    """
    same = record.kb_id == snapshot.kb_id and record.generation == snapshot.generation
    if not same or record.n_slots > snapshot.n_slots:
        return False
    try:
        return record.keys == keys_check(snapshot.key_segment(), record.n_slots)
    except FileNotFoundError:  # a compaction has replaced the keys of this snapshot
        return False


def keys_check(segment: Embeddings, n_slots: int) -> int:
    """Return the CRC-32 of some of the first `n_slots` keys of a segment: the last, and as many spread evenly."""
    return zlib.crc32(np.ascontiguousarray(segment[some_slots(n_slots, _CHECKED)]).tobytes())


def open_index(snapshot: KBSnapshot) -> tuple[IndexRecord, KeyIndex] | None:
    """Open the index of a snapshot's knowledge base; None where there is none that fits it.

    Of the large files only the size is compared here, and what a search could fall over; `contents_problem` reads them.

    Raises:
        KnowledgeBaseError: its files are damaged.
        MissingDependencyError: it was built by faiss, which is not installed.
    """
    folder = snapshot.folder
    record = None if folder is None else read_record(folder)
    while folder is not None and record is not None and fits(record, snapshot):
        try:
            return record, _opened(folder, record, snapshot.key_segment())
        except KnowledgeBaseError:
            before, record = record, read_record(folder)
            if record == before:  # else it was replaced while it was read
                raise
        except FileNotFoundError:  # a compaction has replaced the keys of this snapshot
            return None
    return None


def _opened(folder: Path, record: IndexRecord, segment: Embeddings) -> KeyIndex:
    with reading(folder, record):
        if record.kind == "tree":
            return open_tree(folder, record, segment)
        if record.kind == "ann":
            from kblam_engine.search.faiss_index import open_faiss

            return open_faiss(folder, record, segment)
        raise ValueError(f"one of the kind {record.kind[:40]!r}")


def _make_tree(draft: Path, segment: Embeddings, seed: int, device: str, progress: Progress) -> _Made:
    clusters = find_clusters(segment, seed=seed, device=device, progress=progress)
    tree = write_tree(draft, segment, clusters)
    queries = sample_queries(segment, seed=seed)  # others than those that the record's recall is measured on
    tree = replace(tree, beam=fitting_beam(tree, queries, scan(segment, queries, K)))
    return tree, tree.options


def _make_ann(draft: Path, segment: Embeddings, seed: int, device: str, progress: Progress) -> _Made:
    from kblam_engine.search.faiss_index import write_faiss

    return write_faiss(draft, segment, seed, progress)
