"""Fields of JSON objects that somebody else wrote: what is expected of each, or a ValueError that says so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from kblam_engine.errors import ImportFileError

_LARGEST = 1e15  # a number beyond this is no measurement, and may be too large for a float


def load_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises ImportFileError where there is none, OSError where the file cannot be read."""

    def refuse(text: str) -> NoReturn:
        raise ValueError(f"{text} is no number of JSON")

    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ImportFileError(path, error.lineno, f"not JSON: {error.msg}, column {error.colno}") from error
    except RecursionError as error:
        raise ImportFileError(path, 0, "not usable: nested too deeply") from error
    except ValueError as error:  # bytes that are no text, or a number of thousands of digits
        raise ImportFileError(path, 0, f"not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ImportFileError(path, 0, f"expected one JSON object, got a {type(data).__name__}")
    return data


def numbers_of(data: dict[str, Any], record: type, *, except_for: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a dataclass of numbers; what the file does not have is None."""
    return {f.name: number_of(data, f.name) for f in fields(record) if f.name not in except_for}


def object_of(data: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a field that is an object."""
    found = data.get(key)
    if not isinstance(found, dict):
        raise unexpected(key, "an object", found)
    return found


def optional_object(data: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a field that is an object; an empty one where there is none."""
    return object_of(data, key) if data.get(key) is not None else {}


def objects_of(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return a field that is a list of objects."""
    found = data.get(key)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise unexpected(key, "a list of objects", found)
    return found


def count_of(data: dict[str, Any], key: str) -> int:
    """Return a field that is a whole number of at least 1."""
    found = number_of(data, key)
    if not isinstance(found, int) or found < 1:
        raise unexpected(key, "a whole number of at least 1", found)
    return found


def number_of(data: dict[str, Any], key: str) -> float | None:
    """Return a field that is a number or null."""
    found = data.get(key)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) < _LARGEST:
        raise unexpected(key, "a number or null", found)
    return found


def pair_of(data: dict[str, Any], key: str) -> tuple[float | None, float | None]:
    """Return a field of two numbers; none of them where it is not there."""
    found = data.get(key)
    if found is None:
        return None, None
    if not isinstance(found, list) or len(found) != 2:
        raise unexpected(key, "two numbers", found)
    ends = {"low": found[0], "high": found[1]}
    return number_of(ends, "low"), number_of(ends, "high")


def unexpected(key: str, wanted: str, found: object) -> ValueError:
    """Return the error of a field with something else in it."""
    text = "nothing" if found is None else json.dumps(found, ensure_ascii=False)
    return ValueError(f"{key}: expected {wanted}, got {text if len(text) < 60 else text[:60] + '…'}")
