"""Headers and footers: lines at the top or bottom of pages that say the same on many of them.

They are no part of the text. Left in it, "Page 3 of 20" would stand in the middle of a sentence, and "Version: 2.1"
would be read as a property on every page.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product, takewhile

from kblam_engine.sources.documents.text import is_pair

_NUMBER = re.compile(r"\d+")
_COLUMN = re.compile(r"\S(?:[ ]{2,}|\t)(?=\S)")
_DEPTH = 4  # lines from the top or the bottom that are looked at
_MOST_NUMBERS = 3  # of a line that may each be the page's; with more it is data
_LEAST = 3  # pages on which a line stands before it counts as running
_Key = tuple[bool, str]


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages without their running lines.

    Attributes:
        texts: of each page.
        title: the first running line that is no page number, empty if there is none.
    """

    texts: list[str]
    title: str


def without_running_lines(pages: Sequence[str]) -> Pages:
    """Take off the headers and footers of pages.

    A line of the top four or bottom four is one if nothing but such lines is between it and the edge, and it stands there
    on half of the pages, three at least: word for word, but for numbers that count with the pages. So is a lone number at
    the bottom. A key with a value is one only if no line of the text stands right beside it, and counts with no page:
    products may have the same warranty. A first line that stands on three pages in a row, a chapter's title, stays on the first of them and goes
    from the others. What heads the columns of a table is none.
    """
    split = [page.split("\n") for page in pages]
    n_shown = sum(any(line.strip() for line in lines) for lines in split)
    counts = Counter(key for number, lines in enumerate(split) for key in _keys_of_page(lines, number))
    often = {key for key, count in counts.items() if count >= max(_LEAST, n_shown // 2)}
    title, texts = "", list[list[str]]()
    for number, lines in enumerate(split):
        while lines and (not lines[0].strip() or _is_running(lines, number, True, often) and not _heads_table(lines)):
            if lines[0].strip() and not lines[0].strip().isdigit():
                title = title or _one_line(lines[0])
            lines = lines[1:]
        while lines and (not lines[-1].strip() or _is_running(lines[::-1], number, False, often)):
            lines = lines[:-1]
        texts.append(lines)
    return Pages(["\n".join(lines) for lines in _without_repeated_titles(texts)], title)


def _keys_of_page(lines: Sequence[str], page: int) -> set[_Key]:
    """Return what the lines at the edges of a page are told by; one of a line's may be that of lines elsewhere."""
    shown = [line for line in lines if line.strip()]
    edges = [(True, line) for line in shown[:_DEPTH]] + [(False, line) for line in shown[-_DEPTH:]]
    return {(top, key) for top, line in edges for key in _keys(line, page)}


def _is_running(lines: Sequence[str], page: int, top: bool, often: set[_Key]) -> bool:
    """Say whether the first of these lines is a running one; the others follow it, away from the edge."""
    if not top and lines[0].strip().isdigit():
        return True
    beside = takewhile(str.strip, lines) if is_pair(lines[0]) else lines[:1]
    return all(any((top, key) in often for key in _keys(line, page)) for line in beside)


def _keys(line: str, page: int) -> Iterator[str]:
    """Yield a line with each of its numbers as it is, or as its distance from the number of the page."""
    parts = _NUMBER.split(_one_line(line))
    numbers = _NUMBER.findall(_one_line(line))
    if len(numbers) > _MOST_NUMBERS or (is_pair(line) and not line.lstrip().lower().startswith("page")):
        yield _one_line(line)
        return
    for chosen in product((False, True), repeat=len(numbers)):
        ways = (f"<{int(number) - page}>" if relative else number for number, relative in zip(numbers, chosen, strict=True))
        yield parts[0] + "".join(way + part for way, part in zip(ways, parts[1:], strict=True))


def _heads_table(lines: Sequence[str]) -> bool:
    """Say whether the first line has columns, and the line right below it as many."""
    n_columns = len(_COLUMN.findall(lines[0]))
    return n_columns > 0 and len(lines) > 1 and len(_COLUMN.findall(lines[1])) == n_columns


def _without_repeated_titles(pages: Iterable[list[str]]) -> Iterator[list[str]]:
    """Take a first line off that stood on the page before as well, where three pages in a row have it."""
    split = list(pages)
    firsts = [_one_line(lines[0]) if lines else "" for lines in split]
    runs: dict[int, int] = defaultdict(int)  # by first page of a run, its length
    begins = 0
    for page, first in enumerate(firsts):
        begins = begins if page and first and first == firsts[page - 1] else page
        runs[begins] += 1
    begins = 0
    for page, lines in enumerate(split):
        begins = page if page in runs else begins
        yield lines[1:] if page > begins and runs[begins] >= _LEAST and not _heads_table(lines) else lines


def _one_line(line: str) -> str:
    return " ".join(line.split())
