"""Writing: the triples that one commit adds and removes."""

from __future__ import annotations

import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Literal

import numpy as np

from kblam_engine.knowledge_base.bulk import LARGE, Block, insert_many, side_by_side, write_blocks
from kblam_engine.knowledge_base.conditions import Condition
from kblam_engine.knowledge_base.contents import (
    context_text,
    digest_text,
    hash_of,
    hashes_of,
    labels_of,
    metadata_text,
    times_of,
)
from kblam_engine.knowledge_base.embedder import Embedder, EncodedTexts
from kblam_engine.knowledge_base.meeting import COLUMNS, Meeting, StoredTriple
from kblam_engine.knowledge_base.records import AddResult
from kblam_engine.knowledge_base.schema import Meta, read_meta, write_meta
from kblam_engine.knowledge_base.store import ANY_CONTENT, CONTENT, Store, triple_from_row
from kblam_engine.knowledge_base.words import index_new
from kblam_engine.triples import Triple

Outcome = Literal["added", "replaced", "unchanged"]
_Key = tuple[int, int, int]  # namespace, name, property
_PLAIN = itemgetter(0, 1, 2, 3, 5, 8)
_PLAIN_COLUMNS = ", ".join(_PLAIN(StoredTriple._fields))
_BLOCK = 65_536  # rows of embeddings written at once: bounds the memory of a large import

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
        self._names: dict[str, int] = {}
        self._new_names: list[str] = []
        self._properties: dict[str, int] = {}
        self._live: dict[_Key, list[StoredTriple] | int] = {}  # a number: of the only one, in _new_rows
        self._labels: dict[tuple[str, str], int] = {}
        self._new_rows: list[tuple[Any, ...] | None] = []  # as a StoredTriple, in the order of ids; None is gone again
        self._unhashed: list[Triple | None] = []  # beside _new_rows: what the digest does not count yet
        self._tombstones: list[tuple[int, int]] = []
        self._keys: list[int] = []  # of each new slot: a row of _encoded, or ~slot to copy
        self._values: list[int] = []  # of each new value slot: a row of _encoded
        self._contexts: dict[int, Triple] = {}

    @property
    def label(self) -> str:
        """What errors call the knowledge base."""
        return self._store.label

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.n_added or self.n_removed)

    def put(self, triples: Sequence[Triple], *, beside_others: bool, met: Meeting | None = None) -> AddResult:
        """Add triples; unless `beside_others`, each replaces every value of its name and property.

        Args:
            triples: what to add.
            beside_others: keep other values of the same name and property.
            met: what they met already, if nothing has changed since.
        """
        self._meet(triples, met)
        names, properties, live, rows = self._names, self._properties, self._live, self._new_rows
        counts = {"added": 0, "replaced": 0, "unchanged": 0}
        n_new = 0
        for triple in triples:
            namespace = self._namespace(triple.namespace) if triple.namespace else 0
            name_id = names.get(triple.name) or self._new_name(triple.name)
            property_id = properties.get(triple.property) or self._new_property(triple.property)
            key = namespace, name_id, property_id
            others = live.get(key)
            if others is None:  # most of a large import
                live[key] = len(rows)
                self._insert(key, triple, self._new_slot(key, triple, None))
                n_new += 1
            else:
                known = [self._row(others)] if isinstance(others, int) else others
                counts[self._put_where_others_are(key, triple, known, beside_others)] += 1
        return AddResult(counts["added"] + n_new, counts["replaced"], counts["unchanged"])

    def id_of(self, triple: Triple) -> int:
        """Return the id of a triple that this change has put."""
        key = self._namespace(triple.namespace), self._names[triple.name], self._properties[triple.property]
        known = self._live[key]
        rows = [self._row(known)] if isinstance(known, int) else known
        return next(row.id for row in rows if row.value == triple.value)

    def remove(self, condition: Condition) -> int:
        """Remove the triples that match, and those of them, too, that have lost their name; return how many."""
        where, parameters = condition
        rows = self._connection.execute(
            f"SELECT {ANY_CONTENT} WHERE t.removed IS NULL AND {where}", parameters
        ).fetchall()
        self._connection.executemany(
            "UPDATE triples SET removed = ? WHERE id = ?", [(self.meta.revision + 1, row[0]) for row in rows]
        )
        # What has lost its name is no longer in any digest that is computed from the rows.
        self._digest -= sum(hash_of(*row[1:]) for row in rows if row[1] is not None and row[2] is not None)
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
            value, metadata, context = content[3:]
            row_id = self._last_id + len(self._new_rows) + 1
            self._new_rows.append((row_id, name_id, property_id, value, metadata, slot, namespace, context, value_slot))
            self.n_added += 1
            if context is not None:
                self._contexts[row_id] = triple_from_row(self.label, content)
            self._unhashed.append(None)
            self._digest += hash_of(*content[1:])

    def finish(self) -> None:
        """Make the new embeddings durable, then point the record at them; the caller commits."""
        if not self.changed:
            return
        meta, connection = self.meta, self._connection
        revision = meta.revision + 1
        rows = [row for row in self._new_rows if row is not None]
        with side_by_side(len(rows) >= LARGE) as begun:
            written = begun(lambda: write_blocks(self._blocks()))
            insert_many(connection, "names (id, text)", list(enumerate(self._new_names, self._last_name + 1)))
            connection.executemany("UPDATE triples SET removed = ? WHERE id = ?", self._tombstones)
            self._insert_rows(rows, revision)
            self._label()
            hashed = begun(self._hash_new)
            index_new(connection, self._last_id, self._last_name, len(rows))
            connection.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?)", written())
            self._digest += hashed()
        meta.n_slots += len(self._keys)
        meta.n_value_slots += len(self._values)
        meta.revision = revision
        meta.n_triples += self.n_added - self.n_removed
        meta.digest = digest_text(self._digest)
        connection.execute(
            "INSERT OR REPLACE INTO revisions VALUES (?, ?, ?, ?, ?, ?, ?)",
            (revision, time.time(), self._action, self.n_added, self.n_removed, meta.n_triples, meta.digest),
        )
        write_meta(connection, meta)

    def _meet(self, triples: Sequence[Triple], met: Meeting | None) -> None:
        """Learn what is known of names and properties that this change has not touched yet."""
        if met is None or met.revision != (self.meta.revision, self.meta.generation):
            met = Meeting.of(self._connection, triples)
        self._names = met.names | self._names
        self._properties = met.properties | self._properties
        before: dict[_Key, list[StoredTriple]] = defaultdict(list)
        for row in chain.from_iterable(met.triples.values()):
            before[row.namespace, row.name_id, row.property_id].append(row)
        self._live = {**before, **self._live}

    def _put_where_others_are(
        self, key: _Key, triple: Triple, others: list[StoredTriple], beside_others: bool
    ) -> Outcome:
        metadata, context = metadata_text(triple), context_text(triple)
        replaced = [row for row in others if row.value == triple.value] if beside_others else others
        if len(replaced) == 1:
            old = replaced[0]
            if (old.value, old.metadata, old.context) == (triple.value, metadata, context):
                return "unchanged"
        for row in replaced:
            self._drop(row, triple)
        # The same key text keeps its embedding where it is, and so does the same value.
        slot = replaced[0].slot if replaced else self._new_slot(key, triple, others[0].slot)
        same = [row.value_slot for row in replaced if row.value == triple.value]
        new = self._row(self._insert(key, triple, slot, same[0] if same else None))
        self._live[key] = [*(other for other in others if other not in replaced), new]
        return "replaced" if replaced else "added"

    def _insert(self, key: _Key, triple: Triple, slot: int, value_slot: int | None = None) -> int:
        """Add a row; return its place in _new_rows."""
        namespace, name_id, property_id = key
        place, value, context = len(self._new_rows), triple.value, context_text(triple)
        metadata = metadata_text(triple) if triple.metadata else None
        if value_slot is None and (source := self._encoded.index.get(value)) is not None:
            value_slot = self.meta.n_value_slots + len(self._values)
            self._values.append(source)
        row_id = self._last_id + place + 1
        self._new_rows.append((row_id, name_id, property_id, value, metadata, slot, namespace, context, value_slot))
        self._unhashed.append(triple)
        if context is not None:
            self._contexts[row_id] = triple
        self.n_added += 1
        return place

    def _insert_rows(self, rows: list[tuple[Any, ...]], revision: int) -> None:
        """Insert triples; where none has metadata or a context, as in most large imports, without these columns."""
        if self._contexts or any(row[4] is not None for row in rows):
            insert_many(self._connection, f"triples ({COLUMNS}, added)", rows, f"{revision}")
        else:
            insert_many(self._connection, f"triples ({_PLAIN_COLUMNS}, added)", list(map(_PLAIN, rows)), f"{revision}")

    def _row(self, place: int) -> StoredTriple:
        row = self._new_rows[place]
        assert row is not None
        return StoredTriple._make(row)

    def _drop(self, row: StoredTriple, triple: Triple) -> None:
        place = row.id - self._last_id - 1
        if place >= 0:  # of this batch: nobody has seen it
            self._new_rows[place] = None
            self._unhashed[place] = None
            self._contexts.pop(row.id, None)
            self.n_added -= 1
        else:
            self._digest -= hash_of(triple.name, triple.property, row.value, row.metadata, row.context)
            self._tombstones.append((self.meta.revision + 1, row.id))
            self.n_removed += 1

    def _hash_new(self) -> int:
        """Return the sum of the new triples' hashes."""
        new = zip(self._unhashed, self._new_rows, strict=True)
        return hashes_of((t.name, t.property, t.value, row[4], row[7]) for t, row in new if t is not None and row is not None)

    def _new_name(self, name: str) -> int:
        self._new_names.append(name)
        name_id = self._names[name] = self._last_name + len(self._new_names)
        return name_id

    def _new_property(self, prop: str) -> int:
        embedding = self._encoded.properties.get(prop)
        if embedding is None:
            embedding = self._embedder.encode(self.meta, [prop])[0]
        cursor = self._connection.execute(
            "INSERT INTO properties (text, embedding) VALUES (?, ?)", (prop, embedding.astype("<f4").tobytes())
        )
        property_id = self._properties[prop] = int(cursor.lastrowid or 0)
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
            labelled += [(self._label_id(kind, text), row_id) for kind, text in labels_of(triple)]
            if (span := times_of(triple)) is not None:
                times.append((row_id, *span))
        self._connection.executemany("INSERT INTO labelled VALUES (?, ?)", labelled)
        self._connection.executemany("INSERT INTO validity VALUES (?, ?, ?)", times)

    def _new_slot(self, key: _Key, triple: Triple, known: int | None) -> int:
        """Return the next slot, for the embedding of the key text: a new one, or a copy of that in a known slot."""
        source = self._encoded.index.get(triple.key_text)
        if source is None:
            known = self._slot_elsewhere(key) if known is None else known
            if known is None:
                source = self._encoded.add(triple.key_text, self._embedder.encode(self.meta, [triple.key_text]))
            else:
                first = self.meta.n_slots
                source = ~known if known < first else self._keys[known - first]
        self._keys.append(source)
        return self.meta.n_slots + len(self._keys) - 1

    def _slot_elsewhere(self, key: _Key) -> int | None:
        """Return a slot with the embedding of this name and property, in another namespace or of old."""
        for there in ("IS NULL", "IS NOT NULL"):  # an index for each
            row = self._connection.execute(
                f"SELECT slot FROM triples WHERE name_id = ? AND property_id = ? AND removed {there} LIMIT 1", key[1:]
            ).fetchone()
            if row:
                return int(row[0])
        return None

    def _blocks(self) -> Iterator[Block]:
        """Yield the new embeddings of keys and values."""
        meta = self.meta
        for kind, places, n_rows in (("keys", self._keys, meta.n_slots), ("values", self._values, meta.n_value_slots)):
            if not places:
                continue
            sources, segment = np.array(places, np.int64), self._store.segment(kind, meta)
            for start in range(0, len(sources), _BLOCK):
                block = sources[start : start + _BLOCK]
                fresh = block >= 0
                if fresh.all():
                    rows = self._encoded.rows(block)
                else:
                    rows = np.zeros((len(block), meta.embed_dim or 0), np.float16)
                    rows[fresh] = self._encoded.rows(block[fresh]) if fresh.any() else 0
                    rows[~fresh] = segment.first(n_rows)[~block[~fresh]]
                yield Block(segment, kind, n_rows + start, rows)


def record_encoder(meta: Meta, name: str, fingerprint: str, embed_dim: int) -> None:
    """Note which encoder the embeddings are of, with the first of them."""
    if meta.encoder_fingerprint is None:
        meta.encoder_name, meta.encoder_fingerprint, meta.embed_dim = name, fingerprint, embed_dim


def _last_ids(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the highest id that a triple ever had, and the highest of a name."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'triples'").fetchone()
    return int(row[0] if row else 0), int(connection.execute("SELECT coalesce(max(id), 0) FROM names").fetchone()[0])
