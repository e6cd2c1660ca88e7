"""A document as its readers leave it: one plain text, and blocks (headings, paragraphs, tables ...) that are spans of it."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal["heading", "paragraph", "item", "table", "definitions", "pairs"]
_SPACES = re.compile(r"[^\S\n]+")


class Cell(NamedTuple):
    """A cell of a table; its text is the document's text from `start` to `end`."""

    text: str
    start: int
    end: int
    header: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a document.

    Attributes:
        kind: "pairs" are rows of a key and a value about what the section is about, "definitions" rows of a term
            and what it means; a paragraph may hold several lines.
        start: its first character in the document's text.
        end: behind its last.
        level: of a heading from 1 (the outermost), of a list item from 0.
        page: on which it begins, from 1; None where there are no pages.
        rows: of a table, of definitions and of pairs.
        caption: of a table.
    """

    kind: Kind
    start: int
    end: int
    level: int = 0
    page: int | None = None
    rows: tuple[tuple[Cell, ...], ...] = ()
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A document read.

    Attributes:
        id: "sha256:" and 16 digits of its bytes: the same document has the same id wherever it lies.
        uri: where it was read.
        text: its plain text; a plain text file's own, with line feeds as line ends.
        blocks: the parts of the text, in its order.
        title: what it calls itself, empty if it does not.
        pages: where each page with text begins: place in the text, and number of the page; empty where there are no pages.
    """

    id: str
    uri: str
    text: str = field(repr=False)
    blocks: tuple[Block, ...] = field(repr=False)
    title: str = ""
    pages: tuple[tuple[int, int], ...] = ()

    def page_at(self, place: int) -> int | None:
        """Return the page, from 1, that a character of the text stands on; None where there are no pages."""
        after = bisect_right(self.pages, place, key=lambda page: page[0])
        return self.pages[max(after, 1) - 1][1] if self.pages else None

    def text_of(self, block: Block) -> str:
        """Return the text of a block."""
        return self.text[block.start : block.end]

    def in_sections(self) -> Iterator[tuple[Block, tuple[str, ...]]]:
        """Yield every block with the headings it stands under, outermost first; a heading stands under itself."""
        path: list[tuple[int, str]] = []
        for block in self.blocks:
            if block.kind == "heading":
                while path and path[-1][0] >= block.level:
                    path.pop()
                path.append((block.level, one_line(self.text_of(block))))
            yield block, tuple(text for _, text in path)


class DocumentBuilder:
    """Writes the plain text of a document, and notes which part of it is what."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.title = ""
        self.page: int | None = None
        self._parts: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []

    def heading(self, text: str, level: int) -> None:
        """Add a heading; `level` 1 is the outermost."""
        self._block("heading", one_line(text), level)

    def paragraph(self, text: str, *, item_level: int | None = None) -> None:
        """Add a paragraph, or a list item; its lines stay lines."""
        text = "\n".join(line for line in (_SPACES.sub(" ", line).strip() for line in text.split("\n")) if line)
        self._block("paragraph" if item_level is None else "item", text, item_level or 0)

    def table(
        self, rows: Iterable[Sequence[tuple[str, bool]]], *, kind: Kind = "table", caption: str = ""
    ) -> None:
        """Add a table (or definitions, or pairs): rows of texts and whether each is a header."""
        start, cells = self._open(), []
        for row in rows:
            if not any(text.strip() for text, _ in row):
                continue
            written: list[Cell] = []
            for text, header in row:
                if written:
                    self._write(" | ")
                text, place = one_line(text), self._length
                self._write(text)
                written.append(Cell(text, place, self._length, header))
            self._write("\n")
            cells.append(tuple(written))
        if cells:
            end = self._length - 1
            self._blocks.append(Block(kind, start, end, 0, self.page, tuple(cells), one_line(caption)))

    def build(self, data: bytes) -> Document:
        """Return the document; `data` is what its id is made from."""
        title = one_line(self.title)
        return Document(document_id(data), self.uri, "".join(self._parts), tuple(self._blocks), title)

    def _block(self, kind: Kind, text: str, level: int) -> None:
        if text:
            start = self._open()
            self._write(text)
            self._blocks.append(Block(kind, start, self._length, level, self.page))

    def _open(self) -> int:
        """Leave a blank line before a new block; return where the block begins."""
        if self._parts:
            self._write("\n" if self._parts[-1].endswith("\n") else "\n\n")
        return self._length

    def _write(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)


def document_id(data: bytes) -> str:
    """Return the id of a document with these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()[:16]}"


def one_line(text: str) -> str:
    """Return a text with every run of white space as one space."""
    return " ".join(text.split())
