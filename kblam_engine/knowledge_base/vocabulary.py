"""The names and properties of a knowledge base, read once and grown with its append-only tables."""

from __future__ import annotations

import threading
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kblam_engine.knowledge_base.schema import damaged, read_meta
from kblam_engine.knowledge_base.store import Store


class Vocabulary:
    """Texts by id (from 1) of the table "names" or "properties"; properties bring their embeddings."""

    def __init__(self, store: Store, table: Literal["names", "properties"]) -> None:
        self._store = store
        self._table = table
        self._texts: list[str] = []
        self._embeddings: NDArray[np.float32] | None = None
        self._lock = threading.Lock()

    def texts(self, ids: NDArray[np.int64]) -> list[str]:
        """Return the texts of ascending ids."""
        if not len(ids):
            return []
        self._read_to(int(ids[-1]))
        if len(ids) == ids[-1]:
            return self._texts[: len(ids)]
        return [self._texts[i - 1] for i in ids.tolist()]

    def embeddings(self, ids: NDArray[np.int64], embed_dim: int) -> NDArray[np.float32]:
        """Return the embeddings of ascending ids, `[len(ids), embed_dim]`."""
        if not len(ids):
            return np.zeros((0, embed_dim), np.float32)
        self._read_to(int(ids[-1]))
        assert self._embeddings is not None
        return self._embeddings[: len(ids)] if len(ids) == ids[-1] else self._embeddings[ids - 1]

    def _read_to(self, last: int) -> None:
        with self._lock:
            known = len(self._texts)
            if last <= known:
                return
            column = ", embedding" if self._table == "properties" else ""
            with self._store.reading() as connection:
                rows = connection.execute(
                    f"SELECT text{column} FROM {self._table} WHERE id > ? ORDER BY id", (known,)
                ).fetchall()
                if len(rows) < last - known or any(type(row[0]) is not str for row in rows):
                    raise damaged(connection, f"the {self._table} have gaps, or are not all texts")
                if column:
                    size = 4 * (read_meta(connection).embed_dim or 0)
                    if any(type(row[1]) is not bytes or len(row[1]) != size for row in rows):
                        raise damaged(connection, f"properties have embeddings of other sizes than {size} bytes")
            if column:
                read = np.stack([np.frombuffer(row[1], dtype="<f4") for row in rows])
                self._embeddings = (
                    read if self._embeddings is None else np.concatenate([self._embeddings, read])
                )
            self._texts.extend(row[0] for row in rows)
