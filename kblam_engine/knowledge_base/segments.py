"""The embeddings of a knowledge base: rows of 16-bit floats, only ever appended.

A row counts once SQLite has committed the number of rows. What a crash leaves behind that number is ignored by
readers and overwritten by the next writer.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.knowledge_base.own_files import opened
from kblam_engine.knowledge_base.rows import Embeddings, selected

# Above this many displaced rows, choosing them one by one is cheaper than a mapping with changed pages.
_MAX_PATCHES = 4096
_HEADER = struct.Struct("<8sII12s32sI")
_MAGIC = b"KBLaMf16"
_HEADER_VERSION = 2


class Segment(Protocol):
    """Rows of embeddings, `[n_rows, embed_dim]` float16."""

    def append(self, start: int, rows: Embeddings) -> int:
        """Write rows at `start`, the committed number of rows, and make them durable; return their checksum."""

    def first(self, n_rows: int) -> Embeddings:
        """Return the first rows, no more than are committed; the caller must not write to them."""

    def moved(
        self, n: int, positions: NDArray[np.int64], places: NDArray[np.signedinteger[Any]], n_rows: int
    ) -> Embeddings:
        """Return rows 0..n-1, but at some positions those of other places, all below the committed `n_rows`."""


def header_of(kind: str, kb_id: str, embed_dim: int) -> bytes:
    """Return the 64 bytes that a segment file begins with: what it is, whose, and their checksum."""
    fields = (_MAGIC, _HEADER_VERSION, embed_dim, kind.encode(), kb_id.encode())
    return _HEADER.pack(*fields, zlib.crc32(_HEADER.pack(*fields, 0)))


def as_bytes(rows: Embeddings) -> memoryview:
    """Return rows, at least one, as they are written; a view where they lie so already."""
    return np.ascontiguousarray(rows, dtype="<f2").data.cast("B")


class FileSegment:
    """Rows in a file behind its header, memory-mapped for reading."""

    def __init__(self, path: Path, embed_dim: int, header: bytes = b"") -> None:
        self.path = path
        self.embed_dim = embed_dim
        self._header = header
        self._row_bytes = 2 * embed_dim

    def append(self, start: int, rows: Embeddings) -> int:
        """Write rows at `start` and fsync; the space must exist before SQLite points at it."""
        data = as_bytes(rows)
        checksum = zlib.crc32(data)
        created = not self.path.exists()
        with open(opened(self.path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0) as file:
            if os.fstat(file.fileno()).st_size < len(self._header):  # new, or a crash while it was
                created = True
                self._write(file.fileno(), memoryview(self._header))
            self._check_length(os.fstat(file.fileno()).st_size, start)
            file.truncate(self._offset(start))
            file.seek(self._offset(start))
            self._write(file.fileno(), data)
            try:
                os.fsync(file.fileno())
            except OSError as error:
                error.filename = str(self.path)
                raise
        if created:
            _sync_directory(self.path.parent)
        return checksum

    def first(self, n_rows: int) -> Embeddings:
        """Return the first rows, without a copy."""
        return self.mapped(n_rows) if n_rows else np.zeros((0, self.embed_dim), np.float16)

    def moved(
        self, n: int, positions: NDArray[np.int64], places: NDArray[np.signedinteger[Any]], n_rows: int
    ) -> Embeddings:
        """Return rows 0..n-1, but at some positions those of other places."""
        if not n:
            return np.zeros((0, self.embed_dim), np.float16)
        mapped = self.mapped(n_rows)
        if len(positions) > _MAX_PATCHES:
            order = np.arange(n)
            order[positions] = places
            return selected(mapped, order)
        if len(positions):  # writes go to private pages, never to the file
            mapped[positions] = mapped[places]
        return mapped[:n]

    def mapped(self, n_rows: int) -> Embeddings:
        """Map the first `n_rows` rows.

        Raises:
            KnowledgeBaseError: the file has been cut, or is another's.
        """
        with open(opened(self.path, os.O_RDONLY), "rb", buffering=0) as file:
            self._check_length(os.fstat(file.fileno()).st_size, n_rows)
            if file.read(len(self._header)) != self._header:
                raise KnowledgeBaseError(
                    f"{self.path}: expected embeddings of {self.embed_dim} numbers of this knowledge base, got "
                    "another header; the file is damaged or from elsewhere, restore it from a backup"
                )
            # Copy-on-write, so that torch takes the array as it is (it warns of read-only ones).
            mapping = mmap.mmap(file.fileno(), self._offset(n_rows), access=mmap.ACCESS_COPY)
        flat = np.frombuffer(mapping, dtype="<f2", offset=len(self._header))
        return flat.reshape(n_rows, self.embed_dim)

    def _write(self, descriptor: int, data: memoryview) -> None:
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError as error:
            error.filename = str(self.path)
            raise

    def _offset(self, n_rows: int) -> int:
        return len(self._header) + n_rows * self._row_bytes

    def _check_length(self, size: int, n_rows: int) -> None:
        if size < self._offset(n_rows):
            there = max(0, size - len(self._header)) // self._row_bytes
            raise KnowledgeBaseError(
                f"{self.path}: expected at least {n_rows} embeddings, got {there}; "
                "the file has been cut, restore it or import the triples again"
            )


class MemorySegment:
    """Rows in memory, with room to grow: appending does not move what a snapshot looks at."""

    def __init__(self, embed_dim: int) -> None:
        self._buffer: Embeddings = np.zeros((0, embed_dim), np.float16)

    def append(self, start: int, rows: Embeddings) -> int:
        """Write rows at `start`."""
        end = start + len(rows)
        if end > len(self._buffer):
            grown = np.zeros((max(end, 2 * len(self._buffer), 64), self._buffer.shape[1]), np.float16)
            grown[:start] = self._buffer[:start]
            self._buffer = grown
        self._buffer[start:end] = rows
        return zlib.crc32(as_bytes(rows))

    def first(self, n_rows: int) -> Embeddings:
        """Return the first rows, without a copy."""
        return self._buffer[:n_rows]

    def moved(
        self, n: int, positions: NDArray[np.int64], places: NDArray[np.signedinteger[Any]], n_rows: int
    ) -> Embeddings:
        """Return rows 0..n-1, but at some positions those of other places."""
        if not len(positions):
            return self._buffer[:n]
        rows = self._buffer[:n].copy()
        rows[positions] = self._buffer[places]
        return rows


def _sync_directory(path: Path) -> None:
    """Make a new file's name durable (POSIX; elsewhere directories cannot be opened)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
