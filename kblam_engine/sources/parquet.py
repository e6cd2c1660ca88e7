"""Parquet files, by pyarrow: a long or wide table, read a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from kblam_engine.sources.records import RecordSource, long_columns
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
                columns = list(file.schema_arrow.names)
                wanted = [*self.properties, self.name_column] if self.properties and self.name_column else None
                long = None if self.name_column or self.properties else long_columns(columns)
                unknown = next((column for column in wanted or () if column not in columns), None)
                if unknown is not None:
                    raise self.error(0, f"no column {unknown!r}; there are {', '.join(columns)}")
                for batch in file.iter_batches(_BATCH, columns=wanted):
                    for record in batch.to_pylist():
                        number += 1
                        if long is not None:
                            yield self.from_long(long, record, number)
                        else:
                            yield from self.from_wide(record, number)
        except (pyarrow.ArrowException, OSError) as error:
            # A file that cannot be opened was refused before: what fails here is inside it.
            raise self.error(number, f"not a sound Parquet file: {str(error).splitlines()[0]}") from None
