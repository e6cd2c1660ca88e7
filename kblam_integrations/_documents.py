"""Which triples of a knowledge base came from which document, so that a document can be replaced or taken back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.triples import Triple

__all__ = ["MAX_TEXT", "DocumentStore", "SourceDocument", "without_texts"]

MAX_TEXT = 20_000
"""Characters of a document that is kept beside its triples."""
_FIELD = "documents"  # in a triple's metadata: id of each document that says it -> what is kept of that document
_KEPT = "without_documents"  # in a triple's metadata: it was there before any document said it
_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """A document as triples come from it.

    Attributes:
        id: unique among the documents of a knowledge base.
        text: its content, to be given back by ``get``.
        metadata: what JSON can hold; ``source``, ``title`` and ``url`` also go with each triple, for citations.
        triples: what it says.
    """

    id: str
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    triples: Sequence[Triple] = ()


class DocumentStore:
    """Documents of a knowledge base, kept with their triples: nothing else has to be saved.

    A triple that two documents say goes when both are gone; one that was there before them stays. Where the knowledge
    base keeps a single value for each name and property, the later document's value replaces the earlier one's: open
    it with ``multi=True`` to keep both. Threads may share a store; processes should not change documents at the same
    time.
    """

    def __init__(self, kb: KnowledgeBase) -> None:
        self.kb = kb
        self._lock = threading.RLock()
        self._revision = -1
        self._keys: dict[str, set[_Key]] = {}

    def upsert(self, documents: Iterable[SourceDocument]) -> None:
        """Add documents, or replace those with the same ids; a reader never misses what stays the same.

        Raises:
            TripleError: a triple or its metadata is not usable; nothing is changed.
            ConfigurationError: a document is longer than `MAX_TEXT` characters; nothing is changed.
        """
        documents = list(documents)
        for document in documents:
            if len(document.text) > MAX_TEXT:
                raise ConfigurationError(
                    f"document {document.id!r}: expected at most {MAX_TEXT} characters, got {len(document.text)}: split it"
                )
        with self._lock:
            keys = self._read_keys()
            put: dict[_Key, Triple] = {}
            stale: list[tuple[str, _Key]] = []
            for document in documents:
                new = {_key(triple): triple for triple in document.triples}
                stale.extend((document.id, key) for key in keys.get(document.id, set()) - set(new))
                before = {key: put.get(key) or self._stored(key) for key in new}
                carrier = min(new, key=lambda key: len(_documents_of(before[key])), default=None)
                for key, triple in new.items():
                    put[key] = _with_document(triple, before[key], document, whole=key == carrier)
            self.kb.add(put.values())
            for document_id, key in stale:
                self._withdraw(document_id, key)

    def delete(self, ids: Iterable[str]) -> list[str]:
        """Take documents back; return the ids of those that were there."""
        with self._lock:
            keys = self._read_keys()
            found = [document_id for document_id in dict.fromkeys(ids) if document_id in keys]
            for document_id in found:
                for key in sorted(keys[document_id]):
                    self._withdraw(document_id, key)
            return found

    def get(self, ids: Iterable[str]) -> list[SourceDocument]:
        """Return the documents with these ids that are there and gave at least one triple."""
        with self._lock:
            keys = self._read_keys()
            found = []
            for document_id in dict.fromkeys(ids):
                stored = [self._stored(key) for key in sorted(keys.get(document_id, ()))]
                triples = [triple for triple in stored if triple is not None]
                entries = [triple.metadata[_FIELD].get(document_id) for triple in triples]
                whole = next((entry for entry in entries if entry), None)
                if whole is not None:
                    found.append(SourceDocument(document_id, whole["text"], whole["metadata"], tuple(triples)))
            return found

    def ids_of(self, triple: Triple) -> list[str]:
        """Return the ids of the documents that say a triple of this knowledge base."""
        return list(_documents_of(triple))

    def _read_keys(self) -> dict[str, set[_Key]]:
        """Return the triples of each document; read again if anybody has changed the knowledge base."""
        if self._revision != (revision := self.kb.revision):
            keys: dict[str, set[_Key]] = {}
            for triple in self.kb:
                for document_id in self.ids_of(triple):
                    keys.setdefault(document_id, set()).add(_key(triple))
            self._keys, self._revision = keys, revision
        return self._keys

    def _stored(self, key: _Key) -> Triple | None:
        return next((t for t in self.kb.get_all(key[0], key[1]) if t.value == key[2]), None)

    def _withdraw(self, document_id: str, key: _Key) -> None:
        triple = self._stored(key)
        if triple is None:  # its value has been replaced since
            return
        metadata = dict(triple.metadata)
        metadata.pop(_FIELD, None)
        documents = {other: kept for other, kept in _documents_of(triple).items() if other != document_id}
        if documents:
            self.kb.add([replace(triple, metadata={**metadata, _FIELD: documents})])
        elif metadata.pop(_KEPT, False):
            self.kb.add([replace(triple, metadata=metadata)])
        else:
            self.kb.remove(*key)


def without_texts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a triple's metadata with the ids of its documents, ``document_ids``, in place of the documents."""
    plain = {key: value for key, value in metadata.items() if key not in (_FIELD, _KEPT)}
    if isinstance(metadata.get(_FIELD), Mapping):
        plain["document_ids"] = list(metadata[_FIELD])
    return plain


def _key(triple: Triple) -> _Key:
    return triple.name, triple.property, triple.value


def _documents_of(triple: Triple | None) -> dict[str, Any]:
    return dict(triple.metadata.get(_FIELD) or {}) if triple is not None else {}


def _with_document(triple: Triple, before: Triple | None, document: SourceDocument, *, whole: bool) -> Triple:
    """Return a triple that also names a document, and carries the whole of it if it is the one to."""
    old = dict(before.metadata) if before is not None else {}
    documents = _documents_of(before)
    if before is not None and not documents:
        old[_KEPT] = True
    plain: dict[str, Any] = json.loads(json.dumps(dict(document.metadata), default=str))
    documents[document.id] = {"text": document.text, "metadata": plain} if whole else None
    origin = {key: plain[key] for key in ("source", "title", "url") if isinstance(plain.get(key), str)}
    return replace(triple, metadata={**old, **origin, **triple.metadata, _FIELD: documents})
