"""The SQLite half of a knowledge base: tables, the `meta` record, connections and their errors."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from kblam_engine.errors import KnowledgeBaseError

SCHEMA_VERSION = 1
BUSY_SECONDS = 60.0  # how long a second writer waits for the first

# A triple's content never changes under its id: a new value is a new id, and the old one is tombstoned
# (`removed` = the revision that removed it). Its key embedding depends on name and property only, so a new value
# keeps the slot of the old one. names and properties are append-only, their ids dense from 1.
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE names (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE properties (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, embedding BLOB NOT NULL);
CREATE TABLE triples (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name_id INTEGER NOT NULL REFERENCES names (id),
    property_id INTEGER NOT NULL REFERENCES properties (id),
    value TEXT NOT NULL,
    metadata TEXT,
    slot INTEGER NOT NULL,
    value_slot INTEGER,
    added INTEGER NOT NULL,
    removed INTEGER
);
CREATE INDEX live_pairs ON triples (name_id, property_id) WHERE removed IS NULL;
CREATE UNIQUE INDEX live_slots ON triples (slot) WHERE removed IS NULL;
CREATE INDEX removals ON triples (removed) WHERE removed IS NOT NULL;
"""


@dataclass(slots=True)
class Meta:
    """The record that a commit flips: what is not counted here does not exist."""

    schema_version: int = SCHEMA_VERSION
    kb_id: str = ""
    revision: int = 0
    n_triples: int = 0
    n_slots: int = 0
    """Rows of the key segment that are committed."""
    n_value_slots: int = 0
    """Rows of the value segment that are committed."""
    digest: str = "0"
    """Sum of the live triples' hashes, hexadecimal: equal contents, equal digest, whatever the history."""
    multi: int = 0
    encoder_name: str | None = None
    encoder_fingerprint: str | None = None
    embed_dim: int | None = None


_META_FIELDS = tuple(field.name for field in fields(Meta))


def connect(database: str) -> sqlite3.Connection:
    """Open a connection in autocommit mode; threads may take turns on it."""
    connection = sqlite3.connect(
        database, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    _use_wal(connection)
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    # Switching the journal mode does not always honour the busy timeout when two processes create at once.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables unless they exist; safe when two processes try at once."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not has_tables(connection):
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            write_meta(connection, Meta(kb_id=uuid.uuid4().hex))
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def has_tables(connection: sqlite3.Connection) -> bool:
    """Say whether this database is a knowledge base."""
    row = connection.execute(
        "SELECT count(*) FROM sqlite_master WHERE name IN ('meta', 'triples')"
    ).fetchone()
    return bool(row[0] == 2)


def read_meta(connection: sqlite3.Connection) -> Meta:
    """Read the record.

    Raises:
        KnowledgeBaseError: a newer version of this package wrote it.
    """
    values: dict[str, Any] = dict(connection.execute("SELECT key, value FROM meta"))
    if values.get("schema_version") != SCHEMA_VERSION:
        raise KnowledgeBaseError(
            f"expected a knowledge base of format {SCHEMA_VERSION}, got {values.get('schema_version')}; "
            "open it with the version of kblam-engine that wrote it"
        )
    return Meta(**{name: values[name] for name in _META_FIELDS if name in values})


def write_meta(connection: sqlite3.Connection, meta: Meta) -> None:
    """Write the record, inside the caller's transaction."""
    rows = [(name, getattr(meta, name)) for name in _META_FIELDS]
    connection.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", rows)


@contextmanager
def translated_errors(path: str) -> Iterator[None]:
    """Turn SQLite's errors into this package's, or into the OSError for a full disk."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            message = f"{path}: another process has been writing for {BUSY_SECONDS:.0f} s; try again"
        elif code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            message = f"{path}: damaged, or not a knowledge base ({error}); restore it from an export"
        elif isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
            message = f"{path}: this knowledge base has been closed; open it again"
        else:
            message = f"{path}: {error}"
        raise KnowledgeBaseError(message) from error
