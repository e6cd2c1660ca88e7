"""Files of triples: JSON lines and CSV, read and written. Standard library only."""

from __future__ import annotations

import codecs
import csv
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from kblam_engine.errors import ConfigurationError, ImportFileError, TripleError
from kblam_engine.triples import Triple

MAX_LINE = 16_000_000
"""Bytes of a line of JSONL; a triple has far fewer."""
WRITTEN = (".jsonl", ".csv")
"""Suffixes of the files that `write_triples` writes."""
_CSV_COLUMNS = ("name", "property", "value", "namespace", "tags", "valid_from", "valid_to", "provenance", "metadata")
_PARTS = ("name", "property", "value")
_OTHER_WORDS = {"property": "description_type", "value": "description"}
"""Of KBLaM's data sets."""
_Chosen = TypeVar("_Chosen")


def _no_constant(text: str) -> Any:
    raise ValueError(f"expected JSON, got {text}")


_AS_WRITTEN = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_no_constant)


def read_triples(path: str | os.PathLike[str]) -> Iterator[Triple]:
    """Read a file of triples, `.jsonl` or `.csv` by its suffix.

    Raises:
        ImportFileError: the suffix or a line is wrong; nothing before that line has been lost or kept.
        OSError: the file cannot be opened.
    """
    return _by_suffix(path, {".jsonl": read_jsonl, ".csv": read_csv})(path)


def write_triples(path: str | os.PathLike[str], triples: Iterable[Triple]) -> int:
    """Write a file of triples, `.jsonl` or `.csv` by its suffix; return how many."""
    return _by_suffix(path, dict(zip(WRITTEN, (write_jsonl, write_csv), strict=True)))(path, triples)


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[Triple]:
    """Read one JSON object a line: name, property, value, and anything else as metadata.

    A name, property or value that is a number stays as it is written there.

    Raises:
        ImportFileError: a line is no JSON object or no valid triple.
    """
    for number, line in json_lines(path):
        try:
            yield Triple.from_dict(_verbatim(json.loads(line), line))
        except json.JSONDecodeError as error:
            raise ImportFileError(path, number, f"not JSON: {error.msg}, column {error.colno}") from None
        except (TripleError, RecursionError, ValueError) as error:
            raise ImportFileError(path, number, str(error)) from None


def json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines of a JSONL file, without those that are blank.

    Raises:
        ImportFileError: a line is not UTF-8, or far too long.
    """
    with open(path, "rb") as file:
        for number, raw in enumerate(lines_of(file, path), start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ImportFileError(path, number, f"not UTF-8 at byte {error.start}") from None
            if line:
                yield number, line


def lines_of(file: IO[bytes], path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yield the lines of a file.

    Raises:
        ImportFileError: one is longer than `MAX_LINE`; a file without line ends would fill the memory.
    """
    number = 0
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        if len(raw) > MAX_LINE:
            raise ImportFileError(path, number, f"expected lines of at most {MAX_LINE // 1_000_000} MB; is it JSONL?")
        yield raw


def csv_reason(error: Exception) -> str:
    """Say in one line what is wrong with a line of CSV."""
    if "field limit" in str(error):
        return f"expected cells of at most {csv.field_size_limit():,} characters; a quotation mark may not be closed"
    return str(error)


def read_csv(path: str | os.PathLike[str]) -> Iterator[Triple]:
    """Read a CSV file with a header row; columns that are no part of a triple are metadata, as text.

    `metadata` and `provenance` hold JSON, `tags` are separated by commas.

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
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise ValueError(f"expected {len(header)} columns, got {len(cells)}")
                yield Triple.from_dict(data_of_cells(dict(zip(header, cells, strict=True))))
        except ImportFileError:
            raise
        except UnicodeDecodeError:
            line = line_of_bad_bytes(path, "utf-8-sig") or reader.line_num + 1
            raise ImportFileError(path, line, "not UTF-8") from None
        except (csv.Error, ValueError) as error:
            raise ImportFileError(path, reader.line_num, csv_reason(error)) from None


def write_jsonl(path: str | os.PathLike[str], triples: Iterable[Triple]) -> int:
    """Write one JSON object a line; return how many. The file appears whole or not at all."""
    count = 0
    with _whole_text(path) as file:
        for triple in triples:
            file.write(json.dumps(triple.to_dict(), ensure_ascii=False) + "\n")
            count += 1
    return count


def write_csv(path: str | os.PathLike[str], triples: Iterable[Triple]) -> int:
    """Write a column for each part of a triple, metadata and provenance as JSON; return how many rows."""
    count = 0
    with _whole_text(path) as file:
        writer = csv.writer(file)
        writer.writerow(_CSV_COLUMNS)
        for triple in triples:
            known = {**triple.context(), "tags": ",".join(triple.tags), "metadata": dict(triple.metadata)}
            for part in ("provenance", "metadata"):
                known[part] = json.dumps(known[part], ensure_ascii=False) if known.get(part) else ""
            writer.writerow(
                [triple.name, triple.property, triple.value, *(known.get(c, "") for c in _CSV_COLUMNS[3:])]
            )
            count += 1
    return count


def data_of_cells(cells: Mapping[str, str]) -> dict[str, Any]:
    """Return the cells of a triple in a CSV file, by column, as `Triple.from_dict` takes them.

    Raises:
        ValueError: the metadata or the provenance is no JSON.
    """
    data: dict[str, Any] = {column: cell for column, cell in cells.items() if cell or column in _PARTS}
    if "metadata" in data:
        data["metadata"] = json.loads(data["metadata"])
    if data.get("provenance", "").startswith("{"):
        data["provenance"] = json.loads(data["provenance"])
    return data


def line_of_bad_bytes(path: str | os.PathLike[str], encoding: str) -> int:
    """Return the line of the first bytes that are not in an encoding; 0 for none, or where a file is read only once.

    A reader of texts decodes several lines at a time, so it knows only that the bytes come soon.
    """
    if not Path(path).is_file():
        return 0
    decoder, number = codecs.getincrementaldecoder(encoding)(), 1
    with open(path, "rb") as file:
        try:
            for raw in file:
                number += decoder.decode(raw).count("\n")
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return number
    return 0


def _verbatim(data: Any, line: str) -> Any:
    """Return the object of a line with the numbers and booleans in its three parts as they are written there."""
    if not isinstance(data, dict):
        return data
    parts = (part if part in data else _OTHER_WORDS.get(part, part) for part in _PARTS)
    typed = [part for part in parts if isinstance(data.get(part), int | float)]
    if typed:
        written = _AS_WRITTEN.decode(line)
        words = {part: json.dumps(data[part]) if isinstance(data[part], bool) else written[part] for part in typed}
        data = {**data, **words}
    return data


def checked_path(what: str, path: object, expected: str) -> Path:
    """Return what is given as a path, as one.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(fspath := os.fspath(path), bytes):
        raise ConfigurationError(f"{what}: expected {expected}, got {path!r}")
    return Path(fspath)


def _by_suffix(path: str | os.PathLike[str], choices: Mapping[str, _Chosen]) -> _Chosen:
    suffix = Path(path).suffix.lower()
    if suffix not in choices:
        expected = " or ".join(choices)
        raise ImportFileError(path, 0, f"expected a {expected} file, got {suffix or 'no suffix'}")
    return choices[suffix]


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Provide where to write a file: beside `path`, where it is renamed to at the end, so that a full disk leaves no half file."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder to write it in does not exist", str(target.parent))
    if target.exists() and not target.is_file():  # a pipe or a terminal takes no rename
        yield target
        return
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield draft
        os.replace(draft, target)
    except OSError as error:
        if error.filename == str(draft):  # a name that nobody knows
            error.filename = str(target)
        raise
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _whole_text(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """Provide a file of text that appears whole or not at all."""
    with whole_file(path) as place, open(place, "w", encoding="utf-8", newline="") as file:
        yield file
