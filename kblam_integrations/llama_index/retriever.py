"""The retrieval layer as a plain retriever, for people who want it beside an LLM of their own."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core import Settings
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle

from kblam_engine.errors import ConfigurationError
from kblam_integrations.llama_index.llm import KBLaMLLM
from kblam_integrations.llama_index.nodes import triple_node


class KBLaMRetriever(BaseRetriever):
    """The triples that most probably answer a question, as nodes; nothing is generated.

    A node's score is the probability, 0 to 1, that its triple answers. A blank question finds nothing.

    Example:
        .. code-block:: python

            from kblam_integrations.llama_index import KBLaMRetriever

            retriever = KBLaMRetriever(kb=[("Orca 2", "battery life", "11 hours")])
            print(retriever.retrieve("How long does the battery of the Orca 2 last?"))

    Raises:
        ConfigurationError: arguments contradict each other, or there is no knowledge base to search.
    """

    def __init__(
        self,
        kb: Any = None,
        *,
        llm: KBLaMLLM | None = None,
        kb_id: str | None = None,
        similarity_top_k: int = 10,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> None:
        """Load nothing yet.

        Args:
            kb: what to search; see ``KBLaMQueryEngine``.
            llm: whose engine and knowledge base to use; then `kb` and `options` are not given.
            kb_id: the knowledge base with this id, of the LLM's ``kbs``.
            similarity_top_k: how many triples at most.
            callback_manager: None takes the LLM's, or that of LlamaIndex's settings.
            options: fields of ``KBLaMLLM``: `model`, `engine`, `kbs` ...

        Raises:
            ConfigurationError: `llm` is given together with `kb` or `options`, or `similarity_top_k` is below 1.
        """
        if llm is None:
            llm = KBLaMLLM(kb=kb, callback_manager=callback_manager or Settings.callback_manager, **options)
        elif kb is not None or options:
            raise ConfigurationError("expected llm, or kb and its options, got both: give them to the KBLaMLLM")
        if similarity_top_k < 1:
            raise ConfigurationError(f"similarity_top_k: expected 1 or more, got {similarity_top_k}")
        self._llm, self._kb_id, self.similarity_top_k = llm, kb_id, similarity_top_k
        super().__init__(callback_manager=callback_manager or llm.callback_manager)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        engine = self._llm.load_engine()
        kb = self._llm.knowledge_base(self._kb_id)
        if kb is None:
            raise ConfigurationError("kb: expected a knowledge base to search, got none")
        if not query_bundle.query_str.strip():
            return []
        snapshot = engine.snapshot_of(kb)
        found = engine.retrieve(query_bundle.query_str, snapshot, k=self.similarity_top_k)
        return [
            NodeWithScore(node=triple_node(snapshot.kb_id, item.id, item.triple), score=item.score) for item in found
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
