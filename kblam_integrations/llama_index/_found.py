"""What responses say of an answer, filled in while it comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.base.llms.types import ChatResponse
from llama_index.core.schema import NodeWithScore
from llama_index_instrumentation import get_dispatcher

from kblam_integrations.llama_index.events import KBLaMAttentionEvent
from kblam_integrations.llama_index.nodes import answer_metadata, attended_nodes, selected_nodes

_dispatcher = get_dispatcher(__name__)


class FoundSoFar:
    """What is known of an answer so far; its list and dictionary are handed out before the end."""

    def __init__(self, question: str) -> None:
        self.question = question
        self.nodes: list[NodeWithScore] = []
        self.metadata: dict[str, Any] = {}

    def hear(self, response: ChatResponse) -> list[str]:
        """Take a response of a stream; return its text, if it brings some."""
        if response.raw is None:
            return [response.delta] if response.delta else []
        if "selected" in response.raw:
            self.nodes.extend(selected_nodes(response.raw))
            self.metadata.update(answer_metadata(response.raw))
        else:
            self.fill(response.raw)
        return []

    def fill(self, raw: Mapping[str, Any]) -> None:
        """Take a whole answer, as ``KBLaMLLM`` responses carry it, and tell instrumentation."""
        self.nodes[:] = attended_nodes(raw)
        self.metadata.update(answer_metadata(raw))
        _dispatcher.event(
            KBLaMAttentionEvent(
                query=self.question,
                nodes=self.nodes,
                refused=raw["refused"],
                confidence=raw["confidence"],
                n_triples=raw["usage"]["n_triples"],
            )
        )
