"""CSV and TSV files, and JSONL files of triples or of records."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.sources.records import RecordSource, long_columns
from kblam_engine.triple_files import csv_reason, lines_of, read_csv, read_jsonl
from kblam_engine.triples import Triple

_DELIMITERS = ",;\t|"


class TableFile(RecordSource):
    """A CSV or TSV file with a header, long (name, property, value) or wide (a thing a line).

    Args:
        path: the file.
        delimiter: what separates columns; default a tab for `.tsv` and `.tab`, else what the header has most of:
            a comma, semicolon, tab or bar.
        encoding: of the file.
        options: `name_column`, `properties`, `uri`, `max_mb` of every source of records.
    """

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
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '\r\n"'):
            raise ConfigurationError(f"delimiter: expected one character, got {delimiter!r}")
        try:
            "".encode(encoding)
        except LookupError:
            raise ConfigurationError(f"encoding: expected one that Python knows, got {encoding!r}") from None
        self.delimiter = delimiter
        self.encoding = "utf-8-sig" if encoding.lower().replace("-", "") == "utf8" else encoding

    def _read(self) -> Iterator[Triple]:
        if not self.path.is_file() or self._is_exported():  # a pipe is read once
            yield from self.as_written(read_csv(self.path))
            return
        rows = self._rows()
        header_line, header = next(rows, (1, []))
        header = [column.strip() for column in header]
        if not any(header):
            raise self.error(header_line, "expected a header with the names of the columns, got none")
        named = [column for column in header if column]
        if len(set(named)) != len(named):
            raise self.error(header_line, f"a column appears twice in {', '.join(named)}")
        missing = next((column for column in self.properties if column not in named), None)
        if missing is not None:
            raise self.error(header_line, f"no column {missing!r}; there are {', '.join(named)}")
        columns = None if self.name_column or self.properties else long_columns(header)
        for line, cells in rows:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise self.error(line, f"expected {len(header)} columns, got {len(cells)}")
            record = {column: cell for column, cell in zip(header, cells, strict=True) if column}
            if columns is not None:
                yield self.from_long(columns, record, line)
            else:
                yield from self.from_wide(record, line)

    def _is_exported(self) -> bool:
        """Say whether this is the CSV that `write_triples` writes: its reader then is the one."""
        if self.delimiter not in (None, ",") or self.name_column or self.properties:
            return False
        try:
            with open(self.path, encoding=self.encoding, newline="") as file:
                header = [column.strip() for column in next(csv.reader(file, strict=True), [])]
        except (csv.Error, ValueError):
            return False
        return self.encoding == "utf-8-sig" and {"name", "property", "value"} <= set(header)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of a row's first line, and its cells."""
        with open(self.path, encoding=self.encoding, newline="") as file:
            reader = csv.reader(file, delimiter=self._delimiter(), strict=True)
            line = 1
            try:
                for cells in reader:
                    yield line, cells
                    line = reader.line_num + 1
            except UnicodeDecodeError:
                encoding = self.encoding.removesuffix("-sig")
                raise self.error(line, f"not {encoding}; name its encoding") from None
            except csv.Error as error:
                raise self.error(reader.line_num, csv_reason(error)) from None

    def _delimiter(self) -> str:
        if self.delimiter is not None:
            return self.delimiter
        if self.path.suffix.lower() in (".tsv", ".tab"):
            return "\t"
        try:
            with open(self.path, encoding=self.encoding, newline="") as file:
                header = "".join(islice(file, 1))
        except UnicodeDecodeError:
            return ","  # the reader meets it again and says where
        return max(_DELIMITERS, key=header.count)


class JSONLFile(RecordSource):
    """A JSONL file: a triple a line, or a record a line, of which every key is a property.

    Args:
        path: the file.
        options: `name_column`, `properties`, `uri`, `max_mb` of every source of records.
    """

    def __init__(self, path: Any, *, max_mb: float = 4000, **options: Any) -> None:
        super().__init__(path, max_mb=max_mb, **options)

    def _read(self) -> Iterator[Triple]:
        columns: tuple[str, str, str] | None = None
        if not self.path.is_file():  # a pipe is read once
            yield from self.as_written(read_jsonl(self.path))
            return
        for number, data in enumerate(self._lines(), start=1):
            if data is None:
                continue
            if columns is None and not (self.name_column or self.properties):
                columns = long_columns(list(data))
                if columns is not None and columns[0] == "name":  # what `write_triples` writes, or KBLaM's data
                    yield from self.as_written(read_jsonl(self.path))
                    return
            if columns is not None:
                yield self.from_long(columns, data, number)
            else:
                yield from self.from_wide(data, number)

    def _lines(self) -> Iterator[dict[str, Any] | None]:
        """Yield the object of each line, None for a blank one."""
        with open(self.path, "rb") as file:
            for number, raw in enumerate(lines_of(file, self.path), start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                    data = parse_json(line) if line else None
                except UnicodeDecodeError as error:
                    raise self.error(number, f"not UTF-8 at byte {error.start}") from None
                except (ValueError, RecursionError) as error:
                    raise self.error(number, describe_json_error(error)) from None
                if data is not None and not isinstance(data, dict):
                    raise self.error(number, f"expected an object, got {type(data).__name__}")
                yield data


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
    parse_float=str, parse_int=str, parse_constant=_no_constant, object_pairs_hook=_unique_keys
)
"""Reads JSON with numbers as text, and refuses what Python's own would let pass."""
