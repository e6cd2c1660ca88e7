"""Triples as LangChain documents; needs no model, so that what reads answers loads none."""

from __future__ import annotations

from typing import Any

from langchain_core.documents import Document

from kblam_engine.triples import Triple
from kblam_integrations._documents import without_texts

__all__ = ["document_of"]


def document_of(triple_id: int, triple: Triple, score: float) -> Document:
    """Return a triple as a document."""
    origin = triple.provenance
    known = {} if origin is None else {"provenance": origin.to_dict(), "source": origin.place}
    metadata: dict[str, Any] = {
        **known,
        **without_texts(triple.metadata),
        "name": triple.name,
        "property": triple.property,
        "value": triple.value,
        "score": round(score, 6),
    }
    return Document(id=str(triple_id), page_content=triple.statement, metadata=metadata)
