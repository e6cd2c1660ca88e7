"""Keeping a knowledge base in shape: dropping what was removed, and copying it while it is in use."""

from __future__ import annotations

import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.knowledge_base.connections import connect
from kblam_engine.knowledge_base.drafts import Drafts
from kblam_engine.knowledge_base.records import CompactResult
from kblam_engine.knowledge_base.schema import Meta, read_meta, write_meta
from kblam_engine.knowledge_base.segments import FileSegment
from kblam_engine.knowledge_base.store import DATABASE, Store, append_block, header, segment_file
from kblam_engine.knowledge_base.verification import bad_embeddings
from kblam_engine.knowledge_base.words import index_all, index_is_sound

_BLOCK = 65_536
_ATTEMPTS = 5
_COLUMNS = {"keys": "slot", "values": "value_slot"}


def compact(store: Store, keep_from: int | None) -> CompactResult:
    """Drop the triples that no revision from `keep_from` on shows, close the gaps, and give the space back.

    Readers go on: what they have mapped stays. A revision older than `keep_from` can no longer be read. An index of words
    that does not agree with the texts is made anew.

    Raises:
        KnowledgeBaseError: embeddings are not as they were written; copying them would hide it. Nothing is changed.
    """
    before = store.size_bytes()
    with store.writing() as connection:
        meta = read_meta(connection)
        oldest = meta.revision if keep_from is None else max(min(keep_from, meta.revision), meta.oldest_revision)
        n_dropped = connection.execute("DELETE FROM triples WHERE removed <= ?", (oldest,)).rowcount
        for table in ("labelled", "validity"):
            connection.execute(f"DELETE FROM {table} WHERE triple_id NOT IN (SELECT id FROM triples)")
        connection.execute(
            "DELETE FROM labels WHERE id NOT IN (SELECT label_id FROM labelled) "
            "AND id NOT IN (SELECT namespace FROM triples)"
        )
        if n_dropped or not index_is_sound(connection):
            index_all(connection)
        _rewrite_segments(store, connection, meta)
        meta = read_meta(connection)
        meta.oldest_revision = oldest
        write_meta(connection, meta)
    _sweep(store, meta)
    with store.alone() as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return CompactResult(n_dropped, before, store.size_bytes())


def backup(store: Store, target: Path) -> None:
    """Copy a knowledge base to a new folder, as of one revision, while others read and write it.

    Raises:
        KnowledgeBaseError: there is something at `target`.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise KnowledgeBaseError(f"{target}: expected a folder that does not exist yet, got one with files in it")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        for attempt in range(_ATTEMPTS):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            try:
                _copy(store, draft)
                break
            except FileNotFoundError:  # a compaction has replaced the segments meanwhile
                if attempt == _ATTEMPTS - 1:
                    raise
        if target.exists():
            target.rmdir()
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy(store: Store, folder: Path) -> None:
    with store.connection() as connection:
        copy = sqlite3.connect(folder / DATABASE, isolation_level=None)
        try:
            connection.backup(copy)
            meta = read_meta(copy)
            copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            copy.close()
    # Rows are only ever appended: those that this record counts are the same whatever is written now.
    for kind, n_rows in (("keys", meta.n_slots), ("values", meta.n_value_slots)):
        if n_rows:
            assert meta.embed_dim is not None
            path = folder / segment_file(kind, meta.generation)
            copied = FileSegment(path, meta.embed_dim, header(kind, meta))
            rows = store.segment(kind, meta).first(n_rows)
            for start in range(0, n_rows, _BLOCK):
                copied.append(start, rows[start : start + _BLOCK])
    connect(folder / DATABASE, store.timeout).close()  # leaves no log beside it


def _rewrite_segments(store: Store, connection: sqlite3.Connection, meta: Meta) -> None:
    """Write the next generation of the segments, without the rows that no triple points at."""
    used = {kind: _used(connection, column) for kind, column in _COLUMNS.items()}
    n_rows = {"keys": meta.n_slots, "values": meta.n_value_slots}
    if meta.embed_dim is None or (meta.has_header and all(len(used[kind]) == n_rows[kind] for kind in used)):
        return
    if damage := next(bad_embeddings(store, connection), None):
        raise KnowledgeBaseError(f"{store.label}: {damage}")
    newer = replace(meta, generation=meta.generation + 1, has_header=1)
    connection.execute("DELETE FROM blocks")
    for kind, old_slots in used.items():
        _move(connection, _COLUMNS[kind], old_slots)
        if len(old_slots):
            rows = store.segment(kind, meta).first(n_rows[kind])
            for start in range(0, len(old_slots), _BLOCK):
                block = np.ascontiguousarray(rows[old_slots[start : start + _BLOCK]])
                append_block(store, connection, newer, kind, start, block)
    newer.n_slots, newer.n_value_slots = len(used["keys"]), len(used["values"])
    write_meta(connection, newer)


def _used(connection: sqlite3.Connection, column: str) -> NDArray[np.int64]:
    rows = connection.execute(f"SELECT DISTINCT {column} FROM triples WHERE {column} IS NOT NULL ORDER BY {column}")
    return np.fromiter((row[0] for row in rows), np.int64)


def _move(connection: sqlite3.Connection, column: str, old_slots: NDArray[np.int64]) -> None:
    """Renumber slots 0..n-1 in their order."""
    if len(old_slots) and int(old_slots[-1]) == len(old_slots) - 1:
        return
    connection.execute("CREATE TEMP TABLE moves (old INTEGER PRIMARY KEY, new INTEGER NOT NULL)")
    connection.executemany("INSERT INTO moves VALUES (?, ?)", zip(old_slots.tolist(), range(len(old_slots)), strict=True))
    connection.execute(
        f"UPDATE triples SET {column} = (SELECT new FROM moves WHERE old = {column}) WHERE {column} IS NOT NULL"
    )
    connection.execute("DROP TABLE moves")


def _sweep(store: Store, meta: Meta) -> None:
    """Delete the segments of other generations, and what a killed compaction or encoding left."""
    store.forget_segments(meta.generation - 1)
    if store.path is None:
        return
    Drafts(store.path).forget()
    current = {segment_file(kind, meta.generation) for kind in _COLUMNS}
    for kind in _COLUMNS:
        for file in store.path.glob(f"{kind}-*.f16"):
            if file.name not in current:
                file.unlink(missing_ok=True)
