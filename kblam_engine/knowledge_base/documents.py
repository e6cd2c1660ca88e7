"""Which triples of a knowledge base came from which document, so that a document can be replaced or taken back."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base.document_changes import DocumentChanges, Key, key_of, stored_triple
from kblam_engine.knowledge_base.document_entries import (
    Carried,
    SourceDocument,
    carried_in,
    documents_of,
    last_of_each,
    place_in,
    problem_with,
    remembered,
)
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KnowledgeBase

__all__ = ["DocumentStore"]


class DocumentStore:
    """Documents of a knowledge base, kept with their triples: nothing else has to be saved.

    Every triple has a provenance: the document that said it last. One that two documents say goes when both are gone;
    one that was there before them stays. A batch of documents is added in one transaction, and what goes with it in
    another, after it. Where the knowledge base keeps a single value for each name and property, the later document's
    value replaces the earlier one's: open it with ``multi=True`` to keep both.

    One triple of a document carries its text and metadata; when that triple goes, another one does. If somebody else has
    removed it, `get` gives the document without its text from the next process on. A triple's metadata has a limit, so of
    one that dozens of documents say, details of the earlier ones are left out, and then their texts; of one that many
    hundreds say, the latest are remembered. Threads may share a store; processes should not change documents at the same
    time.
    """

    def __init__(self, kb: KnowledgeBase) -> None:
        self.kb = kb
        self.lock = threading.RLock()
        self._revision = -1
        self._keys: dict[str, set[Key]] = {}
        self._places: dict[str, str] = {}
        self._loose: dict[str, Carried] = {}  # of documents that have lost the triple which carried it

    def upsert(self, documents: Iterable[SourceDocument], instead_of: Iterable[str] = ()) -> None:
        """Add documents, or replace those with the same ids; a reader never misses what stays the same.

        Args:
            documents: of those with the same id, the last one counts.
            instead_of: ids of documents to take back at the same time.

        Raises:
            TripleError: a triple or its metadata is not usable; nothing is changed.
            ConfigurationError: a document is longer than `MAX_TEXT` characters; nothing is changed.
        """
        unique = last_of_each((document.id, document) for document in documents)
        for document in unique.values():
            if (problem := problem_with(document)) is not None:
                raise problem
        with self.lock:
            changes = DocumentChanges(self.kb, self._read_keys(), self._loose)
            for document_id in instead_of:
                changes.take_back(document_id)
            for document in unique.values():
                changes.take_back(document.id, but={key_of(triple) for triple in document.triples})
            for document in unique.values():
                changes.say(document)
            self._write(changes)

    def delete(self, ids: Iterable[str]) -> list[str]:
        """Take documents back; return the ids of those that were there."""
        with self.lock:
            keys = self._read_keys()
            found = [document_id for document_id in dict.fromkeys(ids) if document_id in keys]
            changes = DocumentChanges(self.kb, keys, self._loose)
            for document_id in found:
                changes.take_back(document_id)
            self._write(changes)
            return found

    def get(self, ids: Iterable[str]) -> list[SourceDocument]:
        """Return the documents with these ids of which at least one triple is there."""
        with self.lock:
            keys = self._read_keys()
            found = []
            for document_id in dict.fromkeys(ids):
                stored = [stored_triple(self.kb, key) for key in sorted(keys.get(document_id, ()))]
                triples = [triple for triple in stored if triple is not None]
                if triples:
                    text, metadata = self._carried(document_id, triples)
                    found.append(SourceDocument(document_id, text, metadata, tuple(triples)))
            return found

    def _carried(self, document_id: str, triples: Iterable[Triple]) -> Carried:
        """Return the text and metadata of a document that says these triples, as far as they are known."""
        entries = [documents_of(triple).get(document_id) for triple in triples]
        found = next((entry for entry in entries if entry and "metadata" in entry), None)
        if found is not None:
            return found.get("text", ""), found["metadata"]
        return self._loose.get(document_id) or ("", remembered(entries))

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
        return list(documents_of(triple))

    def _read_keys(self) -> dict[str, set[Key]]:
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
            self._loose = {each: carried for each, carried in self._loose.items() if each in self._keys}
            self._revision = revision
        return self._keys

    def _note(self, triples: Iterable[Triple]) -> None:
        """Note which documents say these triples."""
        for triple in triples:
            for document_id, entry in documents_of(triple).items():
                self._keys.setdefault(document_id, set()).add(key_of(triple))
                if place := place_in(entry):
                    self._places[document_id] = place
                if entry and "metadata" in entry:
                    self._loose.pop(document_id, None)

    def _forget(self, removed: Iterable[Triple]) -> None:
        """Note that these triples are gone, unless another namespace has them too."""
        for triple in removed:
            key = key_of(triple)
            saying = {each for t in self.kb.get_all(*key[:2]) if key_of(t) == key for each in documents_of(t)}
            said = {each: entry for each, entry in documents_of(triple).items() if each not in saying}
            self._loose |= carried_in(said)
            for document_id in said:
                self._keys.get(document_id, set()).discard(key)
                if not self._keys.get(document_id):
                    self._keys.pop(document_id, None)
                    self._places.pop(document_id, None)

    def _write(self, changes: DocumentChanges) -> None:
        """Put what documents say, then remove what none says any more: one transaction each, nothing missing between."""
        put, gone = changes.finished()
        if put:
            self.kb.add(put)
        if ids := [i for key in gone for i in self._ids(key)]:
            self.kb.remove(ids=ids)
        self._read_keys()
        for document_id in changes.texts:  # a triple carries them now, or there was no room for them
            self._loose.pop(document_id, None)

    def _ids(self, key: Key) -> list[int]:
        """Return the ids of a triple that documents said: one, unless several namespaces have it."""
        found = [(i, self.kb.triple(i)) for i in self.kb.ids(key[0], key[1])]
        return [i for i, triple in found if triple.value == key[2] and documents_of(triple)]
