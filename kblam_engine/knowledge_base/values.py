"""Value embeddings that no change brought along: made when something first asks for them, and kept."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.knowledge_base.connections import page_cache
from kblam_engine.knowledge_base.embedder import Embedder
from kblam_engine.knowledge_base.numbering import AnyIds, Ids
from kblam_engine.knowledge_base.rows import Embeddings, SelectedRows, column
from kblam_engine.knowledge_base.schema import Meta, damaged, read_meta, write_meta
from kblam_engine.knowledge_base.slot_reading import ONCE_KB, blocks_of_integers
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
        self._complete = (0, 0)  # from this revision on, ids up to this one have places

    def of(self, ids: Ids, revision: int | None = None, after: Callable[[int], AnyIds] | None = None) -> Embeddings:
        """Return f(value) of the triples with these ids, `[len(ids), embed_dim]` float16.

        A triple's value is fixed, so this adds rows to the value segment but makes no new revision.

        Args:
            ids: by position; may be lazy.
            revision: where these are all ids of a revision, its number: ids of later revisions are then looked at
                only if they are new.
            after: returns those of `ids` that are above one.
        """
        if not len(ids):
            meta = self._store.meta()
            return np.zeros((0, meta.embed_dim or self._embedder.encoder(meta).embed_dim), np.float16)
        for _ in range(_ATTEMPTS):
            slots, meta, missing = self._places(ids, revision, after)
            try:
                if not len(missing):
                    rows = self._store.segment("values", meta).first(meta.n_value_slots)
                    return cast(Embeddings, SelectedRows(rows, column(len(ids), np.int32, lambda at: slots[ids[at]])))
                if self._store.read_only:
                    return self._completed(np.asarray(ids), slots, meta)
                self._embed(missing, meta)
            except FileNotFoundError:  # a compaction has moved them since
                with self._lock:
                    self.forget()
        raise KnowledgeBaseError(f"{self._store.label}: the file of value embeddings is missing; restore it")

    def _places(
        self, ids: Ids, revision: int | None, after: Callable[[int], AnyIds] | None
    ) -> tuple[NDArray[np.int32], Meta, AnyIds]:
        """Return the value slot by id, the record that comes with them, and those of the ids that have none yet."""
        with self._lock:
            while True:
                since, known = self._complete
                wanted = ids[:] if revision is None or after is None else after(known if revision >= since else 0)
                last = int(wanted.max(initial=0))
                if last >= len(self._slots):
                    grown = np.full(max(last + 1, len(self._slots) * 5 // 4), -1, np.int32)
                    grown[: len(self._slots)] = self._slots
                    self._slots = grown
                unknown = self._without_place(wanted)
                if self._meta is not None and not len(unknown):
                    break
                before, self._meta = self._meta, self._read(unknown, last)
                if before is None or self._meta.generation == before.generation:
                    break
                self.forget()  # a compaction has moved all: what was known before is to be read again
            missing = self._without_place(wanted)
            if revision is not None and revision >= since and not len(missing):
                self._complete = revision, max(last, known)
            return self._slots, self._meta, missing

    def _without_place(self, ids: AnyIds) -> AnyIds:
        """Return the ids that have no place yet; in blocks, for most often there are none."""
        blocks = (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))
        return np.concatenate([ids[:0], *(block[self._slots[block] < 0] for block in blocks)])

    def _read(self, unknown: AnyIds, last: int) -> Meta:
        """Read the places of ids, and return the record they go by."""
        with self._store.reading() as connection:
            meta = read_meta(connection)
            if not len(unknown):
                return meta
            query = "SELECT id, value_slot FROM triples WHERE value_slot IS NOT NULL AND id"
            if len(unknown) <= _ONE_BY_ONE:
                marks = ",".join("?" * len(unknown))
                self._learn(connection, meta, connection.execute(f"{query} IN ({marks})", unknown.tolist()))
            else:
                with page_cache(connection, ONCE_KB):
                    bounds = int(unknown.min()), last
                    self._learn(connection, meta, connection.execute(f"{query} BETWEEN ? AND ?", bounds))
            return meta

    def _learn(self, connection: sqlite3.Connection, meta: Meta, rows: sqlite3.Cursor) -> None:
        for found in blocks_of_integers(rows, 2):
            if not 0 <= found[:, 1].min() <= found[:, 1].max() < meta.n_value_slots:
                raise damaged(connection, f"a triple's value has an embedding that is not in 0..{meta.n_value_slots - 1}")
            self._slots[found[:, 0]] = found[:, 1]

    def _completed(self, ids: Ids, by_id: NDArray[np.int32], meta: Meta) -> Embeddings:
        """Return a copy with what is missing embedded, where it cannot be kept."""
        slots = by_id[ids]
        known = slots >= 0
        rows = np.zeros((len(ids), meta.embed_dim or 0), np.float16)
        if known.any():
            rows[known] = self._store.segment("values", meta).first(meta.n_value_slots)[slots[known]]
        values = self._store.values(ids[~known].tolist())
        rows[~known] = self._embedder.encode(meta, values)
        return rows

    def _embed(self, ids: AnyIds, meta: Meta) -> None:
        values = self._store.values(ids.tolist())
        for start in range(0, len(values), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            rows = self._embedder.encode(meta, values[chunk])
            self._keep(ids[chunk], rows.astype(np.float16))

    def _keep(self, ids: AnyIds, rows: Embeddings) -> None:
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
