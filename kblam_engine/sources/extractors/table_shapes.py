"""How a table in a document is meant: things in rows, things in columns, keys and values, or triples.

Nothing but the cells says so: which are marked as headers, what the headers are called, and where numbers and units stand. What could be
meant in two ways is read in the likelier one, with less confidence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, takewhile
from typing import NamedTuple

from kblam_engine.sources.documents.document import Cell, one_line
from kblam_engine.sources.documents.headings import is_general
from kblam_engine.sources.records import long_columns
from kblam_engine.sources.values import NAME_COLUMNS, readable

SURE, LONE_ROW, GUESS = 0.95, 0.65, 0.6
"""Confidence in a table that says how it is meant, in one of a single row, and in one that does not say."""

Row = tuple[Cell, ...]

_KEY_HEADERS = frozenset(
    "property attribute field parameter key item characteristic feature specification spec detail metric".split()
)
_VALUE_HEADERS = frozenset("value description content setting detail details data specification".split())
# First columns that are called so name the things of their rows.
_THINGS = frozenset(
    """name title label entity subject part product model component item robot device machine vehicle person employee
    member author company customer supplier manufacturer country city town region state district department team project
    service material species language element station place site building term abbreviation acronym event course book film
    program package module version variant type article""".split()
)
_COUNTERS = frozenset(("#", "no", "no.", "nr", "nr.", "row", "pos", "pos.", "s/n", "sl. no", "sl. no.", "rank"))
_TIMES = frozenset("year date month quarter day week season period fiscal financial".split())
_VALUE = re.compile(r"[~≈<>≤≥±+\-−(]*\s*[€$£¥]?\s*\d")
_YEAR = re.compile(r"(?:FY|Q[1-4])?\s*(?:1[89]|20|21)\d\d(?:[/–-]\d{2,4})?")
_NOTHING = frozenset(("-", "–", "—", "n/a", "na", ""))


class Reading(NamedTuple):
    """What one cell of a table says."""

    name: str | None
    """What it is about; None: what the section is about."""
    property: str
    value: str
    span: tuple[int, int]
    confidence: float


def readings(rows: Sequence[Row], rejected: Counter[str], topic: str) -> Iterator[Reading]:
    """Yield what a table says.

    Args:
        rows: of the table, without titles that span it.
        rejected: counts the rows that cannot be read.
        topic: what the section is about, empty where it does not say.
    """
    width = Counter(len(row) for row in rows).most_common(1)[0][0] if rows else 0
    kept = [row for row in rows if len(row) == width]
    if len(kept) < len(rows):
        rejected["table row of another width"] += len(rows) - len(kept)
    if width < 2:
        return
    if _is_side_by_side(kept):
        kept, width = [row[at : at + 2] for row in kept for at in range(0, width, 2)], 2
        yield from _pairs(kept, SURE)
        return
    n_head = len(list(takewhile(lambda row: all(cell.header for cell in row if cell.text), kept)))
    # Markdown has no table without a header row, so a list of keys and values has its first pair there.
    is_pair = width == 2 and n_head == 1 and _is_value(kept[0][1].text) and not _YEAR.fullmatch(kept[0][1].text)
    if is_pair or (width == 2 and n_head == len(kept)):
        yield from _pairs(kept, SURE)
    elif n_head:
        yield from _with_header(_merged(kept[:n_head]), kept[n_head:], SURE, topic)
    else:
        yield from _without_marks(kept, rejected, topic)


def _without_marks(rows: Sequence[Row], rejected: Counter[str], topic: str) -> Iterator[Reading]:
    """Yield what a table without a marked header row says."""
    header, body = [cell.text for cell in rows[0]], rows[1:]
    says_so = long_columns(header) is not None or _thing_column(header) is not None or _folded(header[0]) in _KEY_HEADERS
    are_keys = _are_keys(row[0].text for row in body) and (not says_so or _folded(header[0]) in NAME_COLUMNS)
    if len(header) == 2 and (are_keys or all(row[0].header for row in rows)):
        yield from _pairs(rows, SURE)
        return
    evidence = True if says_so else _begins_with_header(rows)
    if len(header) == 2 and not (evidence and body):
        colons = all(row[0].text.endswith(":") for row in rows)
        yield from _pairs(rows, GUESS if evidence is None and not colons else SURE)
    elif evidence is False:
        rejected["row of a table without a header"] += len(rows)
    else:
        yield from _with_header(header, body, SURE if evidence else GUESS, topic)


def _are_keys(cells: Iterable[str]) -> bool:
    """Say whether the cells of a first column are keys: one ends in a colon, or is what properties are commonly called."""
    return any(text.endswith(":") or is_general(text) or _folded(text) in _THINGS for text in cells)


def _with_header(header: Sequence[str], body: Sequence[Row], sure: float, topic: str) -> Iterator[Reading]:
    """Yield what the rows below a header say."""
    long = long_columns(header)
    if long is not None:
        for row in body:
            name, prop, value = (row[list(header).index(column)].text for column in long)
            yield Reading(name, prop, value, _span(row), sure)
    elif _is_key_value_header(header):
        yield from _pairs(body, sure)
    elif _things_in_columns(header, body, topic):
        yield from _columns(header, body, sure, topic)
    else:
        yield from _rows(header, body, sure, topic)


def _rows(header: Sequence[str], body: Sequence[Row], sure: float, topic: str) -> Iterator[Reading]:
    """Yield the properties of the things that rows are about."""
    known = _thing_column(header)
    at = known if known is not None else next((i for i, h in enumerate(header) if _folded(h) not in _COUNTERS), 0)
    at = _telling_column(header, body, at)
    are_values = known is None and all(_is_value(row[at].text) for row in body)
    if known is None and len(body) == 1:
        sure = min(sure, LONE_ROW)
    is_record = are_values and topic and len(body) == 1 and not _is_time(header[at])
    for row in body:
        own = row[at].text
        for column, (prop, cell) in enumerate(zip(header, row, strict=True)):
            if not prop or _is_nothing(cell.text) or _folded(prop) in _COUNTERS:
                continue
            if is_record:  # of what the section is about
                yield Reading(None, as_property(prop), cell.text, _span(row), sure)
            elif column != at and are_values and topic:  # figures by year, prices by size
                yield Reading(None, f"{as_property(prop)} {_which(header[at], own)}", cell.text, _span(row), sure)
            elif column != at and own:
                yield Reading(own, as_property(prop), cell.text, _span(row), sure)


def _columns(header: Sequence[str], body: Sequence[Row], sure: float, topic: str) -> Iterator[Reading]:
    """Yield the properties of the things that columns are about; columns that are years say when."""
    are_years = bool(topic) and all(_YEAR.fullmatch(name) for name in header[1:] if name)
    for row in body:
        for name, cell in zip(header[1:], row[1:], strict=True):
            if not (name and row[0].text) or _is_nothing(cell.text):
                continue
            prop = as_property(row[0].text)
            if are_years:
                yield Reading(None, f"{prop} {name}", cell.text, _span(row), sure)
            else:
                yield Reading(name, prop, cell.text, _span(row), sure)


def _pairs(rows: Sequence[Row], sure: float) -> Iterator[Reading]:
    for key, value in rows:
        if key.text and not _is_nothing(value.text):
            yield Reading(None, as_property(key.text), value.text, (key.start, value.end), sure)


def as_property(key: str) -> str:
    """Return a key as a property: "Headquarters:" is "headquarters", "GDP" stays."""
    words = readable(key.strip(" :")).split(" ")
    first = words[0]
    # "Head office" is a sentence's beginning; "Max Payload" and "GDP" are left as they are.
    if first[1:].islower() and not any(word[:1].isupper() for word in words[1:]):
        words[0] = first.lower()
    return " ".join(words)


def _things_in_columns(header: Sequence[str], body: Sequence[Row], topic: str) -> bool:
    """Say whether the header names things and the first column their properties, as where products are compared."""
    corner, named = _folded(header[0]), any(_is_name(column, topic) for column in header[1:])
    if corner in _KEY_HEADERS:
        return named
    # Each row has one unit and the columns have several: "Payload | 80 kg | 60 kg".
    across = _likeness([[cell.text for cell in row[1:]] for row in body])
    down = _likeness([[row[at].text for row in body] for at in range(1, len(header))])
    if across != down:
        return across > down and (named or not corner)
    return named and not corner and not any(_has_digit(row[0].text) for row in body)


def _is_name(column: str, topic: str) -> bool:
    """Say whether a header names a thing: the section's own, one with a number, or with several capitals."""
    capitals = sum(word[:1].isupper() for word in column.split())
    return _has_digit(column) or capitals > 1 or (bool(column) and _folded(column) in _folded(topic))


def _likeness(lines: Sequence[Sequence[str]]) -> float:
    """Return how much alike the cells of each line are, 0 to 1, on average: numbers of one unit are, and words are."""
    shares = []
    for line in lines:
        shapes = Counter(_shape(text) for text in line if not _is_nothing(text))
        if shapes:
            shares.append(shapes.most_common(1)[0][1] / shapes.total())
    return sum(shares) / len(shares) if shares else 0.0


def _shape(text: str) -> str:
    """Return the unit of a number, behind a 0; "a" for a text."""
    return "0" + re.sub(r"[\d\s.,~≈<>≤≥±+\-−()€$£¥]+", "", text).casefold() if _is_value(text) else "a"


def _begins_with_header(rows: Sequence[Row]) -> bool | None:
    """Say whether the first row is a header, by where numbers begin; None where there are none to tell by."""
    if len(rows) < 2:
        return False if any(_is_value(cell.text) for cell in rows[0][1:]) else None
    for column in list(zip(*rows, strict=True))[1:]:
        first, *others = (_is_value(cell.text) for cell in column)
        if 2 * sum(others) > len(others):
            return not first
        if first:
            return False
    return None


def _is_side_by_side(rows: Sequence[Row]) -> bool:
    """Say whether a table has two keys and values in each row: "Payload | 80 kg | Speed | 2 m/s"."""
    if len(rows[0]) < 4 or len(rows[0]) % 2:
        return False
    keys = [cell for row in rows for cell in row[::2]]
    values = [cell for row in rows for cell in row[1::2]]
    if any(cell.header for cell in chain(keys, values)):
        return all(cell.header for cell in keys if cell.text) and not any(cell.header for cell in values)
    return all(_is_value(cell.text) for cell in values if cell.text) and not any(_is_value(cell.text) for cell in keys)


def _merged(rows: Sequence[Row]) -> list[str]:
    """Return the header of a table with several header rows: "Size" above "height" is "Size height"."""
    return [one_line(" ".join(dict.fromkeys(cell.text for cell in column))) for column in zip(*rows, strict=True)]


def _thing_column(header: Sequence[str]) -> int | None:
    """Return the column that names the things of the rows, by what it is called; None where none is called so."""
    folded = [_folded(column) for column in header]
    if folded[0] in _THINGS:
        return 0
    # Behind a number or an identifier the name may come second.
    is_number = folded[0] in _COUNTERS or folded[0] in ("id", "key", "code", "sku")
    named = next((folded.index(name) for name in NAME_COLUMNS[:5] if name in folded), None)
    return named if named is not None else 1 if is_number and len(header) > 2 and folded[1] in _THINGS else None


def _is_key_value_header(header: Sequence[str]) -> bool:
    if len(header) != 2:
        return False
    left, right = map(_folded, header)
    return (left in _KEY_HEADERS and (not right or right in _VALUE_HEADERS)) or not (left or right)


def _telling_column(header: Sequence[str], body: Sequence[Row], at: int) -> int:
    """Return the column of names, or where its names come again, as those of a country with several cities, one of things whose do not."""

    def tells(column: int) -> bool:
        return len({row[column].text for row in body}) == len(body)

    others = (i for i, name in enumerate(header) if _folded(name) in _THINGS and tells(i))
    return at if tells(at) else next(others, at)


def _which(column: str, value: str) -> str:
    """Return what tells one property of several apart: "2020" in a column of years, "size 40" in one of sizes."""
    return value if _is_time(column) else f"{as_property(column)} {value}".strip()


def _is_time(column: str) -> bool:
    return not _TIMES.isdisjoint(_folded(column).split())


def _is_value(text: str) -> bool:
    return _VALUE.match(text) is not None


def _has_digit(text: str) -> bool:
    return any(char.isdigit() for char in text)


def _is_nothing(text: str) -> bool:
    return text.casefold() in _NOTHING


def _folded(text: str) -> str:
    return one_line(text).casefold().rstrip(":")


def _span(row: Row) -> tuple[int, int]:
    return row[0].start, row[-1].end
