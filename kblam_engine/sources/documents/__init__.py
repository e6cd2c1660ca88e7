"""Documents as one plain text with blocks: text, Markdown, HTML, PDF and Word."""

from kblam_engine.sources.documents.document import Block, Cell, Document
from kblam_engine.sources.documents.reading import read_document
from kblam_engine.sources.documents.text import text_document

__all__ = ["Block", "Cell", "Document", "read_document", "text_document"]
