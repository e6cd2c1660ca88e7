"""From typed values (of JSON, Parquet, databases) to the text of a triple's value, as it was written."""

from __future__ import annotations

import datetime
import decimal
import math
import re
import uuid
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

_WORD_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEPARATORS = re.compile(r"[_\s]+")
# In the order of preference. What an unnamed first column holds is the name as well.
NAME_COLUMNS = ("name", "title", "label", "entity", "subject", "id", "key")


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
    if isinstance(value, list | tuple):
        texts = [as_text(part) for part in value]
        return ", ".join(text for text in texts if text) or None
    return as_text(value)


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
