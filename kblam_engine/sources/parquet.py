"""Parquet files, by pyarrow: a long or wide table, read a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from numpy import float16, float32

from kblam_engine.sources.records import RecordSource, listed, long_columns
from kblam_engine.sources.source import missing
from kblam_engine.triples import Triple

_BATCH = 4096


class ParquetFile(RecordSource):
    """A Parquet file; the `line` of a triple is the number of the record, from 1.

    Args:
        path: the file.
        options: `name_column`, `properties`, `uri`, `max_mb` of every source of records.
    """

    extractor = "parquet"

    def __init__(self, path: Any, *, max_mb: float = 4000, **options: Any) -> None:
        super().__init__(path, max_mb=max_mb, **options)

    def _read(self) -> Iterator[Triple]:
        try:
            pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        except ImportError:
            raise missing("pyarrow", "parquet", "Reading Parquet") from None
        number = 0
        try:
            with parquet.ParquetFile(self.path) as file:
                schema = file.schema_arrow
                self._check_columns(schema)
                wanted = [*self.properties, self.name_column] if self.properties and self.name_column else None
                long = None if self.name_column or self.properties else long_columns(schema.names)
                narrow = {column.name: reader for column in schema if (reader := _narrow_floats(column.type))}
                for batch in file.iter_batches(_BATCH, columns=wanted):
                    for record in batch.to_pylist():
                        number += 1
                        told = _with(narrow, record) if narrow else record
                        if long is None:
                            yield from self.from_wide(told, number)
                        elif (triple := self.from_row(long, told, number)) is not None:
                            yield triple
        except (pyarrow.ArrowException, OSError) as error:
            # A file that cannot be opened was refused before: what fails here is inside it.
            raise self.error(number, f"not a sound Parquet file: {str(error).splitlines()[0]}") from None

    def _check_columns(self, schema: Any) -> None:
        """Refuse options that name columns which are not there, not even inside another."""
        if self.name_column is not None and self.name_column not in schema.names:
            raise self.error(0, f"no column {self.name_column!r}; there are {listed(schema.names)}")
        names = {name for column in schema for name in _names_in(column)}
        unknown = next((column for column in self.properties if column not in names), None)
        if unknown is not None:
            raise self.error(0, f"no column {unknown!r}; there are {listed(schema.names)}")


def _names_in(column: Any) -> Iterator[str]:
    """Yield the name of a column and those of the fields inside it."""
    yield column.name
    for number in range(column.type.num_fields):
        yield from _names_in(column.type.field(number))


def _narrow_floats(kind: Any) -> Callable[[Any], Any] | None:
    """Return what makes of values of a type those that read as they were written, None where they do already.

    Python has only floats of 64 bits: the 32 bits of 0.1 would read 0.10000000149011612.
    """
    types = import_module("pyarrow.types")
    if types.is_float32(kind) or types.is_float16(kind):
        width = float32 if types.is_float32(kind) else float16
        return lambda value: None if value is None else float(str(width(value)))
    if types.is_dictionary(kind):
        return _narrow_floats(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _narrow_floats(kind.value_type)
        return None if inner is None else lambda values: values and [inner(value) for value in values]
    if types.is_struct(kind):
        fields = {field.name: reader for field in kind if (reader := _narrow_floats(field.type))}
        return None if not fields else lambda record: record and _with(fields, record)
    return None


def _with(readers: dict[str, Callable[[Any], Any]], record: dict[str, Any]) -> dict[str, Any]:
    return {key: readers[key](value) if key in readers else value for key, value in record.items()}
