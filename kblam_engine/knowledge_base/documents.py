"""Which triples of a knowledge base came from which document, so that a document can be replaced or taken back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.triples import MAX_LABEL, Provenance, Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KnowledgeBase

__all__ = ["MAX_TEXT", "DocumentStore", "SourceDocument", "provenance_of", "without_texts"]

MAX_TEXT = 20_000
"""Characters of a document that is kept beside its triples."""
_FIELD = "documents"  # in a triple's metadata: id of each document that says it -> what comes from that document
_KEPT = "without_documents"  # in a triple's metadata: what it was before any document said it
# A triple's metadata must not outgrow its limit, however many documents say it:
_DETAILED = 50  # of so many, all is kept that comes from them; of earlier ones the id and the place
_MOST = 45_000  # characters for all of them; beyond, the earliest are forgotten
_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """A document as triples come from it.

    Attributes:
        id: unique among the documents of a knowledge base.
        text: its content, to be given back by ``get``.
        metadata: what JSON can hold; ``source``, ``title`` and ``url`` also go with each triple, for citations.
        triples: what it says.
        origin: where a triple of it was read, unless the triple says so itself: the document and its place as citations
            shall name them, and the characters of that document which are this one. None: `id`, and what the metadata
            calls ``source`` or ``url``.
    """

    id: str
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    triples: Sequence[Triple] = ()
    origin: Provenance | None = None


class DocumentStore:
    """Documents of a knowledge base, kept with their triples: nothing else has to be saved.

    Every triple has a provenance: the document that said it last. One that two documents say goes when both are gone;
    one that was there before them stays. A batch of documents is added in one transaction, and what goes with it in
    another, after it. Where the knowledge base keeps a single value for each name and property, the later document's
    value replaces the earlier one's: open it with ``multi=True`` to keep both. Of a triple that more than 50
    documents say, the id and place of the earlier ones are kept, and of one that many hundreds say, those of the latest. Threads may share a store; processes should not change documents at the same
    time.
    """

    def __init__(self, kb: KnowledgeBase) -> None:
        self.kb = kb
        self.lock = threading.RLock()
        self._revision = -1
        self._keys: dict[str, set[_Key]] = {}
        self._places: dict[str, str] = {}

    def upsert(self, documents: Iterable[SourceDocument], instead_of: Iterable[str] = ()) -> None:
        """Add documents, or replace those with the same ids; a reader never misses what stays the same.

        Args:
            documents: each id once.
            instead_of: ids of documents to take back at the same time.

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
        with self.lock:
            keys = self._read_keys()
            put: dict[_Key, Triple] = {}
            stale: list[tuple[str, _Key]] = [(other, key) for other in instead_of for key in keys.get(other, ())]
            for document in documents:
                new = {_key(triple): triple for triple in document.triples}
                stale.extend((document.id, key) for key in keys.get(document.id, set()) - set(new))
                before = {key: put.get(key) or self._stored(key) for key in new}
                carrier = min(new, key=lambda key: len(_documents_of(before[key])), default=None)
                for key, triple in new.items():
                    put[key] = _with_document(triple, before[key], document, whole=key == carrier)
            self._withdraw(stale, put)

    def delete(self, ids: Iterable[str]) -> list[str]:
        """Take documents back; return the ids of those that were there."""
        with self.lock:
            keys = self._read_keys()
            found = [document_id for document_id in dict.fromkeys(ids) if document_id in keys]
            self._withdraw([(document_id, key) for document_id in found for key in sorted(keys[document_id])], {})
            return found

    def get(self, ids: Iterable[str]) -> list[SourceDocument]:
        """Return the documents with these ids that are there and gave at least one triple."""
        with self.lock:
            keys = self._read_keys()
            found = []
            for document_id in dict.fromkeys(ids):
                stored = [self._stored(key) for key in sorted(keys.get(document_id, ()))]
                triples = [triple for triple in stored if triple is not None]
                entries = [triple.metadata[_FIELD].get(document_id) for triple in triples]
                whole = next((entry for entry in entries if entry and "text" in entry), None)
                if whole is not None:
                    found.append(SourceDocument(document_id, whole["text"], whole["metadata"], tuple(triples)))
            return found

    def ids(self, places: Iterable[str] | None = None) -> list[str]:
        """Return the ids of all documents, or of those from these sources (paths or URLs), sorted."""
        with self.lock:
            keys, wanted = self._read_keys(), None if places is None else set(places)
            return sorted(each for each in keys if wanted is None or self._places.get(each) in wanted)

    def n_triples(self, document_id: str) -> int:
        """Return how many triples a document says, 0 for an unknown one."""
        with self.lock:
            return len(self._read_keys().get(document_id, ()))

    def place_of(self, document_id: str) -> str:
        """Return the path or URL of a document, "" if nobody said one."""
        with self.lock:
            self._read_keys()
            return self._places.get(document_id, "")

    def ids_of(self, triple: Triple) -> list[str]:
        """Return the ids of the documents that say a triple of this knowledge base."""
        return list(_documents_of(triple))

    def _read_keys(self) -> dict[str, set[_Key]]:
        """Return the triples of each document; what anybody has changed in the knowledge base since is read first."""
        if self._revision != (revision := self.kb.revision):
            try:
                change = self.kb.diff(self._revision, revision) if self._revision >= 0 else None
            except ConfigurationError:  # a compaction has dropped what was removed since
                change = None
            if change is None:
                self._keys, self._places = {}, {}
                self._note(self.kb)
            else:
                self._forget(change.removed)
                self._note(change.added)
            self._revision = revision
        return self._keys

    def _note(self, triples: Iterable[Triple]) -> None:
        """Note which documents say these triples."""
        for triple in triples:
            for document_id, entry in _documents_of(triple).items():
                self._keys.setdefault(document_id, set()).add(_key(triple))
                if place := _place_in(entry):
                    self._places[document_id] = place

    def _forget(self, removed: Iterable[Triple]) -> None:
        """Note that these triples are gone, unless another namespace has them too."""
        for triple in removed:
            key = _key(triple)
            saying = {each for t in self.kb.get_all(*key[:2]) if _key(t) == key for each in _documents_of(t)}
            for document_id in _documents_of(triple).keys() - saying:
                self._keys.get(document_id, set()).discard(key)
                if not self._keys.get(document_id):
                    self._keys.pop(document_id, None)
                    self._places.pop(document_id, None)

    def _stored(self, key: _Key) -> Triple | None:
        return next((t for t in self.kb.get_all(key[0], key[1]) if t.value == key[2]), None)

    def _withdraw(self, said: Iterable[tuple[str, _Key]], put: dict[_Key, Triple]) -> None:
        """Put triples, and take it back that documents say others: at most one transaction each, nothing missing between.

        Args:
            said: ids of documents, and what each no longer says.
            put: triples to add, by key.
        """
        lost: dict[_Key, set[str]] = {}
        for document_id, key in said:
            lost.setdefault(key, set()).add(document_id)
        gone: list[_Key] = []
        others: dict[_Key, Triple] = {}
        for key, documents in lost.items():
            triple = put.get(key) or self._stored(key)
            if triple is None:  # its value has been replaced since
                continue
            left = _without_documents(triple, documents)
            if left is None:
                gone.append(key)
            else:
                (put if key in put else others)[key] = left
        if put or others:  # where there is one value for a name and property, the newer document's comes last
            self.kb.add([*others.values(), *put.values()])
        if ids := [i for key in gone for i in self._ids(key)]:
            self.kb.remove(ids=ids)

    def _ids(self, key: _Key) -> list[int]:
        """Return the ids of a triple that documents said: one, unless several namespaces have it."""
        found = [(i, self.kb.triple(i)) for i in self.kb.ids(key[0], key[1])]
        return [i for i, triple in found if triple.value == key[2] and _documents_of(triple)]


def provenance_of(document: object, place: object = None, span: tuple[int, int] | None = None) -> Provenance | None:
    """Return where a triple was read; what cannot stand in a provenance, such as an over-long text, is left out.

    Args:
        document: the document's id.
        place: its path or URL.
        span: characters of it, from the first up to and without the second.
    """
    texts = [text.strip() if isinstance(text, str) else "" for text in (document, place)]
    name, uri = (text if len(text) <= MAX_LABEL and text.isprintable() else "" for text in texts)
    return Provenance(name, uri, span) if name or uri else None


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
        known = {} if before.provenance is None else {"provenance": before.provenance.to_dict()}
        old = {**old, _KEPT: {"metadata": old, **known}}
    plain: dict[str, Any] = json.loads(json.dumps(dict(document.metadata), default=str))
    provenance = _joined(triple.provenance, document)
    shown = {key: plain[key] for key in ("source", "title", "url") if isinstance(plain.get(key), str)}
    own = {**shown, **triple.metadata}
    entry: dict[str, Any] = {"own": own}
    if provenance is not None:
        entry["provenance"] = provenance.to_dict()
    if whole:
        entry |= {"text": document.text, "metadata": plain}
    documents.pop(document.id, None)  # the one that says it last stands last
    documents[document.id] = entry
    if len(documents) > _DETAILED:
        documents = _shortened(documents)
    return replace(triple, metadata={**old, **own, _FIELD: documents}, provenance=provenance)


def _shortened(documents: dict[str, Any]) -> dict[str, Any]:
    """Return less of the earlier documents of a triple; one whose text it carries is kept whole."""
    left, kept = _MOST, dict[str, Any]()
    for place, (document_id, entry) in enumerate(reversed(documents.items())):
        carries = bool((entry or {}).get("text"))
        if place >= _DETAILED and not carries:
            entry = {"provenance": {"uri": uri}} if (uri := _place_in(entry)) else None
        left -= len(document_id) + len(json.dumps(entry)) + 6
        if left > 0 or carries or not place:
            kept[document_id] = entry
    return dict(reversed(kept.items()))


def _place_in(entry: Mapping[str, Any] | None) -> str:
    return str(((entry or {}).get("provenance") or {}).get("uri") or "")


def _joined(own: Provenance | None, document: SourceDocument) -> Provenance | None:
    """Return what a triple says of its provenance, completed by what its document does."""
    metadata = document.metadata
    origin = document.origin or provenance_of(document.id, metadata.get("source") or metadata.get("url"))
    if own is None or origin is None:
        return own or origin
    return replace(own, document=own.document or origin.document, uri=own.uri or origin.uri, span=own.span or origin.span)


def _without_documents(triple: Triple, gone: set[str]) -> Triple | None:
    """Return a triple as it is when documents no longer say it; None if nothing is left that does."""
    documents = {other: entry for other, entry in _documents_of(triple).items() if other not in gone}
    kept = triple.metadata.get(_KEPT)
    if not documents and not kept:
        return None
    before: dict[str, Any] = kept if isinstance(kept, dict) else {}
    metadata = dict(before.get("metadata", {}))
    for entry in documents.values():
        metadata |= (entry or {}).get("own", {})
    if documents:
        metadata |= {**({_KEPT: kept} if kept else {}), _FIELD: documents}
        before = list(documents.values())[-1] or {}
    known = before.get("provenance")
    return replace(triple, metadata=metadata, provenance=Provenance.from_dict(known) if known else None)
