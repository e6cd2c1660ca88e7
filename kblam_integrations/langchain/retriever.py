"""The engine's retrieval layer as a LangChain retriever, for chains that want the triples as documents."""

from __future__ import annotations

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field

from kblam_engine.errors import ConfigurationError
from kblam_integrations._fields import EngineFields
from kblam_integrations.langchain._triple_documents import document_of


class KBLaMRetriever(EngineFields, BaseRetriever):
    """Find the triples that most probably answer a question, best first, as documents.

    It ranks as the chat model does (names, properties, kinds of value), not by vector distance alone, and writes no
    text. A document holds the triple's sentence; its metadata the three parts, the probability `score`, 0 to 1, the
    `provenance` (document, uri, span) and `source` where they are known, and what the knowledge base keeps beside the
    triple.

    Example:
        .. code-block:: python

            from kblam_integrations.langchain import KBLaMRetriever

            retriever = KBLaMRetriever(kb=[("Orca 2", "battery life", "11 hours")], k=3)
            print(retriever.invoke("How long does the battery of the Orca 2 last?")[0].page_content)

    Attributes:
        model: an embedded model's name, a local folder, or a Hugging Face id; loaded by the first call, and shared by all
            objects of the same configuration.
        adapter: an adapter folder; None takes the one that ships for the model.
        encoder: sentence encoder; None takes the adapter's own.
        dtype: "float32", "bfloat16" or "float16"; None takes what the hardware computes fastest.
        device: "cpu", "cuda" ...; None takes a GPU where there is one.
        engine: a loaded ``KBLaM`` in the place of these.
        kb: a KnowledgeBase, its directory, a file of triples, a networkx graph, graph documents, or triples; None: one of ``kbs``.
        kbs: knowledge bases by id, a ``KBRegistry`` or a mapping.
        kb_id: which of them, before ``kb``; a call may name another.
        k: how many documents at most; a call may say another number.
        min_score: leave out triples that are less probable.

    Raises:
        ConfigurationError: there is no knowledge base, or `k` is below 1.
        ValidationError: a field has a wrong type or is unknown.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    k: int = Field(default=5, ge=1)
    min_score: float = Field(default=0.0, ge=0.0, le=1.0)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        kb_id: str | None = None,
    ) -> list[Document]:
        kb = self.knowledge_base(kb_id)
        if kb is None:
            raise ConfigurationError("kb: expected a knowledge base to retrieve from, got None")
        n_wanted = self.k if k is None else k
        if n_wanted < 1:
            raise ConfigurationError(f"k: expected at least 1, got {n_wanted}")
        if not query.strip():
            return []
        found = self.load_engine().retrieve(query, kb, k=n_wanted)
        return [document_of(f.id, f.triple, f.score) for f in found if f.score >= self.min_score]
