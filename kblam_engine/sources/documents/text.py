"""Plain text: its structure from blank lines, bullets, underlines and columns. Offsets are those of the text itself.

The text of PDF pages is read in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from kblam_engine.sources.documents.document import Block, Cell, Document, document_id
from kblam_engine.sources.documents.headings import with_levels

_BLOCK = re.compile(r"[^\n]*\S[^\n]*(?:\n[^\n]*\S[^\n]*)*")
# \x7f and the private signs: what symbol fonts of PDF files have for a bullet.
_BULLET = re.compile(r"[ \t]*(?:[-*•·‣–▪●◦\x7f\uf0b7\uf0a7]|\(?\d{1,3}[.)]|\(?[a-z][.)])[ \t]+(?=\S)")
_UNDERLINE = re.compile(r"(?:={3,}|-{3,}|~{3,})[ \t]*")
_COLUMN = re.compile(r"[ ]{2,}|[ ]*\t[ ]*|[ ]+\|[ ]+")
_NUMBERED = re.compile(r"(\d{1,2}(?:\.\d{1,2}){0,4})\.?[ \t]+(?=[^\W\d_])")
_PAIR = re.compile(r"[^\n:=]{1,60}(?::|[ ]=)[ \t]+\S")
_NO_HEADING_END = tuple(".!?,;:…")
_MAX_HEADING = 90
_SHORT_HEADING = 4  # words


def text_document(text: str, uri: str, *, id: str | None = None) -> Document:
    """Return a plain text as a document.

    Args:
        text: with line feeds as line ends; spans are offsets in it.
        uri: where it comes from.
        id: of the document; default made from the text.
    """
    blocks = tuple(with_levels(list(text_blocks(text)), text))
    first = next((text[block.start : block.end] for block in blocks if block.kind == "heading"), "")
    title = first if blocks and blocks[0].kind == "heading" else ""
    return Document(id or document_id(text.encode()), uri, text, blocks, title.strip())


def is_pair(line: str) -> bool:
    """Say whether a line is a key and a value."""
    return _PAIR.match(line.strip()) is not None


def text_blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of a plain text; headings that do not say their level have 0 (see `headings.with_levels`)."""
    groups = list(_groups(text))
    for number, (start, end) in enumerate(groups):
        lines = list(_lines(text, start, end))
        is_last = number + 1 == len(groups)
        heading, rest = _heading(text, lines, is_last)
        if heading is not None:
            yield heading
        if rest:
            yield from _body(text, rest)


def _groups(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of lines without a blank one between them; rows of one table are one group wherever its lines stand."""
    begun: tuple[int, int] | None = None
    for match in _BLOCK.finditer(text):
        start, end = match.span()
        if begun is not None and _is_same_table(text, begun, (start, end)):
            begun = begun[0], end
            continue
        if begun is not None:
            yield begun
        begun = start, end
    if begun is not None:
        yield begun


def _is_same_table(text: str, above: tuple[int, int], below: tuple[int, int]) -> bool:
    """Say whether two groups are rows of a table that is set with blank lines: single lines with columns at the same places."""
    if "\n" in text[slice(*below)] or text.count("\n", above[1], below[0]) > 2:
        return False
    last = max(above[0], text.rfind("\n", *above) + 1), above[1]
    rows = [_cells(text, *next(_lines(text, *span))) for span in (last, below)]
    return len(rows[0]) == len(rows[1]) >= 2 and _are_aligned(text, rows)


def _lines(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each line, without the white space around it."""
    for match in re.compile(r"[^\n]+").finditer(text, start, end):
        line = match[0]
        first = match.start() + len(line) - len(line.lstrip())
        yield first, first + len(line.strip())


def _heading(
    text: str, lines: list[tuple[int, int]], is_last: bool
) -> tuple[Block | None, list[tuple[int, int]]]:
    """Return the heading that a group of lines begins with, and the other lines; level 0: not said."""
    (start, end), *rest = lines
    line = text[start:end]
    if rest and _UNDERLINE.fullmatch(text[rest[0][0] : rest[0][1]]) and len(line) <= _MAX_HEADING:
        return Block("heading", start, end, 1 if text[rest[0][0]] == "=" else 2), rest[1:]
    if not _is_heading(line):
        return None, lines
    numbered = _NUMBERED.match(line)
    # A name, then key-value lines about it; below a long line a single one may be prose with a colon.
    are_pairs = all(_PAIR.match(text, *span) for span in rest)
    if not are_pairs or (len(rest) == 1 and len(line.split()) > _SHORT_HEADING) or (is_last and not rest and not numbered):
        return None, lines
    if numbered:
        return Block("heading", start + numbered.end(), end, numbered[1].count(".") + 2), rest
    return Block("heading", start, end), rest


def _is_heading(line: str) -> bool:
    """Say whether a line that stands alone reads like a heading and not like a sentence or a pair."""
    if len(line) > _MAX_HEADING or line.endswith(_NO_HEADING_END) or _BULLET.match(line) and not _NUMBERED.match(line):
        return False
    if _PAIR.match(line) or _COLUMN.search(line) or not any(char.isalpha() for char in line):
        return False
    return (line[0].isupper() or line[0].isdigit()) and len(line.split()) <= 12


def _body(text: str, lines: list[tuple[int, int]]) -> Iterator[Block]:
    """Yield the blocks of lines that follow each other: one table, or paragraphs, items, and tables between them."""
    table = _table(text, lines)
    if table is not None:
        yield table
        return
    others: list[tuple[int, int]] = []
    place = 0
    while place < len(lines):
        rows = _aligned_rows(text, lines[place:])
        if len(rows) < 2:
            others.append(lines[place])
            place += 1
            continue
        yield from _prose(text, others)
        yield Block("table", rows[0][0].start, rows[-1][-1].end, rows=tuple(rows))
        others, place = [], place + len(rows)
    yield from _prose(text, others)


def _prose(text: str, lines: list[tuple[int, int]]) -> Iterator[Block]:
    """Yield the paragraphs and list items that lines make up."""
    begun: list[tuple[int, int]] = []
    item: int | None = None
    margin = min((_indent(text, start) for start, _ in lines), default=0)
    for start, end in lines:
        bullet = _BULLET.match(text, start, end)
        continues = item is not None and _indent(text, start) > margin + item
        if bullet or (item is not None and not continues):
            if begun:
                yield _joined(begun, item)
            begun, item = [], None
        if bullet:
            item = _indent(text, start) - margin
            start = bullet.end()
        begun.append((start, end))
    if begun:
        yield _joined(begun, item)


def _joined(lines: list[tuple[int, int]], item: int | None) -> Block:
    kind = "paragraph" if item is None else "item"
    return Block(kind, lines[0][0], lines[-1][1], 0 if item is None else item // 2)  # type: ignore[arg-type]


def _indent(text: str, start: int) -> int:
    return start - (text.rfind("\n", 0, start) + 1)


def _table(text: str, lines: list[tuple[int, int]]) -> Block | None:
    """Return lines with the same number of columns, two spaces or more apart, as a table."""
    lines = [span for span in lines if not re.fullmatch(r"[-+=| ]+", text[span[0] : span[1]])]
    rows = [_cells(text, start, end) for start, end in lines]
    widths = {len(row) for row in rows}
    if len(rows) < 2 or len(widths) != 1 or min(widths) < 2:
        return None
    if any(_BULLET.match(text, *span) for span in lines):
        return None
    return Block("table", lines[0][0], lines[-1][1], rows=tuple(rows))


def _aligned_rows(text: str, lines: list[tuple[int, int]]) -> list[tuple[Cell, ...]]:
    """Return the rows of the table that lines begin with, none where they begin with none: the same columns at the same places."""
    rows: list[tuple[Cell, ...]] = []
    for start, end in lines:
        row = () if _BULLET.match(text, start, end) else _cells(text, start, end)
        if len(row) < 2 or (rows and (len(row) != len(rows[0]) or not _are_aligned(text, [rows[0], row]))):
            break
        rows.append(row)
    return rows


def _are_aligned(text: str, rows: Sequence[Sequence[Cell]]) -> bool:
    """Say whether each column begins or ends at the same place of its lines, or nearly so."""
    for column in zip(*rows, strict=True):
        firsts = [_indent(text, cell.start) for cell in column]
        lasts = [_indent(text, cell.start) + len(cell.text) for cell in column]
        if min(max(places) - min(places) for places in (firsts, lasts)) > 1:
            return False
    return True


def _cells(text: str, start: int, end: int) -> tuple[Cell, ...]:
    while start < end and text[start] in "| ":
        start += 1
    while end > start and text[end - 1] in "| ":
        end -= 1
    cells, place = [], start
    for gap in _COLUMN.finditer(text, start, end):
        cells.append(Cell(text[place : gap.start()], place, gap.start()))
        place = gap.end()
    cells.append(Cell(text[place:end], place, end))
    return tuple(cells)
