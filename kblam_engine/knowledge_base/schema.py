"""The tables of a knowledge base and its `meta` record."""

from __future__ import annotations

import sqlite3
import uuid
from dataclasses import dataclass, fields
from typing import Any

from kblam_engine.errors import KnowledgeBaseError

SCHEMA_VERSION = 2

# A triple's content never changes under its id: a new value is a new id, and the old one is tombstoned
# (`removed` = the revision that removed it). Its key embedding depends on name and property only, so a new value
# keeps the slot of the old one. names and properties are append-only, their ids dense from 1.
TABLES = """
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
    removed INTEGER,
    namespace INTEGER NOT NULL DEFAULT 0,
    context TEXT
);
CREATE INDEX live_pairs ON triples (name_id, property_id) WHERE removed IS NULL;
CREATE INDEX removals ON triples (removed) WHERE removed IS NOT NULL
"""
# What version 2 added: where and when triples hold, by label; what happened when; words; checksums.
# live_slots covers all that a snapshot reads of a triple, so that opening does not read their texts.
ADDITIONS = """
CREATE INDEX live_slots ON triples (slot, name_id, property_id) WHERE removed IS NULL;
CREATE INDEX former_pairs ON triples (name_id, property_id) WHERE removed IS NOT NULL;
CREATE TABLE labels (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (kind, text));
CREATE TABLE labelled (
    label_id INTEGER NOT NULL, triple_id INTEGER NOT NULL, PRIMARY KEY (label_id, triple_id)
) WITHOUT ROWID;
CREATE TABLE validity (triple_id INTEGER PRIMARY KEY, valid_from INTEGER, valid_to INTEGER);
CREATE TABLE revisions (
    revision INTEGER PRIMARY KEY, time REAL, action TEXT, added INTEGER, removed INTEGER, n_triples INTEGER,
    digest TEXT
);
CREATE TABLE blocks (
    segment TEXT NOT NULL, start INTEGER NOT NULL, n_rows INTEGER NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (segment, start)
) WITHOUT ROWID;
CREATE VIEW texts AS
    SELECT t.id AS id, n.text AS name, p.text AS property, t.value AS value FROM triples t
    JOIN names n ON n.id = t.name_id JOIN properties p ON p.id = t.property_id;
CREATE VIRTUAL TABLE words USING fts5(
    name, property, value, content = 'texts', content_rowid = 'id', columnsize = 0,
    tokenize = 'unicode61 remove_diacritics 2'
);
CREATE VIRTUAL TABLE name_words USING fts5(
    text, content = 'names', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2'
)
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
    generation: int = 1
    """Number in the segments' file names; compaction writes the next."""
    has_header: int = 1
    """0 for segments that version 1 wrote, until a compaction."""
    oldest_revision: int = 0
    """What was removed up to here is gone for good."""


_META_FIELDS = tuple(field.name for field in fields(Meta))


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables unless they exist; safe when two processes try at once."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not has_tables(connection):
            for statement in f"{TABLES};{ADDITIONS}".split(";"):
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


def read_version(connection: sqlite3.Connection) -> object:
    """Read the number of the format, which comes before everything else."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    return row[0] if row else None


def read_meta(connection: sqlite3.Connection) -> Meta:
    """Read the record.

    Raises:
        KnowledgeBaseError: another version of this package wrote it.
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
