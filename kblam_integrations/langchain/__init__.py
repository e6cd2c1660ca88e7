"""LangChain on the engine: a chat model, a retriever and a document index over knowledge bases.

Names load on first use. They need the package ``langchain-core``: ``pip install 'kblam-engine[langchain]'``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kblam_integrations._lazy import load

if TYPE_CHECKING:
    from kblam_integrations._graph_documents import triples_from_graph_document
    from kblam_integrations._shared import KBRegistry
    from kblam_integrations.langchain.chat_model import ChatKBLaM
    from kblam_integrations.langchain.context import NullRetriever, attended_documents
    from kblam_integrations.langchain.document_index import KBLaMDocumentIndex, triples_from_document
    from kblam_integrations.langchain.prompts import kb_prompt
    from kblam_integrations.langchain.retriever import KBLaMRetriever

__all__ = [
    "ChatKBLaM",
    "KBLaMDocumentIndex",
    "KBLaMRetriever",
    "KBRegistry",
    "NullRetriever",
    "attended_documents",
    "kb_prompt",
    "triples_from_document",
    "triples_from_graph_document",
]

_HOMES = {
    "ChatKBLaM": "kblam_integrations.langchain.chat_model",
    "KBLaMDocumentIndex": "kblam_integrations.langchain.document_index",
    "KBLaMRetriever": "kblam_integrations.langchain.retriever",
    "KBRegistry": "kblam_integrations._shared",
    "NullRetriever": "kblam_integrations.langchain.context",
    "attended_documents": "kblam_integrations.langchain.context",
    "kb_prompt": "kblam_integrations.langchain.prompts",
    "triples_from_document": "kblam_integrations.langchain.document_index",
    "triples_from_graph_document": "kblam_integrations._graph_documents",
}


def __getattr__(name: str) -> Any:
    value = load(__name__, _HOMES, name, ("langchain_core",), "langchain-core", "langchain")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
