"""What instrumentation hears of an answer beside LlamaIndex's own events."""

from __future__ import annotations

from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.schema import NodeWithScore


class KBLaMAttentionEvent(BaseEvent):
    """Which triples an answer attended; sent by ``KBLaMQueryEngine`` and ``KBLaMChatEngine`` when the answer is complete.

    Example:
        .. code-block:: python

            from llama_index.core.instrumentation import get_dispatcher
            from llama_index.core.instrumentation.event_handlers import BaseEventHandler
            from kblam_integrations.llama_index import KBLaMAttentionEvent, KBLaMQueryEngine

            class Sources(BaseEventHandler):
                def handle(self, event, **kwargs):
                    if isinstance(event, KBLaMAttentionEvent):
                        print(event.query, [(node.text, node.score) for node in event.nodes])

            get_dispatcher().add_event_handler(Sources())
            KBLaMQueryEngine(kb=[("Orca 2", "battery life", "11 hours")]).query("How long does the Orca 2 run?")

    Attributes:
        query: the question.
        nodes: a node for each attended triple, with its share of the attention, 0 to 1, as score.
        refused: whether the knowledge base does not hold the answer.
        confidence: probability that it does, 0 to 1.
        n_triples: size of the knowledge base.
    """

    query: str
    nodes: list[NodeWithScore]
    refused: bool
    confidence: float
    n_triples: int

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the event."""
        return "KBLaMAttentionEvent"
