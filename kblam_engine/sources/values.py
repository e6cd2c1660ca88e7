"""From typed values (of JSON, Parquet, databases) to the text of a triple's value, as it was written."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
import uuid
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

_WORD_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEPARATORS = re.compile(r"[_\s]+")
# In the order of preference. What an unnamed first column holds is the name as well.
NAME_COLUMNS = ("name", "title", "label", "entity", "subject", "id", "key")
ALIAS_PROPERTIES = ("also known as", "alias", "aliases", "abbreviation", "short name")
"""Properties whose values are other names of a thing, several of them separated by semicolons."""


class Number(str):
    """A number of JSON as it is written there."""

    __slots__ = ()


def as_text(value: object) -> str | None:
    """Return a single value as text; None for nothing (null, NaN, empty) and for what has no text (bytes).

    Numbers, dates and times are written as ISO or Python does, never rounded or reformatted.
    """
    if value is None or isinstance(value, bytes | bytearray | memoryview):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float):
        return None if math.isnan(value) else repr(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, int | decimal.Decimal | datetime.timedelta | uuid.UUID):
        return str(value)
    return None


def flat_text(value: object) -> str | None:
    """Return a value as text, lists as "a, b, c"; None for nothing and for what has no flat form."""
    return value_text("", value)


def value_text(prop: str, value: object) -> str | None:
    """Return the value of a property as text, as `flat_text` does; a list of other names as "a; b; c"."""
    if isinstance(value, list | tuple):
        texts = [as_text(part) for part in value]
        return joined(prop, (text for text in texts if text)) or None
    return as_text(value)


def n_without_text(value: object) -> int:
    """Return how many parts of a list say something and have no text, so that `value_text` leaves them out."""
    if not isinstance(value, list | tuple):
        return 0
    return sum(isinstance(part, Mapping | list | tuple | bytes | bytearray | memoryview) and len(part) > 0 for part in value)


def joined(prop: str, texts: Iterable[str]) -> str:
    """Return several texts as the one value of a property: "a, b, c", but names that may have commas as "a; b; c"."""
    return ("; " if prop.casefold() in ALIAS_PROPERTIES else ", ").join(texts)


def plain(value: object) -> Any:
    """Return a value of JSON with its numbers as Python has them."""
    if isinstance(value, Number):
        return json.loads(value)
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value


def kind_of(value: object) -> str:
    """Return what a value of JSON is, for people: "a number", "a list"."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds = {Number: "a number", str: "a text", list: "a list", dict: "an object"}
    return next((told for kind, told in kinds.items() if isinstance(value, kind)), type(value).__name__)


@lru_cache(maxsize=4096)  # columns and keys come again with every record
def readable(identifier: str) -> str:
    """Return an identifier as words: "head_office" and "headOffice" become "head office"; acronyms stay."""
    identifier = identifier.strip()
    if " " in identifier:
        return _SEPARATORS.sub(" ", identifier)
    words = [word for word in _SEPARATORS.sub(" ", _WORD_BORDER.sub(" ", identifier)).split(" ") if word]
    if len(words) > 1:
        words = [word if word.isupper() and len(word) > 1 else word.lower() for word in words]
    return " ".join(words)


def name_key(record: Mapping[str, Any] | list[str]) -> str | None:
    """Return the key or column that holds the name, by what it is called; None if none looks like it."""
    by_folded = {str(key).strip().casefold(): key for key in reversed(list(record))}
    return next((by_folded[wanted] for wanted in NAME_COLUMNS if wanted in by_folded), None)
