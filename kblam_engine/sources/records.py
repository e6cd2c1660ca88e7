"""Tables, long and wide, as triples; the readers of CSV, JSON, Parquet and databases share this.

A long table has a triple a row: columns name, property and value. A wide one has a thing a row: one column
names it, every other column is a property.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kblam_engine.errors import ConfigurationError, TripleError
from kblam_engine.sources.source import FileSource
from kblam_engine.sources.values import as_text, flat_text, name_key, readable
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
_PARTS = ("name", "property", "value")


def long_columns(columns: Sequence[str]) -> tuple[str, str, str] | None:
    """Return the columns that are name, property and value, None if the table is not a long one."""
    by_folded = {column.strip().casefold(): column for column in columns}
    for wanted in _LONG:
        if all(column in by_folded for column in wanted):
            return by_folded[wanted[0]], by_folded[wanted[1]], by_folded[wanted[2]]
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
        self.named = uri is not None
        self.name_column = name_column
        self.properties = dict(properties or {})

    def as_written(self, triples: Iterable[Triple]) -> Iterator[Triple]:
        """Yield the triples of a file in this package's own form: as they were exported, provenance and all.

        Where the source was given a uri, that is where triples without a provenance come from.
        """
        for triple in triples:
            if self.named and triple.provenance is None:
                triple = replace(triple, provenance=self.provenance)
            yield triple

    def place(self, line: int) -> dict[str, Any]:
        """Return the metadata of a triple of a line."""
        return {"line": line} if line else {}

    def from_long(self, columns: tuple[str, str, str], record: Mapping[str, Any], line: int) -> Triple:
        """Return the triple of a row of a long table; its other columns become metadata.

        Raises:
            ImportFileError: a part is empty or too long.
        """
        parts: dict[str, Any] = {
            part: flat_text(record.get(column)) or "" for part, column in zip(_PARTS, columns, strict=True)
        }
        others = {key: value for key, value in record.items() if key not in columns and key.strip()}
        metadata = others.pop("metadata", None)
        kept = {key: text for key, value in others.items() if (text := flat_text(value)) and key not in _PARTS}
        try:
            nested = _metadata(metadata)
            metadata = {**self.place(line), **kept, **nested}
            return Triple(**parts, metadata=metadata, provenance=self.provenance)
        except (TripleError, ValueError, RecursionError) as error:
            raise self.error(line, str(error)) from None

    def from_wide(
        self, record: Mapping[str, Any], line: int, *, key: str | None = None
    ) -> Iterator[Triple]:
        """Yield a triple for every column of a record that holds something.

        A record without a name is counted in `skipped`; so is what is too long.

        Raises:
            ImportFileError: the record has no column with the name.
        """
        key = key or self._name_key(record, line)
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
                text = flat_text(value)
                triple = self.checked(name, prop, text, self.place(line)) if text else None
                if triple is not None:
                    yield triple
                elif isinstance(value, bytes | list | tuple) and value:
                    self.skipped["value that has no text (bytes, lists in lists)"] += 1

    def _named(self, name: str, prop: str, values: Sequence[Any], line: int) -> Iterator[Triple]:
        """Yield the names of the things in a list as one value, then what is said of each of them."""
        names: list[str] = []
        for value in values:
            inner = name_key(value) if isinstance(value, Mapping) else None
            text = as_text(value[inner]) if isinstance(value, Mapping) and inner else flat_text(value)
            if text is None:
                self.skipped["thing in a list without a name"] += 1
                continue
            names.append(text)
            if isinstance(value, Mapping):
                rest = {key: part for key, part in value.items() if key != inner}
                yield from self._properties(text, rest, line, prefix="")
        if names and (triple := self.checked(name, prop, ", ".join(names), self.place(line))):
            yield triple

    def _property(self, key: str, prefix: str) -> str | None:
        if prefix:
            return prefix + readable(key)
        if self.properties:
            return self.properties.get(key)
        return readable(key) or None

    def _name_key(self, record: Mapping[str, Any], line: int) -> str:
        key = self.name_column if self.name_column is not None else name_key(record)
        if key is None:
            key = next(iter(record), "")
        if key not in record:
            raise self.error(line, f"no column {key!r}; there are {', '.join(record) or 'none'}")
        return key


def _metadata(cell: Any) -> dict[str, Any]:
    """Return what a metadata column holds: an object, or one written as JSON."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return {}
    data = json.loads(cell) if isinstance(cell, str) else cell
    if not isinstance(data, Mapping):
        raise ValueError(f"metadata: expected an object, got {type(data).__name__}")
    return dict(data)
