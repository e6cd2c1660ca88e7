"""Full-text search: the words of names, properties and values, indexed by SQLite in the transaction that adds them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base.conditions import Condition

_RANKED = 2_000
"""Matches that are ordered by relevance: the first of them, where a word is in more triples than anyone reads."""
_BETTER = ("name", "name property")
"""Columns that hold every word of the matches to look at first, where not all are ordered."""
_WEIGHTS = "4.0, 2.0, 1.0"  # of a word in the name, the property, the value
MAX_WORDS = 64
_MANY = 8_192
_GATHERED = 64 * 2**20
"""Bytes of words that SQLite gathers before it writes them: 1 MB, its own choice, means much merging afterwards."""


def index_new(connection: sqlite3.Connection, last_triple: int, last_name: int, n_triples: int) -> None:
    """Index the triples and names above these ids, about `n_triples`, inside the caller's transaction."""
    if n_triples >= _MANY:
        _gather_more(connection)
    connection.execute(
        "INSERT INTO words (rowid, name, property, value) SELECT id, name, property, value FROM texts WHERE id > ?",
        (last_triple,),
    )
    connection.execute(
        "INSERT INTO name_words (rowid, text) SELECT id, text FROM names WHERE id > ?", (last_name,)
    )


def index_all(connection: sqlite3.Connection) -> None:
    """Build the index anew, inside the caller's transaction."""
    _gather_more(connection)
    for table in ("words", "name_words"):
        connection.execute(f"INSERT INTO {table} ({table}) VALUES ('rebuild')")


def _gather_more(connection: sqlite3.Connection) -> None:
    for table in ("words", "name_words"):
        connection.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('hashsize', {_GATHERED})")


def index_is_sound(connection: sqlite3.Connection) -> bool:
    """Say whether the index agrees with the texts, inside a write transaction."""
    try:
        for table in ("words", "name_words"):
            connection.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)")
    except sqlite3.DatabaseError:
        return False
    return True


def query_of(words: Iterable[str]) -> str:
    """Return the query that every word, or phrase of several, has to match; `word*` matches what begins so.

    Raises:
        ConfigurationError: there is no word, or more than `MAX_WORDS`.
    """
    phrases = []
    for word in words:
        text = re.sub(r"[\W_]+", " ", word).strip()
        if text:
            phrases.append(f'"{text}"' + (" *" if word.rstrip().endswith("*") else ""))
    if not 0 < len(phrases) <= MAX_WORDS:
        raise ConfigurationError(f"expected 1 to {MAX_WORDS} words to look for, got {len(phrases)}")
    return " ".join(phrases)


def split(text: str) -> list[str]:
    """Return the words of a text, and what stands in quotation marks as one phrase.

    Raises:
        ConfigurationError: it is no text.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"expected a text to look for, got {text!r}")
    return [quoted or word for quoted, word in re.findall(r'"([^"]+)"|(\S+)', text)]


def matching_triples(
    connection: sqlite3.Connection, query: str, condition: Condition, k: int
) -> list[tuple[int, float]]:
    """Return ids and relevance of the `k` best triples `t` that match a query and a condition, best first.

    Of more than `_RANKED` or `k` matches, as many are ordered, and as many of those that match in the name, and in name and
    property: the length of every text would have to be counted for more.
    """
    most = max(k, _RANKED)
    found = dict(_ranked(connection, query, condition, most))
    if len(found) == most:
        for columns in _BETTER:
            better = dict(_ranked(connection, f"{{{columns}}} : ({query})", condition, most))
            found.update({row_id: min(rank, found.get(row_id, rank)) for row_id, rank in better.items()})
            if len(better) >= k:
                break
    best = sorted(found.items(), key=lambda item: (item[1], item[0]))[:k]
    return [(row_id, -rank) for row_id, rank in best]


def _ranked(
    connection: sqlite3.Connection, query: str, condition: Condition, most: int
) -> Iterator[tuple[int, float]]:
    where, parameters = condition
    return connection.execute(
        f"SELECT t.id, bm25(words, {_WEIGHTS}) FROM words CROSS JOIN triples t ON t.id = words.rowid "
        f"WHERE words MATCH ? AND {where} LIMIT ?",
        (query, *parameters, most),
    )


def matching_names(connection: sqlite3.Connection, query: str, limit: int) -> list[int]:
    """Return the ids of the names that match a query, those with the fewest other words first."""
    rows = connection.execute(
        f"SELECT id FROM (SELECT rowid AS id, bm25(name_words) AS rank FROM name_words WHERE name_words MATCH ? "
        f"LIMIT {_RANKED}) ORDER BY rank, id LIMIT ?",
        (query, limit),
    )
    return [row[0] for row in rows]


def names_with(connection: sqlite3.Connection, query: str, at_most: int) -> list[int]:
    """Return the ids of the names that match a query, in no order; none if there are more than `at_most`."""
    rows = connection.execute(
        "SELECT rowid FROM name_words WHERE name_words MATCH ? LIMIT ?", (query, at_most + 1)
    ).fetchall()
    return [row[0] for row in rows] if len(rows) <= at_most else []
