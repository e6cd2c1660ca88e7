"""Writing: the triples that one commit adds and removes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from typing import Literal

import numpy as np

from kblam_engine.knowledge_base.contents import context_text, digest_text, hash_of, metadata_text
from kblam_engine.knowledge_base.embedder import Embedder, EncodedTexts
from kblam_engine.knowledge_base.schema import Meta, read_meta, write_meta
from kblam_engine.knowledge_base.store import CONTENT, Store, append_block, triple_from_row
from kblam_engine.knowledge_base.words import index_new
from kblam_engine.triples import Triple, instant

Outcome = Literal["added", "replaced", "unchanged"]
Condition = tuple[str, list[object]]
"""On triples `t`, with its parameters."""
_Key = tuple[int, int, int]  # namespace, name, property
_BLOCK = 65_536  # rows of embeddings written at once: bounds the memory of a large import

_INSERT = (
    "INSERT INTO triples (id, name_id, property_id, value, metadata, slot, added, namespace, context, value_slot) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class _Row:
    """A triple in the knowledge base, or about to be."""

    __slots__ = ("context", "id", "metadata", "slot", "value")

    def __init__(self, row_id: int, slot: int, value: str, metadata: str | None, context: str | None) -> None:
        self.id, self.slot, self.value, self.metadata, self.context = row_id, slot, value, metadata, context


class ChangeSet:
    """One revision in the making, inside the write transaction of `connection`.

    `encoded` holds the texts (key texts and properties) that were embedded before the lock was taken; what is
    missing there, because another process got in between, is embedded on the spot. Remove first, then put.
    """

    def __init__(
        self,
        store: Store,
        connection: sqlite3.Connection,
        embedder: Embedder,
        encoded: EncodedTexts | None = None,
        action: str = "add",
    ) -> None:
        self.meta = read_meta(connection)
        self.n_added = 0
        self.n_removed = 0
        self._store = store
        self._connection = connection
        self._encoded = encoded or EncodedTexts.none()
        self._embedder = embedder
        self._action = action
        self._digest = int(self.meta.digest, 16)
        self._last_id, self._last_name = _last_ids(connection)
        self._next_id = self._last_id + 1
        self._names: dict[str, int] = {}
        self._new_names: list[str] = []
        self._properties: dict[str, int] = {}
        self._live: dict[_Key, list[_Row]] = {}
        self._labels: dict[tuple[str, str], int] = {}
        self._new_rows: dict[int, tuple[object, ...]] = {}
        self._tombstones: list[tuple[int, int]] = []
        self._sources: list[int] = []  # of each new slot: a row of _encoded, or ~slot to copy
        self._contexts: dict[int, Triple] = {}

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self._new_rows or self.n_removed)

    def put(self, triple: Triple, *, beside_others: bool) -> Outcome:
        """Add a triple; unless `beside_others`, it replaces every value of its name and property."""
        name, prop = triple.name, triple.property
        key = self._namespace(triple.namespace), self._name_id(name), self._property_id(prop)
        metadata, context = metadata_text(triple), context_text(triple)
        live = self._live.get(key)
        if live is None:
            live = self._live[key] = self._read_live(key)
        if not live:  # most of a large import
            live.append(self._insert(key, self._new_slot(key, triple, live), triple.value, metadata, context))
            if context is not None:
                self._contexts[live[0].id] = triple
            self._digest += hash_of(name, prop, triple.value, metadata, context)
            return "added"
        replaced = [row for row in live if row.value == triple.value] if beside_others else live
        if len(replaced) == 1:
            old = replaced[0]
            if old.value == triple.value and old.metadata == metadata and old.context == context:
                return "unchanged"
        for row in replaced:
            self._drop(row, name, prop)
        # The same key text keeps its embedding where it is.
        slot = replaced[0].slot if replaced else self._new_slot(key, triple, live)
        row = self._insert(key, slot, triple.value, metadata, context)
        if context is not None:
            self._contexts[row.id] = triple
        self._live[key] = [*(other for other in live if other not in replaced), row]
        self._digest += hash_of(name, prop, triple.value, metadata, context)
        return "replaced" if replaced else "added"

    def remove(self, condition: Condition) -> int:
        """Remove the triples that match; return how many."""
        where, parameters = condition
        rows = self._connection.execute(
            f"SELECT t.id, {CONTENT} WHERE t.removed IS NULL AND {where}", parameters
        ).fetchall()
        self._connection.executemany(
            "UPDATE triples SET removed = ? WHERE id = ?", [(self.meta.revision + 1, row[0]) for row in rows]
        )
        self._digest -= sum(hash_of(*row[1:]) for row in rows)
        self.n_removed += len(rows)
        return len(rows)

    def restore(self, revision: int) -> None:
        """Make the contents those of an earlier revision; its triples come back under new ids."""
        self.remove(("t.added > ?", [revision]))
        rows = self._connection.execute(
            f"SELECT t.name_id, t.property_id, t.slot, t.namespace, t.value_slot, {CONTENT} "
            "WHERE t.added <= ?1 AND t.removed > ?1 ORDER BY t.id",
            (revision,),
        ).fetchall()
        for name_id, property_id, slot, namespace, value_slot, *content in rows:
            key, (value, metadata, context) = (namespace, name_id, property_id), content[2:]
            row = self._insert(key, slot, value, metadata, context, value_slot)
            if row.context is not None:
                self._contexts[row.id] = triple_from_row(*content)
            self._digest += hash_of(*content)

    def finish(self) -> None:
        """Make the new embeddings durable, then point the record at them; the caller commits."""
        if not self.changed:
            return
        meta, connection = self.meta, self._connection
        revision = meta.revision + 1
        connection.executemany(
            "INSERT INTO names (id, text) VALUES (?, ?)", enumerate(self._new_names, self._last_name + 1)
        )
        connection.executemany("UPDATE triples SET removed = ? WHERE id = ?", self._tombstones)
        connection.executemany(_INSERT, self._new_rows.values())
        self._label()
        index_new(connection, self._last_id, self._last_name)
        self._append_keys()
        meta.revision = revision
        meta.n_triples += self.n_added - self.n_removed
        meta.digest = digest_text(self._digest)
        connection.execute(
            "INSERT OR REPLACE INTO revisions VALUES (?, ?, ?, ?, ?, ?, ?)",
            (revision, time.time(), self._action, self.n_added, self.n_removed, meta.n_triples, meta.digest),
        )
        write_meta(connection, meta)

    def _insert(
        self,
        key: _Key,
        slot: int,
        value: str,
        metadata: str | None,
        context: str | None,
        value_slot: int | None = None,
    ) -> _Row:
        row_id, self._next_id = self._next_id, self._next_id + 1
        namespace, name_id, property_id = key
        added = self.meta.revision + 1
        self._new_rows[row_id] = (
            row_id, name_id, property_id, value, metadata, slot, added, namespace, context, value_slot
        )  # fmt: skip
        self.n_added += 1
        return _Row(row_id, slot, value, metadata, context)

    def _drop(self, row: _Row, name: str, prop: str) -> None:
        self._digest -= hash_of(name, prop, row.value, row.metadata, row.context)
        if self._new_rows.pop(row.id, None) is not None:  # of this batch: nobody has seen it
            self._contexts.pop(row.id, None)
            self.n_added -= 1
        else:
            self._tombstones.append((self.meta.revision + 1, row.id))
            self.n_removed += 1

    def _read_live(self, key: _Key) -> list[_Row]:
        _, name_id, property_id = key
        if name_id > self._last_name:
            return []
        rows = self._connection.execute(
            "SELECT id, slot, value, metadata, context FROM triples WHERE name_id = ? AND property_id = ? "
            "AND removed IS NULL AND namespace = ? ORDER BY slot",
            (name_id, property_id, key[0]),
        )
        return [_Row(*row) for row in rows]

    def _name_id(self, name: str) -> int:
        name_id = self._names.get(name)
        if name_id is None:
            row = None
            if self._last_name:
                row = self._connection.execute("SELECT id FROM names WHERE text = ?", (name,)).fetchone()
            if row is None:
                self._new_names.append(name)
                row = (self._last_name + len(self._new_names),)
            name_id = self._names[name] = row[0]
        return name_id

    def _property_id(self, prop: str) -> int:
        property_id = self._properties.get(prop)
        if property_id is None:
            row = self._connection.execute("SELECT id FROM properties WHERE text = ?", (prop,)).fetchone()
            if row is None:
                embedding = self._encoded.properties.get(prop)
                if embedding is None:
                    embedding = self._embedder.encode(self.meta, [prop])[0]
                cursor = self._connection.execute(
                    "INSERT INTO properties (text, embedding) VALUES (?, ?)",
                    (prop, embedding.astype("<f4").tobytes()),
                )
                row = (cursor.lastrowid,)
            property_id = self._properties[prop] = int(row[0])
        return property_id

    def _namespace(self, namespace: str) -> int:
        return self._label_id("namespace", namespace) if namespace else 0

    def _label_id(self, kind: str, text: str) -> int:
        label = self._labels.get((kind, text))
        if label is None:
            self._connection.execute("INSERT OR IGNORE INTO labels (kind, text) VALUES (?, ?)", (kind, text))
            query = "SELECT id FROM labels WHERE kind = ? AND text = ?"
            label = self._labels[kind, text] = int(self._connection.execute(query, (kind, text)).fetchone()[0])
        return label

    def _label(self) -> None:
        """Write the labels and times of the new triples that have any."""
        labelled: list[tuple[int, int]] = []
        times: list[tuple[int, int | None, int | None]] = []
        for row_id, triple in self._contexts.items():
            texts = [("tag", tag) for tag in triple.tags]
            texts += [("namespace", triple.namespace)]
            if triple.provenance is not None:
                texts += [("document", triple.provenance.document), ("uri", triple.provenance.uri)]
            labelled += [(self._label_id(kind, text), row_id) for kind, text in texts if text]
            if triple.valid_from or triple.valid_to:
                begin, end = (instant(time) if time else None for time in (triple.valid_from, triple.valid_to))
                times.append((row_id, begin, end))
        self._connection.executemany("INSERT INTO labelled VALUES (?, ?)", labelled)
        self._connection.executemany("INSERT INTO validity VALUES (?, ?, ?)", times)

    def _new_slot(self, key: _Key, triple: Triple, live: list[_Row]) -> int:
        source = self._encoded.index.get(triple.key_text)
        if source is None and (known := live[0].slot if live else self._slot_elsewhere(key)) is not None:
            first = self.meta.n_slots
            source = ~known if known < first else self._sources[known - first]
        if source is None:
            source = self._encoded.add(triple.key_text, self._embedder.encode(self.meta, [triple.key_text]))
        self._sources.append(source)
        return self.meta.n_slots + len(self._sources) - 1

    def _slot_elsewhere(self, key: _Key) -> int | None:
        """Return a slot with the embedding of this name and property, in another namespace or of old."""
        for there in ("IS NULL", "IS NOT NULL"):  # an index for each
            row = self._connection.execute(
                f"SELECT slot FROM triples WHERE name_id = ? AND property_id = ? AND removed {there} LIMIT 1", key[1:]
            ).fetchone()
            if row:
                return int(row[0])
        return None

    def _append_keys(self) -> None:
        if not self._sources:
            return
        meta, keys = self.meta, self._store.segment("keys", self.meta)
        sources = np.array(self._sources, np.int64)
        for start in range(0, len(sources), _BLOCK):
            block = sources[start : start + _BLOCK]
            fresh = block >= 0
            if fresh.all():
                rows = self._encoded.rows(block)
            else:
                rows = np.zeros((len(block), meta.embed_dim or 0), np.float16)
                rows[fresh] = self._encoded.rows(block[fresh]) if fresh.any() else 0
                rows[~fresh] = np.asarray(keys.rows(~block[~fresh], meta.n_slots))
            append_block(self._store, self._connection, meta, "keys", meta.n_slots + start, rows)
        meta.n_slots += len(sources)


class _Known:
    """What of a batch the knowledge base has embeddings of."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._ids: dict[tuple[str, str], int | None] = {}
        self._is_empty = connection.execute("SELECT 1 FROM triples LIMIT 1").fetchone() is None

    def id_of(self, table: Literal["names", "properties"], text: str) -> int | None:
        """Return the id of a name or property, None if it is new."""
        if self._is_empty and table == "names":
            return None
        if (table, text) not in self._ids:
            row = self._connection.execute(f"SELECT id FROM {table} WHERE text = ?", (text,)).fetchone()
            self._ids[table, text] = row[0] if row else None
        return self._ids[table, text]

    def has_pair(self, name_id: int, property_id: int) -> bool:
        """Say whether there is a triple of this name and property."""
        query = "SELECT 1 FROM triples WHERE name_id = ? AND property_id = ? AND removed IS NULL LIMIT 1"
        return self._connection.execute(query, (name_id, property_id)).fetchone() is not None


def texts_to_embed(store: Store, triples: Iterable[Triple]) -> tuple[list[str], list[str]]:
    """Return the key texts and the properties that the knowledge base has no embedding of."""
    properties: dict[str, None] = {}
    keys: dict[str, None] = {}
    pairs = {(triple.name, triple.property): triple for triple in triples}
    with store.reading() as connection:
        known = _Known(connection)
        for (name, prop), triple in pairs.items():
            property_id = known.id_of("properties", prop)
            if property_id is None:
                properties[prop] = None
            name_id = known.id_of("names", name)
            if property_id is None or name_id is None or not known.has_pair(name_id, property_id):
                keys[triple.key_text] = None
    return list(keys), list(properties)


def record_encoder(meta: Meta, name: str, fingerprint: str, embed_dim: int) -> None:
    """Note which encoder the embeddings are of, with the first of them."""
    if meta.encoder_fingerprint is None:
        meta.encoder_name, meta.encoder_fingerprint, meta.embed_dim = name, fingerprint, embed_dim


def _last_ids(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the highest id that a triple ever had, and the highest of a name."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'triples'").fetchone()
    return int(row[0] if row else 0), int(connection.execute("SELECT coalesce(max(id), 0) FROM names").fetchone()[0])
