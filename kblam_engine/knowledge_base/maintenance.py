"""Keeping a knowledge base in shape: dropping what was removed, and copying it while it is in use."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.knowledge_base.connections import connect, lacks_room
from kblam_engine.knowledge_base.drafts import Drafts
from kblam_engine.knowledge_base.own_files import opened
from kblam_engine.knowledge_base.records import CompactResult
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.knowledge_base.schema import Meta, damaged, read_meta, write_meta
from kblam_engine.knowledge_base.segment_checks import bad_embeddings, missing, rows_of
from kblam_engine.knowledge_base.segments import FileSegment
from kblam_engine.knowledge_base.slot_reading import integers
from kblam_engine.knowledge_base.store import DATABASE, Store, append_block, header, segment_file
from kblam_engine.knowledge_base.words import index_all, index_is_sound

_BLOCK = 65_536
_ATTEMPTS = 5
_COLUMNS = {"keys": "slot", "values": "value_slot"}
# As `kblam_engine.search.files` names them, which is above this and not imported.
_INDEX, _INDEX_FOLDER = "index.json", re.compile(r"index-[0-9a-f]{12}")
_LARGEST_RECORD = 1 << 20


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
    sweep(store, meta)
    with store.alone() as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return CompactResult(n_dropped, before, store.size_bytes())


def backup(store: Store, target: Path) -> None:
    """Copy a knowledge base to a new folder, as of one revision, while others read and write it.

    Raises:
        KnowledgeBaseError: there is something at `target`, or embeddings are not as they were written.
        OSError: `target` cannot be written; nothing is left of it.
    """
    if store.path is not None and target.resolve().is_relative_to(store.path.resolve()):
        raise KnowledgeBaseError(f"{target}: expected a folder outside of {store.path}, got one in it; name another place")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise KnowledgeBaseError(f"{target}: expected a folder that does not exist yet, got one with files in it")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        for attempt in range(_ATTEMPTS):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            try:
                _copy(store, draft, target)
                break
            except FileNotFoundError as error:  # a compaction has replaced the segments meanwhile
                if attempt == _ATTEMPTS - 1:
                    raise missing(error) from error
            except OSError as error:
                if str(draft) in str(error.filename):  # nobody knows that name
                    error.filename = str(target)
                raise
        if target.exists():
            target.rmdir()
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy(store: Store, folder: Path, target: Path) -> None:
    # Rows are only ever appended: those that this record counts are the same whatever is written now.
    meta = _copy_database(store, folder / DATABASE, target)
    for kind, n_rows in rows_of(meta).items():
        if n_rows:
            assert meta.embed_dim is not None
            path = folder / segment_file(kind, meta.generation)
            copied = FileSegment(path, meta.embed_dim, header(kind, meta))
            rows = store.segment(kind, meta).first(n_rows)
            for start in range(0, n_rows, _BLOCK):
                copied.append(start, rows[start : start + _BLOCK])
    connect(folder / DATABASE, store.timeout).close()  # leaves no log beside it


def _copy_database(store: Store, file: Path, target: Path) -> Meta:
    """Copy the tables, and check the embeddings that they count."""
    with store.connection() as connection, closing(sqlite3.connect(file, isolation_level=None)) as copy:
        try:
            connection.backup(copy)
            copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            # Of two databases: what cannot be written is the copy.
            if lacks_room(error) or error.sqlite_errorcode == sqlite3.SQLITE_IOERR_WRITE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
            raise
        meta = read_meta(copy)
        _refuse_damage(store, copy)
    return meta


def _rewrite_segments(store: Store, connection: sqlite3.Connection, meta: Meta) -> None:
    """Write the next generation of the segments, without the rows that no triple points at."""
    used = {kind: _used(connection, kind) for kind in _COLUMNS}
    n_rows = rows_of(meta)
    for kind, slots in used.items():
        if len(slots) and not 0 <= slots[0] <= slots[-1] < n_rows[kind]:
            raise damaged(connection, f"a triple's embedding ({kind}) is not in 0..{n_rows[kind] - 1}")
    if meta.embed_dim is None or (meta.has_header and all(len(used[kind]) == n_rows[kind] for kind in used)):
        return
    try:
        _refuse_damage(store, connection)
    except FileNotFoundError as error:  # no other compaction is under way
        raise missing(error) from error
    rows = {kind: store.segment(kind, meta).first(n_rows[kind]) for kind in used}
    rewrite_segments(store, connection, meta, lambda kind, slots: np.ascontiguousarray(rows[kind][slots]))


def rewrite_segments(
    store: Store, connection: sqlite3.Connection, meta: Meta, rows_at: Callable[[str, NDArray[np.int64]], Embeddings]
) -> None:
    """Write the next generation of the segments: of every slot in use the row that `rows_at` gives for it."""
    newer = replace(meta, generation=meta.generation + 1, has_header=1)
    connection.execute("DELETE FROM blocks")
    n_rows = {}
    for kind in _COLUMNS:
        old_slots = _used(connection, kind)
        for start in range(0, len(old_slots), _BLOCK):
            append_block(store, connection, newer, kind, start, rows_at(kind, old_slots[start : start + _BLOCK]))
        _move(connection, _COLUMNS[kind], old_slots)
        n_rows[kind] = len(old_slots)
    newer.n_slots, newer.n_value_slots = n_rows["keys"], n_rows["values"]
    write_meta(connection, newer)


def _refuse_damage(store: Store, connection: sqlite3.Connection) -> None:
    """Refuse to copy embeddings that are not as they were written.

    Raises:
        KnowledgeBaseError: there are some.
    """
    if damage := next(bad_embeddings(store, connection), None):
        raise KnowledgeBaseError(f"{store.label}: {damage}")


def _used(connection: sqlite3.Connection, kind: str) -> NDArray[np.int64]:
    """Return the slots in use, ascending.

    Raises:
        KnowledgeBaseError: one is no whole number.
    """
    column = _COLUMNS[kind]
    rows = connection.execute(f"SELECT DISTINCT {column} FROM triples WHERE {column} IS NOT NULL ORDER BY {column}")
    return integers(rows)[:, 0]


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


def sweep(store: Store, meta: Meta) -> None:
    """Delete the segments of other generations and their index, and what a killed compaction or encoding left."""
    store.forget_segments(meta.generation - 1)
    if store.path is None:
        return
    Drafts(store.path).forget()
    current = {segment_file(kind, meta.generation) for kind in _COLUMNS}
    for kind in _COLUMNS:
        for file in store.path.glob(f"{kind}-*.f16"):
            if file.name not in current:
                file.unlink(missing_ok=True)
    _forget_index(store.path, meta.generation)


def _forget_index(folder: Path, generation: int) -> None:
    """Delete the index of keys, if its slots are those of an earlier generation: nothing can use it again.

    Only ever a help: what cannot be read or deleted stays, and is not used either. Who has it mapped goes on with it.
    """
    try:
        with open(opened(folder / _INDEX, os.O_RDONLY), "rb") as file:
            record = json.loads(file.read(_LARGEST_RECORD))
        if not record["generation"] < generation:
            return
        (folder / _INDEX).unlink()
        place = folder / record["folder"]
        if _INDEX_FOLDER.fullmatch(record["folder"]) and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
    except (OSError, KnowledgeBaseError, ValueError, TypeError, LookupError, RecursionError):
        return
