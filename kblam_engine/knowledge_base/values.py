"""Value embeddings that no change brought along: made when something first asks for them, and kept."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.knowledge_base.embedder import Embedder
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.knowledge_base.schema import Meta, damaged, read_meta, write_meta
from kblam_engine.knowledge_base.slots import integers
from kblam_engine.knowledge_base.store import Store, append_block

_CHUNK = 16_384
"""Values embedded before they are kept: what a kill in the middle of a large import does not lose."""
_ONE_BY_ONE = 256
_ATTEMPTS = 4  # of a reader that compactions overtake


class ValueEmbeddings:
    """f(value) of every triple that asked for it, in the value segment; knows the place of each by the triple's id."""

    def __init__(self, store: Store, embedder: Embedder) -> None:
        self._store = store
        self._embedder = embedder
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Forget every place: a compaction has moved them."""
        self._slots: NDArray[np.int32] = np.full(1, -1, np.int32)
        self._meta: Meta | None = None

    def of(self, ids: NDArray[np.int64]) -> Embeddings:
        """Return f(value) of the triples with these ids, `[len(ids), embed_dim]` float16.

        A triple's value is fixed, so this adds rows to the value segment but makes no new revision.
        """
        if not len(ids):
            meta = self._store.meta()
            return np.zeros((0, meta.embed_dim or self._embedder.encoder(meta).embed_dim), np.float16)
        for _ in range(_ATTEMPTS):
            slots, meta = self._places(ids)
            missing = slots < 0
            try:
                if not missing.any():
                    return self._store.segment("values", meta).rows(slots, meta.n_value_slots)
                if self._store.read_only:
                    return self._completed(ids, slots, meta)
                self._embed(ids[missing], meta)
            except FileNotFoundError:  # a compaction has moved them since
                with self._lock:
                    self.forget()
        raise KnowledgeBaseError(f"{self._store.label}: the file of value embeddings is missing; restore it")

    def _places(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int32], Meta]:
        """Return the value slot of each id, -1 where it has none, as of the record that comes with them."""
        last = int(ids.max())
        with self._lock:
            if last >= len(self._slots):
                grown = np.full(max(last + 1, len(self._slots) * 5 // 4), -1, np.int32)
                grown[: len(self._slots)] = self._slots
                self._slots = grown
            slots = self._slots[ids]
            unknown = ids[slots < 0]
            if self._meta is None or len(unknown):
                self._read(unknown, last)
                slots = self._slots[ids]
            assert self._meta is not None
            return slots, self._meta

    def _read(self, unknown: NDArray[np.int64], last: int) -> None:
        with self._store.reading() as connection:
            meta = read_meta(connection)
            if self._meta is not None and meta.generation != self._meta.generation:
                self._slots[:] = -1
            self._meta = meta
            if not len(unknown):
                return
            query = "SELECT id, value_slot FROM triples WHERE value_slot IS NOT NULL AND id"
            if len(unknown) <= _ONE_BY_ONE:
                marks = ",".join("?" * len(unknown))
                rows = connection.execute(f"{query} IN ({marks})", unknown.tolist())
            else:
                rows = connection.execute(f"{query} BETWEEN ? AND ?", (int(unknown.min()), last))
            found = integers(rows).reshape(-1, 2)
            if len(found) and not 0 <= found[:, 1].min() <= found[:, 1].max() < meta.n_value_slots:
                raise damaged(connection, f"a triple's value has an embedding that is not in 0..{meta.n_value_slots - 1}")
            self._slots[found[:, 0]] = found[:, 1]

    def _completed(self, ids: NDArray[np.int64], slots: NDArray[np.int32], meta: Meta) -> Embeddings:
        """Return a copy with what is missing embedded, where it cannot be kept."""
        known = slots >= 0
        rows = np.zeros((len(ids), meta.embed_dim or 0), np.float16)
        if known.any():
            rows[known] = self._store.segment("values", meta).rows(slots[known], meta.n_value_slots)
        values = self._store.values(ids[~known].tolist())
        rows[~known] = self._embedder.encode(meta, values)
        return rows

    def _embed(self, ids: NDArray[np.int64], meta: Meta) -> None:
        values = self._store.values(ids.tolist())
        for start in range(0, len(values), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            rows = self._embedder.encode(meta, values[chunk])
            self._keep(ids[chunk], rows.astype(np.float16))

    def _keep(self, ids: NDArray[np.int64], rows: Embeddings) -> None:
        with self._store.writing() as connection:
            meta = read_meta(connection)
            start = meta.n_value_slots
            append_block(self._store, connection, meta, "values", start, rows)
            # Another process may have embedded some of them meanwhile: the later row wins, the other is not used.
            connection.executemany(
                "UPDATE triples SET value_slot = ? WHERE id = ?",
                [(start + i, row_id) for i, row_id in enumerate(ids.tolist())],
            )
            meta.n_value_slots = start + len(rows)
            write_meta(connection, meta)
