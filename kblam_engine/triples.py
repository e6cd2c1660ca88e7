"""A triple (name, property, value), its texts, and files of triples. Standard library only."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from kblam_engine.errors import ImportFileError, TripleError

# Characters. A value has to fit a prompt; a name or property of this size is a parsing mistake upstream.
MAX_LENGTHS = {"name": 500, "property": 500, "value": 10_000}
_Chosen = TypeVar("_Chosen")
_RESERVED = frozenset({"name", "property", "value", "metadata"})
# The data sets published with the KBLaM paper call the same parts by other names.
_ALIASES = {"description_type": "property", "description": "value"}


# Inside the class the field `property` hides the builtin.
_computed = property


@dataclass(frozen=True, slots=True)
class Triple:
    """One piece of knowledge: the `property` of `name` is `value`.

    Text is stripped of surrounding white space. `metadata` is anything JSON can hold, kept beside the triple
    (its source, say) and never shown to the model.

    Raises:
        TripleError: a part is not text, empty, over-long (`MAX_LENGTHS`) or not encodable; `.field` names it.
    """

    name: str
    property: str
    value: str
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for part in ("name", "property", "value"):
            object.__setattr__(self, part, _checked_text(part, getattr(self, part)))
        object.__setattr__(self, "metadata", _checked_metadata(self.metadata))

    @_computed
    def key_text(self) -> str:
        """The text whose sentence embedding is the triple's key (KBLaM, section 3)."""
        return f"the {self.property} of {self.name}"

    @_computed
    def statement(self) -> str:
        """The triple as one English sentence."""
        stop = "" if self.value.endswith(".") else "."
        return f"The {self.property} of {self.name} is {self.value}{stop}"

    def to_dict(self) -> dict[str, Any]:
        """Return the triple as one flat JSON object: its three parts, then its metadata."""
        return {"name": self.name, "property": self.property, "value": self.value, **self.metadata}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Triple:
        """Build a triple from a JSON object; keys other than the three parts become metadata.

        Raises:
            TripleError: a part is missing or wrong.
        """
        if not isinstance(data, Mapping):
            raise TripleError("triple", f"expected an object, got {type(data).__name__}")
        parts = dict(data)
        for alias, part in _ALIASES.items():
            if part not in parts and alias in parts:
                parts[part] = parts.pop(alias)
        for part in ("name", "property", "value"):
            if part not in parts:
                raise TripleError(part, "is missing")
        name, prop, value = parts.pop("name"), parts.pop("property"), parts.pop("value")
        nested = parts.pop("metadata", {})
        if not isinstance(nested, Mapping):
            raise TripleError("metadata", f"expected an object, got {type(nested).__name__}")
        return cls(name, prop, value, {**parts, **nested})


def read_triples(path: str | os.PathLike[str]) -> Iterator[Triple]:
    """Read a file of triples, `.jsonl` or `.csv` by its suffix.

    Raises:
        ImportFileError: the suffix or a line is wrong; nothing before that line has been lost or kept.
        OSError: the file cannot be opened.
    """
    return _by_suffix(path, {".jsonl": read_jsonl, ".csv": read_csv})(path)


def write_triples(path: str | os.PathLike[str], triples: Iterable[Triple]) -> int:
    """Write a file of triples, `.jsonl` or `.csv` by its suffix; return how many."""
    return _by_suffix(path, {".jsonl": write_jsonl, ".csv": write_csv})(path, triples)


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[Triple]:
    """Read one JSON object a line: name, property, value, and anything else as metadata.

    Raises:
        ImportFileError: a line is no JSON object or no valid triple.
    """
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if line:
                    yield Triple.from_dict(json.loads(line))
            except json.JSONDecodeError as error:
                raise ImportFileError(path, number, f"not JSON: {error.msg}, column {error.colno}") from None
            except UnicodeDecodeError as error:
                raise ImportFileError(path, number, f"not UTF-8 at byte {error.start}") from None
            except (TripleError, RecursionError, ValueError) as error:
                raise ImportFileError(path, number, str(error)) from None


def read_csv(path: str | os.PathLike[str]) -> Iterator[Triple]:
    """Read a CSV file with a header row; a `metadata` column holds JSON, other columns are metadata as text.

    Raises:
        ImportFileError: the header lacks a part, or a line is no valid triple.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [column.strip() for column in next(reader, [])]
            missing = [part for part in ("name", "property", "value") if part not in header]
            if missing:
                raise ImportFileError(
                    path, 1, f"expected columns name, property, value; missing {missing[0]}"
                )
            if len(set(header)) != len(header):
                raise ImportFileError(path, 1, f"a column appears twice in {', '.join(header)}")
            for cells in reader:
                if cells:
                    yield _triple_from_cells(header, cells)
        except ImportFileError:
            raise
        except UnicodeDecodeError:
            raise ImportFileError(path, reader.line_num + 1, "not UTF-8") from None
        except (csv.Error, ValueError) as error:
            raise ImportFileError(path, reader.line_num, str(error)) from None


def write_jsonl(path: str | os.PathLike[str], triples: Iterable[Triple]) -> int:
    """Write one JSON object a line; return how many. The file appears whole or not at all."""
    count = 0
    with _whole_file(path) as file:
        for triple in triples:
            file.write(json.dumps(triple.to_dict(), ensure_ascii=False) + "\n")
            count += 1
    return count


def write_csv(path: str | os.PathLike[str], triples: Iterable[Triple]) -> int:
    """Write name, property, value and metadata (as JSON) columns; return how many rows."""
    count = 0
    with _whole_file(path) as file:
        writer = csv.writer(file)
        writer.writerow(["name", "property", "value", "metadata"])
        for triple in triples:
            metadata = json.dumps(dict(triple.metadata), ensure_ascii=False) if triple.metadata else ""
            writer.writerow([triple.name, triple.property, triple.value, metadata])
            count += 1
    return count


def _checked_text(part: str, text: object) -> str:
    if not isinstance(text, str):
        raise TripleError(part, f"expected text, got {type(text).__name__}")
    text = text.strip()
    if not text:
        raise TripleError(part, "expected text, got nothing but white space")
    if len(text) > MAX_LENGTHS[part]:
        raise TripleError(part, f"expected at most {MAX_LENGTHS[part]} characters, got {len(text)}")
    if "\0" in text:
        raise TripleError(part, "expected text, got a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TripleError(part, f"expected text, got half a character at position {error.start}") from None
    return text


def _checked_metadata(metadata: object) -> dict[str, Any]:
    if not isinstance(metadata, Mapping):
        raise TripleError("metadata", f"expected a mapping, got {type(metadata).__name__}")
    if not metadata:
        return {}
    for key in metadata:
        if not isinstance(key, str):
            raise TripleError("metadata", f"expected text keys, got {key!r}")
        if key in _RESERVED:
            raise TripleError("metadata", f"the key {key!r} is a part of the triple itself")
    try:
        json.dumps(dict(metadata), allow_nan=False, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise TripleError("metadata", f"expected what JSON can hold: {error}") from None
    return dict(metadata)


def _triple_from_cells(header: list[str], cells: list[str]) -> Triple:
    if len(cells) != len(header):
        raise ValueError(f"expected {len(header)} columns, got {len(cells)}")
    data: dict[str, Any] = dict(zip(header, cells, strict=True))
    parts = ("name", "property", "value")
    data = {column: cell for column, cell in data.items() if cell or column in parts}
    if "metadata" in data:
        data["metadata"] = json.loads(data["metadata"])
    return Triple.from_dict(data)


def _by_suffix(path: str | os.PathLike[str], choices: Mapping[str, _Chosen]) -> _Chosen:
    suffix = Path(path).suffix.lower()
    if suffix not in choices:
        expected = " or ".join(choices)
        raise ImportFileError(path, 0, f"expected a {expected} file, got {suffix or 'no suffix'}")
    return choices[suffix]


@contextmanager
def _whole_file(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """Write beside `path` and rename at the end, so that a full disk leaves no half file."""
    target = Path(path)
    if target.exists() and not target.is_file():  # a pipe or a terminal takes no rename
        with open(target, "w", encoding="utf-8", newline="") as file:
            yield file
        return
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(draft, "w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
