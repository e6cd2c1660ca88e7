"""Where a knowledge base lives: SQLite connections, transactions and embedding segments. Knows no encoder."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from kblam_engine.errors import KnowledgeBaseError, KnowledgeBaseNotFoundError, ReadOnlyError
from kblam_engine.knowledge_base.connections import (
    TIMEOUT,
    can_write,
    connect,
    lacks_log,
    locked,
    may_run,
    scratch,
    translated_errors,
)
from kblam_engine.knowledge_base.migration import is_outdated, migrate
from kblam_engine.knowledge_base.own_files import check_folder, opened
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.knowledge_base.schema import Meta, create_tables, has_tables, read_meta
from kblam_engine.knowledge_base.segments import FileSegment, MemorySegment, Segment, header_of
from kblam_engine.triples import Provenance, Triple

DATABASE = "kb.sqlite"
_WRITER = "writer"
_WORD = re.compile(r"process \d{1,20}")
_LONGEST_WORD = 40
CONTENT = (
    "t.id, n.text, p.text, t.value, t.metadata, t.context FROM triples t "
    "JOIN names n ON n.id = t.name_id JOIN properties p ON p.id = t.property_id"
)
ANY_CONTENT = CONTENT.replace(" JOIN ", " LEFT JOIN ")
"""The same, with None for a name or property that is not there."""
_PAGE = 500  # ids in one SELECT: below every SQLite's limit of parameters


class Store:
    """One knowledge base, in the directory `path`, or in memory where `path` is None.

    Writers take turns, across processes too; readers see the last commit and never wait for a writer. (In memory
    there is one connection, and they do wait.)
    """

    def __init__(
        self, path: Path | None, *, create: bool, timeout: float = TIMEOUT, read_only: bool = False
    ) -> None:
        self.path = path
        self.label = str(path) if path else ":memory:"
        self.timeout = timeout
        self._segments: dict[tuple[str, int], Segment] = {}
        self._write_lock = threading.RLock()
        self._segments_lock = threading.Lock()  # another one: readers do not wait for writers
        self._idle_readers: list[sqlite3.Connection] = []
        self._closed = False
        if path:
            check_folder(path / DATABASE, create and not read_only)
        self.read_only = read_only or (path is not None and not can_write(path))
        self._no_room = False
        with translated_errors(self.label, timeout):
            self._connection = self._first_connection()
            try:
                if create and not self.read_only:
                    create_tables(self._connection)
                elif not has_tables(self._connection):
                    raise KnowledgeBaseNotFoundError(f"{self.label}: no knowledge base there")
                if is_outdated(self._connection):
                    self._migrate()
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
        """Hold the one write transaction: commit at the end, roll back on any error.

        Raises:
            KnowledgeBaseLockedError: another writer held it for `timeout` seconds.
            ReadOnlyError: the knowledge base is open for reading only.
            KnowledgeBaseError: the file that says who is writing is a link.
        """
        self.check_writable()
        if not self._write_lock.acquire(timeout=self.timeout):
            raise locked(self.label, self.timeout, "another thread")
        try:
            with translated_errors(self.label, self.timeout, self._writer):
                connection = self._connection
                connection.execute("BEGIN IMMEDIATE")
                try:
                    self._sign()
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    self._give_back_space(connection)
                    raise
        finally:
            self._write_lock.release()

    def check_writable(self) -> None:
        """Refuse a change before any work is done for it.

        Raises:
            ReadOnlyError: the knowledge base is open for reading only.
        """
        if self._no_room:
            raise ReadOnlyError(
                f"{self.label}: open for reading only, because there was no room for the files of SQLite; make room on the disk "
                "and open it again"
            )
        if self.read_only:
            raise ReadOnlyError(f"{self.label}: open for reading only; make the folder writable, or work on a copy")

    @contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """Hold the writing connection outside any transaction, for what SQLite does in its own (VACUUM)."""
        with self._write_lock, translated_errors(self.label, self.timeout, self._writer):
            yield self._connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold a read transaction: everything read inside is of one revision."""
        with self.connection() as connection, _transaction(connection):
            yield connection

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Hold a connection for a single statement, which is of one revision by itself."""
        if self.path is None:
            with self._write_lock, translated_errors(self.label):
                yield self._connection
            return
        with translated_errors(self.label, self.timeout):
            connection = self._take_reader()
            try:
                yield connection
            finally:
                self._give_back(connection)

    @contextmanager
    def scratch_copy(self) -> Iterator[sqlite3.Connection]:
        """Hold a copy of the tables, as of one revision, that may be written and is gone afterwards."""
        with translated_errors(self.label), closing(scratch()) as copy:
            with self.connection() as connection:
                connection.backup(copy)
            yield copy

    def segment(self, kind: str, meta: Meta) -> Segment:
        """Return the "keys" or "values" segment of the record's generation."""
        assert meta.embed_dim is not None
        key = kind, meta.generation
        with self._segments_lock:
            if key not in self._segments:
                self._segments[key] = (
                    FileSegment(self.path / segment_file(kind, meta.generation), meta.embed_dim, header(kind, meta))
                    if self.path
                    else MemorySegment(meta.embed_dim)
                )
            return self._segments[key]

    def forget_segments(self, generation: int) -> None:
        """Delete the segments of a generation that compaction has replaced; what is mapped stays readable."""
        with self._segments_lock:
            for kind in ("keys", "values"):
                self._segments.pop((kind, generation), None)
                if self.path:
                    _unlink(self.path / segment_file(kind, generation))

    def meta(self) -> Meta:
        """Read the committed record."""
        with self.connection() as connection:
            return read_meta(connection)

    def triples(self, ids: Sequence[int]) -> list[Triple]:
        """Return the triples with these ids in this order; removed ones too, an id keeps its content.

        Raises:
            KnowledgeBaseError: there is no such triple, a compaction has dropped it, or its row is damaged.
        """
        return [triple_from_row(self.label, row) for row in self._by_id(CONTENT, ids)]

    def values(self, ids: Sequence[int]) -> list[str]:
        """Return the values of the triples with these ids in this order; errors as for `triples`."""
        values = [row[1] for row in self._by_id("t.id, t.value FROM triples t", ids)]
        if not all(isinstance(value, str) for value in values):
            self.triples(ids)  # says which
        return values

    def _by_id(self, columns: str, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        found: dict[int, tuple[Any, ...]] = {}
        for start in range(0, len(ids), _PAGE):
            page = [int(i) for i in ids[start : start + _PAGE]]
            marks = ",".join("?" * len(page))
            with self.connection() as connection:
                rows = connection.execute(f"SELECT {columns} WHERE t.id IN ({marks})", page)
                found.update((row[0], row) for row in rows)
        try:
            return [found[int(i)] for i in ids]
        except KeyError as error:
            raise self._not_there(error.args[0]) from None

    def _not_there(self, row_id: int) -> KnowledgeBaseError:
        """Return the error for an id that leads to no triple: there was none, there is none any more, or half of one."""
        with self.connection() as connection:
            row = connection.execute(f"SELECT {ANY_CONTENT} WHERE t.id = ?", (row_id,)).fetchone()
            newest = connection.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'triples'").fetchone()[0]
        if row is not None:
            try:
                triple_from_row(self.label, row)
            except KnowledgeBaseError as error:
                return error
        if 1 <= row_id <= (newest or 0):
            return KnowledgeBaseError(
                f"{self.label}: expected the id of a triple, got {row_id}: there was one, and a compaction has dropped it; "
                "take a new snapshot"
            )
        return KnowledgeBaseError(
            f"{self.label}: expected the id of a triple, got {row_id}, and there has been none with it; search, find and "
            "list tell the ids"
        )

    def size_bytes(self) -> int:
        """Return the bytes on disk, 0 in memory."""
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file()) if self.path else 0

    def _connect(self, *, read_only: bool) -> sqlite3.Connection:
        database = None if self.path is None else self.path / DATABASE
        return connect(database, self.timeout, read_only=read_only, no_room=self._no_room)

    def _first_connection(self) -> sqlite3.Connection:
        """Open a connection; one for reading only where the disk has no room for SQLite's own files."""
        try:
            connection = self._connect(read_only=self.read_only)
            try:
                connection.execute("SELECT 1 FROM sqlite_master")
            except BaseException:
                connection.close()
                raise
            return connection
        except sqlite3.OperationalError as error:
            if not lacks_log(error) or self.path is None or not (self.path / DATABASE).stat().st_size:
                raise
        self._no_room = self.read_only = True
        return self._connect(read_only=True)

    def _give_back_space(self, connection: sqlite3.Connection) -> None:
        """Cut from the segments what a failed change has written there, unless somebody writes already."""
        with self._segments_lock:
            grown = [(key, segment) for key, segment in self._segments.items() if segment.has_grown]
        if not grown:
            return
        try:
            connection.execute("PRAGMA busy_timeout=0")
            connection.execute("BEGIN IMMEDIATE")
            try:
                meta = read_meta(connection)
                n_rows = {"keys": meta.n_slots, "values": meta.n_value_slots}
                for (kind, generation), segment in grown:
                    if generation == meta.generation:
                        segment.give_back(n_rows[kind])
                    elif generation > meta.generation:
                        self.forget_segments(generation)
            finally:
                connection.execute("ROLLBACK")
        except (sqlite3.Error, KnowledgeBaseError):  # the next change overwrites it
            return
        finally:
            connection.execute(f"PRAGMA busy_timeout={int(1000 * self.timeout)}")

    def _migrate(self) -> None:
        if self.read_only:
            raise ReadOnlyError(
                f"{self.label}: written by an older version and has to be brought up to date, which needs a folder "
                "that can be written; make it writable, or work on a copy"
            )
        with self.writing() as connection:
            if is_outdated(connection):  # unless another process has been first
                migrate(connection, self.path)

    def _sign(self) -> None:
        """Leave word who is writing, for whoever waits in vain; nothing depends on it."""
        if self.path:
            try:
                with open(opened(self.path / _WRITER, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
                    file.write(f"process {os.getpid()}".encode())
            except OSError:
                return

    def _writer(self) -> str:
        if self.path is None:
            return "another thread"
        try:
            with open(opened(self.path / _WRITER, os.O_RDONLY), "rb") as file:
                said = file.read(_LONGEST_WORD).decode("ascii")
        except (OSError, ValueError, KnowledgeBaseError):
            return "another process"
        return said if _WORD.fullmatch(said) and may_run(int(said.split()[1])) else "another process"

    def _take_reader(self) -> sqlite3.Connection:
        if self._closed:
            raise KnowledgeBaseError(f"{self.label}: this knowledge base has been closed; open it again")
        try:
            return self._idle_readers.pop()  # list.pop is atomic
        except IndexError:
            return self._connect(read_only=self.read_only)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        # Without a log and its locks, each is opened anew: another process may have one by then.
        if self._closed or self._no_room:
            connection.close()
        else:
            self._idle_readers.append(connection)


def segment_file(kind: str, generation: int) -> str:
    """Return the file name of a segment."""
    return f"{kind}-{int(generation):06d}.f16"


def header(kind: str, meta: Meta) -> bytes:
    """Return what a segment's file begins with."""
    return header_of(kind, meta.kb_id, meta.embed_dim or 0) if meta.has_header else b""


def append_block(
    store: Store, connection: sqlite3.Connection, meta: Meta, kind: str, start: int, rows: Embeddings
) -> None:
    """Make rows durable and note their checksum, inside the caller's transaction."""
    checksum = store.segment(kind, meta).append(start, rows)
    # What is noted beyond the committed rows cannot be: the same transaction commits both.
    connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", (kind, start, len(rows), checksum))


def triple_from_row(label: str, row: Sequence[Any]) -> Triple:
    """Build a triple from the columns of `CONTENT`.

    Raises:
        KnowledgeBaseError: they do not make a triple: the row is damaged, or somebody has edited it.
    """
    row_id, name, prop, value, metadata, context = row
    try:
        loaded: dict[str, Any] = json.loads(metadata) if metadata else {}
        if not context:
            return Triple(name, prop, value, loaded)
        parts = json.loads(context)
        if "provenance" in parts:
            parts["provenance"] = Provenance.from_dict(parts["provenance"])
        return Triple(name, prop, value, loaded, **parts)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # of JSON, of its parts, of a Triple
        raise KnowledgeBaseError(
            f"{label}: expected a triple in the row with id {row_id}, got one that cannot be read "
            f"({type(error).__name__}: {error}); restore a backup, or remove it (kblam kb remove --id {row_id}), "
            "export the others and import them into a new knowledge base"
        ) from error


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("COMMIT")


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # still mapped, where the system minds that
        return
