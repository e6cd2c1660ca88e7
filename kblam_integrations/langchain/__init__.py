"""LangChain on the engine: a chat model, a retriever and a document index over knowledge bases.

Names load on first use. They need the package ``langchain-core``: ``pip install 'kblam-engine[langchain]'``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kblam_engine.errors import MissingDependencyError

if TYPE_CHECKING:
    from kblam_integrations._graph_documents import triples_from_graph_document
    from kblam_integrations._shared import KBRegistry
    from kblam_integrations.langchain.chat_model import ChatKBLaM
    from kblam_integrations.langchain.document_index import KBLaMDocumentIndex, triples_from_document
    from kblam_integrations.langchain.retriever import KBLaMRetriever

__all__ = [
    "ChatKBLaM",
    "KBLaMDocumentIndex",
    "KBLaMRetriever",
    "KBRegistry",
    "triples_from_document",
    "triples_from_graph_document",
]

_HOMES = {
    "ChatKBLaM": "kblam_integrations.langchain.chat_model",
    "KBLaMDocumentIndex": "kblam_integrations.langchain.document_index",
    "KBLaMRetriever": "kblam_integrations.langchain.retriever",
    "KBRegistry": "kblam_integrations._shared",
    "triples_from_document": "kblam_integrations.langchain.document_index",
    "triples_from_graph_document": "kblam_integrations._graph_documents",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "langchain_core":
            raise
        raise MissingDependencyError(
            f"{name} needs langchain-core, which is not installed: pip install 'kblam-engine[langchain]'"
        ) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
