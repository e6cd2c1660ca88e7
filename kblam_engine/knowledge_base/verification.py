"""Check that what is on disk agrees with itself."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator

import numpy as np

from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.knowledge_base.contents import digest_of
from kblam_engine.knowledge_base.embedder import Embedder
from kblam_engine.knowledge_base.schema import Meta, read_meta
from kblam_engine.knowledge_base.segments import as_bytes
from kblam_engine.knowledge_base.store import Store
from kblam_engine.knowledge_base.words import index_is_sound

_CHUNK = 65_536
_UNIT = 0.01  # how far 16-bit rows may be from length 1
# Each counts what must not be. `t` stands for the triples that are there.
_ORPHANS = {
    "triples: {} without a name": "triples t WHERE name_id NOT IN (SELECT id FROM names)",
    "triples: {} without a property": "triples t WHERE property_id NOT IN (SELECT id FROM properties)",
    "triples: {} in an unknown namespace": "triples t WHERE namespace NOT IN (SELECT id FROM labels UNION SELECT 0)",
    "labels: {} of no triple": "labelled WHERE triple_id NOT IN (SELECT id FROM triples)",
    "labels: {} without a text": "labelled WHERE label_id NOT IN (SELECT id FROM labels)",
    "times: {} of no triple": "validity WHERE triple_id NOT IN (SELECT id FROM triples)",
    "triples: {} that share an embedding": (
        "(SELECT slot FROM triples t WHERE removed IS NULL GROUP BY slot HAVING count(*) > 1)"
    ),
    "triples: {} removed before they were added": "triples t WHERE removed < added",
}


def problems(store: Store, embedder: Embedder) -> Iterator[str]:
    """Yield one line for everything that is wrong; nothing for a sound knowledge base."""
    with store.reading() as connection:
        meta = read_meta(connection)
        for (line,) in connection.execute("PRAGMA integrity_check"):
            if line != "ok":
                yield f"database: {line}"
        yield from _unexpected(connection)
        yield from _miscounted(connection, meta)
        for line, what in _ORPHANS.items():
            count = connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0]
            if count:
                yield line.format(count)
        blocks = connection.execute("SELECT segment, start, n_rows, checksum FROM blocks ORDER BY start").fetchall()
    if meta.embed_dim is not None:
        for kind, n_rows in (("keys", meta.n_slots), ("values", meta.n_value_slots)):
            own = [(start, n, checksum) for segment, start, n, checksum in blocks if segment == kind]
            yield from _bad_embeddings(store, meta, kind, n_rows, own)
    if not store.read_only:
        with store.writing() as connection:
            if not index_is_sound(connection):
                yield "words: the full-text index does not agree with the triples; kblam kb compact rebuilds it"
    try:
        embedder.check_on_open(meta)
    except KnowledgeBaseError as error:
        yield f"sentence encoder: {error}"


def _unexpected(connection: sqlite3.Connection) -> Iterator[str]:
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
        yield f"database: a trigger {name!r}, which no knowledge base has"


def _miscounted(connection: sqlite3.Connection, meta: Meta) -> Iterator[str]:
    live = "FROM triples WHERE removed IS NULL"
    count, outside = connection.execute(
        f"SELECT count(*), coalesce(sum(slot < 0 OR slot >= ?), 0) {live}", (meta.n_slots,)
    ).fetchone()
    if count != meta.n_triples:
        yield f"triples: expected {meta.n_triples}, got {count}"
    digest = digest_of(connection)
    if digest != meta.digest:
        yield f"contents: expected digest {meta.digest}, got {digest}"
    newest = connection.execute("SELECT max(revision) FROM revisions").fetchone()[0]
    if (newest or 0) != meta.revision:
        yield f"revisions: expected {meta.revision}, the last on record is {newest}"
    pairs = connection.execute(
        f"SELECT count(*) FROM (SELECT DISTINCT namespace, name_id, property_id {live})"
    ).fetchone()[0]
    if not meta.multi and pairs != count:
        yield f"triples: {count - pairs} second values of a name and property, though multi is off"
    if outside:
        yield f"triples: {outside} without an embedding"
    elif count and meta.embed_dim is None:
        yield "record: no sentence encoder, though there are triples"
    elif meta.embed_dim is not None:
        wrong = connection.execute(
            "SELECT count(*) FROM properties WHERE length(embedding) != ?", (4 * meta.embed_dim,)
        ).fetchone()[0]
        if wrong:
            yield f"properties: {wrong} with an embedding of the wrong size"


def _bad_embeddings(
    store: Store, meta: Meta, kind: str, n_rows: int, blocks: list[tuple[int, int, int]]
) -> Iterator[str]:
    """Compare the checksums of every block that was ever written, and the lengths of the rows."""
    bad, end = 0, 0
    try:
        rows = store.segment(kind, meta).rows(np.arange(n_rows), n_rows)
        for start, n, checksum in blocks:
            if start != end:
                yield f"{kind}: embeddings {end}..{start} have no checksum"
            end = start + n
            found = 0
            for place in range(start, end, _CHUNK):
                part = np.ascontiguousarray(rows[place : min(place + _CHUNK, end)])
                found = zlib.crc32(as_bytes(part), found)
                norms = np.linalg.norm(part.astype(np.float32), axis=1)
                bad += int(np.count_nonzero(~(np.abs(norms - 1) < _UNIT)))
            if found != checksum:
                yield f"{kind}: embeddings {start}..{end - 1} are not as they were written; restore a backup"
        if end != n_rows:
            yield f"{kind}: expected checksums of {n_rows} embeddings, got {end}"
    except (KnowledgeBaseError, OSError) as error:
        yield f"{kind}: {error}"
    if bad:
        yield f"{kind}: {bad} embeddings are not unit vectors"
