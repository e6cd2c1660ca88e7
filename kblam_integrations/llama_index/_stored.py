"""LlamaIndex's nodes in a knowledge base, by the documents that they are parts of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kblam_engine.knowledge_base import KnowledgeBase
from kblam_integrations._documents import DocumentStore, SourceDocument
from kblam_integrations.llama_index.graph import REF_DOC


class NodeStore:
    """Nodes with what they say. A document that comes again replaces its nodes, whatever their ids are.

    Node parsers give a node a new id each time, so that only the document's id tells which stored nodes are its earlier
    ones. Nothing is kept but the knowledge base itself: opened again, it knows them as well.

    Args:
        kb: a knowledge base that can be changed.
    """

    def __init__(self, kb: KnowledgeBase) -> None:
        self._store = DocumentStore(kb)
        self._ref_docs: dict[str, str | None] = {}  # by node id; what is not here has not been looked at yet

    def put(
        self, nodes: Sequence[SourceDocument], *, whole_documents: bool = True, documents_read: Iterable[str] = ()
    ) -> None:
        """Store nodes.

        Args:
            nodes: with the id of their document, where they have one, as ``ref_doc_id`` in their metadata; of those with
                the same id, the last one counts.
            whole_documents: these are all nodes of each of their documents, and the others of it that are stored go;
                else what is stored stays, but for nodes with the same ids.
            documents_read: ids of documents that have been read whole and may have no node any more: all that is stored of
                them, and not among `nodes`, goes.

        Raises:
            TripleError: a triple is not usable; nothing is changed.
            ConfigurationError: a node is too long; nothing is changed.
        """
        with self._store.lock:
            replaced, put = set(documents_read), {node.id for node in nodes}
            if whole_documents:
                replaced |= {ref_doc for node in nodes if (ref_doc := _ref_doc_of(node)) is not None}
            stale = [each for each in self.ids(replaced) if each not in put]
            self._store.upsert(nodes, instead_of=stale)
            self._ref_docs.update((node.id, _ref_doc_of(node)) for node in nodes)

    def delete(self, node_ids: Iterable[str]) -> None:
        """Take back what only these nodes said; unknown ids are fine."""
        self._store.delete(node_ids)

    def ids(self, ref_docs: Iterable[str]) -> list[str]:
        """Return the ids of the stored nodes of these documents, sorted."""
        wanted = set(ref_docs)
        if not wanted:
            return []
        with self._store.lock:
            stored = self._store.ids()
            known = {each: self._ref_docs[each] for each in stored if each in self._ref_docs}
            found = self._store.get(each for each in stored if each not in known)
            self._ref_docs = known | {node.id: _ref_doc_of(node) for node in found}
            return [each for each in stored if self._ref_docs.get(each) in wanted]

    def all(self) -> list[SourceDocument]:
        """Return all stored nodes."""
        return self._store.get(self._store.ids())


def _ref_doc_of(node: SourceDocument) -> str | None:
    ref_doc = node.metadata.get(REF_DOC)
    return None if ref_doc is None else str(ref_doc)
