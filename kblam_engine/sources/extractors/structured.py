"""Triples from what a document's layout says: tables, definition lists, key-value lines, headings. Needs no model.

What a section is about is its nearest heading that is no general one ("Overview", "Technical data"), else the
document's title, else the name of its file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from kblam_engine.sources.documents.document import Block, Cell, Document, one_line
from kblam_engine.sources.documents.headings import is_general
from kblam_engine.sources.extractors.base import TripleMaker, sentences, unique
from kblam_engine.sources.extractors.sections import part_as_property, property_in
from kblam_engine.sources.extractors.subjects import Subject, subjects_of
from kblam_engine.sources.extractors.table_shapes import as_property, readings
from kblam_engine.triples import Triple

# How sure a reading is: pairs say what they mean; what their subject is has to be guessed.
DEFINITION, PAIR, LONE_PAIR, LEAD = 0.9, 0.9, 0.6, 0.5
_NAME_KEYS = frozenset(("name", "title", "full name", "product", "product name", "model", "model name"))
"""A block that begins with one of these says itself what it is about."""
_GLOSSARIES = frozenset("glossary abbreviations acronyms terminology definitions vocabulary terms nomenclature".split())
_NO_KEYS = frozenset(
    "note notes warning caution important attention example examples e.g i.e tip hint todo fixme http https ps nb "
    "see figure fig table source q a question answer and or but".split()
)
_TIGHT_PAIR = re.compile(r"(?P<key>[^\W\d_][^\n:=|]{0,58}?)[ \t]*:(?!//)(?P<value>[^\s:][^\n]*)")
_PAIR = re.compile(r"(?P<key>[^\W\d_][^\n:=|]{0,58}?)[ \t]*(?::|[ \t]=)[ \t]+(?P<value>\S[^\n]*)")
_DASH = re.compile(r"(?P<key>[^\W\d_][^\n:|]{0,58}?)[ \t]+[–—][ \t]+(?P<value>\S[^\n]*)")
_OPEN_KEY = re.compile(r"(?P<key>[^\W\d_][^\n:=|]{0,58}?)[ \t]*:[ \t]*")
_LINE = re.compile(r"[^\n]+")
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
        yield from unique(_told_apart(list(self._found(document))), self.rejected)

    def _found(self, document: Document) -> Iterator[_Said]:
        blocks = list(document.in_sections())
        subjects = subjects_of(document, blocks, self._topic, _keys_of)
        for place, ((block, section), subject) in enumerate(zip(blocks, subjects, strict=True)):
            if block.kind == "heading":
                continue
            about = _About(document, block, section, subject)
            if block.kind == "table":
                yield from self._from_table(about)
            elif block.kind == "definitions":
                yield from self._from_definitions(about)
            elif block.kind == "pairs":
                yield from self._from_pairs(about, _rows_of_two(block))
            elif block.kind == "item":
                if not place or blocks[place - 1][0].kind != "item":
                    yield from self._from_items(about, [b for b, _ in _run(blocks[place:], "item")])
            else:
                is_lead = place > 0 and blocks[place - 1][0].kind == "heading"
                yield from self._from_paragraph(about, is_lead=is_lead)

    def _triple(
        self, about: _About, name: str | None, prop: str, value: str, span: tuple[int, int], confidence: float
    ) -> Iterator[_Said]:
        """Yield a triple, or none; without a name it is about the section."""
        if name is None:
            name, prop = about.subject.name, property_in(about.subject.part, prop) if about.subject.part else prop
            confidence = min(confidence * about.subject.factor, about.subject.limit)
        if not name or one_line(name).casefold() == one_line(value).casefold():
            self.rejected["no subject, or the value is the subject"] += 1
            return
        block = about.block
        triple = self._maker.make(
            about.document,
            (name, prop, value),
            span,
            confidence,
            section=about.section,
            page=block.page,
        )
        if triple is not None:
            yield _Said(triple, about.subject.name)

    def _from_table(self, about: _About) -> Iterator[_Said]:
        rows = list(about.block.rows)
        lone = [row for row in rows if len([cell for cell in row if cell.text]) == 1]
        if rows and rows[0] in lone:  # an infobox begins with what it is about
            about = about.named(rows[0][0].text or rows[0][-1].text)
        elif about.block.caption:
            about = about.captioned()
        rows = [row for row in rows if row not in lone]
        found = list(readings(rows, self.rejected, about.subject.name))
        if len(found) > 1 and found[0].name is None and found[0].property in _NAME_KEYS:
            about = about.named(found.pop(0).value)
        for reading in found:
            yield from self._triple(about, *reading)

    def _from_definitions(self, about: _About) -> Iterator[_Said]:
        """Yield terms with what they mean, or keys with their values, whichever a list of definitions holds."""
        pairs = _rows_of_two(about.block)
        if any(not _GLOSSARIES.isdisjoint(heading.casefold().split()) for heading in about.section[-1:]):
            for key, value in pairs:
                span = (key.start, value.end)
                yield from self._triple(about, key.text.rstrip(":"), "definition", value.text, span, DEFINITION)
        else:
            yield from self._from_pairs(about, pairs, may_define=True)

    def _from_pairs(
        self,
        about: _About,
        pairs: Sequence[tuple[Cell, Cell]],
        *,
        may_define: bool = False,
        confidence: float = PAIR,
    ) -> Iterator[_Said]:
        """Yield keys and values as properties of the section, or long values as what the keys mean."""
        pairs = [(key, value) for key, value in pairs if key.text and value.text]
        if len(pairs) > 1 and as_property(pairs[0][0].text) in _NAME_KEYS:
            about, pairs = about.named(pairs[0][1].text), pairs[1:]
        defines = may_define and _explain(pairs)
        for key, value in pairs:
            span = (key.start, value.end)
            if defines:
                yield from self._triple(about, key.text.rstrip(":"), "definition", value.text, span, DEFINITION)
            else:
                yield from self._triple(about, None, as_property(key.text), value.text, span, confidence)

    def _from_items(self, about: _About, items: list[Block]) -> Iterator[_Said]:
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

    def _from_paragraph(self, about: _About, *, is_lead: bool) -> Iterator[_Said]:
        text, block = about.document.text, about.block
        lines = list(_LINE.finditer(text, block.start, block.end))
        pairs = _pairs_of_lines(text, lines)
        found = [pair for pair in pairs if pair is not None]
        if len(found) == len(lines):
            lone = len(lines) == 1
            is_sentence = lone and found[0][1].text.endswith((".", "!", "?")) and len(found[0][1].text.split()) > 8
            if not is_sentence:
                yield from self._from_pairs(about, found, confidence=LONE_PAIR if lone else PAIR)
            return
        if len(found) >= 2 and 2 * len(found) >= len(lines):
            first = lines[0][0].strip()
            if pairs[0] is None and _may_name(first):
                about, lines = about.named(first), lines[1:]
            self.rejected["line among keys and values that is neither"] += len(lines) - len(found)
            yield from self._from_pairs(about, found)
            return
        part = about.subject.part
        if is_lead and self._leads and (about.subject.is_own_heading or part):
            span = next(sentences(text, block.start, block.end), None)
            if span is not None and text[span[1] - 1] in ".!?" and span[1] - span[0] >= 20:
                lead = _without_subject(text[span[0] : span[1]], about.subject.name)
                prop = part_as_property(part) if part else "description"
                yield from self._triple(about, None, prop, lead, span, LEAD)


class _Said(NamedTuple):
    """A triple, and what the section is about in which it stands."""

    triple: Triple
    subject: str


class _About(NamedTuple):
    """A block, its section, and what it is about."""

    document: Document
    block: Block
    section: tuple[str, ...]
    subject: Subject

    def named(self, name: str) -> _About:
        """Return the same about something that the block itself names."""
        return self._replace(subject=Subject(name))

    def captioned(self) -> _About:
        """Return the same about the caption, where that is no general word."""
        caption = re.sub(r"^(?:table|tab\.)\s*\d*\s*[.:]?\s*", "", self.block.caption, flags=re.IGNORECASE)
        return self.named(caption) if caption and not is_general(caption) else self


def _told_apart(found: Sequence[_Said]) -> Iterator[Triple]:
    """Yield the triples; what several sections say differently of one name is named after its section.

    The battery in the parts list of the Orca 2 is not that of the Narwhal: "Battery (Orca 2)".
    """
    values: dict[tuple[str, str], dict[str, set[str]]] = {}
    for triple, subject in found:
        if triple.name != one_line(subject):
            said = values.setdefault((triple.name.casefold(), triple.property.casefold()), {})
            said.setdefault(subject, set()).add(triple.value)
    clashing = {name for (name, _), said in values.items() if len(set(map(frozenset, said.values()))) > 1}
    for triple, subject in found:
        if triple.name.casefold() in clashing and subject and triple.name != one_line(subject):
            triple = replace(triple, name=f"{triple.name} ({one_line(subject)})")
        yield triple


def holds_pairs(document: Document, block: Block) -> bool:
    """Say whether a block consists of key-value lines, and of no sentences."""
    lines = _LINE.finditer(document.text, block.start, block.end)
    patterns = (_PAIR, _DASH, _OPEN_KEY) if block.kind == "item" else (_PAIR,)
    return all(
        any(_pair(document.text, *_stripped(line), pattern) is not None for pattern in patterns) for line in lines
    )


def _without_subject(sentence: str, topic: str) -> str:
    """Return "a maker of robots" for "Acme is a maker of robots.", without the article; others as they are."""
    start = re.match(rf"(?:The )?{re.escape(topic)} (?:is|are|was|were) (?:an? |the )?", sentence, re.IGNORECASE)
    return sentence[start.end() :].rstrip(".") if start else sentence


def _rows_of_two(block: Block) -> list[tuple[Cell, Cell]]:
    return [(row[0], row[1]) for row in block.rows if len(row) == 2]


def _keys_of(document: Document, block: Block) -> set[str]:
    """Return the keys of a block of keys and values, casefolded; of others none."""
    if block.kind in ("definitions", "pairs") or (block.kind == "table" and len(block.rows[0]) == 2):
        return {row[0].text.casefold().rstrip(":") for row in block.rows}
    if block.kind not in ("paragraph", "item"):
        return set()
    lines = list(_LINE.finditer(document.text, block.start, block.end))
    return {pair[0].text.casefold() for pair in _pairs_of_lines(document.text, lines) if pair is not None}


def _pairs_of_lines(text: str, lines: Sequence[re.Match[str]]) -> list[tuple[Cell, Cell] | None]:
    """Return the key and value of each line, None for others; "Speed:2 m/s" is a pair where another line is one."""
    pairs = [_pair(text, *_stripped(line)) for line in lines]
    if not any(pairs):
        return pairs
    return [pair or _pair(text, *_stripped(line), _TIGHT_PAIR) for line, pair in zip(lines, pairs, strict=True)]


def _may_name(line: str) -> bool:
    """Say whether the line above keys and values may be the name of what they are about."""
    starts_well = line[:1].isupper() or line[:1].isdigit()
    return starts_well and len(line.split()) <= 8 and "://" not in line and line[-1] not in ".!?;," and not is_general(line)


def _explain(pairs: Sequence[tuple[Cell, Cell]]) -> bool:
    """Say whether the values of a list say what its keys mean, and are no data: by length, articles, or initials."""
    words = sum(len(value.text.split()) for _, value in pairs)
    articles = sum(value.text.split()[0].casefold() in ("a", "an") for _, value in pairs)
    initials = sum(_spells(value.text, key.text) for key, value in pairs)
    return bool(pairs) and (words >= _LONG_VALUE * len(pairs) or 2 * max(articles, initials) > len(pairs))


def _spells(words: str, short: str) -> bool:
    """Say whether a text writes an acronym out: "application programming interface", "API"."""
    return short.isupper() and len(short) > 1 and "".join(word[0] for word in words.upper().split()).startswith(short)


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
