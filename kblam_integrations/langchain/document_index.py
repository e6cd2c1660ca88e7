"""A knowledge base as LangChain's document index, so that its loaders and its indexing API fill one."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Self

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.indexing import DeleteResponse, UpsertResponse
from langchain_core.indexing.base import DocumentIndex
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from kblam_engine.errors import ConfigurationError, TripleError
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.sources.loaded import NAME_FIELDS, fields_of, text_under
from kblam_engine.triples import Provenance, Triple
from kblam_integrations._documents import (
    DocumentStore,
    SourceDocument,
    error_in,
    last_of_each,
    problem_with,
    provenance_of,
)
from kblam_integrations._shared import as_knowledge_base

_log = logging.getLogger(__name__)


def triples_from_document(document: Document) -> list[Triple]:
    """Return the triples of a document that says plainly what they are.

    Either its metadata has ``name`` and ``property`` (and perhaps ``value``; else the text is the value), or each
    line of its text is ``field: value``, as LangChain's CSV loader writes them: then the name is the line called name,
    title, id or key, whichever comes first, or the metadata's ``name`` or ``title``, and every other line a property.

    A triple's provenance names the document, its metadata's ``source``, and the characters of the text that say it; a
    text splitter's ``start_index`` counts as the first of them.

    Raises:
        ConfigurationError: it does neither; give the index a function that reads such documents.
        TripleError: a name, property or value is empty or too long.
    """
    metadata = document.metadata
    name, prop = text_under("name", metadata), text_under("property", metadata)
    if name is not None and prop is not None:
        value = text_under("value", metadata)
        return [Triple(name, prop, document.page_content if value is None else value, provenance=origin_of(document))]
    fields = fields_of(document.page_content) or []
    named = {field.lower(): (field, value) for field, value, _ in reversed(fields)}
    name_field, said = next((named[key] for key in NAME_FIELDS if key in named), (None, ""))
    name = said or name or text_under("title", metadata)
    if not fields or not name:
        raise _NothingSaidError(
            f"document {_called(document)}: expected metadata name and property, or lines "
            "`field: value` with a name; for other documents give KBLaMDocumentIndex(extract=LoadedDocumentExtractor()) of "
            "kblam_engine.sources.loaded, or another function from a document to its triples"
        )
    return [
        Triple(name, field, value, provenance=origin_of(document, span))
        for field, value, span in fields
        if field != name_field and value
    ]


class _NothingSaidError(ConfigurationError):
    """A document holds nothing that reads as a triple; what `empty="skip"` passes over."""


def origin_of(document: Document, span: tuple[int, int] | None = None) -> Provenance | None:
    """Return where a document, or the characters `span` of its text, stand.

    Args:
        document: a whole document, or a part of one whose metadata has ``start_index``.
        span: characters of its text; None: all of it, where it is known where that begins.
    """
    metadata = document.metadata
    begin = metadata.get("start_index")
    if span is None and isinstance(begin, int) and document.page_content:
        span = (0, len(document.page_content))
    if span is not None and isinstance(begin, int) and begin > 0:
        span = (begin + span[0], begin + span[1])
    return provenance_of(document.id, metadata.get("source") or metadata.get("url"), span)


class KBLaMDocumentIndex(DocumentIndex):
    r"""A knowledge base that takes documents: ``langchain_core.indexing.index(loader, record_manager, this)``.

    A document is turned into triples by ``extract``; what a document said goes when it is deleted or replaced. The
    chat model sees the change with its next call. As a retriever it returns the documents whose triples are closest in
    meaning to the query, without a language model.

    Example:
        .. code-block:: python

            from langchain_core.documents import Document
            from kblam_engine import KnowledgeBase
            from kblam_integrations.langchain import KBLaMDocumentIndex

            index = KBLaMDocumentIndex(kb=KnowledgeBase.open(":memory:", multi=True))
            index.upsert([Document("name: Orca 2\nbattery life: 11 hours", id="orca")])
            index.delete(["orca"])

    Attributes:
        kb: a KnowledgeBase or its directory. Open it with ``multi=True`` if several documents may give one property of
            one name different values; else the last document's value counts.
        extract: from a document to its triples; for graph transformers,
            ``lambda d: triples_from_graph_document(transformer.convert_to_graph_documents([d])[0])``.
        empty: what happens with a document that gives no triples, or cannot be stored (a value too long, more than 20,000
            characters): "error", or "skip", which logs a warning, takes back what a document with its id said before, and
            goes on.
        k: how many documents a query returns at most.

    Raises:
        ConfigurationError: a document gives no triples or is too long, and `empty` is "error": nothing of its batch is stored;
            or `kb` cannot be changed.
        TripleError: what a document says cannot be stored, and `empty` is "error": nothing of its batch is stored.
        ValueError: `delete` without ids.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    kb: Any
    extract: Callable[[Document], Iterable[Triple]] = triples_from_document
    empty: Literal["error", "skip"] = "error"
    k: int = Field(default=5, ge=1)
    _store: DocumentStore = PrivateAttr()

    @model_validator(mode="after")
    def _open_kblam_store(self) -> Self:
        kb = as_knowledge_base(self.kb)
        if not isinstance(kb, KnowledgeBase):
            raise ConfigurationError(f"kb: expected a KnowledgeBase that can be changed, got {type(kb).__name__}")
        self.kb = kb
        self._store = DocumentStore(kb)
        return self

    def upsert(self, items: Sequence[Document], /, **kwargs: Any) -> UpsertResponse:
        """Store documents, or replace those with the same id; one without an id gets one.

        Of several with the same id, the last one counts. The response's ``failed`` are the ids of those that were skipped;
        of these nothing is stored, and what they said before goes.
        """
        sources, skipped = [], set[str]()
        given = last_of_each((str(uuid.uuid4()) if item.id is None else item.id, item) for item in items)
        for document_id, item in given.items():
            read = self._read(document_id, item)
            if not isinstance(read, SourceDocument):
                if self.empty == "error":
                    raise read
                why = f"document {_called(item)}: no triples were found in it" if isinstance(read, _NothingSaidError) else read
                _log.warning("%s; skipped", why)
                skipped.add(document_id)
                read = SourceDocument(document_id)
            sources.append(read)
        self._store.upsert(sources)
        return UpsertResponse(succeeded=[each for each in given if each not in skipped], failed=sorted(skipped))

    def _read(self, document_id: str, item: Document) -> SourceDocument | ConfigurationError | TripleError:
        """Return a document with what it says, or what is wrong with it."""
        called = _called(item)
        try:
            triples = list(self.extract(item))
        except _NothingSaidError as error:
            return error
        except TripleError as error:
            return error_in(f"document {called}", error)
        if not triples:
            return _NothingSaidError(f"document {called}: no triples were found in it, and empty is 'error'")
        origin = origin_of(item.model_copy(update={"id": document_id}))
        source = SourceDocument(document_id, item.page_content, item.metadata, triples, origin)
        return problem_with(source, called) or source

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> DeleteResponse:
        """Take documents and what only they said out of the knowledge base; unknown ids are fine."""
        if ids is None:
            raise ValueError("ids: expected the ids of documents, got None")
        deleted = self._store.delete(ids)
        return DeleteResponse(num_deleted=len(deleted), succeeded=deleted, failed=[], num_failed=0)

    def get(self, ids: Sequence[str], /, **kwargs: Any) -> list[Document]:
        """Return the documents with these ids, as they were stored."""
        return [_document(source) for source in self._store.get(ids)]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        n_wanted = self.k if k is None else k
        # A document has several triples, and a triple several documents: ask for more, and go on while they differ.
        hits = self.kb.search(query, k=8 * n_wanted)
        ids = dict.fromkeys(each for hit in hits for each in self._store.ids_of(hit.triple))
        return [_document(source) for source in self._store.get(list(ids)[:n_wanted])]


def _called(document: Document) -> str:
    """Return what messages call a document: its id, or how it begins."""
    return repr(document.id or document.page_content[:40])


def _document(source: SourceDocument) -> Document:
    return Document(id=source.id, page_content=source.text, metadata=dict(source.metadata))
