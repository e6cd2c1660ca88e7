"""The tables of a knowledge base and its `meta` record."""

from __future__ import annotations

import re
import sqlite3
import uuid
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.knowledge_base.connections import SEE_VERIFY

SCHEMA_VERSION = 2
KNOWN_VERSIONS = (1, SCHEMA_VERSION)
"""What is opened; all but the last are brought up to date first."""
_MAX_COUNT = 2**31  # ids and rows are 32-bit numbers in arrays
_MAX_DIM = 2**16

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
    if has_tables(connection):  # opening does not wait for whoever writes
        return
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


def read_version(connection: sqlite3.Connection) -> int:
    """Read the number of the format, which comes before everything else.

    Raises:
        KnowledgeBaseError: it is none that this version of the package reads.
    """
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    return _checked_version(connection, row[0] if row else None, KNOWN_VERSIONS)


def read_meta(connection: sqlite3.Connection) -> Meta:
    """Read the record.

    Raises:
        KnowledgeBaseError: another version of this package wrote it, or it is damaged.
    """
    values: dict[str, Any] = dict(connection.execute("SELECT key, value FROM meta"))
    _checked_version(connection, values.get("schema_version"), (SCHEMA_VERSION,))
    meta = Meta(**{name: values[name] for name in _META_FIELDS if name in values})
    for name in _META_FIELDS:
        if not _is_sound(name, getattr(meta, name)):
            raise damaged(connection, f"{name} of its record is {getattr(meta, name)!r:.60}")
    encoder = (meta.encoder_name, meta.encoder_fingerprint, meta.embed_dim)
    if any(part is None for part in encoder) and (any(encoder) or meta.n_slots or meta.n_value_slots):
        raise damaged(connection, "its record does not say which sentence encoder the embeddings are of")
    return meta


def damaged(connection: sqlite3.Connection, what: str) -> KnowledgeBaseError:
    """Return the error for contents that no version of this package has written."""
    return KnowledgeBaseError(
        f"{_label(connection)}: damaged: {what}; {SEE_VERIFY}restore it from a backup or an export"
    )


def _checked_version(connection: sqlite3.Connection, version: object, expected: tuple[int, ...]) -> int:
    if type(version) is int and version in expected:  # 2.0 is none, though it equals one
        return version
    newer = type(version) is int and version > SCHEMA_VERSION
    remedy = "open it with the version of kblam-engine that wrote it" if newer else "restore it from a backup or an export"
    raise KnowledgeBaseError(
        f"{_label(connection)}: expected a knowledge base of format {SCHEMA_VERSION}, got {version!r:.60}; {remedy}"
    )


def _is_sound(name: str, value: object) -> bool:
    if name in ("encoder_name", "encoder_fingerprint", "kb_id"):
        return isinstance(value, str) or (value is None and name != "kb_id")
    if name == "digest":
        return isinstance(value, str) and re.fullmatch("-?[0-9a-f]{1,40}", value) is not None
    if name == "embed_dim":
        return value is None or (type(value) is int and 0 < value <= _MAX_DIM)
    return type(value) is int and 0 <= value < _MAX_COUNT


def _label(connection: sqlite3.Connection) -> str:
    file = connection.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
    return str(Path(file[0]).parent) if file and file[0] else ":memory:"


def write_meta(connection: sqlite3.Connection, meta: Meta) -> None:
    """Write the record, inside the caller's transaction."""
    rows = [(name, getattr(meta, name)) for name in _META_FIELDS]
    connection.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", rows)
