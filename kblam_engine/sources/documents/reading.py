"""Read a file of any of the known kinds as a `Document`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from kblam_engine.errors import ImportFileError
from kblam_engine.sources.documents.document import Document
from kblam_engine.sources.documents.document import document_id as id_of
from kblam_engine.sources.source import MAX_MB, check_size, read_text

TEXT, MARKDOWN, HTML, PDF, DOCX = (".txt", ".text"), (".md", ".markdown"), (".html", ".htm", ".xhtml"), (".pdf",), (".docx",)
SUFFIXES = (*TEXT, *MARKDOWN, *HTML, *PDF, *DOCX)


def read_document(
    path: str | os.PathLike[str],
    *,
    uri: str | None = None,
    document_id: str | None = None,
    password: str | None = None,
    max_mb: float = MAX_MB,
) -> Document:
    """Read a text, Markdown, HTML, PDF or Word file, by its suffix.

    Args:
        path: the file.
        uri: where it comes from; default the path as given.
        document_id: default made from its bytes.
        password: of an encrypted PDF.
        max_mb: larger files are refused.

    Raises:
        ImportFileError: it is damaged, too large, of another suffix, or has no text.
        MissingDependencyError: a package for this kind is not installed.
        OSError: it cannot be opened.
    """
    file, uri = Path(path), uri or os.fspath(path)
    check_size(file, max_mb)
    suffix = file.suffix.lower()
    data = file.read_bytes()
    if suffix in TEXT:
        from kblam_engine.sources.documents.text import text_document

        document = text_document(read_text(file), uri, id=id_of(data))
    elif suffix in MARKDOWN:
        from kblam_engine.sources.documents.markdown import markdown_document

        document = markdown_document(read_text(file), uri, data)
    elif suffix in HTML:
        from kblam_engine.sources.documents.html import html_document

        document = html_document(data, uri)
    elif suffix in PDF:
        from kblam_engine.sources.documents.pdf import pdf_document

        document = pdf_document(data, uri, file, password=password)
    elif suffix in DOCX:
        from kblam_engine.sources.documents.docx import docx_document

        document = docx_document(data, uri, file, max_mb)
    else:
        raise ImportFileError(path, 0, f"expected a document ({', '.join(SUFFIXES)}), got {suffix or 'no suffix'}")
    if not document.text.strip():
        raise ImportFileError(path, 0, "has no text")
    return document if document_id is None else replace(document, id=document_id)
