"""CSV and TSV files, and JSONL files of triples or of records."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.sources.records import OWN, RecordSource, long_columns
from kblam_engine.sources.values import Number, kind_of
from kblam_engine.triple_files import csv_reason, data_of_cells, json_lines, line_of_bad_bytes
from kblam_engine.triples import Triple

_DELIMITERS = ",;\t|"
_OTHER_DELIMITERS = ",;\t|:^~/"
"""What may separate columns where those above, or a tab in `.tsv`, do not."""
_ESCAPED = {"\\t": "\t"}
"""Delimiters that are hard to type in a shell."""


class TableFile(RecordSource):
    """A CSV or TSV file with a header, long (name, property, value) or wide (a thing a line).

    Args:
        path: the file.
        delimiter: what separates columns, a tab also as backslash and t; default a tab for `.tsv` and `.tab`, else what
            the header has most of: a comma, semicolon, tab or bar.
        encoding: of the file.
        options: `name_column`, `properties`, `uri`, `max_mb` of every source of records.
    """

    reads_exports = True

    def __init__(
        self,
        path: Any,
        *,
        delimiter: str | None = None,
        encoding: str = "utf-8",
        max_mb: float = 4000,
        **options: Any,
    ) -> None:
        super().__init__(path, max_mb=max_mb, **options)
        delimiter = _ESCAPED.get(delimiter or "", delimiter)
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '\r\n"'):
            raise ConfigurationError(f"delimiter: expected one character, got {delimiter!r}")
        try:
            "".encode(encoding)
        except LookupError:
            raise ConfigurationError(f"encoding: expected one that Python knows, got {encoding!r}") from None
        self.delimiter = delimiter
        self.encoding = "utf-8-sig" if encoding.lower().replace("-", "") == "utf8" else encoding

    def _read(self) -> Iterator[Triple]:
        rows = self._rows()
        header_line, header = next(rows, (1, []))
        header = [column.strip() for column in header]
        self._check_header(header_line, header)
        columns = None if self.name_column or self.properties else long_columns(header)
        for line, cells in rows:
            is_empty = not any(cell.strip() for cell in cells)
            if is_empty and (columns is None or not cells):
                continue
            if len(cells) != len(header):
                raise self.error(line, f"expected {len(header)} columns, got {len(cells)}")
            record = {column: cell for column, cell in zip(header, cells, strict=True) if column}
            if columns is None:
                yield from self.from_wide(record, line)
            elif is_empty:
                self.skipped["empty row"] += 1
            elif (triple := self._row(columns, record, line)) is not None:
                yield triple

    def _check_header(self, line: int, header: list[str]) -> None:
        """Refuse a header that names no columns, or one where there have to be two, or one twice."""
        named = [column for column in header if column]
        if not named:
            raise self.error(line, "expected a header with the names of the columns, got none")
        if len(named) == 1:
            guess = max(_OTHER_DELIMITERS, key=named[0].count)
            shown = guess if guess in named[0] else ";"
            raise self.error(
                line,
                f"expected at least two columns, got only {named[0][:80]!r}; if something else separates them, "
                f"name it with delimiter={shown!r} (--option 'delimiter={shown}')",
            )
        if len(set(named)) != len(named):
            raise self.error(line, f"a column appears twice in {', '.join(named)}")
        missing = next((column for column in self.properties if column not in named), None)
        if missing is not None:
            raise self.error(line, f"no column {missing!r}; there are {', '.join(named)}")

    def _row(self, columns: tuple[str, str, str], record: dict[str, str], line: int) -> Triple | None:
        """Return the triple of a row; None for one that is counted in `skipped`."""
        try:
            return self.from_row(columns, data_of_cells(record) if columns in OWN else record, line)
        except json.JSONDecodeError as error:
            raise self.error(line, f"metadata or provenance: {describe_json_error(error)}") from None

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of a row's first line, and its cells."""
        with open(self.path, encoding=self.encoding, newline="") as file:
            line = 1
            try:
                first = next(file, "")
                reader = csv.reader(chain([first], file), delimiter=self._delimiter(first), strict=True)
                for cells in reader:
                    yield line, cells
                    line = reader.line_num + 1
            except UnicodeDecodeError:
                line = line_of_bad_bytes(self.path, self.encoding) or line
                remedy = "name its encoding with encoding=, such as 'latin-1' (--option encoding=latin-1)"
                raise self.error(line, f"not {self.encoding.removesuffix('-sig')}; {remedy}") from None
            except csv.Error as error:
                raise self.error(reader.line_num, csv_reason(error)) from None

    def _delimiter(self, header: str) -> str:
        if self.delimiter is not None:
            return self.delimiter
        if self.path.suffix.lower() in (".tsv", ".tab"):
            return "\t"
        return max(_DELIMITERS, key=header.count)


class JSONLFile(RecordSource):
    """A JSONL file: on each line a triple, or a record of which every key is a property.

    Args:
        path: the file.
        options: `name_column`, `properties`, `uri`, `max_mb` of every source of records.
    """

    reads_exports = True

    def __init__(self, path: Any, *, max_mb: float = 4000, **options: Any) -> None:
        super().__init__(path, max_mb=max_mb, **options)

    def _read(self) -> Iterator[Triple]:
        for line, text in json_lines(self.path):
            try:
                data = parse_json(text)
            except (ValueError, RecursionError) as error:
                raise self.error(line, describe_json_error(error)) from None
            if not isinstance(data, dict):
                raise self.error(line, f"expected an object, got {kind_of(data)}")
            yield from self.from_record(data, line)


def parse_json(text: str) -> Any:
    """Parse JSON with numbers as the text they are written as.

    Raises:
        ValueError: it is not JSON, has NaN or Infinity, or a key twice in an object.
        RecursionError: it is nested too deeply.
    """
    return DECODER.decode(text)


def describe_json_error(error: Exception) -> str:
    """Say in one line what is wrong with a JSON text."""
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg}, column {error.colno}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)


def _no_constant(text: str) -> Any:
    raise ValueError(f"expected JSON, got {text}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} appears twice in an object")
    return data


DECODER = json.JSONDecoder(
    parse_float=Number, parse_int=Number, parse_constant=_no_constant, object_pairs_hook=_unique_keys
)
"""Reads JSON with numbers as text, and refuses what Python's own would let pass."""
