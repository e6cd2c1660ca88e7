"""HTML by lxml: what a page says, without its scripts, navigation and forms. Spans are of the plain text."""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib import import_module
from typing import Any

from kblam_engine.errors import ImportFileError
from kblam_engine.sources.documents.document import Document, DocumentBuilder
from kblam_engine.sources.source import missing

_SKIPPED = frozenset(
    "script style noscript template svg math nav aside form button select iframe object canvas head footer "
    "audio video dialog pre".split()
)
_BLOCKS = frozenset(
    "address article blockquote body center details div dd dl dt fieldset figcaption figure header html li main ol p "
    "section summary table tbody td th thead tr ul hr h1 h2 h3 h4 h5 h6".split()
)
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_LISTED = ("dt", "dd")  # the next ones lie in those before where a page does not close them
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_MAX_COPIES = 200_000  # of cells that span several columns or rows, in a page: a few bytes can ask for millions
_MAX_DEPTH = 400  # of elements in elements: what walks them calls itself


def html_document(data: bytes, uri: str) -> Document:
    """Return an HTML page as a document; of its `main` or only `article`, if it has one.

    Raises:
        ImportFileError: it is no HTML, or empty, or its elements are nested too deeply.
        MissingDependencyError: lxml is not installed.
    """
    try:
        etree, html = import_module("lxml.etree"), import_module("lxml.html")
    except ImportError:
        raise missing("lxml", "html", "Reading HTML") from None
    try:
        encoding = "utf-8" if data.decode("utf-8") is not None else None
    except UnicodeDecodeError:
        encoding = None  # the page says which, or it is Latin-1
    try:
        parser = html.HTMLParser(encoding=encoding, no_network=True, remove_comments=True, remove_pis=True, huge_tree=True)
        page = html.document_fromstring(data, parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError, ValueError) as error:
        raise ImportFileError(uri, 0, f"not HTML: {error}") from None
    if (depth := _depth(page, etree)) > _MAX_DEPTH:
        raise ImportFileError(uri, 0, f"expected elements nested at most {_MAX_DEPTH} deep, got {depth}; simplify the page first")
    builder = DocumentBuilder(uri)
    titles = page.xpath("//head/title/text()") + page.xpath("//title/text()")
    builder.title = titles[0] if titles else ""
    mains = page.xpath("//main | //*[@role='main']") or page.xpath("//article")
    _Walk(builder).add(mains[0] if len(mains) == 1 else page, 0)
    return builder.build(data)


class _Walk:
    """Goes through the elements of a page; loose text between blocks is a paragraph."""

    def __init__(self, builder: DocumentBuilder) -> None:
        self._builder = builder
        self._loose: list[str] = []
        self._item: int | None = None
        self._copies = _MAX_COPIES

    def add(self, element: Any, depth: int, lists: int = -1) -> None:
        """Add an element and what it holds, not the text behind it."""
        if not isinstance(element.tag, str) or _is_hidden(element):
            return
        tag = element.tag
        if tag in _HEADINGS:
            self._flush()
            self._builder.heading(text_of(element), int(tag[1]))
        elif tag == "table" and not element.xpath(".//table"):
            self._flush()
            self._add_table(element)
        elif tag == "dl":
            self._flush()
            self._add_definitions(element)
        elif tag == "br":
            self._loose.append("\n")
        else:
            is_block = tag in _BLOCKS
            if is_block:
                self._flush()
            if tag == "li":
                self._item = max(lists, 0)
            self._loose.append(_spaced(element.text))
            for child in element:
                self.add(child, depth + 1, lists + (tag in ("ul", "ol")))
                self._loose.append(_spaced(child.tail))
            if is_block:
                self._flush()
        if tag == "body" or depth == 0:
            self._flush()

    def _flush(self) -> None:
        text = "".join(self._loose)
        self._loose.clear()
        if text.strip():
            self._builder.paragraph(text, item_level=self._item)
            self._item = None

    def _add_table(self, table: Any) -> None:
        captions = table.xpath("./caption")
        rows = [row.xpath("./th | ./td") for row in table.xpath("./tr | ./thead/tr | ./tbody/tr | ./tfoot/tr")]
        caption = text_of(captions[0]) if captions else ""
        grid = _grid(rows, self._copies)
        self._copies -= sum(map(len, grid)) - sum(map(len, rows))
        self._builder.table(grid, caption=caption)

    def _add_definitions(self, element: Any) -> None:
        """Add a list of definitions: each term with all that is said of it; terms in a row share what follows."""
        terms, meanings, rows = [], [], []  # type: list[str], list[str], list[list[tuple[str, bool]]]
        for child in [*element.xpath(".//dt | .//dd"), None]:
            if child is not None and child.tag == "dd":
                meanings.append(text_of(child, without=_LISTED))
                continue
            if meanings or child is None:
                said = "; ".join(meaning for meaning in meanings if meaning)
                rows += [[(term, True), (said, False)] for term in terms]
                terms, meanings = [], []
            if child is not None:
                terms.append(text_of(child, without=_LISTED))
        self._builder.table(rows, kind="definitions")


def _grid(rows: list[list[Any]], max_copies: int) -> list[list[tuple[str, bool]]]:
    """Return the texts of a table's cells and whether they are headers, each cell in all the columns and rows that it spans.

    A row of one cell, which says what the table is about, has one. No row is wider than that with the most cells.
    """
    width = max(map(len, rows), default=0)
    grid: list[list[tuple[str, bool]]] = []
    hanging: dict[int, tuple[tuple[str, bool], int]] = {}  # column: cell of a row above, rows that it still spans
    for cells in rows:
        row: list[tuple[str, bool]] = []
        lone = len(cells) == 1 and not hanging
        waiting = iter(cells)
        while True:
            at = len(row)
            if at in hanging:
                above, left = hanging.pop(at)
                if left > 1:
                    hanging[at] = (above, left - 1)
                row.append(above)
                max_copies -= 1
                continue
            if (cell := next(waiting, None)) is None:
                break
            told = text_of(cell), cell.tag == "th"
            n_columns = 1 if lone else max(1, min(_span(cell, "colspan"), width - at, max_copies))
            n_rows = min(_span(cell, "rowspan"), max_copies)
            if n_rows > 1:
                hanging |= {column: (told, n_rows - 1) for column in range(at, at + n_columns)}
            row += [told] * n_columns
            max_copies -= n_columns - 1
        if row:
            grid.append(row)
    return grid


def _span(cell: Any, attribute: str) -> int:
    """Return how many columns or rows a cell says that it spans."""
    text = cell.get(attribute, "1").strip()
    return max(int(text), 1) if text.isascii() and text.isdigit() and len(text) < 6 else 1


def text_of(element: Any, without: Collection[str] = ()) -> str:
    """Return the text inside an element: white space as in a browser, blocks and line breaks as line feeds.

    Elements inside that are called as in `without` are left out.
    """
    parts: list[str] = []

    def add(inner: Any) -> None:
        if not isinstance(inner.tag, str) or _is_hidden(inner):
            return
        border = "\n" if inner.tag == "br" or inner.tag in _BLOCKS else ""
        parts.extend((border, _spaced(inner.text)))
        for child in inner:
            if child.tag not in without:
                add(child)
            parts.append(_spaced(child.tail))
        parts.append(border)

    add(element)
    lines = (" ".join(line.split()) for line in "".join(parts).split("\n"))
    return "\n".join(line for line in lines if line)


def _depth(page: Any, etree: Any) -> int:
    deepest = depth = 0
    for event, _ in etree.iterwalk(page, events=("start", "end")):
        depth += 1 if event == "start" else -1
        deepest = max(deepest, depth)
    return deepest


def _is_hidden(element: Any) -> bool:
    return (
        element.tag in _SKIPPED
        or "hidden" in element.attrib
        or element.get("aria-hidden") == "true"
        or (element.tag == "sup" and "reference" in element.get("class", ""))
        or bool(_HIDDEN.search(element.get("style", "")))
    )


def _spaced(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "")
