"""Which triple came from which document: the engine's store of documents, for the bridges."""

from kblam_engine.knowledge_base.documents import (
    MAX_TEXT,
    DocumentStore,
    SourceDocument,
    provenance_of,
    without_texts,
)

__all__ = ["MAX_TEXT", "DocumentStore", "SourceDocument", "provenance_of", "without_texts"]
