"""Writing much at once: rows of a table, and blocks of embeddings while SQLite is busy with the rest."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeVar

from kblam_engine.knowledge_base.connections import page_cache
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.knowledge_base.segments import Segment

_T = TypeVar("_T")
_PARAMETERS = 900  # in one statement: below every SQLite's limit
_CACHE_KB = 262_144
LARGE = 8_192
"""Triples from which on a change is worth the preparations."""


class Block(NamedTuple):
    """Rows of embeddings on their way to a segment."""

    segment: Segment
    kind: str
    start: int
    rows: Embeddings


Written = list[tuple[str, int, int, int]]
"""Kind, start, number of rows and checksum of what is durable."""


class Begin(Protocol):
    """Begins a call."""

    def __call__(self, call: Callable[[], _T], /) -> Callable[[], _T]:
        """Begin a call without arguments; return what waits for its result."""
        ...


def insert_many(connection: sqlite3.Connection, table: str, rows: Sequence[Sequence[Any]], constants: str = "") -> None:
    """Insert rows into "table (columns)", many in one statement: several times as fast as one in each.

    Args:
        connection: in a transaction.
        table: its name and columns.
        rows: all of one width.
        constants: SQL that follows each row's values.
    """
    if not rows:
        return
    width = len(rows[0])
    one = f"({','.join('?' * width)}{',' if constants else ''}{constants})"
    page = max(1, _PARAMETERS // width)
    for start in range(0, len(rows), page):
        chunk = rows[start : start + page]
        statement = f"INSERT INTO {table} VALUES {','.join([one] * len(chunk))}"
        connection.execute(statement, list(chain.from_iterable(chunk)))


@contextmanager
def side_by_side(in_threads: bool) -> Iterator[Begin]:
    """Lend the body a way to begin calls, in threads or at once; what that returns waits for the result."""
    if in_threads:
        with ThreadPoolExecutor(2, "kblam-import") as pool:
            yield lambda call: pool.submit(call).result
    else:
        yield _done


def roomy(connection: sqlite3.Connection, n_triples: int) -> AbstractContextManager[None]:
    """Lend the connection more memory for a large change."""
    return page_cache(connection, _CACHE_KB) if n_triples >= LARGE else nullcontext()


def write_blocks(blocks: Iterable[Block]) -> Written:
    """Make blocks durable."""
    return [(b.kind, b.start, len(b.rows), b.segment.append(b.start, b.rows)) for b in blocks]


def _done(call: Callable[[], _T]) -> Callable[[], _T]:
    result = call()
    return lambda: result
