"""The end of an ingestion pipeline: what its KG extractors have found goes into a knowledge base."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from llama_index.core.graph_stores.types import KG_NODES_KEY, KG_RELATIONS_KEY
from llama_index.core.schema import BaseNode, MetadataMode, TransformComponent
from pydantic import Field, PrivateAttr

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_integrations._documents import SourceDocument
from kblam_integrations._shared import as_knowledge_base
from kblam_integrations.llama_index._stored import NodeStore
from kblam_integrations.llama_index.graph import REF_DOC, document_of, provenance_from, triples_from_node

_log = logging.getLogger(__name__)


class KBLaMTripleSink(TransformComponent):
    """A transformation that moves triples from ``node.metadata``, where KG extractors leave them, into a knowledge base.

    Put it behind the extractors. Nodes go on to what comes next, without the graph in their metadata. A document that
    comes again, under the same id, replaces what it said before, though its nodes have new ids: what is stored of it and is
    not among the nodes of a call goes with that call. A document that is gone for good, or of which a parser makes no node any
    more, never gets here: ``KBLaMIndex(kb=kb).delete_ref_doc(id)`` takes it back. A pipeline's cache does not get in the way: the component's hash changes with
    the knowledge base, so that it is skipped only if there is nothing to do.

    Example:
        .. code-block:: python

            from llama_index.core.graph_stores.types import EntityNode, Relation
            from llama_index.core.ingestion import IngestionPipeline
            from llama_index.core.schema import TextNode
            from kblam_engine import KnowledgeBase
            from kblam_integrations.llama_index import KBLaMTripleSink

            kb = KnowledgeBase.open(":memory:", multi=True)
            pipeline = IngestionPipeline(transformations=[KBLaMTripleSink(kb)])  # behind a splitter and an extractor
            found = {  # what an extractor leaves
                "nodes": [EntityNode(name="Acme"), EntityNode(name="Lena")],
                "relations": [Relation(label="FOUNDER", source_id="Acme", target_id="Lena")],
            }
            pipeline.run(nodes=[TextNode(text="Lena founded Acme.", metadata=found)])
            print([triple.statement for triple in kb])

    Attributes:
        kb: a KnowledgeBase or its directory.
        keep_metadata: leave the graph in the metadata as well, for a property graph index behind.
        whole_documents: a call brings all nodes of each of its documents, as a pipeline does. False: the nodes of a document
            come in several calls; then only nodes with the same ids are replaced.
        node_types: put (entity, "type", label) in as well, for entities whose label is not LlamaIndex's "entity".
        n_triples: how many triples have gone into the knowledge base so far.
        n_rejected: how many properties of entities and relations made no usable triple; a warning of each is logged.

    Raises:
        ConfigurationError: `kb` cannot be changed.
    """

    kb: Any = Field(exclude=True, repr=False)
    keep_metadata: bool = False
    whole_documents: bool = True
    node_types: bool = False
    n_triples: int = Field(default=0, exclude=True)
    n_rejected: int = Field(default=0, exclude=True)
    _store: NodeStore = PrivateAttr()

    def __init__(
        self, kb: Any, *, keep_metadata: bool = False, whole_documents: bool = True, node_types: bool = False
    ) -> None:
        """Open the knowledge base."""
        options = {"keep_metadata": keep_metadata, "whole_documents": whole_documents, "node_types": node_types}
        super().__init__(kb=writable(kb), **options)  # type: ignore[call-arg]
        self._store = NodeStore(self.kb)

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises it."""
        return "KBLaMTripleSink"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Put the triples of all nodes into the knowledge base, in one transaction."""
        documents = []
        for node in nodes:
            triples = triples_from_node(node, self._reject, node_types=self.node_types)
            if not self.keep_metadata:
                node.metadata.pop(KG_NODES_KEY, None)
                node.metadata.pop(KG_RELATIONS_KEY, None)
            documents.append(source_of(node, triples))
            self.n_triples += len(triples)
        self._store.put(documents, whole_documents=self.whole_documents)
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Do the same in a thread, because triples are embedded."""
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return what a pipeline's cache tells transformations apart by; a changed knowledge base is another one."""
        snapshot = self.kb.snapshot()
        return {**super().to_dict(**kwargs), "kb": snapshot.kb_id, "kb_revision": snapshot.revision}

    def __getstate__(self) -> dict[str, Any]:
        raise ConfigurationError(
            "a KBLaMTripleSink does not go into other processes, where it would fill another knowledge base: run the "
            "pipeline without num_workers, or call the sink on the nodes that it returns"
        )

    def _reject(self, reason: str) -> None:
        self.n_rejected += 1
        _log.warning("no usable triple: %s", reason)


def writable(kb: Any) -> KnowledgeBase:
    """Return the knowledge base that `kb` is or lies at.

    Raises:
        ConfigurationError: it cannot be changed.
    """
    opened = as_knowledge_base(kb)
    if not isinstance(opened, KnowledgeBase):
        raise ConfigurationError(f"kb: expected a KnowledgeBase that can be changed, got {type(opened).__name__}")
    return opened


def source_of(node: BaseNode, triples: Sequence[Any]) -> SourceDocument:
    """Return a node as the document that its triples come from."""
    plain = {key: value for key, value in node.metadata.items() if key not in (KG_NODES_KEY, KG_RELATIONS_KEY)}
    ref_doc = document_of(node)
    metadata = {**plain, **({REF_DOC: ref_doc} if ref_doc else {})}
    text = node.get_content(MetadataMode.NONE)
    return SourceDocument(node.node_id, text, metadata, list(triples), provenance_from(node))
