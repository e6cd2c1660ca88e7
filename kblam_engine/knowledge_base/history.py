"""Earlier revisions: what was there when, and what one has that another has not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kblam_engine.knowledge_base.conditions import Condition
from kblam_engine.knowledge_base.records import KBDiff, Revision, TripleVersion, moment
from kblam_engine.knowledge_base.schema import damaged, read_meta
from kblam_engine.knowledge_base.slot_reading import check_revision
from kblam_engine.knowledge_base.store import CONTENT, Store, triple_from_row
from kblam_engine.triples import Triple

_SPAN = "t.added, t.removed, a.time, r.time"
_TIMES = "LEFT JOIN revisions a ON a.revision = t.added LEFT JOIN revisions r ON r.revision = t.removed"

# Ids grow with revisions: from the end it is as far to this one as there are triples added since.
_LAST_BEFORE = "coalesce((SELECT id FROM triples WHERE added <= ? ORDER BY id DESC LIMIT 1), 0)"


def history(store: Store, condition: Condition) -> list[TripleVersion]:
    """Return every version of the triples to which a condition applies, oldest first."""
    where, parameters = condition
    # Two statements, because an index covers either the triples that are there or those that were.
    each = f"SELECT {_SPAN}, {CONTENT} {_TIMES} WHERE {where} AND t.removed IS"
    with store.connection() as connection:
        rows = connection.execute(f"{each} NULL UNION ALL {each} NOT NULL", parameters * 2).fetchall()
        for row in rows:
            if type(row[0]) is not int or type(row[1]) not in (int, type(None)):
                raise damaged(connection, f"the triple with id {row[4]} has been added or removed by no revision")
    rows.sort(key=lambda row: (row[0], row[4]))
    return [
        TripleVersion(
            content[0], triple_from_row(store.label, content), added, removed, moment(added_at), moment(removed_at)
        )
        for added, removed, added_at, removed_at, *content in rows
    ]


def known_at(revision: int, versions: Sequence[TripleVersion]) -> list[TripleVersion]:
    """Return versions as they were known at a revision: those there were, and none removed later."""
    return [
        version if version.removed is None or version.removed <= revision else replace(version, removed=None, removed_at=None)
        for version in versions
        if version.added <= revision
    ]


def revisions(store: Store, last: int | None) -> list[Revision]:
    """Return the revisions that are on record, newest first, at most the `last` ones."""
    with store.connection() as connection:
        rows = connection.execute(
            "SELECT revision, time, coalesce(action, ''), coalesce(added, 0), coalesce(removed, 0), n_triples "
            "FROM revisions ORDER BY revision DESC LIMIT ?",
            (-1 if last is None else last,),
        ).fetchall()
        for number, _, action, *counts in rows:
            if type(action) is not str or any(type(count) is not int for count in counts):
                raise damaged(connection, f"what is on record of revision {number} is no text and three numbers")
    return [Revision(number, moment(time), *rest) for number, time, *rest in rows]


def diff(store: Store, before: int, after: int, condition: Condition) -> KBDiff:
    """Return what revision `after` has that `before` has not, and the other way round, where a condition applies.

    Raises:
        ConfigurationError: one of them is not there, or no longer.
    """
    where, parameters = condition
    old, new = sorted((before, after))
    with store.reading() as connection:
        meta = read_meta(connection)
        for revision in (before, after):
            check_revision(meta, revision)
        came = connection.execute(
            f"SELECT {CONTENT} WHERE t.id > {_LAST_BEFORE} AND t.added > ? AND t.added <= ? "
            f"AND (t.removed IS NULL OR t.removed > ?) AND {where} ORDER BY t.id",
            (old, old, new, new, *parameters),
        ).fetchall()
        went = connection.execute(
            f"SELECT {CONTENT} WHERE t.removed > ? AND t.removed <= ? AND t.added <= ? AND {where} ORDER BY t.id",
            (old, new, old, *parameters),
        ).fetchall()
    added, removed = _without(store, came, went), _without(store, went, came)
    return KBDiff(added, removed) if before <= after else KBDiff(removed, added)


def _without(store: Store, rows: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> list[Triple]:
    """Return the triples of `rows` without those that `others` has as well: removed, and brought back."""
    left = Counter(row[1:] for row in others)  # an id comes back under another
    triples = []
    for row in rows:
        if left[row[1:]]:
            left[row[1:]] -= 1
        else:
            triples.append(triple_from_row(store.label, row))
    return triples
