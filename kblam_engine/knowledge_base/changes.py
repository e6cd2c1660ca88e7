"""Writing: the triples that one commit adds and removes."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kblam_engine.knowledge_base.embedder import Embedder
from kblam_engine.knowledge_base.schema import Meta, read_meta, write_meta
from kblam_engine.knowledge_base.segments import Embeddings
from kblam_engine.knowledge_base.store import CONTENT, Store, matching
from kblam_engine.triples import Triple

Outcome = Literal["added", "replaced", "unchanged"]
_DIGEST_BITS = 128


class ChangeSet:
    """One revision in the making, inside the write transaction of `connection`.

    `embeddings` maps texts (key texts and properties) that were embedded before the lock was taken; what is
    missing there, because another process got in between, is embedded on the spot.
    """

    def __init__(
        self,
        store: Store,
        connection: sqlite3.Connection,
        embedder: Embedder,
        embeddings: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        self.meta = read_meta(connection)
        self.changed = False
        self._store = store
        self._connection = connection
        self._embeddings = embeddings or {}
        self._embedder = embedder
        self._new_rows: list[NDArray[np.float32] | Embeddings] = []
        self._first_new_slot = self.meta.n_slots
        self._digest = int(self.meta.digest, 16)
        self._ids: dict[tuple[str, str], int] = {}

    def put(self, triple: Triple, *, beside_others: bool) -> Outcome:
        """Add a triple; unless `beside_others`, it replaces every value of its name and property."""
        name_id = self._id("names", triple.name)
        property_id = self._id("properties", triple.property)
        metadata = metadata_text(triple)
        live = self._connection.execute(
            "SELECT id, slot, value, metadata FROM triples "
            "WHERE name_id = ? AND property_id = ? AND removed IS NULL ORDER BY slot",
            (name_id, property_id),
        ).fetchall()
        replaced = [row for row in live if row[2] == triple.value] if beside_others else live
        if len(replaced) == 1 and replaced[0][2:] == (triple.value, metadata):
            return "unchanged"
        for row_id, _, value, old_metadata in replaced:
            self._tombstone(row_id, hash_of(triple.name, triple.property, value, old_metadata))
        if replaced:
            slot = replaced[0][1]  # the same key text: the embedding stays where it is
        else:
            slot = self._new_slot(self._row(live[0][1]) if live else self._embedding(triple.key_text))
        self._connection.execute(
            "INSERT INTO triples (name_id, property_id, value, metadata, slot, added) VALUES (?, ?, ?, ?, ?, ?)",
            (name_id, property_id, triple.value, metadata, slot, self.meta.revision + 1),
        )
        self._digest += hash_of(triple.name, triple.property, triple.value, metadata)
        self.meta.n_triples += 1
        self.changed = True
        return "replaced" if replaced else "added"

    def remove(self, name: str, prop: str | None, value: str | None) -> int:
        """Remove the triples that match; return how many."""
        where, parameters = matching(name, prop, value)
        rows = self._connection.execute(f"SELECT t.id, {CONTENT} WHERE {where}", parameters).fetchall()
        for row_id, *columns in rows:
            self._tombstone(row_id, hash_of(*columns))
        return len(rows)

    def finish(self) -> None:
        """Make the new embeddings durable, then point the record at them; the caller commits."""
        if not self.changed:
            return
        meta = self.meta
        if self._new_rows:
            assert meta.embed_dim is not None
            rows = np.stack(self._new_rows).astype(np.float16)
            self._store.segment("keys", meta.embed_dim).append(self._first_new_slot, rows)
            meta.n_slots = self._first_new_slot + len(rows)
        meta.revision += 1
        meta.digest = f"{self._digest % 2**_DIGEST_BITS:x}"
        write_meta(self._connection, meta)

    def _tombstone(self, row_id: int, row_hash: int) -> None:
        self._connection.execute(
            "UPDATE triples SET removed = ? WHERE id = ?", (self.meta.revision + 1, row_id)
        )
        self._digest -= row_hash
        self.meta.n_triples -= 1
        self.changed = True

    def _id(self, table: Literal["names", "properties"], text: str) -> int:
        """Return the id of a name or property, adding it if it is new."""
        key = (table, text)
        if key not in self._ids:
            row = self._connection.execute(f"SELECT id FROM {table} WHERE text = ?", (text,)).fetchone()
            if row is None:
                if table == "names":
                    cursor = self._connection.execute("INSERT INTO names (text) VALUES (?)", (text,))
                else:
                    blob = self._embedding(text).astype("<f4").tobytes()
                    cursor = self._connection.execute(
                        "INSERT INTO properties (text, embedding) VALUES (?, ?)", (text, blob)
                    )
                row = (cursor.lastrowid,)
            self._ids[key] = row[0]
        return self._ids[key]

    def _embedding(self, text: str) -> NDArray[np.float32]:
        if text in self._embeddings:
            return self._embeddings[text]
        embedding: NDArray[np.float32] = self._embedder.encode(self.meta, [text])[0]
        return embedding

    def _new_slot(self, row: NDArray[np.float32] | Embeddings) -> int:
        self._new_rows.append(row)
        return self._first_new_slot + len(self._new_rows) - 1

    def _row(self, slot: int) -> NDArray[np.float32] | Embeddings:
        if slot >= self._first_new_slot:
            return self._new_rows[slot - self._first_new_slot]
        assert self.meta.embed_dim is not None
        keys = self._store.segment("keys", self.meta.embed_dim)
        row: Embeddings = keys.rows(np.array([slot], np.int64), self._first_new_slot)[0]
        return row


def texts_to_embed(store: Store, triples: Iterable[Triple]) -> list[str]:
    """Return the key texts and properties that the knowledge base has no embedding of."""
    known_properties: dict[str, bool] = {}
    texts: dict[str, None] = {}
    pairs = {(triple.name, triple.property): triple.key_text for triple in triples}
    with store.reading() as connection:
        for (name, prop), key_text in pairs.items():
            if prop not in known_properties:
                query = "SELECT 1 FROM properties WHERE text = ?"
                known_properties[prop] = connection.execute(query, (prop,)).fetchone() is not None
                if not known_properties[prop]:
                    texts[prop] = None
            where, parameters = matching(name, prop)
            if (
                not known_properties[prop]
                or not connection.execute(
                    f"SELECT 1 FROM triples t WHERE {where} LIMIT 1", parameters
                ).fetchone()
            ):
                texts[key_text] = None
    return list(texts)


def record_encoder(meta: Meta, name: str, fingerprint: str, embed_dim: int) -> None:
    """Note which encoder the embeddings are of, with the first of them."""
    if meta.encoder_fingerprint is None:
        meta.encoder_name, meta.encoder_fingerprint, meta.embed_dim = name, fingerprint, embed_dim


def metadata_text(triple: Triple) -> str | None:
    """Return a triple's metadata as the text that is stored."""
    return json.dumps(dict(triple.metadata), ensure_ascii=False, sort_keys=True) if triple.metadata else None


def hash_of(name: str, prop: str, value: str, metadata: str | None) -> int:
    """Hash the content of one triple; a knowledge base's digest is the sum of these."""
    content = json.dumps([name, prop, value, metadata], ensure_ascii=False).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[: _DIGEST_BITS // 8], "big")
