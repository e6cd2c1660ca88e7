"""Checking embeddings against the checksums that were noted when they were written."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.knowledge_base.schema import Meta, read_meta
from kblam_engine.knowledge_base.segments import REMEDY, as_bytes
from kblam_engine.knowledge_base.store import Store

_CHUNK = 65_536
_UNIT = 0.01  # how far 16-bit rows may be from length 1


class Checked(NamedTuple):
    """Rows that were written at once."""

    start: int
    n_rows: int
    checksum: int


def bad_embeddings(store: Store, connection: sqlite3.Connection) -> Iterator[str]:
    """Yield a line for everything about the embeddings that is not as it was written.

    Raises:
        FileNotFoundError: a segment is not there.
    """
    meta = read_meta(connection)
    blocks, n_wrong = blocks_of(connection)
    if n_wrong:
        yield f"blocks: {n_wrong} of no segment or without a place"
    for kind, n_rows in rows_of(meta).items():
        try:
            rows = store.segment(kind, meta).first(n_rows) if meta.embed_dim is not None else None
        except KnowledgeBaseError as error:
            yield f"{kind}: {error}"
        else:
            if rows is not None:
                yield from _bad_rows(kind, rows, blocks[kind])


def missing(error: FileNotFoundError) -> KnowledgeBaseError:
    """Return the error for a segment that no compaction has replaced."""
    return KnowledgeBaseError(f"{error.filename}: the embeddings are missing; {REMEDY}")


def rows_of(meta: Meta) -> dict[str, int]:
    """Return the number of committed rows by segment."""
    return {"keys": meta.n_slots, "values": meta.n_value_slots}


def blocks_of(connection: sqlite3.Connection) -> tuple[dict[str, list[Checked]], int]:
    """Return the checksums by segment, in the order of the rows; and how many there are that mean nothing."""
    found: dict[str, list[Checked]] = {"keys": [], "values": []}
    n_wrong = 0
    for segment, *numbers in connection.execute("SELECT segment, start, n_rows, checksum FROM blocks ORDER BY start"):
        block = Checked(*numbers)
        if segment in found and all(type(number) is int for number in block) and block.start >= 0 < block.n_rows:
            found[segment].append(block)
        else:
            n_wrong += 1
    return found, n_wrong


def sound_rows(rows: Embeddings, n_rows: int, blocks: Sequence[Checked]) -> NDArray[np.bool_]:
    """Say which of the first `n_rows` rows are as they were written, by checksum and length, `[n_rows]`."""
    sound = np.zeros(n_rows, bool)
    for start, n, checksum in blocks:
        end = start + n
        if end > min(n_rows, len(rows)):
            continue
        found, unit = _checked(rows[start:end])
        sound[start:end] = unit if found == checksum else False
    return sound


def are_unit(rows: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Say which rows have length 1, as far as 16 bits tell."""
    norms = np.linalg.norm(rows.astype(np.float32, copy=False), axis=1)
    unit: NDArray[np.bool_] = np.abs(norms - 1) < _UNIT
    return unit


def _bad_rows(kind: str, rows: Embeddings, blocks: Sequence[Checked]) -> Iterator[str]:
    n_bad, expected = 0, 0
    for start, n, checksum in blocks:
        if start != expected:
            yield f"{kind}: embeddings {expected}..{start} have no checksum; {REMEDY}"
        expected = start + n
        found, unit = _checked(rows[start:expected])
        n_bad += int(np.count_nonzero(~unit))
        if found != checksum:
            yield f"{kind}: embeddings {start}..{expected - 1} are not as they were written; {REMEDY}"
    if expected != len(rows):
        yield f"{kind}: expected checksums of {len(rows)} embeddings, got {expected}; {REMEDY}"
    if n_bad:
        yield f"{kind}: {n_bad} embeddings are not unit vectors; {REMEDY}"


def _checked(rows: Embeddings) -> tuple[int, NDArray[np.bool_]]:
    """Return the checksum of rows, and which have length 1; a part at a time, for there may be many."""
    checksum, unit = 0, np.zeros(len(rows), bool)
    for start in range(0, len(rows), _CHUNK):
        part = np.ascontiguousarray(rows[start : start + _CHUNK])
        checksum = zlib.crc32(as_bytes(part), checksum)
        unit[start : start + len(part)] = are_unit(part)
    return checksum, unit
