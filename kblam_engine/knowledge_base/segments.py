"""The embeddings of a knowledge base: rows of 16-bit floats, only ever appended.

A row counts once SQLite has committed the number of rows. What a crash leaves behind that number is ignored by
readers and overwritten by the next writer.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import KnowledgeBaseError

Embeddings = NDArray[np.float16]
# Above this many displaced rows a gathered copy is cheaper than a mapping with changed pages.
_MAX_PATCHES = 4096


class Segment(Protocol):
    """Rows of embeddings, `[n_rows, embed_dim]` float16."""

    def append(self, start: int, rows: Embeddings) -> None:
        """Write rows at `start`, the committed number of rows, and make them durable."""

    def rows(self, positions: NDArray[np.int64], n_rows: int) -> Embeddings:
        """Return the rows at `positions`, all below the committed `n_rows`; the caller must not write to them."""


class FileSegment:
    """Rows in a file, memory-mapped for reading."""

    def __init__(self, path: Path, embed_dim: int) -> None:
        self.path = path
        self.embed_dim = embed_dim
        self._row_bytes = 2 * embed_dim

    def append(self, start: int, rows: Embeddings) -> None:
        """Write rows at `start` and fsync; the space must exist before SQLite points at it."""
        created = not self.path.exists()
        with open(self.path, "wb" if created else "r+b", buffering=0) as file:
            self._check_length(os.fstat(file.fileno()).st_size, start)
            file.truncate(start * self._row_bytes)
            file.seek(start * self._row_bytes)
            data = memoryview(rows.astype("<f2").tobytes())
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError as error:
                error.filename = str(self.path)
                raise
        if created:
            _sync_directory(self.path.parent)

    def rows(self, positions: NDArray[np.int64], n_rows: int) -> Embeddings:
        """Return the rows at `positions`, without a copy where they are nearly 0..n-1."""
        if not len(positions):
            return np.zeros((0, self.embed_dim), np.float16)
        mapped = self._map(n_rows)
        displaced = np.flatnonzero(positions != np.arange(len(positions)))
        if len(displaced) > _MAX_PATCHES:
            return mapped[positions]
        if len(displaced):  # writes go to private pages, never to the file
            mapped[displaced] = mapped[positions[displaced]]
        return mapped[: len(positions)]

    def _map(self, n_rows: int) -> Embeddings:
        with open(self.path, "rb") as file:
            self._check_length(os.fstat(file.fileno()).st_size, n_rows)
            # Copy-on-write, so that torch takes the array as it is (it warns of read-only ones).
            mapping = mmap.mmap(file.fileno(), n_rows * self._row_bytes, access=mmap.ACCESS_COPY)
        return np.frombuffer(mapping, dtype="<f2").reshape(n_rows, self.embed_dim)

    def _check_length(self, size: int, n_rows: int) -> None:
        if size < n_rows * self._row_bytes:
            raise KnowledgeBaseError(
                f"{self.path}: expected at least {n_rows} embeddings, got {size // self._row_bytes}; "
                "the file has been cut, restore it or import the triples again"
            )


class MemorySegment:
    """Rows in memory, with room to grow: appending does not move what a snapshot looks at."""

    def __init__(self, embed_dim: int) -> None:
        self._buffer: Embeddings = np.zeros((0, embed_dim), np.float16)

    def append(self, start: int, rows: Embeddings) -> None:
        """Write rows at `start`."""
        end = start + len(rows)
        if end > len(self._buffer):
            grown = np.zeros((max(end, 2 * len(self._buffer), 64), self._buffer.shape[1]), np.float16)
            grown[:start] = self._buffer[:start]
            self._buffer = grown
        self._buffer[start:end] = rows

    def rows(self, positions: NDArray[np.int64], n_rows: int) -> Embeddings:
        """Return the rows at `positions`, without a copy where they are 0..n-1."""
        buffer = self._buffer
        if np.array_equal(positions, np.arange(len(positions))):
            return buffer[: len(positions)]
        return buffer[positions]


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
