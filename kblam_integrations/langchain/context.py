"""For chains and prompts that keep a context: what an answer rested on as documents, and a retriever with nothing to add."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.retrievers import BaseRetriever

from kblam_engine.triples import Triple
from kblam_integrations.langchain._triple_documents import document_of

__all__ = ["NullRetriever", "attended_documents"]


class NullRetriever(BaseRetriever):
    """Find nothing, at once: stands where a chain's retriever stood while a knowledge base in the attention answers.

    A chain whose prompt has a ``{context}`` stays as it is, and the context is empty. Beware of prompts that say "use only
    the context below": the model reads that nothing is there. ``kb_prompt`` says nothing of the kind.

    Example:
        .. code-block:: python

            from kblam_integrations.langchain import NullRetriever

            print(NullRetriever().invoke("How long does the battery of the Orca 2 last?"))

    It has no fields but LangChain's, and nothing to raise.
    """

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return []

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return []


def attended_documents(message: BaseMessage) -> list[Document]:
    """Return the triples that an answer of ``ChatKBLaM`` attended as documents, the most probable answer first.

    For chains that hand on `context` beside `answer`, as ``create_retrieval_chain`` does, and for what evaluates them. The
    documents are those of ``KBLaMRetriever``, but their `score` is the triple's share of the attention, 0 to 1; `spans`
    are the characters of the answer that each supports. A refusal, or a message of another model, attended none.

    Args:
        message: an answer, or the sum of a stream's chunks.
    """
    attended = message.additional_kwargs.get("attended_triples", ())
    return [_document(each) for each in attended if each["weight"] > 0]


def _document(attended: Mapping[str, Any]) -> Document:
    parts = {key: value for key, value in attended.items() if key not in ("id", "weight", "spans")}
    document = document_of(attended["id"], Triple.from_dict(parts), attended["weight"])
    document.metadata["spans"] = attended["spans"]
    return document
