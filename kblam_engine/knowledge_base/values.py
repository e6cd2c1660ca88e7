"""Value embeddings: made after an import or when something first asks for them, and kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kblam_engine.knowledge_base.embedder import Embedder
from kblam_engine.knowledge_base.schema import Meta, read_meta, write_meta
from kblam_engine.knowledge_base.segments import Embeddings
from kblam_engine.knowledge_base.store import Store


def value_embeddings(
    store: Store, embedder: Embedder, ids: NDArray[np.int64], embed_dim: int, *, progress: bool = False
) -> Embeddings:
    """Return f(value) of the triples with these ids, `[len(ids), embed_dim]` float16.

    A triple's value is fixed, so this adds rows to the value segment but makes no new revision.
    """
    meta, slots = _slots_of(store, ids)
    missing = ids[slots < 0]
    if len(missing):
        values = [triple.value for triple in store.triples(missing.tolist())]
        _keep(store, missing, embedder.encode(meta, values, progress=progress).astype(np.float16))
        meta, slots = _slots_of(store, ids)
    return store.segment("values", embed_dim).rows(slots, meta.n_value_slots)


def _slots_of(store: Store, ids: NDArray[np.int64]) -> tuple[Meta, NDArray[np.int64]]:
    """Return the value slot of every id, -1 where it has none."""
    with store.reading() as connection:
        meta = read_meta(connection)
        rows = connection.execute("SELECT id, coalesce(value_slot, -1) FROM triples ORDER BY id").fetchall()
    known = np.array(rows, np.int64).reshape(-1, 2)
    return meta, known[np.searchsorted(known[:, 0], ids), 1]


def _keep(store: Store, ids: NDArray[np.int64], rows: Embeddings) -> None:
    with store.writing() as connection:
        meta = read_meta(connection)
        start = meta.n_value_slots
        store.segment("values", rows.shape[1]).append(start, rows)
        # Another process may have embedded some of them meanwhile: the later row wins, the other is not used.
        connection.executemany(
            "UPDATE triples SET value_slot = ? WHERE id = ?",
            [(start + i, row_id) for i, row_id in enumerate(ids.tolist())],
        )
        meta.n_value_slots = start + len(rows)
        write_meta(connection, meta)
