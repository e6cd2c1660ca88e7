"""Parquet files, by pyarrow: a long or wide table, read a batch at a time; triples of a knowledge base, written so."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from numpy import ascontiguousarray, float16, float32

from kblam_engine.errors import ConfigurationError
from kblam_engine.sources.records import RecordSource, listed, long_columns
from kblam_engine.sources.source import missing
from kblam_engine.triple_files import whole_file
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KBSnapshot
    from kblam_engine.knowledge_base.reader import KBReader

FORMAT = "kblam-triples/1"
"""What a file written here says of itself in its schema's metadata, under `kblam_format`."""
_TEXTS = ("name", "property", "value", "namespace", "valid_from", "valid_to", "provenance", "metadata")
_COLUMNS = frozenset({*_TEXTS, "tags"})
_JSON = ("provenance", "metadata")
"""Columns of objects, as JSON: any depth, numbers of any size, the same in every reader."""
_EMBEDDINGS = ("key_embedding", "value_embedding")
_BATCH = 4096
_GATHERED = 1024
"""Triples that are looked up at a time; a group of rows has many times as many."""
_GROUP_ROWS, _GROUP_BYTES = 65_536, 64_000_000
"""Rows and bytes after which a group of rows is written: what an export holds in memory."""


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
        pyarrow, parquet = _libraries("Reading Parquet")
        number = 0
        try:
            with parquet.ParquetFile(self.path) as file:
                schema = file.schema_arrow
                self._check_columns(schema)
                self.reads_exports = self._is_export(schema)
                wanted = [*self.properties, self.name_column] if self.properties and self.name_column else None
                if wanted is None and any(map(_is_embedding, schema)):  # of no use here, and most of such a file
                    wanted = [column.name for column in schema if not _is_embedding(column) or column.name in self.properties]
                long = None if self.name_column or self.properties else long_columns(schema.names)
                narrow = {column.name: reader for column in schema if (reader := _narrow_floats(column.type))}
                for batch in file.iter_batches(_BATCH, columns=wanted):
                    for record in batch.to_pylist():
                        number += 1
                        told = _with(narrow, record) if narrow else record
                        if long is None:
                            yield from self.from_wide(told, number)
                        elif (triple := self.from_row(long, self._decoded(told, number), number)) is not None:
                            yield triple
        except (pyarrow.ArrowException, OSError) as error:
            # A file that cannot be opened was refused before: what fails here is inside it.
            raise self.error(number, f"not a sound Parquet file: {str(error).splitlines()[0]}") from None

    def _is_export(self, schema: Any) -> bool:
        """Say whether a file is one of `write_parquet`: it says so, or has all its columns, where another program wrote it again.

        Raises:
            ImportFileError: a later version has written it.
        """
        said = (schema.metadata or {}).get(b"kblam_format", b"").decode("utf-8", "replace")
        if said and said != FORMAT:
            raise self.error(0, f"expected {FORMAT}, got {said}; read it with the version of kblam-engine that wrote it")
        return bool(said) or set(schema.names) >= _COLUMNS

    def _decoded(self, record: Mapping[str, Any], line: int) -> Mapping[str, Any]:
        """Return a row with the objects that an export has as JSON.

        Raises:
            ImportFileError: one of them is no JSON.
        """
        if not self.reads_exports:
            return record
        try:
            objects = {part: _object(record[part]) for part in _JSON if part in record}
        except (ValueError, RecursionError) as error:
            raise self.error(line, f"not JSON: {error}") from None
        return {**record, **objects}

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


def write_parquet(path: str | os.PathLike[str], kb: KBReader, *, embeddings: bool = False) -> int:
    """Write every triple of a knowledge base or view to a Parquet file; return how many. It appears whole or not at all.

    Columns are those of a triple, provenance and metadata as JSON. With `embeddings` there are `key_embedding` and
    `value_embedding` besides, lists of 16-bit floats of one length, and the schema's metadata names the encoder that they
    are of (`kblam_encoder`, `kblam_encoder_fingerprint`). `ParquetFile` reads all but the embeddings.

    Raises:
        ConfigurationError: embeddings are asked for, and there is no triple yet that decides how long they are.
        MissingDependencyError: pyarrow is not installed.
        OSError: the file cannot be written.
    """
    pyarrow, parquet = _libraries("Writing Parquet")
    info = kb.info()
    if embeddings and not info.embed_dim:
        raise ConfigurationError(f"{info.path}: expected triples with embeddings, got an empty knowledge base; export it without them")
    snapshot = kb.snapshot()
    fields = [pyarrow.field(part, pyarrow.string()) for part in _TEXTS]
    fields.insert(_TEXTS.index("valid_from"), pyarrow.field("tags", pyarrow.list_(pyarrow.string())))
    told = {"kblam_format": FORMAT}
    if embeddings:
        rows = pyarrow.list_(pyarrow.float16(), info.embed_dim)
        fields += [pyarrow.field(part, rows) for part in _EMBEDDINGS]
        told |= {"kblam_encoder": info.encoder or "", "kblam_encoder_fingerprint": info.encoder_fingerprint or ""}
    schema = pyarrow.schema(fields, metadata=told)
    with whole_file(path) as place, parquet.ParquetWriter(os.fspath(place), schema, use_dictionary=[*_TEXTS]) as writer:
        for group in _groups(_batches(pyarrow, schema, snapshot)):
            writer.write_table(pyarrow.Table.from_batches(group, schema))
    return len(snapshot)


def _batches(pyarrow: Any, schema: Any, snapshot: KBSnapshot) -> Iterator[Any]:
    """Yield the triples of a snapshot, `_GATHERED` rows at a time."""
    for start in range(0, len(snapshot), _GATHERED):
        here = slice(start, min(start + _GATHERED, len(snapshot)))
        columns: dict[str, list[Any]] = {part: [] for part in (*_TEXTS, "tags")}
        for triple in snapshot.triples(range(here.start, here.stop)):
            for part, cell in _cells(triple).items():
                columns[part].append(cell)
        arrays = {part: pyarrow.array(cells, schema.field(part).type) for part, cells in columns.items()}
        if _EMBEDDINGS[0] in schema.names:
            for part, rows in zip(_EMBEDDINGS, (snapshot.key_embeddings, snapshot.value_embeddings()), strict=True):
                numbers = pyarrow.array(ascontiguousarray(rows[here]).reshape(-1), pyarrow.float16())
                arrays[part] = pyarrow.FixedSizeListArray.from_arrays(numbers, type=schema.field(part).type)
        yield pyarrow.RecordBatch.from_arrays([arrays[part] for part in schema.names], schema=schema)


def _groups(batches: Iterator[Any]) -> Iterator[Sequence[Any]]:
    """Yield batches together that make a group of rows; many small groups make a file slow to read."""
    group, n_rows, n_bytes = [], 0, 0
    for batch in batches:
        group.append(batch)
        n_rows, n_bytes = n_rows + batch.num_rows, n_bytes + batch.nbytes
        if n_rows >= _GROUP_ROWS or n_bytes >= _GROUP_BYTES:
            yield group
            group, n_rows, n_bytes = [], 0, 0
    if group:
        yield group


def _cells(triple: Triple) -> dict[str, Any]:
    """Return a triple as the row of an export; what is not known is null."""
    origin = None if triple.provenance is None else triple.provenance.to_dict()
    return {
        "name": triple.name,
        "property": triple.property,
        "value": triple.value,
        "namespace": triple.namespace or None,
        "tags": list(triple.tags),
        "valid_from": triple.valid_from or None,
        "valid_to": triple.valid_to or None,
        "provenance": json.dumps(origin, ensure_ascii=False) if origin else None,
        "metadata": json.dumps(dict(triple.metadata), ensure_ascii=False) if triple.metadata else None,
    }


def _object(cell: Any) -> Any:
    """Return what a cell says that may hold an object as JSON; a provenance may also be a document's id alone."""
    return json.loads(cell) if isinstance(cell, str) and cell.startswith("{") else cell or None


def _is_embedding(column: Any) -> bool:
    types = import_module("pyarrow.types")
    is_list = types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type)
    return column.name in _EMBEDDINGS and is_list and types.is_floating(column.type.value_type)


def _libraries(what: str) -> tuple[Any, Any]:
    """Return pyarrow and what it has for Parquet.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise missing("pyarrow", "parquet", what) from None
