"""PDF files by pypdf: the text of the pages, without what stands at the top or bottom of most of them.

A PDF has places of letters and no structure; paragraphs, headings and tables are read from gaps, as in plain
text. Scanned pages have no text: they need character recognition first.
"""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from kblam_engine.errors import ImportFileError
from kblam_engine.sources.documents.document import Block, Document, document_id, one_line
from kblam_engine.sources.documents.text import text_blocks
from kblam_engine.sources.source import missing

_HYPHEN = re.compile(r"(?<=[a-z])-\n(?=[a-z])")
_DIGITS = re.compile(r"\d+")
_SENTENCE_END = (".", "!", "?", ":", ";")
MAX_PAGES = 5000


def pdf_document(data: bytes, uri: str, path: Path, *, password: str | None = None) -> Document:
    """Return a PDF file as a document; its blocks know their page.

    Raises:
        ImportFileError: it is damaged, encrypted with another password, too long, or has no text.
        MissingDependencyError: pypdf is not installed.
    """
    try:
        import pypdf
        from pypdf.errors import PyPdfError
    except ImportError:
        raise missing("pypdf", "pdf", "Reading PDF") from None
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it remarks on every oddity that it mends
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(password or ""):
            raise ImportFileError(path, 0, "is encrypted; give its password")
        if len(reader.pages) > MAX_PAGES:
            raise ImportFileError(path, 0, f"expected at most {MAX_PAGES} pages, got {len(reader.pages)}; split it")
        pages = [page_text(page) for page in reader.pages]
        title = one_line(reader.metadata.title or "") if reader.metadata is not None else ""
    except ImportFileError:
        raise
    # A damaged file can make pypdf stumble in any of these ways.
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OSError) as error:
        raise ImportFileError(path, 0, f"not a sound PDF file: {error}") from None
    pages = without_running_lines(pages)
    if not any(page.strip() for page in pages):
        raise ImportFileError(path, 0, "has no text; scanned pages need character recognition (OCR) first")
    return _document(pages, uri, document_id(data), title)


def page_text(page: Any) -> str:
    """Return the text of a page with its columns and gaps, and words that a line end had split joined."""
    text = page.extract_text(extraction_mode="layout", layout_mode_strip_rotated=True)
    lines = [line.rstrip() for line in text.split("\n")]
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return _HYPHEN.sub("", "\n".join(line[margin:] for line in lines)).strip("\n")


def without_running_lines(pages: list[str]) -> list[str]:
    """Take the first and last lines off that stand on most pages, numbers aside; and lone page numbers."""
    ends: Counter[tuple[bool, str]] = Counter()
    split = [[line for line in page.split("\n")] for page in pages]
    for lines in split:
        shown = [line for line in lines if line.strip()]
        if shown:
            ends.update({(True, _shape(shown[0])), (False, _shape(shown[-1]))})
    often = {end for end, count in ends.items() if count >= max(3, len(pages) // 2)}
    kept = []
    for lines in split:
        while lines and (not lines[0].strip() or (True, _shape(lines[0])) in often):
            lines = lines[1:]
        while lines and (not lines[-1].strip() or (False, _shape(lines[-1])) in often or lines[-1].strip().isdigit()):
            lines = lines[:-1]
        kept.append("\n".join(lines))
    return kept


def _shape(line: str) -> str:
    return _DIGITS.sub("0", one_line(line))


def _document(pages: list[str], uri: str, id: str, title: str) -> Document:
    text, blocks, first_heading = "", [], ""
    for number, page in enumerate(pages, start=1):
        page = _with_gaps(page)
        if not page.strip():
            continue
        start = len(text) + 2 * bool(text)
        text += ("\n\n" if text else "") + page
        for block in text_blocks(page):
            blocks.append(_moved(block, start, number))
            if block.kind == "heading" and not first_heading and len(blocks) == 1:
                first_heading = page[block.start : block.end]
    return Document(id, uri, text, tuple(blocks), first_heading or title)


def _with_gaps(page: str) -> str:
    """Put a blank line behind a line that ends a paragraph: a short one with a full stop."""
    lines = page.split("\n")
    width = max((len(line) for line in lines), default=0)
    out = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        out.append(line)
        short = len(line) < 0.75 * width and line.rstrip().endswith(_SENTENCE_END[:3])
        if short and following.strip() and following.lstrip()[:1].isupper() and width > 60:
            out.append("")
    return "\n".join(out)


def _moved(block: Block, by: int, page: int) -> Block:
    rows = tuple(
        tuple(cell._replace(start=cell.start + by, end=cell.end + by) for cell in row) for row in block.rows
    )
    return replace(block, start=block.start + by, end=block.end + by, page=page, rows=rows)
