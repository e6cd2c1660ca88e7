"""Check that what is on disk agrees with itself."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from kblam_engine.errors import KBLaMError, KnowledgeBaseError, KnowledgeBaseLockedError
from kblam_engine.knowledge_base.contents import digest_of
from kblam_engine.knowledge_base.embedder import Embedder
from kblam_engine.knowledge_base.schema import Meta, read_meta
from kblam_engine.knowledge_base.segments import as_bytes
from kblam_engine.knowledge_base.slot_reading import integers
from kblam_engine.knowledge_base.store import Store
from kblam_engine.knowledge_base.words import index_is_sound

_CHUNK = 65_536
_PAGE = 500
_MOST = 20  # triples that are named one by one
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


def problems(store: Store, embedder: Embedder) -> list[str]:
    """Return one line for everything that is wrong; nothing for a sound knowledge base.

    Raises:
        KnowledgeBaseLockedError: another writer held a knowledge base that can be written for too long.
    """
    found = list[str]()
    for check in (_bad_database, _unexpected, _miscounted, _orphans, _unreadable, _bad_segments, _bad_words):
        try:
            found.extend(check(store))
        except KnowledgeBaseLockedError:
            raise
        except (KnowledgeBaseError, OSError) as error:  # too damaged for this check: the others go on
            found.append(str(error))
    try:
        meta = store.meta()
        if meta.encoder_fingerprint is not None:
            embedder.encoder(meta)
    except KBLaMError as error:  # another one, or one that cannot be loaded here
        found.append(f"sentence encoder: {error}")
    return list(dict.fromkeys(found))


def _bad_database(store: Store) -> Iterator[str]:
    with store.reading() as connection:
        read_meta(connection)
        for (line,) in connection.execute("PRAGMA integrity_check"):
            if line != "ok":
                yield f"database: {line}"


def _orphans(store: Store) -> Iterator[str]:
    with store.reading() as connection:
        for line, what in _ORPHANS.items():
            count = connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0]
            if count:
                yield line.format(count)


def _unreadable(store: Store) -> Iterator[str]:
    """Find the triples that cannot be read, those that were removed too; no more than anyone reads."""
    n_found = 0
    with store.connection() as connection:
        ids = integers(connection.execute("SELECT id FROM triples ORDER BY id"))[:, 0].tolist()
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        if _error_of(store, page) is None:
            continue
        for row_id in page:
            error = _error_of(store, [row_id])
            if error is None:
                continue
            if n_found == _MOST:
                yield f"triples: more than {_MOST} that cannot be read"
                return
            n_found += 1
            yield f"triples: {row_id} cannot be read: {error}"


def _error_of(store: Store, ids: list[int]) -> KnowledgeBaseError | None:
    try:
        store.triples(ids)
    except KnowledgeBaseError as error:
        return error
    return None


def _bad_segments(store: Store) -> Iterator[str]:
    with store.reading() as connection:
        yield from bad_embeddings(store, connection)


def bad_embeddings(store: Store, connection: sqlite3.Connection) -> Iterator[str]:
    """Yield a line for everything about the embeddings that is not as it was written."""
    meta = read_meta(connection)
    rows = connection.execute("SELECT segment, start, n_rows, checksum FROM blocks ORDER BY start").fetchall()
    blocks = [(segment, start, n, checksum) for segment, start, n, checksum in rows if _is_block(segment, start, n)]
    if len(blocks) < len(rows):
        yield f"blocks: {len(rows) - len(blocks)} of no segment or without a place"
    if meta.embed_dim is not None:
        for kind, n_rows in (("keys", meta.n_slots), ("values", meta.n_value_slots)):
            own = [(start, n, checksum) for segment, start, n, checksum in blocks if segment == kind]
            yield from _bad_embeddings(store, meta, kind, n_rows, own)


def _is_block(segment: object, start: object, n_rows: object) -> bool:
    return segment in ("keys", "values") and type(start) is int and type(n_rows) is int and start >= 0 < n_rows


def _bad_words(store: Store) -> Iterator[str]:
    """Compare the full-text index with the texts, which SQLite does while it writes: in a copy if this cannot be."""
    with ExitStack() as stack:
        if store.read_only:
            connection = stack.enter_context(store.scratch_copy())
        else:
            connection = stack.enter_context(store.writing())
        if not index_is_sound(connection):
            yield "words: the full-text index does not agree with the triples; kblam kb compact rebuilds it"


def _unexpected(store: Store) -> Iterator[str]:
    with store.connection() as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for (name,) in names:
        yield f"database: a trigger {name!r}, which no knowledge base has"


def _miscounted(store: Store) -> Iterator[str]:
    with store.reading() as connection:
        yield from _counts(connection, read_meta(connection))


def _counts(connection: sqlite3.Connection, meta: Meta) -> Iterator[str]:
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
        rows = store.segment(kind, meta).first(n_rows)
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
