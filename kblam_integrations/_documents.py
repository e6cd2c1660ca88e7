"""Which triple came from which document: the engine's store of documents, for the bridges."""

from kblam_engine.knowledge_base.document_entries import (
    MAX_TEXT,
    SourceDocument,
    error_in,
    last_of_each,
    problem_with,
    provenance_of,
    without_texts,
)
from kblam_engine.knowledge_base.documents import DocumentStore

__all__ = [
    "MAX_TEXT",
    "DocumentStore",
    "SourceDocument",
    "error_in",
    "last_of_each",
    "problem_with",
    "provenance_of",
    "without_texts",
]
