"""What becomes of triples when documents come and go, found out before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from kblam_engine.knowledge_base.document_entries import (
    Carried,
    SaidTriple,
    SourceDocument,
    carried_in,
    documents_of,
    entry_of,
    joined_provenance,
    plain_metadata,
)
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KnowledgeBase

__all__ = ["DocumentChanges", "Key", "key_of", "stored_triple"]

Key = tuple[str, str, str]


class DocumentChanges:
    """Documents taken back and documents said: first all of the former, then the latter, then `finished`.

    Args:
        kb: the knowledge base as it is.
        keys: the triples that each document in it says.
        loose: what documents have said whose text is in no triple any more.
    """

    def __init__(self, kb: KnowledgeBase, keys: Mapping[str, set[Key]], loose: Mapping[str, Carried]) -> None:
        self._kb, self._keys = kb, keys
        self.texts: dict[str, Carried] = dict(loose)
        """Of each document that needs a triple to carry them."""
        """Of each document that needs a triple to carry them."""
        self._drafts: dict[Key, SaidTriple] = {}  # in the order in which they are put
        self._withdrawn: set[tuple[str, Key]] = set()
        self._said: dict[str, set[Key]] = {}

    def take_back(self, document_id: str, but: set[Key] | None = None) -> None:
        """Note that a document no longer says its triples, `but` for these."""
        for key in sorted(self._keys.get(document_id, set()) - (but or set())):
            self._withdrawn.add((document_id, key))
            if (draft := self._draft(key)) is not None:  # else its value has been replaced since
                draft.withdraw(document_id)
                self._drafts[key] = draft

    def say(self, document: SourceDocument) -> None:
        """Note what a document says, all of it.

        Raises:
            TripleError: JSON cannot hold its metadata.
        """
        plain = plain_metadata(document.metadata)
        self.texts[document.id] = document.text, plain
        self._said[document.id] = {key_of(triple) for triple in document.triples}
        for triple in document.triples:
            key = key_of(triple)
            draft = self._draft(key) or SaidTriple(triple)
            placed = replace(triple, provenance=joined_provenance(triple.provenance, document))
            draft.say(placed, document.id, entry_of(triple, document, plain))
            self._drafts.pop(key, None)  # where a property has one value, the document that says it last wins
            self._drafts[key] = draft

    def finished(self) -> tuple[list[Triple], list[Key]]:
        """Return the triples to put, in this order, and the keys of those that nothing says any more.

        Raises:
            TripleError: a triple has more metadata than it can hold.
        """
        gone = [key for key, draft in self._drafts.items() if not draft.is_said]
        for key in gone:
            del self._drafts[key]
        self._give_homes({*gone, *self._drop_replaced()})
        return [draft.finished() for draft in self._drafts.values()], gone

    def _draft(self, key: Key) -> SaidTriple | None:
        """Return a triple as it is so far; None if it is not there."""
        if key in self._drafts:
            return self._drafts[key]
        stored = stored_triple(self._kb, key)
        return None if stored is None else SaidTriple.of(stored)

    def _drop_replaced(self) -> set[Key]:
        """Leave out drafts that a later one replaces, keep the texts in triples to be replaced, and return the keys of both."""
        if self._kb.keeps_several_values:
            return set()
        last = {(draft.triple.namespace, *key[:2]): key for key, draft in self._drafts.items()}
        replaced = self._drafts.keys() - set(last.values())
        for key in replaced:
            del self._drafts[key]
        for (namespace, name, prop), key in last.items():
            for other in self._kb.get_all(name, prop):
                if other.namespace == namespace and other.value != key[2]:
                    replaced.add(key_of(other))
                    for document_id, carried in carried_in(documents_of(other)).items():
                        self.texts.setdefault(document_id, carried)
        return replaced

    def _give_homes(self, gone: set[Key]) -> None:
        """Choose the triple that carries each document's text: the one with the most room."""
        for document_id, (text, metadata) in self.texts.items():
            candidates: list[tuple[int, Key, SaidTriple]] = []
            for key in (self._said.get(document_id) or self._keys.get(document_id, set())) - gone:
                draft = None if (document_id, key) in self._withdrawn else self._draft(key)
                if draft is not None and document_id in draft.documents:
                    candidates.append((draft.load, key, draft))
            if candidates:  # else nothing is left of the document
                _, key, draft = min(candidates, key=lambda each: each[:2])
                draft.carry(document_id, text, metadata)
                self._drafts.setdefault(key, draft)


def key_of(triple: Triple) -> Key:
    """Return what tells a triple from others."""
    return triple.name, triple.property, triple.value


def stored_triple(kb: KnowledgeBase, key: Key) -> Triple | None:
    """Return the triple with a key, None if there is none."""
    return next((triple for triple in kb.get_all(key[0], key[1]) if triple.value == key[2]), None)
