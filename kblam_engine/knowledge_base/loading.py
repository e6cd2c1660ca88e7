"""Documents into a knowledge base and out of it again, as a loader of any framework leaves them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base.batches import checked
from kblam_engine.knowledge_base.document_entries import SourceDocument
from kblam_engine.knowledge_base.documents import DocumentStore
from kblam_engine.knowledge_base.reader import KBReader
from kblam_engine.knowledge_base.records import DocumentsResult, KBDocument
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base.knowledge_base import KnowledgeBase

_SHOWN = ("title", "url")


class KBDocuments(KBReader):
    """What a knowledge base does with documents."""

    def add_documents(
        self, documents: Iterable[Any], *, extract: Callable[[Any], Iterable[Triple]] | None = None
    ) -> DocumentsResult:
        """Add what documents say; they replace those with the same ids, and all others from the same sources.

        So a file that is loaded again leaves nothing behind of what it no longer says, and one that has not changed
        changes nothing. A triple that several documents say goes with the last of them, one that was there before them
        stays. Everything is read before anything is added.

        Args:
            documents: LangChain's, LlamaIndex's, or anything with a text, and perhaps `metadata` and an `id`; see
                ``kblam_engine.sources.loaded.loaded_document``.
            extract: from a document to its triples; None: ``LoadedDocumentExtractor()``, which reads records, tables,
                pairs and sentences.

        Raises:
            ConfigurationError: one has no text, or too much of it; or they are no iterable.
            MissingDependencyError: reading sentences needs the extra `extract`.
            TripleError: what `extract` gives is no triple.
            ReadOnlyError: the knowledge base cannot be changed.
        """
        # A knowledge base knows no readers of documents; only this asks them.
        from kblam_engine.sources.loaded import LoadedDocumentExtractor, loaded_document

        if not isinstance(documents, Iterable):
            raise ConfigurationError(f"documents: expected an iterable of documents, got {type(documents).__name__}")
        own = LoadedDocumentExtractor() if extract is None else None
        read: Callable[[Any], Iterable[Triple]] = own if own is not None else cast(Any, extract)
        found: dict[str, SourceDocument] = {}
        places: set[str] = set()
        for document in documents:
            loaded = loaded_document(document)
            origin = loaded.origin
            metadata = {key: loaded.metadata[key] for key in _SHOWN if key in loaded.metadata}
            if origin.uri:
                places.add(origin.uri)
                metadata["source"] = origin.uri
            named = origin if origin.document else type(origin)(loaded.id, origin.uri)
            found.pop(loaded.id, None)  # of several with one id the last one counts, and comes last
            found[loaded.id] = SourceDocument(loaded.id, "", metadata, checked(read(document)), named)
        with self._documents.lock:
            gone = [each for each in self._documents.ids(places) if each not in found]
            self._documents.upsert(found.values(), gone)
        said = {(t.name, t.property, t.value) for source in found.values() for t in source.triples}
        return DocumentsResult(
            ids=[source.id for source in found.values() if source.triples],
            empty=[source.id for source in found.values() if not source.triples],
            removed=gone,
            n_triples=len(said),
            skipped=dict(own.skipped) if own is not None else {},
        )

    def remove_documents(self, *which: str) -> list[str]:
        """Take back what only these documents said; return the ids of those that were there.

        Args:
            which: ids of documents, or sources (paths or URLs), which mean every document from there.
        """
        with self._documents.lock:
            return self._documents.delete([*which, *self._documents.ids(which)])

    def documents(self) -> list[KBDocument]:
        """Return the documents that triples came from, by id."""
        store = self._documents
        return [KBDocument(each, store.place_of(each), store.n_triples(each)) for each in store.ids()]

    @cached_property
    def _documents(self) -> DocumentStore:
        return DocumentStore(cast("KnowledgeBase", self))
