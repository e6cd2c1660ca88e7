"""Tables, long and wide, as triples; the readers of CSV, JSON, Parquet and databases share this.

A long table has a triple a row: columns name, property and value. A wide one has a thing a row: one column
names it, every other column is a property.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any

from kblam_engine.errors import ConfigurationError, TripleError
from kblam_engine.sources.source import FileSource
from kblam_engine.sources.values import (
    as_text,
    flat_text,
    joined,
    n_without_text,
    name_key,
    plain,
    readable,
    value_text,
)
from kblam_engine.triples import Triple

# Headers of long tables, in the words of the KBLaM data sets, of RDF and of knowledge graphs.
_LONG = (
    ("name", "property", "value"),
    ("name", "description_type", "description"),
    ("subject", "predicate", "object"),
    ("subject", "property", "value"),
    ("entity", "attribute", "value"),
    ("head", "relation", "tail"),
)
OWN = _LONG[:2]
"""The words of this package and of the KBLaM data sets."""
_PARTS = ("name", "property", "value")
_LABELS = frozenset({"namespace", "tags", "valid_from", "valid_to"})
_CONTEXT = _LABELS | {"provenance", "metadata"}


def long_columns(columns: Iterable[str]) -> tuple[str, str, str] | None:
    """Return the columns that are name, property and value, None if the table is not a long one."""
    return _long_columns(tuple(columns))


@lru_cache(maxsize=4096)  # keys come again with every record
def _long_columns(columns: tuple[str, ...]) -> tuple[str, str, str] | None:
    by_folded = {column.strip().casefold(): column for column in columns}
    for wanted in _LONG:
        if all(column in by_folded for column in wanted):
            return by_folded[wanted[0]], by_folded[wanted[1]], by_folded[wanted[2]]
    return None


@lru_cache(maxsize=4096)
def _lacking(keys: tuple[str, ...]) -> str | None:
    """Return which part a triple lacks that has these keys and no others, None if they are no two parts of a triple.

    One of the two is the property: a thing may well have a "value", but hardly a "predicate".
    """
    folded = {key.strip().casefold() for key in keys} - _CONTEXT
    for wanted in _LONG:
        if len(folded) == 2 and wanted[1] in folded and folded < set(wanted):
            return next(part for part, column in zip(_PARTS, wanted, strict=True) if column not in folded)
    return None


class RecordSource(FileSource):
    """A file of records.

    Args:
        path: the file.
        name_column: column or key that names the thing of a record; default one that is called name, title,
            label, entity, subject, id or key, else the first.
        properties: column or key → property, to take only these and to call them what you like; default all,
            with "head_office" and "headOffice" read as "head office".
        uri: what triples name as their source; default the path as given.
        max_mb: larger files are refused.
    """

    extractor = "table"
    reads_exports = False
    """Whether a triple in this package's words may say all that a triple says, as `write_triples` writes it."""

    def __init__(
        self,
        path: Any,
        *,
        name_column: str | None = None,
        properties: Mapping[str, str] | None = None,
        uri: str | None = None,
        max_mb: float = 256,
    ) -> None:
        super().__init__(path, uri=uri, max_mb=max_mb)
        if name_column is not None and not name_column.strip():
            raise ConfigurationError("name_column: expected the name of a column, got nothing")
        self.name_column = name_column
        self.properties = dict(properties or {})
        self._seen: dict[str, None] = {}

    def __iter__(self) -> Iterator[Triple]:
        self._seen.clear()
        yield from super().__iter__()
        unknown = next((key for key in self.properties if key not in self._seen), None)
        if self._seen and unknown is not None:
            raise self.error(0, f"properties: no record has {unknown!r}; there are {listed(self._seen)}")

    def place(self, line: int) -> dict[str, Any]:
        """Return the metadata of a triple of a line."""
        return {"line": line} if line else {}

    def from_record(self, record: Mapping[str, Any], line: int) -> Iterator[Triple]:
        """Yield the triples of a record among records of any kind: it is one, or each of its keys gives one.

        Raises:
            ImportFileError: it has no column with the name, or what it says beside a triple is wrong.
        """
        columns = None if self.name_column or self.properties else long_columns(record)
        if columns is not None:
            triple = self.from_row(columns, record, line)
            if triple is not None:
                yield triple
        elif not (self.name_column or self.properties) and (part := _lacking(tuple(record))):
            self.skipped[f"triple without a {part}"] += 1
        else:
            yield from self.from_wide(record, line)

    def from_row(self, columns: tuple[str, str, str], record: Mapping[str, Any], line: int) -> Triple | None:
        """Return the triple of a row of a long table; None where a part is empty or too long, which is counted in `skipped`.

        Raises:
            ImportFileError: what the row says beside its triple is wrong.
        """
        try:
            return self._triple(columns, record, line)
        except TripleError as error:
            if error.field not in _PARTS:
                raise self.error(line, str(error)) from None
            cell = record.get(columns[_PARTS.index(error.field)])
            is_empty = cell is None or (isinstance(cell, str) and not cell.strip())
            what = f"triple without a {error.field}" if is_empty else f"{error.field} empty, too long or no text"
            self.skipped[what] += 1
            return None
        except (ValueError, RecursionError) as error:
            raise self.error(line, str(error)) from None

    def _triple(self, columns: tuple[str, str, str], record: Mapping[str, Any], line: int) -> Triple:
        """Return the triple of a row; what other columns say is metadata, or as it was exported.

        Raises:
            TripleError: a part of it is wrong.
            ValueError: its metadata is no JSON.
        """
        name, prop, value = record.get(columns[0]), record.get(columns[1]), record.get(columns[2])
        if not (isinstance(name, str) and isinstance(prop, str) and isinstance(value, str)):  # most are
            self._count_left_out(name, prop, value)
            name, prop = flat_text(name) or "", flat_text(prop) or ""
            value = value_text(prop, value) or ""
        is_own = self.reads_exports and columns in OWN
        if len(record) == len(columns):
            return Triple(name, prop, value, {} if is_own else self.place(line), self.provenance)
        others = {key: cell for key, cell in record.items() if key not in columns}
        if is_own:
            return self._exported(others, (name, prop, value))
        metadata = _metadata(others.pop("metadata", None))
        kept = {key: text for key, cell in others.items() if key.strip() and key not in _PARTS and (text := flat_text(cell))}
        return Triple(name, prop, value, {**self.place(line), **kept, **metadata}, self.provenance)

    def _exported(self, others: Mapping[str, Any], parts: tuple[str, str, str]) -> Triple:
        """Return a triple with what else it says; one that does not say where it comes from comes from here.

        Its line is not noted: a line put in at the top of a file would make all triples below it other ones.
        """
        said = {key: cell if key in _LABELS else plain(cell) for key, cell in others.items()}
        said = {key: cell for key, cell in said.items() if cell is not None or key not in _CONTEXT}
        triple = Triple.from_dict({**said, **dict(zip(_PARTS, parts, strict=True))})
        return triple if triple.provenance is not None else replace(triple, provenance=self.provenance)

    def from_wide(
        self, record: Mapping[str, Any], line: int, *, key: str | None = None
    ) -> Iterator[Triple]:
        """Yield a triple for every column of a record that holds something.

        A record without a name is counted in `skipped`; so is what is too long.

        Raises:
            ImportFileError: the record has no column with the name.
        """
        key = key or self._name_key(record, line)
        if self.properties:
            self._seen.update(dict.fromkeys(record))
        name = as_text(record[key])
        if name is None:
            if any(flat_text(value) for value in record.values()):
                self.skipped["record without a name"] += 1
            return
        yield from self._properties(name, {k: v for k, v in record.items() if k != key}, line, prefix="")

    def _properties(
        self, name: str, record: Mapping[str, Any], line: int, *, prefix: str
    ) -> Iterator[Triple]:
        """Yield the properties of a thing; of an object inside it as "address city"."""
        for key, value in record.items():
            prop = self._property(key, prefix)
            if prop is None:
                continue
            if isinstance(value, Mapping):
                inner = name_key(value)
                if inner is None or as_text(value[inner]) is None:
                    yield from self._properties(name, value, line, prefix=f"{prop} ")
                    continue
                yield from self._named(name, prop, [value], line)
            elif isinstance(value, list | tuple) and any(isinstance(part, Mapping) for part in value):
                yield from self._named(name, prop, value, line)
            else:
                text = value_text(prop, value)
                if text:
                    self._count_left_out(value)
                triple = self.checked(name, prop, text, self.place(line)) if text else None
                if triple is not None:
                    yield triple
                elif isinstance(value, bytes | list | tuple) and value:
                    self.skipped["value that has no text (bytes, lists in lists)"] += 1

    def _count_left_out(self, *values: Any) -> None:
        """Count the parts of lists that are not in the text of their list."""
        if n := sum(map(n_without_text, values)):
            self.skipped["part of a list that has no text (bytes, objects, lists)"] += n

    def _named(self, name: str, prop: str, values: Sequence[Any], line: int) -> Iterator[Triple]:
        """Yield the names of the things in a list as one value, then what is said of each of them."""
        names: list[str] = []
        for value in values:
            inner = name_key(value) if isinstance(value, Mapping) else None
            text = as_text(value[inner]) if isinstance(value, Mapping) and inner else flat_text(value)
            if text:
                self._count_left_out(value)
            if text is None:
                self.skipped["thing in a list without a name"] += 1
                continue
            names.append(text)
            if isinstance(value, Mapping):
                rest = {key: part for key, part in value.items() if key != inner}
                yield from self._properties(text, rest, line, prefix="")
        if names and (triple := self.checked(name, prop, joined(prop, names), self.place(line))):
            yield triple

    def _property(self, key: str, prefix: str) -> str | None:
        if prefix:
            return prefix + readable(key)
        if self.properties:
            self._seen[key] = None
            return self.properties.get(key)
        return readable(key) or None

    def _name_key(self, record: Mapping[str, Any], line: int) -> str:
        key = self.name_column if self.name_column is not None else name_key(record)
        if key is None:
            key = next(iter(record), "")
        if key not in record:
            raise self.error(line, f"no column {key!r}; there are {listed(record) or 'none'}")
        return key


def listed(keys: Iterable[str]) -> str:
    """Return keys for a message, the first twenty of them."""
    shown = [*islice(keys, 21)]
    return ", ".join(shown[:20]) + (" ..." if len(shown) > 20 else "")


def _metadata(cell: Any) -> dict[str, Any]:
    """Return what a metadata column holds: an object, or one written as JSON."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return {}
    data = json.loads(cell) if isinstance(cell, str) else cell
    if not isinstance(data, Mapping):
        raise ValueError(f"metadata: expected an object, got {type(data).__name__}")
    return dict(data)
