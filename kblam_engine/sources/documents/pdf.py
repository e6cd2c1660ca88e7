"""PDF files by pypdf: the text of the pages, without headers and footers.

A PDF has places of letters and no structure; paragraphs, headings and tables are read from gaps, as in plain
text. A sentence that goes on on the next page is one. Scanned pages have no text: they need character recognition first.
"""

from __future__ import annotations

import io
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from kblam_engine.errors import ImportFileError
from kblam_engine.sources.documents.document import Block, Document, document_id, one_line
from kblam_engine.sources.documents.headings import with_levels
from kblam_engine.sources.documents.running_lines import without_running_lines
from kblam_engine.sources.documents.text import is_pair, text_blocks
from kblam_engine.sources.source import missing

_HYPHEN = re.compile(r"(?<=[a-z])-\n(?=[a-z])")
_CUT_WORD = re.compile(r"[a-z]-\Z")
_GOES_ON = re.compile(
    r"(?:,|\b(?:an?|and|are|as|at|by|for|from|has|have|in|into|is|its|of|on|or|that|the|their|to|was|were|which|with))\Z"
)
# What programs write for want of a title.
_NO_TITLE = re.compile(r"^(?:untitled|microsoft word|document\d*$)|\.(?:docx?|odt|indd|tex|pdf|pptx?|xlsx?)$", re.IGNORECASE)
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
            raise ImportFileError(path, 0, "is encrypted; give its password (--option password=..., in Python password=)")
        if len(reader.pages) > MAX_PAGES:
            raise ImportFileError(path, 0, f"expected at most {MAX_PAGES} pages, got {len(reader.pages)}; split it")
        pages = [page_text(page) for page in reader.pages]
        title = one_line(reader.metadata.title or "") if reader.metadata is not None else ""
    except ImportFileError:
        raise
    # A damaged file can make pypdf stumble in any of these ways.
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OSError) as error:
        raise ImportFileError(path, 0, f"not a sound PDF file: {error}") from None
    without = without_running_lines(pages)
    if not any(page.strip() for page in without.texts):
        raise ImportFileError(path, 0, "has no text; scanned pages need character recognition (OCR) first")
    return _document(without.texts, uri, document_id(data), title or without.title)


def page_text(page: Any) -> str:
    """Return the text of a page with its columns and gaps, and words that a line end had split joined."""
    text = page.extract_text(extraction_mode="layout", layout_mode_strip_rotated=True)
    lines = [line.rstrip() for line in text.split("\n")]
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return _HYPHEN.sub("", "\n".join(line[margin:] for line in lines)).strip("\n")


def _document(pages: list[str], uri: str, id: str, title: str) -> Document:
    text = ""
    blocks, begun = list[Block](), list[tuple[int, int]]()
    for number, page in enumerate(pages, start=1):
        page = _with_gaps(page)
        if not page.strip():
            continue
        own = list(text_blocks(page))
        goes_on = bool(blocks and own) and _goes_on(blocks[-1], text, own[0], page)
        if goes_on and _CUT_WORD.search(text):
            text, between = text[:-1], ""
        else:
            between = "\n" if goes_on else "\n\n" if text else ""
        start = len(text) + len(between)
        text += between + page
        begun.append((start, number))
        if goes_on:
            blocks[-1] = replace(blocks[-1], end=start + own[0].end)
        blocks += [_moved(block, start, number) for block in own[goes_on:]]
    title = "" if _NO_TITLE.search(title) else title
    first = next((text[block.start : block.end] for block in blocks[:1] if block.kind == "heading"), "")
    levelled = with_levels(blocks, text, has_title=bool(title) and title.casefold() != one_line(first).casefold())
    return Document(id, uri, text, tuple(levelled), title or one_line(first), tuple(begun))


def _goes_on(last: Block, text: str, first: Block, page: str) -> bool:
    """Say whether a page begins in the middle of the sentence that the text before it ends with."""
    if last.kind not in ("paragraph", "item") or first.kind != "paragraph" or last.end != len(text) or first.start:
        return False
    if is_pair(text[last.start : last.end].rpartition("\n")[2]) or is_pair(page.partition("\n")[0]):
        return False
    begun = text.endswith(_SENTENCE_END)
    return not begun and (page[:1].islower() or _GOES_ON.search(text) is not None)


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
