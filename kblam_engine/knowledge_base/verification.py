"""Check that what is on disk agrees with itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.knowledge_base.changes import hash_of
from kblam_engine.knowledge_base.schema import Meta, read_meta
from kblam_engine.knowledge_base.store import CONTENT, Store

_CHUNK = 65_536


def problems(store: Store) -> Iterator[str]:
    """Yield one line for everything that is wrong; nothing for a sound knowledge base."""
    with store.reading() as connection:
        meta = read_meta(connection)
        for (line,) in connection.execute("PRAGMA integrity_check"):
            if line != "ok":
                yield f"database: {line}"
        rows = connection.execute(
            f"SELECT t.slot, length(p.embedding), {CONTENT} WHERE t.removed IS NULL"
        ).fetchall()
    if len(rows) != meta.n_triples:
        yield f"triples: expected {meta.n_triples}, got {len(rows)}"
    digest = sum(hash_of(*row[2:]) for row in rows) % 2**128
    if f"{digest:x}" != meta.digest:
        yield f"contents: expected digest {meta.digest}, got {digest:x}"
    pairs = {row[2:4] for row in rows}
    if not meta.multi and len(pairs) != len(rows):
        yield f"triples: {len(rows) - len(pairs)} second values of a name and property, though multi is off"
    outside = sum(not 0 <= row[0] < meta.n_slots for row in rows)
    if outside:
        yield f"triples: {outside} without an embedding"
    elif rows and meta.embed_dim is None:
        yield "record: no sentence encoder, though there are triples"
    elif meta.embed_dim is not None:
        wrong = sum(row[1] != 4 * meta.embed_dim for row in rows)
        if wrong:
            yield f"properties: {wrong} triples with a property embedding of the wrong size"
        yield from _bad_embeddings(store, meta, np.sort(np.array([row[0] for row in rows], np.int64)))


def _bad_embeddings(store: Store, meta: Meta, slots: np.ndarray) -> Iterator[str]:
    assert meta.embed_dim is not None
    bad = 0
    try:
        for start in range(0, len(slots), _CHUNK):
            rows = store.segment("keys", meta.embed_dim).rows(slots[start : start + _CHUNK], meta.n_slots)
            norms = np.linalg.norm(rows.astype(np.float32), axis=1)
            bad += int(np.count_nonzero(~(np.abs(norms - 1) < 0.01)))
    except (KnowledgeBaseError, OSError) as error:
        yield f"embeddings: {error}"
    if bad:
        yield f"embeddings: {bad} are not unit vectors"
