"""Where a knowledge base lives: SQLite connections, transactions and embedding segments. Knows no encoder."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import KnowledgeBaseError, KnowledgeBaseNotFoundError
from kblam_engine.knowledge_base.schema import (
    Meta,
    connect,
    create_tables,
    has_tables,
    read_meta,
    translated_errors,
)
from kblam_engine.knowledge_base.segments import FileSegment, MemorySegment, Segment
from kblam_engine.triples import Triple

DATABASE = "kb.sqlite"
_SEGMENT_FILES = {"keys": "keys-000001.f16", "values": "values-000001.f16"}
CONTENT = (
    "n.text, p.text, t.value, t.metadata FROM triples t "
    "JOIN names n ON n.id = t.name_id JOIN properties p ON p.id = t.property_id"
)
_PAGE = 500  # ids in one SELECT: below every SQLite's limit of parameters


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened since a revision, as of `meta.revision`."""

    meta: Meta
    last_id: int
    removed: NDArray[np.int64]
    """`[n, 2]`: slot and id."""
    added: NDArray[np.int64]
    """`[n, 4]`: slot, id, name id, property id."""


class Store:
    """One knowledge base, in the directory `path`, or in memory where `path` is None.

    Writers take turns, across processes too; readers see the last commit and never wait for a writer. (In memory
    there is one connection, and they do wait.)
    """

    def __init__(self, path: Path | None, *, create: bool) -> None:
        self.path = path
        self.label = str(path) if path else ":memory:"
        self._segments: dict[str, Segment] = {}
        self._write_lock = threading.RLock()
        self._idle_readers: list[sqlite3.Connection] = []
        self._closed = False
        if path:
            _check_directory(path, create)
        with translated_errors(self.label):
            self._connection = connect(str(path / DATABASE) if path else ":memory:")
            try:
                if create:
                    create_tables(self._connection)
                elif not has_tables(self._connection):
                    raise KnowledgeBaseNotFoundError(f"{self.label}: no knowledge base there")
                read_meta(self._connection)
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close every connection; what is mapped stays readable."""
        with self._write_lock:
            self._closed = True
            self._connection.close()
            while self._idle_readers:
                self._idle_readers.pop().close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the one write transaction: commit at the end, roll back on any error."""
        with self._write_lock, translated_errors(self.label):
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold a read transaction: everything read inside is of one revision."""
        if self.path is None:
            with self._write_lock, translated_errors(self.label), _transaction(self._connection):
                yield self._connection
            return
        with translated_errors(self.label):
            connection = self._take_reader()
            try:
                with _transaction(connection):
                    yield connection
            finally:
                self._give_back(connection)

    def segment(self, kind: str, embed_dim: int) -> Segment:
        """Return the "keys" or "values" segment."""
        with self._write_lock:
            if kind not in self._segments:
                self._segments[kind] = (
                    FileSegment(self.path / _SEGMENT_FILES[kind], embed_dim)
                    if self.path
                    else MemorySegment(embed_dim)
                )
            return self._segments[kind]

    def meta(self) -> Meta:
        """Read the committed record."""
        with self.reading() as connection:
            return read_meta(connection)

    def changes_since(self, revision: int, last_id: int) -> Changes:
        """Read what was added and removed after `revision`; from (0, 0) this is everything."""
        with self.reading() as connection:
            meta = read_meta(connection)
            added = connection.execute(
                "SELECT slot, id, name_id, property_id FROM triples WHERE removed IS NULL AND id > ?",
                (last_id,),
            ).fetchall()
            removed = []
            if last_id:  # from nothing there is nothing to remove
                query = "SELECT slot, id FROM triples WHERE removed > ? AND id <= ?"
                removed = connection.execute(query, (revision, last_id)).fetchall()
            newest = connection.execute("SELECT coalesce(max(id), 0) FROM triples").fetchone()[0]
        return Changes(
            meta,
            newest,
            np.array(removed, np.int64).reshape(-1, 2),
            np.array(added, np.int64).reshape(-1, 4),
        )

    def triples(self, ids: Sequence[int]) -> list[Triple]:
        """Return the triples with these ids in this order; removed ones too, an id keeps its content."""
        found: dict[int, Triple] = {}
        for start in range(0, len(ids), _PAGE):
            page = [int(i) for i in ids[start : start + _PAGE]]
            marks = ",".join("?" * len(page))
            with self.reading() as connection:
                rows = connection.execute(f"SELECT t.id, {CONTENT} WHERE t.id IN ({marks})", page).fetchall()
            found.update((row[0], triple_from_row(*row[1:])) for row in rows)
        try:
            return [found[int(i)] for i in ids]
        except KeyError as error:
            raise KnowledgeBaseError(
                f"{self.label}: expected the id of a triple, got {error.args[0]}"
            ) from None

    def live_ids(self, name: str | None = None, prop: str | None = None) -> list[int]:
        """Return the ids of the triples in the knowledge base, of one name or property where given, by slot."""
        where, parameters = matching(name, prop)
        with self.reading() as connection:
            rows = connection.execute(f"SELECT t.id FROM triples t WHERE {where} ORDER BY t.slot", parameters)
            return [row[0] for row in rows]

    def size_bytes(self) -> int:
        """Return the bytes on disk, 0 in memory."""
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file()) if self.path else 0

    def _take_reader(self) -> sqlite3.Connection:
        if self._closed:
            raise KnowledgeBaseError(f"{self.label}: this knowledge base has been closed; open it again")
        try:
            return self._idle_readers.pop()  # list.pop is atomic
        except IndexError:
            assert self.path is not None
            return connect(str(self.path / DATABASE))

    def _give_back(self, connection: sqlite3.Connection) -> None:
        if self._closed:
            connection.close()
        else:
            self._idle_readers.append(connection)


def matching(name: str | None, prop: str | None, value: str | None = None) -> tuple[str, list[str]]:
    """Build the WHERE clause of live triples `t`, and its parameters."""
    where, parameters = "t.removed IS NULL", []
    for condition, text in (
        ("t.name_id = (SELECT id FROM names WHERE text = ?)", name),
        ("t.property_id = (SELECT id FROM properties WHERE text = ?)", prop),
        ("t.value = ?", value),
    ):
        if text is not None:
            where += f" AND {condition}"
            parameters.append(text.strip())
    return where, parameters


def triple_from_row(name: str, prop: str, value: str, metadata: str | None) -> Triple:
    """Build a triple from its columns."""
    loaded: dict[str, Any] = json.loads(metadata) if metadata else {}
    return Triple(name, prop, value, loaded)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("COMMIT")


def _check_directory(path: Path, create: bool) -> None:
    if path.is_file():
        raise KnowledgeBaseError(
            f"{path}: expected a knowledge base (a folder), got a file; "
            f"for a file of triples: kblam kb import {path} --kb NEW"
        )
    if (path / DATABASE).exists():
        return
    if not create:
        raise KnowledgeBaseNotFoundError(
            f"{path}: no knowledge base there; make one with: kblam kb import FILE --kb {path}"
        )
    if path.is_dir() and any(path.iterdir()):
        raise KnowledgeBaseError(
            f"{path}: expected a knowledge base or an empty folder, got a folder of other files"
        )
    path.mkdir(parents=True, exist_ok=True)
