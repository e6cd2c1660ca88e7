"""Checking the tables against each other: what one says of a triple, another says as well."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.knowledge_base.contents import digest_text, hash_of, labels_of, times_of
from kblam_engine.knowledge_base.schema import Meta
from kblam_engine.knowledge_base.segment_checks import are_unit
from kblam_engine.knowledge_base.slot_reading import integers
from kblam_engine.knowledge_base.store import ANY_CONTENT, triple_from_row
from kblam_engine.triples import Triple

REPAIRED = "kblam kb verify --repair makes them anew"
_PAGE = 500
_LABELLED_PAGE = 65_536
_MOST = 20  # triples that are named one by one
# Each counts what must not be; the numbers of a record are put in by name.
_MUST_NOT_BE = {
    "triples: {} without a name": "triples WHERE name_id NOT IN (SELECT id FROM names)",
    "triples: {} without a property": "triples WHERE property_id NOT IN (SELECT id FROM properties)",
    "triples: {} in an unknown namespace": "triples WHERE namespace NOT IN (SELECT id FROM labels UNION SELECT 0)",
    "labels: {} of no triple": "labelled WHERE triple_id NOT IN (SELECT id FROM triples)",
    "labels: {} without a text": "labelled WHERE label_id NOT IN (SELECT id FROM labels)",
    "labels: {} of no known kind": "labels WHERE kind NOT IN ('namespace', 'tag', 'document', 'uri')",
    "times: {} of no triple": "validity WHERE triple_id NOT IN (SELECT id FROM triples)",
    "triples: {} that share an embedding": (
        "(SELECT slot FROM triples GROUP BY slot HAVING sum(removed IS NULL) > 1 "
        "OR min(name_id) != max(name_id) OR min(property_id) != max(property_id))"
    ),
    "triples: {} other values that share an embedding": (
        "(SELECT value_slot FROM triples WHERE value_slot IS NOT NULL GROUP BY value_slot HAVING min(value) != max(value))"
    ),
    "triples: {} without an embedding": (
        "triples WHERE typeof(slot) != 'integer' OR slot NOT BETWEEN 0 AND :n_slots - 1"
    ),
    "triples: {} whose value has an embedding that is not there": (
        "triples WHERE value_slot IS NOT NULL "
        "AND (typeof(value_slot) != 'integer' OR value_slot NOT BETWEEN 0 AND :n_value_slots - 1)"
    ),
    "triples: {} removed before they were added": "triples WHERE removed < added",
    "triples: {} added or removed by a revision that never was": (
        "triples WHERE typeof(added) != 'integer' OR added NOT BETWEEN 1 AND :revision "
        "OR removed NOT BETWEEN 1 AND :revision OR typeof(removed) NOT IN ('integer', 'null')"
    ),
    "triples: {} that the last compaction should have dropped": "triples WHERE removed <= :oldest_revision",
    "triples: {} ids beyond the last one that was given out": (
        "triples WHERE id > (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'triples')"
    ),
}


def inconsistent(connection: sqlite3.Connection, meta: Meta) -> Iterator[str]:
    """Yield a line for every kind of row that contradicts another table or the record."""
    numbers = {"n_slots": meta.n_slots, "n_value_slots": meta.n_value_slots, "revision": meta.revision}
    numbers["oldest_revision"] = meta.oldest_revision
    for line, what in _MUST_NOT_BE.items():
        count = connection.execute(f"SELECT count(*) FROM {what}", numbers).fetchone()[0]
        if count:
            yield line.format(count)
    for table in ("names", "properties"):  # their ids are dense from 1
        n_lost = connection.execute(f"SELECT coalesce(max(id), 0) - count(*) FROM {table}").fetchone()[0]
        if n_lost:
            yield f"{table}: {n_lost} that are no longer there"
    n_live, n_pairs = connection.execute(
        "SELECT (SELECT count(*) FROM triples WHERE removed IS NULL), "
        "(SELECT count(*) FROM (SELECT DISTINCT namespace, name_id, property_id FROM triples WHERE removed IS NULL))"
    ).fetchone()
    if n_live != meta.n_triples:
        yield f"triples: expected {meta.n_triples}, got {n_live}"
    if not meta.multi and n_pairs != n_live:
        yield f"triples: {n_live - n_pairs} second values of a name and property, though multi is off"
    if n_live and meta.embed_dim is None:
        yield "record: no sentence encoder, though there are triples"


def bad_properties(connection: sqlite3.Connection, meta: Meta) -> list[int]:
    """Return the ids of the properties whose embedding is none of the encoder's: of another size, or not of length 1."""
    if meta.embed_dim is None:
        return []
    bad = []
    for row_id, embedding in connection.execute("SELECT id, embedding FROM properties ORDER BY id"):
        sized = type(embedding) is bytes and len(embedding) == 4 * meta.embed_dim
        if not sized or not are_unit(np.frombuffer(embedding, "<f4")[None])[0]:
            bad.append(row_id)
    return bad


def bad_revisions(connection: sqlite3.Connection, meta: Meta) -> Iterator[str]:
    """Compare what is on record of each revision with what the triples say of it, as far back as they go."""
    counts, digests, live = _by_revision(connection)
    digest = digest_text(live)
    if digest != meta.digest:
        yield f"contents: expected digest {meta.digest}, got {digest}"
    rows = connection.execute(
        "SELECT revision, added, removed, n_triples, digest FROM revisions ORDER BY revision"
    ).fetchall()
    if any(type(row[0]) is not int for row in rows):
        yield "revisions: some on record have no number"
        return
    newest = rows[-1][0] if rows else None
    if (newest or 0) != meta.revision:
        yield f"revisions: expected {meta.revision}, the last on record is {newest}"
    # Without a count: brought up to date from the first format, whose revisions were not on record.
    begun = not rows or rows[0][0] == 1 or rows[0][1] is None
    if rows and (not begun or rows[-1][0] - rows[0][0] != len(rows) - 1):
        yield "revisions: some are not on record"
    if rows and newest == meta.revision and tuple(rows[-1][3:]) != (meta.n_triples, meta.digest):
        yield f"revisions: what is on record of {newest} is not what the knowledge base is"
    earlier: dict[int, tuple[Any, ...]] = {0: (0, 0, 0, 0, "0"), **{row[0]: row for row in rows}}
    wrong = [
        row[0]
        for row in rows
        if row[0] > meta.oldest_revision
        and row[1] is not None
        and not _is_as_recorded(row, earlier.get(row[0] - 1), counts[row[0]], digests[row[0]])
    ]
    if wrong:
        yield f"revisions: {len(wrong)} whose record is not what the triples say, the first is {wrong[0]}"


def _is_as_recorded(row: tuple[Any, ...], before: tuple[Any, ...] | None, counts: list[int], digest: int) -> bool:
    """Compare a row of the record, and the row before it, with the triples that a revision added and removed."""
    _, added, removed, n_triples, digest_after = row
    if [added, removed] != counts:
        return False
    if before is None:
        return True
    try:
        grown: int = n_triples - before[3]
        changed = int(digest_after, 16) - int(before[4], 16)
    except (TypeError, ValueError):
        return False
    return grown == added - removed and digest_text(changed) == digest_text(digest)


def _by_revision(connection: sqlite3.Connection) -> tuple[dict[int, list[int]], dict[int, int], int]:
    """Return how many triples each revision added and removed, by how much it changed the digest, and the digest now."""
    counts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for place, column in enumerate(("added", "removed")):
        for revision, n in connection.execute(f"SELECT {column}, count(*) FROM triples GROUP BY {column}"):
            counts[revision][place] = n
    digests: dict[int, int] = defaultdict(int)
    live = 0
    for added, removed, *content in connection.execute(
        "SELECT t.added, t.removed, n.text, p.text, t.value, t.metadata, t.context FROM triples t "
        "JOIN names n ON n.id = t.name_id JOIN properties p ON p.id = t.property_id"
    ):
        hashed = hash_of(*content)
        digests[added] += hashed
        if removed is None:
            live += hashed
        else:
            digests[removed] -= hashed
    return counts, digests, live


def unreadable(connection: sqlite3.Connection, label: str) -> Iterator[str]:
    """Find the triples that cannot be read, and those that are labelled otherwise than they say; removed ones too."""
    n_found, mislabelled = 0, list[int]()
    for triples, failed, ids in _read(connection, label):
        for row_id, error in failed:
            n_found += 1
            if n_found <= _MOST:
                yield f"triples: {row_id} cannot be read: {error}"
        mislabelled += _mislabelled(connection, triples, ids)
    if n_found > _MOST:
        yield f"triples: more than {_MOST} that cannot be read"
    if mislabelled:
        yield (
            f"labels: {len(mislabelled)} triples whose namespace, tags, sources or times are not listed as they say, the "
            f"first has id {mislabelled[0]}; {REPAIRED}"
        )


def mislabelled(connection: sqlite3.Connection, label: str) -> list[int]:
    """Return the ids of the triples whose namespace, tags, sources or times are not listed as they say."""
    found = []
    for triples, _, ids in _read(connection, label):
        found += _mislabelled(connection, triples, ids)
    return found


_Read = list[tuple[int, Triple, int]]  # id, triple, number of the namespace
_Failed = list[tuple[int, KnowledgeBaseError]]


def _read(connection: sqlite3.Connection, label: str) -> Iterator[tuple[_Read, _Failed, Sequence[int]]]:
    """Yield the triples that can be read and those that cannot, some thousands of ids at a time."""
    ids = integers(connection.execute("SELECT id FROM triples ORDER BY id"))[:, 0].tolist()
    for start in range(0, len(ids), _LABELLED_PAGE):
        chosen = ids[start : start + _LABELLED_PAGE]
        triples: _Read = []
        failed: _Failed = []
        for at in range(0, len(chosen), _PAGE):
            page = chosen[at : at + _PAGE]
            try:
                triples += _triples(connection, label, page)
            except (KnowledgeBaseError, sqlite3.OperationalError):  # a text that is none stops a whole SELECT
                for row_id in page:
                    try:
                        triples += _triples(connection, label, [row_id])
                    except KnowledgeBaseError as error:
                        failed.append((row_id, error))
                    except sqlite3.OperationalError as error:
                        reason = str(error).partition(" with text ")[0]
                        failed.append((row_id, KnowledgeBaseError(f"{label}: {reason}")))
        yield triples, failed, chosen


def _triples(connection: sqlite3.Connection, label: str, ids: Sequence[int]) -> _Read:
    marks = ",".join("?" * len(ids))
    # All at once: a statement that an error stops halfway would hold its connection to this revision.
    rows = connection.execute(f"SELECT t.namespace, {ANY_CONTENT} WHERE t.id IN ({marks})", ids).fetchall()
    return [(row[1], triple_from_row(label, row[1:]), row[0]) for row in rows]


def _mislabelled(connection: sqlite3.Connection, triples: _Read, ids: Sequence[int]) -> list[int]:
    """Return the ids of those triples that are labelled otherwise than they say; `ids` are ascending."""
    bounds = ids[0], ids[-1]
    listed: dict[int, set[tuple[str, str]]] = defaultdict(set)
    # By label: the table has no index by triple, and needs none but here.
    for row_id, *text in connection.execute(
        "SELECT l.triple_id, b.kind, b.text FROM labels b CROSS JOIN labelled l "
        "ON l.label_id = b.id AND l.triple_id BETWEEN ? AND ?",
        bounds,
    ):
        listed[row_id].add((text[0], text[1]))
    query = "SELECT triple_id, valid_from, valid_to FROM validity WHERE triple_id BETWEEN ? AND ?"
    times = {row[0]: row[1:] for row in connection.execute(query, bounds)}
    numbers = dict(_namespaces(connection))
    return [
        row_id
        for row_id, triple, namespace in triples
        if listed.get(row_id, set()) != set(labels_of(triple))
        or times.get(row_id) != times_of(triple)
        or numbers.get(namespace) != triple.namespace
    ]


def _namespaces(connection: sqlite3.Connection) -> Iterable[tuple[int, str]]:
    yield 0, ""
    yield from connection.execute("SELECT id, text FROM labels WHERE kind = 'namespace'")
