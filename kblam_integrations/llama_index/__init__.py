"""LlamaIndex on the engine: an LLM, a query engine, a retriever, an index and a workflow over knowledge bases.

Names load on first use. They need the package ``llama-index-core``: ``pip install 'kblam-engine[llama-index]'``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kblam_integrations._lazy import load

if TYPE_CHECKING:
    from kblam_integrations._shared import KBRegistry
    from kblam_integrations.llama_index.chat_engine import KBLaMChatEngine, KBLaMChatStream
    from kblam_integrations.llama_index.events import KBLaMAttentionEvent
    from kblam_integrations.llama_index.graph import triples_from_node, triples_from_property_graph
    from kblam_integrations.llama_index.index import KBLaMIndex
    from kblam_integrations.llama_index.lines import LineSplitter
    from kblam_integrations.llama_index.llm import KBLaMLLM
    from kblam_integrations.llama_index.query_engine import KBLaMQueryEngine
    from kblam_integrations.llama_index.retriever import KBLaMRetriever
    from kblam_integrations.llama_index.sink import KBLaMTripleSink
    from kblam_integrations.llama_index.workflow import KBLaMWorkflow, PieceEvent, RefusedEvent, SourcesEvent

__all__ = [
    "KBLaMAttentionEvent",
    "KBLaMChatEngine",
    "KBLaMChatStream",
    "KBLaMIndex",
    "KBLaMLLM",
    "KBLaMQueryEngine",
    "KBLaMRetriever",
    "KBLaMTripleSink",
    "KBLaMWorkflow",
    "KBRegistry",
    "LineSplitter",
    "PieceEvent",
    "RefusedEvent",
    "SourcesEvent",
    "triples_from_node",
    "triples_from_property_graph",
]

_HOMES = {
    "KBLaMAttentionEvent": "kblam_integrations.llama_index.events",
    "KBLaMChatEngine": "kblam_integrations.llama_index.chat_engine",
    "KBLaMChatStream": "kblam_integrations.llama_index.chat_engine",
    "KBLaMIndex": "kblam_integrations.llama_index.index",
    "KBLaMLLM": "kblam_integrations.llama_index.llm",
    "KBLaMQueryEngine": "kblam_integrations.llama_index.query_engine",
    "KBLaMRetriever": "kblam_integrations.llama_index.retriever",
    "KBLaMTripleSink": "kblam_integrations.llama_index.sink",
    "KBLaMWorkflow": "kblam_integrations.llama_index.workflow",
    "KBRegistry": "kblam_integrations._shared",
    "LineSplitter": "kblam_integrations.llama_index.lines",
    "PieceEvent": "kblam_integrations.llama_index.workflow",
    "RefusedEvent": "kblam_integrations.llama_index.workflow",
    "SourcesEvent": "kblam_integrations.llama_index.workflow",
    "triples_from_node": "kblam_integrations.llama_index.graph",
    "triples_from_property_graph": "kblam_integrations.llama_index.graph",
}


def __getattr__(name: str) -> Any:
    value = load(__name__, _HOMES, name, ("llama_index", "workflows"), "llama-index-core", "llama-index")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
