"""A LlamaIndex index whose storage is a knowledge base, and whose query engine answers from inside the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine.types import BaseChatEngine, ChatMode
from llama_index.core.graph_stores.types import PropertyGraphStore
from llama_index.core.indices.base import BaseIndex
from llama_index.core.llms.utils import LLMType
from llama_index.core.schema import BaseNode, Document, TransformComponent
from llama_index.core.settings import Settings
from llama_index.core.storage.docstore.types import RefDocInfo
from llama_index.core.storage.storage_context import StorageContext

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.triples import Triple
from kblam_integrations._documents import SourceDocument, last_of_each
from kblam_integrations.llama_index._index_struct import KBLaMIndexStruct, register
from kblam_integrations.llama_index._options import names_of_engines
from kblam_integrations.llama_index._stored import NodeStore
from kblam_integrations.llama_index.chat_engine import KBLaMChatEngine
from kblam_integrations.llama_index.graph import NODE, REF_DOC, triples_from_property_graph
from kblam_integrations.llama_index.lines import extract_triples, log_rejected, whole_lines
from kblam_integrations.llama_index.llm import KBLaMLLM
from kblam_integrations.llama_index.query_engine import KBLaMQueryEngine
from kblam_integrations.llama_index.retriever import KBLaMRetriever
from kblam_integrations.llama_index.sink import source_of, writable

Extract = Callable[[BaseNode], Iterable[Triple]]
_OF_RETRIEVERS = frozenset({"similarity_top_k", "kb_id", "callback_manager"})
_OF_QUERY_ENGINES = frozenset({"streaming", "system_prompt", "kb_id", "callback_manager"})
_OF_PROMPTS = frozenset({"similarity_top_k", "response_mode", "use_async", "verbose"})
"""What every LlamaIndex app passes along, and an answer without a prompt of nodes has no use for."""


class KBLaMIndex(BaseIndex[KBLaMIndexStruct]):
    r"""An index over a knowledge base: documents become triples, and the query engine has them in its attention.

    Where a ``VectorStoreIndex`` embeds chunks, this one extracts triples from nodes: with ``extract``, or from what KG
    extractors among the ``transformations`` leave in their metadata. Everything is kept in the knowledge base, the text
    of the nodes included; open its directory again, and nothing has to be rebuilt. A document that comes again, by
    ``insert``, ``refresh_ref_docs`` or ``from_documents``, replaces what it said, in an index of an earlier process as
    well: its id says which it is. A triple goes when the last node that says it does; one that was there before any
    document stays.

    Example:
        .. code-block:: python

            from llama_index.core import Document
            from kblam_integrations.llama_index import KBLaMIndex

            index = KBLaMIndex.from_documents([Document(text="name: Orca 2\nbattery life: 11 hours", doc_id="orca")])
            print(index.as_query_engine().query("How long does the battery of the Orca 2 last?"))
            index.delete_ref_doc("orca")

    Raises:
        ConfigurationError: the knowledge base cannot be changed, or a text is longer than 20,000 characters.
        TripleError: what `extract` gives is not usable; nothing of its batch is stored.
    """

    index_struct_cls = KBLaMIndexStruct

    def __init__(
        self,
        nodes: Sequence[BaseNode] | None = None,
        *,
        kb: Any = None,
        llm: KBLaMLLM | None = None,
        extract: Extract = extract_triples,
        index_struct: KBLaMIndexStruct | None = None,
        **kwargs: Any,
    ) -> None:
        """Index the nodes.

        Args:
            nodes: what to index; None: nothing yet.
            kb: a KnowledgeBase or its directory, to fill; None: a new one in memory. Open yours with ``multi=True`` if
                several nodes may give one property of one name different values.
            llm: what answers; None makes one over `kb`. If it has a knowledge base, that is the one to fill.
            extract: from a node to its triples.
            index_struct: of LlamaIndex, which has it from its storage; there is nothing in it.
            kwargs: of ``BaseIndex``.

        Raises:
            ConfigurationError: `kb` cannot be changed, `kb` and `llm` have different ones, or LlamaIndex loads an index from
                its storage and no `kb` is given.
        """
        if llm is not None and llm.kb is not None:
            if kb is not None and kb is not llm.kb:
                raise ConfigurationError("expected one knowledge base, got kb and another one in llm")
            kb = llm.kb
        if index_struct is not None and kb is None:
            raise ConfigurationError(
                "kb: expected the knowledge base that the index was made over, got none: LlamaIndex's storage does not hold the "
                "triples; open its directory with KBLaMIndex(kb=...), or load_index_from_storage(storage_context, kb=...)"
            )
        self._llm = llm or KBLaMLLM()
        self._kb = writable(kb if kb is not None else self._new_kb())
        self._llm = self._with_kb(self._llm)
        self._n_rejected = 0
        self._extract = partial(extract_triples, on_rejected=self._reject) if extract is extract_triples else extract
        self._store = NodeStore(self._kb)
        kwargs.pop("show_progress", None)
        kwargs["transformations"] = kwargs.get("transformations") or whole_lines(Settings.transformations)
        if nodes is None and index_struct is None:
            index_struct = KBLaMIndexStruct()
        super().__init__(nodes=nodes, index_struct=index_struct, **kwargs)

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[Document],
        storage_context: StorageContext | None = None,
        show_progress: bool = False,
        callback_manager: CallbackManager | None = None,
        transformations: list[TransformComponent] | None = None,
        **kwargs: Any,
    ) -> KBLaMIndex:
        """Return an index of documents; in a knowledge base that has them already, they replace what is stored of them.

        Args:
            documents: one that is empty by now takes back what is stored under its id.
            storage_context: of LlamaIndex; no triples are in it.
            show_progress: while documents become nodes.
            callback_manager: of LlamaIndex.
            transformations: from documents to nodes; None: LlamaIndex's own, but with a ``LineSplitter`` in the place of its
                sentence splitter, which cuts lines in two.
            kwargs: `kb`, `llm`, `extract` and what else the constructor takes.
        """
        return super().from_documents(
            documents,
            storage_context,
            show_progress,
            callback_manager,
            transformations or whole_lines(Settings.transformations),
            documents_read=[each.id_ for each in documents],
            **kwargs,
        )

    @classmethod
    def from_property_graph_store(
        cls, store: PropertyGraphStore, *, node_types: bool = False, **kwargs: Any
    ) -> KBLaMIndex:
        """Return an index over the triples of a property graph store.

        Args:
            store: any store; see ``triples_from_property_graph``.
            node_types: triples (entity, "type", label) as well.
            kwargs: `kb`, `llm` and what else the constructor takes.
        """
        index = cls(**kwargs)
        by_node: dict[str, list[Triple]] = {}
        for triple in triples_from_property_graph(store, index._reject, node_types=node_types):
            by_node.setdefault(triple.metadata.get(NODE, "property graph"), []).append(triple)
        documents = []
        for node_id, triples in by_node.items():
            ref_doc = triples[0].metadata.get(REF_DOC)
            metadata = {REF_DOC: ref_doc} if ref_doc else {}
            documents.append(SourceDocument(node_id, "", metadata, triples, triples[0].provenance))
        index._store.put(documents)
        return index

    @property
    def kb(self) -> KnowledgeBase:
        """The knowledge base."""
        return self._kb

    @property
    def n_rejected(self) -> int:
        """How often a property, relation, line or node has made no usable triple; a warning of each is logged.

        What an `extract` of your own leaves out is not counted.
        """
        return self._n_rejected

    @property
    def ref_doc_info(self) -> dict[str, RefDocInfo]:
        """Which nodes each document has in the knowledge base."""
        found: dict[str, RefDocInfo] = {}
        for source in self._store.all():
            ref_doc = source.metadata.get(REF_DOC)
            if ref_doc is not None:
                info = found.setdefault(str(ref_doc), RefDocInfo())
                info.node_ids.append(source.id)
                info.metadata = info.metadata or dict(source.metadata)
        return found

    def as_retriever(self, **kwargs: Any) -> BaseRetriever:
        """Return the retrieval layer as a retriever; see ``KBLaMRetriever``.

        Args:
            kwargs: `similarity_top_k`, `kb_id`, `callback_manager`; LlamaIndex hands those of query and chat engines on to the
                retriever as well, which are none of its business and are passed over.

        Raises:
            ConfigurationError: any other, such as `filters`, which would be left out in silence.
        """
        own = {name: value for name, value in kwargs.items() if name in _OF_RETRIEVERS}
        if unknown := sorted(kwargs.keys() - _OF_RETRIEVERS - names_of_engines()):
            raise ConfigurationError(
                f"expected {', '.join(sorted(_OF_RETRIEVERS))}, got {', '.join(unknown)}: triples are found by what they "
                "say; to search a part of the knowledge base, give a KBLaMRetriever a view of it (kb.view)"
            )
        return KBLaMRetriever(llm=self._llm, **own)

    def as_query_engine(self, llm: LLMType | None = None, **kwargs: Any) -> BaseQueryEngine:
        """Return what answers from inside the model, or, given another LLM, one that reads retrieved triples.

        Args:
            llm: None for the index's own; a ``KBLaMLLM`` for other options; any other LLM gets the triples in its
                prompt, as from every index.
            kwargs: of ``KBLaMQueryEngine`` (`streaming`, `system_prompt`, `kb_id`), or of ``RetrieverQueryEngine``. How many
                nodes are retrieved and how an LLM reads them (`similarity_top_k`, `response_mode`, `use_async`, `verbose`)
                means nothing to the former and is passed over.

        Raises:
            ConfigurationError: an argument that would change a prompt or nodes, of which there are none, and no other LLM; one
                that no engine and no retriever knows.
        """
        if llm is not None and not isinstance(llm, KBLaMLLM):
            return super().as_query_engine(llm=llm, **kwargs)
        own = {name: value for name, value in kwargs.items() if name not in _OF_PROMPTS}
        if unknown := sorted(own.keys() - _OF_QUERY_ENGINES):
            raise ConfigurationError(
                f"expected {', '.join(sorted(_OF_QUERY_ENGINES))}, got {', '.join(unknown)}: triples are in the model's "
                "attention, there is no prompt to fill and no node to process; give another llm for that"
            )
        return KBLaMQueryEngine(llm=self._with_kb(llm), **{"callback_manager": self._callback_manager, **own})

    def as_chat_engine(
        self, chat_mode: ChatMode = ChatMode.BEST, llm: LLMType | None = None, **kwargs: Any
    ) -> BaseChatEngine:
        """Return a chat engine.

        Args:
            chat_mode: "best" and "simple" give the conversation to the index's own LLM, which understands what refers to
                earlier messages; the responses have sources (see ``KBLaMChatEngine``). The other modes have an LLM rewrite questions or read triples in its prompt.
            llm: for the other modes, any LLM that follows instructions.
            kwargs: of the chat engine: `kb_id`, `system_prompt`, `memory`, `chat_history` ... What means nothing to a
                ``KBLaMQueryEngine`` means nothing here either and is passed over, and so is `streaming`.

        Raises:
            ConfigurationError: an unknown mode or argument, or a mode other than "best" and "simple", and no other LLM.
        """
        try:
            chat_mode = ChatMode(chat_mode)
        except ValueError:
            known = ", ".join(mode.value for mode in ChatMode)
            raise ConfigurationError(f"chat_mode: expected one of {known}, got {chat_mode!r}") from None
        if llm is not None and not isinstance(llm, KBLaMLLM):
            return super().as_chat_engine(chat_mode, llm, **kwargs)
        if chat_mode not in (ChatMode.BEST, ChatMode.SIMPLE):
            raise ConfigurationError(
                f"chat_mode: {chat_mode.value!r} needs an LLM that follows instructions, and a KBLaMLLM answers from its "
                "triples: give another llm, or use the mode 'best'"
            )
        own = {name: value for name, value in kwargs.items() if name not in _OF_PROMPTS | {"streaming"}}
        return KBLaMChatEngine.from_defaults(llm=self._with_kb(llm), **own)

    def delete_ref_doc(self, ref_doc_id: str, delete_from_docstore: bool = False, **delete_kwargs: Any) -> None:
        """Take back what only this document said; an unknown one is fine."""
        self.delete_nodes(self._store.ids([ref_doc_id]), delete_from_docstore=delete_from_docstore)
        if delete_from_docstore:
            self.docstore.delete_ref_doc(ref_doc_id, raise_error=False)

    async def adelete_ref_doc(
        self, ref_doc_id: str, delete_from_docstore: bool = False, **delete_kwargs: Any
    ) -> None:
        """Take back what only this document said, in a thread."""
        await asyncio.to_thread(self.delete_ref_doc, ref_doc_id, delete_from_docstore, **delete_kwargs)

    def delete_nodes(
        self, node_ids: list[str], delete_from_docstore: bool = False, **delete_kwargs: Any
    ) -> None:
        """Take back what only these nodes said; unknown ones are fine."""
        self._store.delete(node_ids)
        if delete_from_docstore:
            for node_id in node_ids:
                self.docstore.delete_document(node_id, raise_error=False)

    async def adelete_nodes(
        self, node_ids: list[str], delete_from_docstore: bool = False, **delete_kwargs: Any
    ) -> None:
        """Take back what only these nodes said, in a thread and as one change."""
        await asyncio.to_thread(self.delete_nodes, node_ids, delete_from_docstore, **delete_kwargs)

    def insert(self, document: Document, **insert_kwargs: Any) -> None:
        """Insert a document in the place of what is stored of it; an empty one takes that back."""
        super().insert(document, **{"whole_documents": True, "documents_read": [document.id_], **insert_kwargs})

    async def ainsert(self, document: Document, **insert_kwargs: Any) -> None:
        """Insert a document in the place of what is stored of it; an empty one takes that back."""
        await super().ainsert(document, **{"whole_documents": True, "documents_read": [document.id_], **insert_kwargs})

    def insert_nodes(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        """Insert nodes beside those that are stored; one with the same id replaces it.

        Args:
            nodes: any nodes.
            insert_kwargs: ``whole_documents=True`` where these are all nodes of each of their documents: then they stand in
                the place of the stored ones. ``documents_read``: ids of documents of which that is true besides, and of
                which a node parser may have made no node.
        """
        super().insert_nodes(nodes, **insert_kwargs)

    async def ainsert_nodes(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        """Insert nodes, in a thread, because triples are embedded; see ``insert_nodes``."""
        await asyncio.to_thread(self.insert_nodes, nodes, **insert_kwargs)

    def _build_index_from_nodes(self, nodes: Sequence[BaseNode], **build_kwargs: Any) -> KBLaMIndexStruct:
        self._insert(nodes, **{**build_kwargs, "whole_documents": True})
        return KBLaMIndexStruct()

    def _insert(
        self,
        nodes: Sequence[BaseNode],
        *,
        whole_documents: bool = False,
        documents_read: Iterable[str] = (),
        **insert_kwargs: Any,
    ) -> None:
        unique = last_of_each((node.node_id, node) for node in nodes).values()
        found = [source_of(node, list(self._extract(node))) for node in unique]
        self._store.put(found, whole_documents=whole_documents, documents_read=documents_read)

    def _reject(self, reason: str) -> None:
        self._n_rejected += 1
        log_rejected(reason)

    def _delete_node(self, node_id: str, **delete_kwargs: Any) -> None:
        self._store.delete([node_id])

    def _with_kb(self, llm: KBLaMLLM | None) -> KBLaMLLM:
        """Return an LLM that has a knowledge base: its own, or this one."""
        if llm is None:
            return self._llm
        return llm if llm.kb is not None else llm.model_copy(update={"kb": self._kb})

    def _new_kb(self) -> KnowledgeBase:
        return KnowledgeBase.open(":memory:", encoder=self._llm._sentence_encoder(), multi=True)


register(KBLaMIndex)

__all__ = ["KBLaMIndex", "extract_triples"]
