"""Making anew what follows from the triples: embeddings, words, labels and times. What they say is never guessed."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import TripleError
from kblam_engine.knowledge_base.contents import labels_of, times_of
from kblam_engine.knowledge_base.embedder import Embedder
from kblam_engine.knowledge_base.maintenance import rewrite_segments, sweep
from kblam_engine.knowledge_base.row_checks import bad_properties, mislabelled
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.knowledge_base.schema import Meta, read_meta, write_meta
from kblam_engine.knowledge_base.segment_checks import blocks_of, rows_of, sound_rows
from kblam_engine.knowledge_base.segments import FileSegment
from kblam_engine.knowledge_base.slot_reading import integers
from kblam_engine.knowledge_base.store import ANY_CONTENT, Store, triple_from_row
from kblam_engine.knowledge_base.words import index_all, index_is_sound
from kblam_engine.triples import Triple

_NO_SLOT = "typeof({0}) != 'integer' OR {0} NOT BETWEEN 0 AND ?"
# What several triples may share an embedding by: the text that it is of, and for keys one that is there.
_SHARED = {
    "slot": "sum(removed IS NULL) > 1 OR min(name_id) != max(name_id) OR min(property_id) != max(property_id)",
    "value_slot": "min(value) != max(value)",
}
_TEXTS = (
    "SELECT n.text, p.text, t.value FROM triples t LEFT JOIN names n ON n.id = t.name_id "
    "LEFT JOIN properties p ON p.id = t.property_id WHERE t.id = ?"
)


def repair(store: Store, embedder: Embedder) -> dict[str, int]:
    """Make anew what is missing or wrong and follows from the triples, as a revision that changes none of them.

    Returns:
        How many of each kind, as `RepairResult` names them.

    Raises:
        KnowledgeBaseError: the tables are too damaged to be read; nothing is changed.
        EncoderMismatchError: the encoder is not the one the knowledge base was embedded by.
    """
    with store.writing() as connection:
        meta = read_meta(connection)
        n_properties = _embed_properties(connection, meta, embedder)
        n_labels = _label(connection, store.label)
        words = not index_is_sound(connection)
        if words:
            index_all(connection)
        segments = _Segments(store, connection, meta, embedder)
        segments.repair()
        done = {**segments.n_new, "properties": n_properties, "labels": n_labels, "words": int(words)}
        if not any(done.values()) and not segments.rewritten:
            return done
        meta = read_meta(connection)
        meta.revision += 1
        connection.execute(
            "INSERT INTO revisions VALUES (?, ?, 'repair', 0, 0, ?, ?)",
            (meta.revision, time.time(), meta.n_triples, meta.digest),
        )
        write_meta(connection, meta)
    if segments.rewritten:
        _set_aside(segments.foreign)
        sweep(store, meta)
    return done


class _Segments:
    """The embeddings, written anew where any of them is not as it was written."""

    def __init__(self, store: Store, connection: sqlite3.Connection, meta: Meta, embedder: Embedder) -> None:
        self.n_new = {"keys": 0, "values": 0}
        self.rewritten = False
        self.foreign: list[FileSegment] = []
        self._store, self._connection, self._meta, self._embedder = store, connection, meta, embedder
        self._rows: dict[str, Embeddings] = {}
        self._sound: dict[str, NDArray[np.bool_]] = {}
        self._owners: dict[str, NDArray[np.int64]] = {}

    def repair(self) -> None:
        """Write both segments anew, if anything is wrong with one."""
        meta = self._meta
        if meta.embed_dim is None:
            return
        blocks, n_wrong = blocks_of(self._connection)
        whole = not n_wrong
        for kind, n_rows in rows_of(meta).items():
            segment = self._store.segment(kind, meta)
            if isinstance(segment, FileSegment) and not segment.is_own():
                self.foreign.append(segment)
            self._rows[kind] = segment.readable(n_rows)
            self._sound[kind] = sound_rows(self._rows[kind], n_rows, blocks[kind])
            covered = sum(block.n_rows for block in blocks[kind]) == n_rows
            whole = whole and covered and bool(self._sound[kind].all())
        n_misplaced = self._place_keys() + self._displace_values()
        if whole and not n_misplaced and not self.foreign:
            return
        for kind, column in (("keys", "slot"), ("values", "value_slot")):
            query = f"SELECT {column}, min(id) FROM triples WHERE {column} IS NOT NULL GROUP BY {column} ORDER BY {column}"
            self._owners[kind] = integers(self._connection.execute(query), 2)
        self.rewritten = True
        rewrite_segments(self._store, self._connection, meta, self._again)

    def _place_keys(self) -> int:
        """Give every triple whose slot is none, or another's, one behind all others; return how many."""
        ids = self._misplaced("slot", self._meta.n_slots)
        new = [(self._meta.n_slots + place, row_id) for place, row_id in enumerate(ids)]
        self._connection.executemany("UPDATE triples SET slot = ? WHERE id = ?", new)
        return len(ids)

    def _displace_values(self) -> int:
        """Forget where the values are that have no embedding, or another's; they are embedded when next asked for."""
        ids = self._misplaced("value_slot", self._meta.n_value_slots)
        self._connection.executemany("UPDATE triples SET value_slot = NULL WHERE id = ?", [(row_id,) for row_id in ids])
        self.n_new["values"] += len(ids)
        return len(ids)

    def _misplaced(self, column: str, n_rows: int) -> list[int]:
        shared = f"SELECT {column} FROM triples WHERE {column} IS NOT NULL GROUP BY {column} HAVING {_SHARED[column]}"
        rows = self._connection.execute(
            f"SELECT id FROM triples WHERE {column} IS NOT NULL AND ({_NO_SLOT.format(column)} OR {column} IN ({shared})) "
            "ORDER BY id",
            (n_rows - 1,),
        )
        return [row[0] for row in rows]

    def _again(self, kind: str, slots: NDArray[np.int64]) -> Embeddings:
        """Return the embeddings of slots: those that were there, and the others made anew."""
        rows, sound = self._rows[kind], self._sound[kind]
        there = slots < len(sound)
        there[there] = sound[slots[there]]
        found = np.zeros((len(slots), self._meta.embed_dim or 0), np.float16)
        found[there] = rows[slots[there]]
        lost = slots[~there]
        if len(lost):
            owners = self._owners[kind]
            ids = owners[np.searchsorted(owners[:, 0], lost), 1].tolist()
            texts = [_text(kind, *self._connection.execute(_TEXTS, (row_id,)).fetchone()) for row_id in ids]
            found[~there] = self._embedder.encode(self._meta, texts)
            self.n_new[kind] += len(lost)
        return found


def _text(kind: str, name: str, prop: str, value: str) -> str:
    """Return what an embedding is of."""
    try:
        triple = Triple(name, prop, value if kind == "values" else "?")
    except TripleError:  # it cannot be read, but its slot must hold something
        return "?"
    return triple.value if kind == "values" else triple.key_text


def _embed_properties(connection: sqlite3.Connection, meta: Meta, embedder: Embedder) -> int:
    bad = bad_properties(connection, meta)
    if bad:
        texts = [connection.execute("SELECT text FROM properties WHERE id = ?", (row_id,)).fetchone()[0] for row_id in bad]
        rows = embedder.encode(meta, [str(text) for text in texts])
        new = [(row.astype("<f4").tobytes(), row_id) for row, row_id in zip(rows, bad, strict=True)]
        connection.executemany("UPDATE properties SET embedding = ? WHERE id = ?", new)
    return len(bad)


def _label(connection: sqlite3.Connection, label: str) -> int:
    """List the namespaces, tags, sources and times of triples as they say; return of how many."""
    connection.execute("DELETE FROM labels WHERE kind NOT IN ('namespace', 'tag', 'document', 'uri')")
    connection.execute(
        "DELETE FROM labelled WHERE triple_id NOT IN (SELECT id FROM triples) OR label_id NOT IN (SELECT id FROM labels)"
    )
    connection.execute("DELETE FROM validity WHERE triple_id NOT IN (SELECT id FROM triples)")
    wrong = mislabelled(connection, label)
    connection.execute("CREATE TEMP TABLE relabelled (id INTEGER PRIMARY KEY)")
    connection.executemany("INSERT INTO relabelled VALUES (?)", [(row_id,) for row_id in wrong])
    for table in ("labelled", "validity"):
        connection.execute(f"DELETE FROM {table} WHERE triple_id IN (SELECT id FROM relabelled)")
    connection.execute("DROP TABLE relabelled")
    numbers: dict[tuple[str, str], int] = {}
    for row_id in wrong:
        row = connection.execute(f"SELECT {ANY_CONTENT} WHERE t.id = ?", (row_id,)).fetchone()
        triple = triple_from_row(label, row)
        for each in labels_of(triple):
            if each not in numbers:
                numbers[each] = _label_id(connection, *each)
            connection.execute("INSERT INTO labelled VALUES (?, ?)", (numbers[each], row_id))
        if (span := times_of(triple)) is not None:
            connection.execute("INSERT INTO validity VALUES (?, ?, ?)", (row_id, *span))
        namespace = numbers["namespace", triple.namespace] if triple.namespace else 0
        connection.execute("UPDATE triples SET namespace = ? WHERE id = ?", (namespace, row_id))
    return len(wrong)


def _label_id(connection: sqlite3.Connection, kind: str, text: str) -> int:
    connection.execute("INSERT OR IGNORE INTO labels (kind, text) VALUES (?, ?)", (kind, text))
    return int(connection.execute("SELECT id FROM labels WHERE kind = ? AND text = ?", (kind, text)).fetchone()[0])


def _set_aside(segments: Iterable[FileSegment]) -> None:
    """Rename what is none of this knowledge base's: somebody may miss it."""
    for segment in segments:
        os.replace(segment.path, segment.path.with_name(f"{segment.path.name}.other"))
