"""Candidates in a file that a person edits: write them with confidence and sentence, read back what was kept.

The file is CSV, for a spreadsheet, or JSONL. The column `keep` says yes or no; name, property and value may be
corrected, and records deleted or added. Triples whose parts were changed say so in their metadata (`reviewed`).
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kblam_engine.errors import ConfigurationError, ImportFileError
from kblam_engine.sources.extractors.base import confidence_of
from kblam_engine.sources.source import FileSource, check_size
from kblam_engine.triples import Triple

COLUMNS = ("keep", "name", "property", "value", "confidence", "sentence", "page", "triple")
"""Of the CSV; `triple` is the candidate as it was found, as JSON, and stays as it is."""
_YES, _NO = frozenset({"yes", "y", "x", "1", "true", "ja", "oui"}), frozenset({"no", "n", "0", "false", "", "-"})
# A spreadsheet takes these for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_MAX_MB = 512


def write_review(path: str | os.PathLike[str], triples: Iterable[Triple], *, keep: float = 0.7) -> int:
    """Write candidates to a `.csv` or `.jsonl` file, in the order of the document; return how many.

    Without any there is nothing to review, and no file is made.

    Args:
        path: a new file; one that is there is never overwritten: it may hold somebody's work.
        triples: the candidates, a source for example.
        keep: candidates of this confidence or more start as "yes", the others as "no".

    Raises:
        ConfigurationError: `keep` is not 0 to 1, or the suffix is neither.
        FileExistsError: there is a file already.
    """
    if not 0 <= keep <= 1:
        raise ConfigurationError(f"keep: expected 0 to 1, got {keep}")
    suffix = _suffix(path)
    records = [_record(triple, keep) for triple in sorted(triples, key=_place)]
    if not records:  # an empty file would only be in the way of the next review
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(path))
        return 0
    with open(path, "x", encoding="utf-8", newline="") as file:
        if suffix == ".jsonl":
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            return len(records)
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for record in records:
            cells = {**record, "triple": json.dumps(record["triple"], ensure_ascii=False)}
            writer.writerow({column: _guarded(cells[column]) for column in COLUMNS})
    return len(records)


def read_review(path: str | os.PathLike[str]) -> list[Triple]:
    """Read the candidates that a person kept, with their corrections: all of them, or an error and none.

    Raises:
        ImportFileError: a line is wrong; it names line, column and reason.
        OSError: the file cannot be opened.
    """
    kept, _ = _kept_and_rejected(path)
    return kept


def _kept_and_rejected(path: str | os.PathLike[str]) -> tuple[list[Triple], int]:
    """Return the candidates that a person kept, and how many were not."""
    kept, n_rejected = list[Triple](), 0
    for line, record in _records(path):
        try:
            if _is_kept(record.get("keep")):
                kept.append(_reviewed(record))
            else:
                n_rejected += 1
        except ValueError as error:
            raise ImportFileError(path, line, str(error)) from None
    return kept, n_rejected


def _records(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line and columns of each candidate."""
    read = {".csv": _csv_records, ".jsonl": _jsonl_records}[_suffix(path)]
    file = Path(path)
    check_size(file, _MAX_MB)
    yield from read(file)


def reviewed_documents(path: str | os.PathLike[str]) -> set[str]:
    """Return the documents that a review is of, also those whose candidates were all rejected; of another file, none.

    A candidate that can no longer be read names none.

    Raises:
        ImportFileError: a line is wrong.
    """
    places: set[str] = set()
    if not os.fspath(path).lower().endswith((".review.csv", ".review.jsonl")):
        return places
    for _, record in _records(path):
        try:
            original = _candidate(record.get("triple"))
        except ValueError:
            continue
        if original is not None and original.provenance is not None:
            places.add(original.provenance.place)
    return places


class ReviewFile(FileSource):
    """A review as a source: `name.review.csv` or `name.review.jsonl`, and of it what a person kept.

    How many were not is in `skipped`, as "rejected in the review".

    Args:
        path: the file.
        uri: what triples name as their source that name none; they usually name the document.
        max_mb: larger files are refused.
    """

    extractor = "review"

    def _read(self) -> Iterator[Triple]:
        kept, n_rejected = _kept_and_rejected(self.path)
        if n_rejected:
            self.skipped["rejected in the review"] = n_rejected
        for triple in kept:
            yield triple if triple.provenance is not None else replace(triple, provenance=self.provenance)


def review_path(path: str | os.PathLike[str], *, suffix: str = ".csv") -> Path:
    """Return where the review of a document goes: `report.review.csv` beside `report.pdf`."""
    return Path(path).with_suffix(f".review{suffix}")


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in (".csv", ".jsonl"):
        raise ConfigurationError(f"expected a .csv or .jsonl file to review, got {os.fspath(path)!r}")
    return suffix


def _place(triple: Triple) -> tuple[str, int, float]:
    provenance = triple.provenance
    if provenance is None:
        return "", 0, 0.0
    return provenance.uri, provenance.span[0] if provenance.span else 0, -confidence_of(triple)


def _record(triple: Triple, keep: float) -> dict[str, Any]:
    return {
        "keep": "yes" if confidence_of(triple) >= keep else "no",
        "name": triple.name,
        "property": triple.property,
        "value": triple.value,
        "confidence": f"{confidence_of(triple):.2f}",
        "sentence": str(triple.metadata.get("sentence", "")),
        "page": str(triple.metadata.get("page", "")),
        "triple": triple.to_dict(),
    }


def _guarded(cell: str) -> str:
    """Put an apostrophe before what a spreadsheet would compute."""
    return f"'{cell}" if cell.startswith((*_FORMULA, "'")) else cell


def _csv_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = _text(path)
    header = text.partition("\n")[0]
    # Spreadsheets of some countries write semicolons.
    delimiter = ";" if header.count(";") > header.count(",") else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        missing = [column for column in COLUMNS[:4] if column not in (reader.fieldnames or ())]
        if missing:
            raise ImportFileError(path, 1, f"expected the columns {', '.join(COLUMNS)}; missing {missing[0]}")
        for cells in reader:
            if None in cells or None in cells.values():
                raise ImportFileError(path, reader.line_num, "expected as many cells as columns")
            record: dict[str, Any] = {
                key: cell[1:] if cell.startswith("'") else cell for key, cell in cells.items()
            }
            if any(cell.strip() for cell in record.values()):
                yield reader.line_num, record
    except csv.Error as error:
        raise ImportFileError(path, reader.line_num, str(error)) from None


def _jsonl_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ImportFileError(path, number, f"not JSON: {error}") from None
        if not isinstance(record, dict):
            raise ImportFileError(path, number, f"expected an object, got {type(record).__name__}")
        yield number, record


def _text(path: Path) -> str:
    """Return the text with its line ends as they are: they may be part of a value."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ImportFileError(path, line, "not UTF-8; save it as CSV UTF-8") from None


def _is_kept(answer: Any) -> bool:
    folded = str("" if answer is None else answer).strip().casefold()
    if folded in _YES or folded in _NO:
        return folded in _YES
    raise ValueError(f"keep: expected yes or no, got {answer!r}")


def _reviewed(record: dict[str, Any]) -> Triple:
    """Return the candidate with the parts as they read now."""
    original = _candidate(record.get("triple"))
    parts = [record.get(part) for part in ("name", "property", "value")]
    name, prop, value = (part if isinstance(part, str) else "" for part in parts)
    if original is None:
        return Triple(name, prop, value, {"reviewed": "added"})
    if (name, prop, value) == (original.name, original.property, original.value):
        return original
    metadata = {**original.metadata, "reviewed": "corrected"}
    return replace(original, name=name, property=prop, value=value, metadata=metadata)


def _candidate(cell: Any) -> Triple | None:
    """Return the candidate as it was found; None for a record that a person added."""
    if not cell or (isinstance(cell, str) and not cell.strip()):
        return None
    try:
        return Triple.from_dict(json.loads(cell) if isinstance(cell, str) else cell)
    except (ValueError, RecursionError) as error:
        shown = str(cell) if len(str(cell)) <= 40 else f"{str(cell)[:40]}…"
        raise ValueError(
            f"triple: expected the JSON that was written there, got {shown!r} ({error}); "
            "restore the cell, or empty it: the record counts as added then, and its provenance is lost"
        ) from None
