"""Bring a knowledge base of an older version up to date, in one transaction."""

from __future__ import annotations

import os
import sqlite3
import zlib
from pathlib import Path

from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.knowledge_base.contents import digest_of
from kblam_engine.knowledge_base.own_files import opened
from kblam_engine.knowledge_base.schema import (
    ADDITIONS,
    SCHEMA_VERSION,
    Meta,
    read_meta,
    read_version,
    write_meta,
)
from kblam_engine.knowledge_base.words import index_all

_FIRST_GENERATION = {"keys": "keys-000001.f16", "values": "values-000001.f16"}
_CHUNK = 2**24


def is_outdated(connection: sqlite3.Connection) -> bool:
    """Say whether an older version wrote this database.

    Raises:
        KnowledgeBaseError: it is of no version that is known.
    """
    return read_version(connection) < SCHEMA_VERSION


def migrate(connection: sqlite3.Connection, path: Path | None) -> None:
    """Bring a database from version 1 to 2, inside the caller's transaction; ids, revisions and segments stay.

    Times of earlier revisions are not known. Segments get checksums now, and headers with the next compaction.

    Raises:
        KnowledgeBaseError: its embeddings are not all there.
    """
    connection.execute("DROP INDEX IF EXISTS live_slots")  # was unique on slots alone
    connection.execute("ALTER TABLE triples ADD COLUMN namespace INTEGER NOT NULL DEFAULT 0")
    connection.execute("ALTER TABLE triples ADD COLUMN context TEXT")
    for statement in ADDITIONS.split(";"):
        connection.execute(statement)
    connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (SCHEMA_VERSION,))
    meta = read_meta(connection)
    meta.has_header = 0
    meta.digest = digest_of(connection)
    write_meta(connection, meta)
    connection.execute(
        "INSERT INTO revisions (revision, action, n_triples, digest) VALUES (?, 'brought up to date', ?, ?)",
        (meta.revision, meta.n_triples, meta.digest),
    )
    index_all(connection)
    for kind, n_rows in (("keys", meta.n_slots), ("values", meta.n_value_slots)):
        if n_rows and path is not None:
            checksum = _checksum(path / _FIRST_GENERATION[kind], n_rows, meta)
            connection.execute("INSERT INTO blocks VALUES (?, 0, ?, ?)", (kind, n_rows, checksum))


def _checksum(path: Path, n_rows: int, meta: Meta) -> int:
    assert meta.embed_dim is not None
    left, checksum = n_rows * 2 * meta.embed_dim, 0
    with open(opened(path, os.O_RDONLY), "rb") as file:
        while left:
            data = file.read(min(left, _CHUNK))
            if not data:
                raise KnowledgeBaseError(f"{path}: expected {n_rows} embeddings, it has been cut; restore it")
            checksum = zlib.crc32(data, checksum)
            left -= len(data)
    return checksum
