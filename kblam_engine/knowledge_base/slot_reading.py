"""Reading which triple sits in which slot: what changed since a revision, or an earlier revision as it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base.connections import page_cache
from kblam_engine.knowledge_base.schema import Meta, damaged, read_meta
from kblam_engine.knowledge_base.slots import Changes, SlotTable
from kblam_engine.knowledge_base.store import Store

ONCE_KB = 1_024
"""Memory for pages while everything is read once."""
_FORESEEN = 20_000_000
"""Rows that memory is set aside for at most, whatever a damaged record says."""
_BLOCK = 8_192
_LEAST = -(2**63)  # a damaged slot may be below 0, and is to be found


def read_changes(store: Store, since: SlotTable) -> tuple[SlotTable, Changes]:
    """Read what was added and removed after a table, and the table it applies to: an empty one for all there is."""
    with store.reading() as connection:
        meta = read_meta(connection)
        if since.generation != meta.generation:  # a compaction has moved every slot
            since = SlotTable.empty(meta.generation)
        # With everything asked for, the index on slots has it all; otherwise the ids are the shorter way.
        everything = not since.last_id
        select = "SELECT t.slot, t.id, t.name_id, t.property_id FROM triples t WHERE t.removed IS NULL AND "
        if everything:
            with page_cache(connection, ONCE_KB):
                added = integers(connection.execute(f"{select} t.slot >= ?", (_LEAST,)), 4, about=meta.n_triples)
        else:
            added = integers(connection.execute(f"{select} t.id > ?", (since.last_id,)), 4)
        removed = np.zeros((0, 2), np.int64)
        if not everything:  # from nothing there is nothing to remove
            query = "SELECT slot, id FROM triples WHERE removed > ? AND id <= ?"
            removed = integers(connection.execute(query, (since.revision, since.last_id)), 2)
        newest = connection.execute("SELECT coalesce(max(id), 0) FROM triples").fetchone()[0]
        _check_rows(connection, meta, added, removed)
    return since, Changes(meta, newest, removed, added)


def read_past(store: Store, revision: int) -> tuple[SlotTable, Meta]:
    """Read the table and the record as they were at an earlier revision.

    Raises:
        ConfigurationError: there was none, or a compaction has dropped it.
    """
    with store.reading() as connection:
        meta = read_meta(connection)
        check_revision(meta, revision)
        query = "SELECT slot, id, name_id, property_id FROM triples WHERE added <= ?1 AND (removed IS NULL OR removed > ?1)"
        with page_cache(connection, ONCE_KB):
            added = integers(connection.execute(query, (revision,)), 4)
        row = connection.execute("SELECT digest FROM revisions WHERE revision = ?", (revision,)).fetchone()
        _check_rows(connection, meta, added, np.zeros((0, 2), np.int64))
    digest = row[0] if row and row[0] else ("0" if revision == 0 else "")
    past = replace(meta, revision=revision, n_triples=len(added), digest=digest)
    last_id = int(added[:, 1].max()) if len(added) else 0
    changes = Changes(past, last_id, np.zeros((0, 2), np.int64), added)
    return SlotTable.empty(meta.generation).changed(changes), past


def check_revision(meta: Meta, revision: int) -> None:
    """Refuse a revision that is not there, or no longer.

    Raises:
        ConfigurationError: it is not.
    """
    check_keep_from(meta, revision)
    if revision < meta.oldest_revision:
        raise ConfigurationError(
            f"expected a revision from {meta.oldest_revision} on, got {revision}: what was removed earlier has been "
            "dropped by a compaction"
        )


def check_keep_from(meta: Meta, revision: int) -> None:
    """Refuse a number that is no revision's; one that is no longer there will do.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(revision, bool) or not isinstance(revision, int) or not 0 <= revision <= meta.revision:
        raise ConfigurationError(f"expected a revision in 0..{meta.revision}, got {revision!r}")


def integers(rows: sqlite3.Cursor, width: int = 1, about: int = 0) -> NDArray[np.int64]:
    """Return all rows, `[n, width]`; nothing is copied where there are no more than `about`.

    Raises:
        KnowledgeBaseError: something in them is no whole number.
    """
    found, n = np.empty((min(max(about, 0), _FORESEEN), width), np.int64), 0
    for block in blocks_of_integers(rows, width):
        if n + len(block) > len(found):
            more = np.empty((max(n + len(block), 2 * n), width), np.int64)
            more[:n] = found[:n]
            found = more
        found[n : n + len(block)] = block
        n += len(block)
    return found[:n]


def blocks_of_integers(rows: sqlite3.Cursor, width: int) -> Iterator[NDArray[np.int64]]:
    """Yield some thousands of rows at a time, `[n, width]`: what is read only once never lies in memory as a whole.

    Raises:
        KnowledgeBaseError: something in them is no whole number.
    """
    while block := rows.fetchmany(_BLOCK):
        try:
            yield np.fromiter(chain.from_iterable(block), np.int64, width * len(block)).reshape(-1, width)
        except (TypeError, ValueError, OverflowError) as error:
            raise damaged(rows.connection, f"expected whole numbers in a row, got another kind ({error})") from error


def _check_rows(
    connection: sqlite3.Connection, meta: Meta, added: NDArray[np.int64], removed: NDArray[np.int64]
) -> None:
    """Refuse places and ids that no array has, before any is made or written.

    Raises:
        KnowledgeBaseError: there is one.
    """
    # Every slot was new with some triple, whose ids are counted here and never used again.
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'triples'").fetchone()
    n_ever = row[0] if row else 0
    if type(n_ever) is not int or meta.n_slots > n_ever:
        raise damaged(connection, f"its record counts {meta.n_slots} embeddings, though there were {n_ever} triples")
    last_name, last_property = connection.execute(
        "SELECT (SELECT coalesce(max(id), 0) FROM names), (SELECT coalesce(max(id), 0) FROM properties)"
    ).fetchone()
    if type(last_name) is not int or type(last_property) is not int:
        raise damaged(connection, "a name or property has no number")
    limits = {"slot": (0, meta.n_slots - 1), "id": (1, n_ever), "name": (1, last_name), "property": (1, last_property)}
    for rows in (added, removed):
        for column, (what, (least, most)) in zip(rows.T, limits.items(), strict=False):
            if len(column) and not least <= column.min() <= column.max() <= most:
                wrong = rows[(column < least) | (column > most)][0]
                raise damaged(connection, f"the triple with id {wrong[1]} has a {what} that is not in {least}..{most}")
