"""Triples from what a document's layout says: tables, definition lists, key-value lines, headings. Needs no model.

What a section is about is its nearest heading that is no general one ("Overview", "Technical data"), else the
document's title, else the name of its file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from kblam_engine.sources.documents.document import Block, Cell, Document, one_line
from kblam_engine.sources.extractors.base import TripleMaker, sentences, unique
from kblam_engine.sources.records import long_columns
from kblam_engine.sources.values import readable
from kblam_engine.triples import Triple

# How sure a reading is. Tables and pairs say what they mean; what their subject is has to be guessed.
TABLE, DEFINITION, PAIR, LONE_PAIR, LEAD = 0.95, 0.9, 0.9, 0.6, 0.5
_FROM_FILE_NAME = 0.8
"""Factor where the subject is the name of the file."""

_GENERAL = frozenset(
    """about appendix at a glance|background|basic data|basic facts|contact|contact details|contents|data|data sheet|
    datasheet|description|detail|details|fact sheet|facts|facts and figures|features|figures|general|
    general information|history|info|infobox|information|introduction|key data|key facts|key figures|
    main features|metadata|overview|parameters|profile|properties|quick facts|specification|specifications|specs|
    summary|technical data|technical details|technical specification|technical specifications|about|appendix|
    at a glance|abstract|preface|conclusion|conclusions|results|discussion|references|notes|see also|links|external links|
    table of contents|product details|product information|more information""".replace("\n    ", "").split("|")
)
_KEY_HEADERS = frozenset(
    "property attribute field parameter key item characteristic feature specification spec detail".split()
)
_VALUE_HEADERS = frozenset("value description content setting detail details data specification".split())
_NO_KEYS = frozenset(
    "note notes warning caution important attention example examples e.g i.e tip hint todo fixme http https ps nb "
    "see figure fig table source q a question answer and or but".split()
)
_PAIR = re.compile(r"(?P<key>[^\W\d_][^\n:=|]{0,58}?)[ \t]*(?::|[ \t]=)[ \t]+(?P<value>\S[^\n]*)")
_DASH = re.compile(r"(?P<key>[^\W\d_][^\n:|]{0,58}?)[ \t]+[–—][ \t]+(?P<value>\S[^\n]*)")
_OPEN_KEY = re.compile(r"(?P<key>[^\W\d_][^\n:=|]{0,58}?)[ \t]*:[ \t]*")
_MAX_KEY_WORDS = 6
_LONG_VALUE = 5
"""Words on average from which the values of a list explain their keys, and are no data about the section."""


class StructuredExtractor:
    """Reads tables, definitions, key-value lines and the sentence below a heading.

    Args:
        topic: what the document is about, in place of its headings and title.
        leads: take the first sentence below a heading as its description.
    """

    name = "structured"

    def __init__(self, *, topic: str | None = None, leads: bool = True) -> None:
        self._topic = topic
        self._leads = leads
        self._maker = TripleMaker(self.name)
        self.rejected: Counter[str] = self._maker.rejected

    def __call__(self, document: Document) -> Iterator[Triple]:
        """Yield the triples of a document."""
        self.rejected.clear()
        yield from unique(self._found(document), self.rejected)

    def _found(self, document: Document) -> Iterator[Triple]:
        blocks = list(document.in_sections())
        for place, (block, section) in enumerate(blocks):
            if block.kind == "heading":
                continue
            about = _About(document, block, section, self._topic)
            if block.kind == "table":
                yield from self._from_table(about)
            elif block.kind == "definitions":
                yield from self._from_pairs(about, list(_pairs_of(block)), may_define=True)
            elif block.kind == "pairs":
                yield from self._from_pairs(about, list(_pairs_of(block)))
            elif block.kind == "item":
                if not place or blocks[place - 1][0].kind != "item":
                    yield from self._from_items(about, [b for b, _ in _run(blocks[place:], "item")])
            else:
                is_lead = place > 0 and blocks[place - 1][0].kind == "heading"
                yield from self._from_paragraph(about, is_lead=is_lead)

    def _triple(
        self, about: _About, name: str | None, prop: str, value: str, span: tuple[int, int], confidence: float
    ) -> Iterator[Triple]:
        """Yield a triple, or none; without a name it is about the section."""
        factor = 1.0
        if name is None:
            name, factor = about.topic, about.factor
        if not name or one_line(name).casefold() == one_line(value).casefold():
            self.rejected["no subject, or the value is the subject"] += 1
            return
        block = about.block
        triple = self._maker.make(
            about.document,
            (name, prop, value),
            span,
            confidence * factor,
            section=about.section,
            page=block.page,
        )
        if triple is not None:
            yield triple

    def _from_table(self, about: _About) -> Iterator[Triple]:
        rows = list(about.block.rows)
        lone = [row for row in rows if len([cell for cell in row if cell.text]) == 1]
        if rows and rows[0] in lone:  # an infobox begins with what it is about
            about = about.named(rows[0][0].text or rows[0][-1].text)
        elif about.block.caption:
            about = about.captioned()
        rows = [row for row in rows if row not in lone]
        if not rows:
            return
        header = [cell.text for cell in rows[0]]
        if _is_key_value(rows):
            body = rows[1:] if _is_key_value_header(header) else rows
            yield from self._from_pairs(about, [(row[0], row[1]) for row in body], confidence=TABLE)
            return
        long = long_columns(header)
        for row in rows[1:]:
            by_header = dict(zip(header, row, strict=False))
            if len(row) != len(header):
                self.rejected["table row of another width"] += 1
            elif long is not None:
                parts = [by_header[column] for column in long]
                name, prop, value = (cell.text for cell in parts)
                yield from self._triple(about, name, prop, value, _span(row), TABLE)
            else:
                yield from self._from_wide(about, header, row)

    def _from_wide(self, about: _About, header: list[str], row: tuple[Cell, ...]) -> Iterator[Triple]:
        name = row[0].text
        for column, cell in zip(header[1:], row[1:], strict=True):
            if name and column and cell.text and cell.text not in ("-", "–", "—", "n/a", "N/A"):
                yield from self._triple(about, name, _property(column), cell.text, _span(row), TABLE)

    def _from_pairs(
        self,
        about: _About,
        pairs: Sequence[tuple[Cell, Cell]],
        *,
        may_define: bool = False,
        confidence: float = PAIR,
    ) -> Iterator[Triple]:
        """Yield keys and values as properties of the section, or long values as what the keys mean."""
        pairs = [(key, value) for key, value in pairs if key.text and value.text]
        words = sum(len(value.text.split()) for _, value in pairs)
        defines = may_define and words >= _LONG_VALUE * len(pairs)
        for key, value in pairs:
            span = (key.start, value.end)
            if defines:
                yield from self._triple(about, key.text.rstrip(":"), "definition", value.text, span, DEFINITION)
            else:
                yield from self._triple(about, None, _property(key.text), value.text, span, confidence)

    def _from_items(self, about: _About, items: list[Block]) -> Iterator[Triple]:
        """Yield the pairs of a list; "Colours:" with items below it has them as its value."""
        text = about.document.text
        pairs: list[tuple[Cell, Cell]] = []
        place = n_open = 0
        while place < len(items):
            block = items[place]
            place += 1
            inner = [b for b in _below(items[place:], block.level)]
            open_key = _OPEN_KEY.fullmatch(text, block.start, block.end)
            pair = _pair(text, block.start, block.end) or _pair(text, block.start, block.end, _DASH)
            if open_key and inner and _is_key(open_key["key"]):
                joined = ", ".join(one_line(text[b.start : b.end]) for b in inner if b.level == inner[0].level)
                value = Cell(joined, inner[0].start, inner[-1].end)
                yield from self._from_pairs(about, [(_cell(open_key, "key"), value)])
                place, n_open = place + len(inner), n_open + 1
            elif pair is not None:
                pairs.append((pair[0], _to_end(text, pair[1], block.end)))
        lone = len(pairs) + n_open == 1 and len(items) > 1
        yield from self._from_pairs(about, pairs, may_define=True, confidence=LONE_PAIR if lone else PAIR)

    def _from_paragraph(self, about: _About, *, is_lead: bool) -> Iterator[Triple]:
        text, block = about.document.text, about.block
        lines = list(re.compile(r"[^\n]+").finditer(text, block.start, block.end))
        pairs = [_pair(text, *_stripped(line)) for line in lines]
        found = [pair for pair in pairs if pair is not None]
        if len(found) == len(lines):
            lone = len(lines) == 1
            is_sentence = lone and found[0][1].text.endswith((".", "!", "?")) and len(found[0][1].text.split()) > 8
            if not is_sentence:
                yield from self._from_pairs(about, found, confidence=LONE_PAIR if lone else PAIR)
            return
        if len(found) == len(lines) - 1 >= 2 and pairs[0] is None and len(lines[0][0].split()) <= 8:
            yield from self._from_pairs(about.named(lines[0][0].strip()), found)
            return
        if is_lead and self._leads and about.is_own_heading:
            span = next(sentences(text, block.start, block.end), None)
            if span is not None and text[span[1] - 1] in ".!?" and span[1] - span[0] >= 20:
                lead = _without_subject(text[span[0] : span[1]], about.topic)
                yield from self._triple(about, None, "description", lead, span, LEAD)


class _About:
    """A block, its section, and what it is about."""

    def __init__(
        self, document: Document, block: Block, section: tuple[str, ...], topic: str | None
    ) -> None:
        self.document, self.block, self.section, self.factor = document, block, section, 1.0
        own = next((text for text in reversed(section) if not is_general(text)), None)
        stem = PurePath(document.uri).stem.replace("_", " ").replace("-", " ").strip()
        self.topic = topic or own or document.title or stem
        self.is_own_heading = bool(section) and own == section[-1] and topic is None
        if not (topic or own or document.title):
            self.factor = _FROM_FILE_NAME

    def named(self, topic: str) -> _About:
        """Return the same about something else."""
        return _About(self.document, self.block, self.section, topic)

    def captioned(self) -> _About:
        """Return the same about the caption, where that is no general word."""
        caption = re.sub(r"^(?:table|tab\.)\s*\d*\s*[.:]?\s*", "", self.block.caption, flags=re.IGNORECASE)
        return self.named(caption) if caption and not is_general(caption) else self


def holds_pairs(document: Document, block: Block) -> bool:
    """Say whether a block consists of key-value lines, and of no sentences."""
    lines = re.compile(r"[^\n]+").finditer(document.text, block.start, block.end)
    patterns = (_PAIR, _DASH, _OPEN_KEY) if block.kind == "item" else (_PAIR,)
    return all(
        any(_pair(document.text, *_stripped(line), pattern) is not None for pattern in patterns) for line in lines
    )


def _without_subject(sentence: str, topic: str) -> str:
    """Return "a maker of robots" for "Acme is a maker of robots.", without the article; others as they are."""
    start = re.match(rf"(?:The )?{re.escape(topic)} (?:is|are|was|were) (?:an? |the )?", sentence, re.IGNORECASE)
    return sentence[start.end() :].rstrip(".") if start else sentence


def is_general(heading: str) -> bool:
    """Say whether a heading names a kind of section and not a thing."""
    return heading.casefold().strip(" .:") in _GENERAL


def _property(key: str) -> str:
    """Return a key as a property: "Headquarters:" is "headquarters", "GDP" stays."""
    words = readable(key.strip(" :")).split(" ")
    first = words[0]
    # "Head office" is a sentence's beginning; "Max Payload" and "GDP" are left as they are.
    if first[1:].islower() and not any(word[:1].isupper() for word in words[1:]):
        words[0] = first.lower()
    return " ".join(words)


def _is_key_value(rows: Sequence[tuple[Cell, ...]]) -> bool:
    """Say whether a table of two columns has keys on the left, and not things with one property."""
    if any(len(row) != 2 for row in rows):
        return False
    if _is_key_value_header([cell.text for cell in rows[0]]):
        return True
    only_left = [row[0].header and not row[1].header for row in rows]
    return all(only_left) or (len(rows) > 1 and not rows[0][0].header and _looks_like_keys(rows))


def _is_key_value_header(header: Sequence[str]) -> bool:
    left, right = (one_line(cell).casefold().rstrip(":") for cell in header[:2])
    return (left in _KEY_HEADERS and (not right or right in _VALUE_HEADERS)) or not (left or right)


def _looks_like_keys(rows: Sequence[tuple[Cell, ...]]) -> bool:
    """Say whether the left cells of a table without header cells end in colons."""
    return all(row[0].text.endswith(":") for row in rows)


def _pairs_of(block: Block) -> Iterator[tuple[Cell, Cell]]:
    for row in block.rows:
        if len(row) == 2:
            yield row[0], row[1]


def _run(blocks: Sequence[tuple[Block, tuple[str, ...]]], kind: str) -> Iterator[tuple[Block, tuple[str, ...]]]:
    for block in blocks:
        if block[0].kind != kind:
            return
        yield block


def _below(items: Sequence[Block], level: int) -> Iterator[Block]:
    for block in items:
        if block.level <= level:
            return
        yield block


def _pair(
    text: str, start: int, end: int, pattern: re.Pattern[str] = _PAIR
) -> tuple[Cell, Cell] | None:
    match = pattern.match(text, start, end)
    if match is None or not _is_key(match["key"]):
        return None
    return _cell(match, "key"), _cell(match, "value") if "value" in match.re.groupindex else _cell(match, "key")


def _is_key(key: str) -> bool:
    words = key.split()
    return 0 < len(words) <= _MAX_KEY_WORDS and words[0].casefold() not in _NO_KEYS and not re.search(r"[.!?;,]\s", key)


def _cell(match: re.Match[str], group: str) -> Cell:
    text = match[group].rstrip()
    return Cell(text, match.start(group), match.start(group) + len(text))


def _to_end(text: str, value: Cell, end: int) -> Cell:
    """Return a value with the lines of the item that follow it."""
    return Cell(one_line(text[value.start : end]), value.start, end)


def _stripped(line: re.Match[str]) -> tuple[int, int]:
    start = line.start() + len(line[0]) - len(line[0].lstrip())
    return start, start + len(line[0].strip())


def _span(row: Sequence[Cell]) -> tuple[int, int]:
    return row[0].start, row[-1].end
