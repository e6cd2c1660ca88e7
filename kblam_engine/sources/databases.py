"""SQLite databases, by table or by query; what a foreign key points to is read by its name."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from kblam_engine.errors import ConfigurationError
from kblam_engine.sources.records import RecordSource, long_columns
from kblam_engine.sources.values import name_key
from kblam_engine.triples import Triple

_OF_KNOWLEDGE_BASES = {"id", "name_id", "property_id", "value", "slot", "added", "removed"}
"""Columns of the table `triples` in every format of a knowledge base of this package."""
NO_SOURCE = (
    "expected a source of triples, got a knowledge base; kblam kb export TRIPLES.jsonl --kb FOLDER writes its triples to a "
    "file that can be imported, kblam kb backup copies all of it"
)


class SQLiteSource(RecordSource):
    """A SQLite database, opened for reading only. The `line` of a triple is the number of the record, from 1.

    Without `table` and `query` every table is read whose records have a name. The tables of a knowledge base of this
    package are refused, since they are its own numbers and not its triples; a query of them is not. A foreign key's value is the name of
    the record it points to. Key columns ("id") are left out where another column names the record.

    Args:
        path: the file, or `sqlite:///relative/path` (four slashes: absolute) with `?table=` or `?query=`.
        table: read this table only.
        query: read what this SELECT returns, long or wide, in place of tables.
        options: `name_column`, `properties`, `uri`, `max_mb` of every source of records.
    """

    extractor = "sqlite"

    def __init__(
        self,
        path: Any,
        *,
        table: str | None = None,
        query: str | None = None,
        uri: str | None = None,
        max_mb: float = 4000,
        **options: Any,
    ) -> None:
        if str(path).startswith("sqlite:"):
            parts = urlsplit(str(path))
            path, asked = unquote(parts.path)[1:], dict(parse_qsl(parts.query))
            unknown = set(asked) - {"table", "query"}
            if unknown or parts.netloc:
                raise ConfigurationError("expected sqlite:///path, then nothing or ?table= or ?query=")
            table, query = asked.get("table", table), asked.get("query", query)
        if table and query:
            raise ConfigurationError("expected a table or a query, got both")
        super().__init__(path, uri=uri, max_mb=max_mb, **options)
        self.table = table
        self.query = query

    def _read(self) -> Iterator[Triple]:
        address = f"{self.path.absolute().as_uri()}?mode=ro"
        try:
            connection = sqlite3.connect(address, uri=True)
            try:
                connection.execute("PRAGMA query_only = ON")
                connection.execute("PRAGMA trusted_schema = OFF")
                if self.query is not None:
                    yield from self._rows(connection, self.query, {})
                else:
                    yield from self._tables(connection)
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise self.error(0, f"SQLite: {error}") from None

    def _tables(self, connection: sqlite3.Connection) -> Iterator[Triple]:
        found = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY rowid"
        tables = [name for (name,) in connection.execute(found) if not name.startswith("sqlite_")]
        if {"meta", "names", "properties", "triples"} <= set(tables) and _OF_KNOWLEDGE_BASES <= _columns(connection, "triples"):
            raise self.error(0, NO_SOURCE)
        if self.table is not None and self.table not in tables:
            raise self.error(0, f"no table {self.table!r}; there are {', '.join(tables) or 'none'}")
        for table in [self.table] if self.table else tables:
            name = self._name_of(connection, table)
            if name is None and self.table is None:
                self.skipped[f"table {table} without a column that names its records"] += 1
                continue
            keys = self._keys(connection, table)
            yield from self._rows(connection, f"SELECT * FROM {_quoted(table)}", keys, table, name)

    def _rows(
        self,
        connection: sqlite3.Connection,
        query: str,
        keys: dict[str, dict[Any, Any]],
        table: str = "",
        name: str | None = None,
    ) -> Iterator[Triple]:
        cursor = connection.execute(query)
        if cursor.description is None:
            raise self.error(0, "expected a query that returns records")
        columns = [column for column, *_ in cursor.description]
        if len(set(columns)) != len(columns):
            raise self.error(0, f"a column appears twice in {', '.join(columns)}; name them with AS")
        long = None if self.name_column or self.properties else long_columns(columns)
        hidden = (_key_columns(connection, table) if table else set()) - {name} - set(keys)
        for number, cells in enumerate(cursor, start=1):
            record = {c: cell for c, cell in zip(columns, cells, strict=True) if c not in hidden}
            for column, names in keys.items():
                record[column] = names.get(record[column], record[column])
            if long is not None:
                triple = self.from_row(long, record, number)
                if triple is not None:
                    yield triple
            else:
                yield from self.from_wide(record, number, key=name)

    def _keys(self, connection: sqlite3.Connection, table: str) -> dict[str, dict[Any, Any]]:
        """Return for each foreign key of one column the names of what it may point to."""
        keys: dict[str, dict[Any, Any]] = {}
        for row in connection.execute(f"PRAGMA foreign_key_list({_quoted(table)})").fetchall():
            other, column, target = row[2], row[3], row[4]
            if target is None:
                target = next(iter(_key_columns(connection, other)), "rowid")
            name = self._name_of(connection, other)
            if name is not None and name != target:
                pairs = f"SELECT {_quoted(target)}, {_quoted(name)} FROM {_quoted(other)}"
                keys[column] = dict(connection.execute(pairs).fetchall())
        return keys

    def _name_of(self, connection: sqlite3.Connection, table: str) -> str | None:
        """Return the column that names the records of a table; a number alone is no name."""
        columns = {row[1]: row for row in connection.execute(f"PRAGMA table_info({_quoted(table)})")}
        if self.name_column is not None:
            return self.name_column if self.name_column in columns else None
        key = name_key(list(columns))
        if key is not None and not (columns[key][5] and columns[key][2].upper() == "INTEGER"):
            return key
        texts = [name for name, row in columns.items() if re.search("CHAR|TEXT|CLOB", row[2], re.IGNORECASE)]
        # Beside a key that is a number the first text names the record; without a key only the first column may.
        return next(iter(texts), None) if key is not None or texts[:1] == list(columns)[:1] else None


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f"PRAGMA table_info({_quoted(table)})")}


def _key_columns(connection: sqlite3.Connection, table: str) -> set[str]:
    rows = connection.execute(f"PRAGMA table_info({_quoted(table)})").fetchall()
    return {row[1] for row in rows if row[5]}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
