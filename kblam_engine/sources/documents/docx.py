"""Word documents by python-docx: headings, paragraphs, lists and tables, in their order. Spans are of the plain text."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

from kblam_engine.errors import ImportFileError
from kblam_engine.sources.documents.document import Document, DocumentBuilder
from kblam_engine.sources.folders import check_archive
from kblam_engine.sources.source import missing

_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)


def docx_document(data: bytes, uri: str, path: Path, max_mb: float) -> Document:
    """Return a Word document as a document.

    Raises:
        ImportFileError: it is damaged, or unpacks to more than `max_mb`.
        MissingDependencyError: python-docx is not installed.
    """
    try:
        import docx
    except ImportError:
        raise missing("python-docx", "docx", "Reading Word documents") from None
    builder = DocumentBuilder(uri)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_archive(archive, path, max_mb)
        document = docx.Document(io.BytesIO(data))
        builder.title = document.core_properties.title or ""
        _add_all(builder, document)
    except ImportFileError:
        raise
    # python-docx raises what its XML and ZIP readers raise, and KeyError for parts that are not there.
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError, SyntaxError, EOFError) as error:
        raise ImportFileError(path, 0, f"not a sound Word document: {error}") from None
    return builder.build(data)


def _add_all(builder: DocumentBuilder, holder: Any) -> None:
    """Add the paragraphs and tables of a document or of a cell, in their order."""
    from docx.table import Table

    for part in holder.iter_inner_content():
        if isinstance(part, Table):
            _add_table(builder, part)
        else:
            _add_paragraph(builder, part)


def _add_paragraph(builder: DocumentBuilder, part: Any) -> None:
    style = (part.style.name or "") if part.style is not None else ""
    heading = _HEADING.match(style)
    if style.lower() == "title":
        builder.title = builder.title or part.text
        builder.heading(part.text, 1)
    elif heading:
        # Below a title, which is of level 1 as well.
        builder.heading(part.text, int(heading[1]) + 1)
    elif style.lower().startswith("list"):
        digits = style.rpartition(" ")[2]
        builder.paragraph(part.text, item_level=int(digits) - 1 if digits.isdigit() else 0)
    else:
        builder.paragraph(part.text)


def _add_table(builder: DocumentBuilder, table: Any) -> None:
    """Add a table; one that holds tables is there for the layout: its cells follow each other.

    A cell that spans columns or rows is in each of them, but for a row of one cell, which says what the table is about. Rows are headers
    where the document has them repeated on each page; that its first row looks like one says nothing, as every table is made so.
    """
    rows = [row.cells if len({id(cell._tc) for cell in row.cells}) > 1 else row.cells[:1] for row in table.rows]
    if any(cell.tables for row in rows for cell in row):
        seen = set()  # a cell that spans rows is in each of them
        for cell in (cell for row in rows for cell in row):
            if cell._tc not in seen:
                seen.add(cell._tc)
                _add_all(builder, cell)
        return
    headers = [bool(row._tr.xpath("./w:trPr/w:tblHeader")) for row in table.rows]
    builder.table([[(cell.text, header) for cell in row] for row, header in zip(rows, headers, strict=True)])
