"""The embeddings of a knowledge base: rows of 16-bit floats, only ever appended.

A row counts once SQLite has committed the number of rows. What a crash leaves behind that number is ignored by
readers and overwritten by the next writer.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from io import FileIO
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
REMEDY = "kblam kb verify --repair embeds again what is missing, or restore a backup"


class Segment(Protocol):
    """Rows of embeddings, `[n_rows, embed_dim]` float16."""

    has_grown: bool
    """Whether rows have been written that may never be committed."""

    def append(self, start: int, rows: Embeddings) -> int:
        """Write rows at `start`, the committed number of rows, and make them durable; return their checksum.

        Raises:
            KnowledgeBaseError: the rows before `start` are not there, or are another's; nothing is written.
        """

    def give_back(self, n_rows: int) -> None:
        """Give back the space beyond the committed rows that a change took before it failed."""

    def readable(self, n_rows: int) -> Embeddings:
        """Return as many of the first rows as there are, even of a damaged segment; only checksums tell whose."""

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
        self.has_grown = False
        """Whether rows have been written that may never be committed."""

    def append(self, start: int, rows: Embeddings) -> int:
        """Write rows at `start` and fsync; the space must exist before SQLite points at it.

        Raises:
            KnowledgeBaseError: the rows before `start` are not there, or are another's; nothing is written.
        """
        data = as_bytes(rows)
        checksum = zlib.crc32(data)
        created = not self.path.exists()
        if created and start:
            raise KnowledgeBaseError(f"{self.path}: the embeddings are missing; {REMEDY}")
        with open(opened(self.path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0) as file:
            try:
                if self._is_to_begin(file, start):
                    created = True
                    file.seek(0)
                    self._write(file.fileno(), memoryview(self._header))
                self._check_length(os.fstat(file.fileno()).st_size, start)
                self.has_grown = True
                file.truncate(self._offset(start))
                file.seek(self._offset(start))
                self._write(file.fileno(), data)
                os.fsync(file.fileno())
            except OSError as error:
                error.filename = str(self.path)
                raise
        if created:
            _sync_directory(self.path.parent)
        return checksum

    def give_back(self, n_rows: int) -> None:
        """Cut the file behind its committed rows, if something has been written there; only ever a help."""
        if not self.has_grown:
            return
        self.has_grown = False
        try:
            with open(opened(self.path, os.O_RDWR), "r+b", buffering=0) as file:
                if os.fstat(file.fileno()).st_size > self._offset(n_rows):
                    file.truncate(self._offset(n_rows))
        except OSError:
            return

    def readable(self, n_rows: int) -> Embeddings:
        """Map as many of the first rows as there are, whatever the header says."""
        try:
            with open(opened(self.path, os.O_RDONLY), "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                n_there = max(0, min(n_rows, (size - len(self._header)) // self._row_bytes))
                return self._map(file, n_there) if n_there else np.zeros((0, self.embed_dim), np.float16)
        except (OSError, KnowledgeBaseError):
            return np.zeros((0, self.embed_dim), np.float16)

    def is_own(self) -> bool:
        """Say whether the file begins as one of this knowledge base does, or is not there."""
        try:
            with open(opened(self.path, os.O_RDONLY), "rb", buffering=0) as file:
                return file.read(len(self._header)) == self._header
        except FileNotFoundError:
            return True
        except KnowledgeBaseError:  # a link
            return False

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
            self._check_header(file.read(len(self._header)))
            return self._map(file, n_rows)

    def _map(self, file: FileIO, n_rows: int) -> Embeddings:
        # Copy-on-write, so that torch takes the array as it is (it warns of read-only ones).
        mapping = mmap.mmap(file.fileno(), self._offset(n_rows), access=mmap.ACCESS_COPY)
        flat = np.frombuffer(mapping, dtype="<f2", offset=len(self._header))
        return flat.reshape(n_rows, self.embed_dim)

    def _is_to_begin(self, file: FileIO, start: int) -> bool:
        """Say whether the header is yet to be written: in a new file, or after a crash while it was one."""
        found = file.read(len(self._header))
        if not start and (len(found) < len(self._header) or (found and not any(found))):
            return True
        if len(found) == len(self._header):  # else its length is refused
            self._check_header(found)
        return False

    def _check_header(self, found: bytes) -> None:
        if found != self._header:
            raise KnowledgeBaseError(
                f"{self.path}: expected embeddings of {self.embed_dim} numbers of this knowledge base, got "
                f"another header; the file is damaged or from elsewhere: put the right one there; {REMEDY}"
            )

    def _write(self, descriptor: int, data: memoryview) -> None:
        while data:
            data = data[os.write(descriptor, data) :]

    def _offset(self, n_rows: int) -> int:
        return len(self._header) + n_rows * self._row_bytes

    def _check_length(self, size: int, n_rows: int) -> None:
        if size < self._offset(n_rows):
            there = max(0, size - len(self._header)) // self._row_bytes
            raise KnowledgeBaseError(
                f"{self.path}: expected at least {n_rows} embeddings, got {there}; "
                f"the file has been cut; {REMEDY}"
            )


class MemorySegment:
    """Rows in memory, with room to grow: appending does not move what a snapshot looks at."""

    def __init__(self, embed_dim: int) -> None:
        self.has_grown = False
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

    def give_back(self, n_rows: int) -> None:
        """Keep the room: the next change takes it."""

    def readable(self, n_rows: int) -> Embeddings:
        """Return the first rows."""
        return self.first(n_rows)

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
