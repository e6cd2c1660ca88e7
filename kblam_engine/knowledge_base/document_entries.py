"""What a triple's metadata holds of the documents that say it, while these come and go."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from kblam_engine.errors import ConfigurationError, TripleError
from kblam_engine.triples import MAX_LABEL, MAX_METADATA, Provenance, Triple

__all__ = [
    "DOCUMENTS",
    "KEPT",
    "MAX_TEXT",
    "Carried",
    "Entry",
    "SaidTriple",
    "SourceDocument",
    "carried_in",
    "documents_of",
    "entry_of",
    "error_in",
    "joined_provenance",
    "last_of_each",
    "place_in",
    "plain_metadata",
    "problem_with",
    "provenance_of",
    "remembered",
    "without_texts",
]

DOCUMENTS = "documents"  # in a triple's metadata: id of each document that says it -> what comes from that document
KEPT = "without_documents"  # in a triple's metadata: what it was before any document said it
MAX_TEXT = 20_000
"""Characters of a document that is kept beside its triples."""
_SHOWN = ("source", "title", "url")  # of a document's metadata, what goes with each of its triples
_WHOLE = "ref_doc_id"  # of a document's metadata, what names the document that it is a part of: kept beside every triple
_CARRIED = ("text", "metadata")  # in an entry: what one triple of a document carries
_PER_ENTRY = 100  # about as many characters as an entry has without a text
Item = TypeVar("Item")
Entry = Mapping[str, Any] | None
Carried = tuple[str, Mapping[str, Any]]
"""The text and metadata of a document."""


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """A document as triples come from it.

    Attributes:
        id: unique among the documents of a knowledge base.
        text: its content, to be given back by ``get``.
        metadata: what JSON can hold; NaN and infinite numbers become null. ``source``, ``title`` and ``url`` also go with
            each triple, for citations, and ``ref_doc_id`` says which document this is a part of.
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


@dataclass(slots=True)
class SaidTriple:
    """A triple with the documents that say it, the last of them last.

    One of a document's triples carries its text and metadata. A triple's metadata must not outgrow its limit, however many
    documents say it; so `finished` leaves out what it has to, of the earliest documents first.
    """

    triple: Triple
    documents: dict[str, Entry] = field(default_factory=dict)
    kept: Mapping[str, Any] | None = None
    """What it was before any document said it; None if it was not there."""
    plain: dict[str, Any] = field(default_factory=dict)
    """Its metadata without what is said of documents."""
    _load: int | None = None

    @classmethod
    def of(cls, stored: Triple) -> SaidTriple:
        """Return a stored triple as one that documents may say."""
        documents, kept = documents_of(stored), stored.metadata.get(KEPT)
        plain = {key: value for key, value in stored.metadata.items() if key not in (DOCUMENTS, KEPT)}
        if not documents:
            known = {} if stored.provenance is None else {"provenance": stored.provenance.to_dict()}
            kept = {"metadata": plain, **known}
        return cls(stored, documents, kept if isinstance(kept, Mapping) else None, plain)

    @property
    def is_said(self) -> bool:
        """Whether a document says it, or it was there before them."""
        return bool(self.documents) or self.kept is not None

    @property
    def load(self) -> int:
        """About how many characters it holds of documents."""
        if self._load is None:
            self._load = sum(_PER_ENTRY + len((entry or {}).get("text", "")) for entry in self.documents.values())
        return self._load

    def say(self, triple: Triple, document_id: str, entry: Mapping[str, Any]) -> None:
        """Note that a document says it, and that nobody has said it later."""
        self.triple, self._load = triple, None
        self.plain = {**self.plain, **entry.get("own", {})}
        self.documents.pop(document_id, None)
        self.documents[document_id] = entry

    def withdraw(self, document_id: str) -> None:
        """Note that a document no longer says it."""
        if document_id not in self.documents:
            return
        del self.documents[document_id]
        before: Mapping[str, Any] = self.kept or {}
        self.plain = dict(before.get("metadata", {}))
        for entry in self.documents.values():
            self.plain |= (entry or {}).get("own", {})
        if self.documents:
            before = list(self.documents.values())[-1] or {}
        known = before.get("provenance")
        self.triple = replace(self.triple, provenance=Provenance.from_dict(known) if known else None)
        self._load = None

    def carry(self, document_id: str, text: str, metadata: Mapping[str, Any]) -> None:
        """Keep the text and metadata of a document that says it."""
        self._load = self.load + len(text)
        self.documents[document_id] = {**(self.documents[document_id] or {}), "text": text, "metadata": metadata}

    def finished(self) -> Triple:
        """Return the triple to store.

        Raises:
            TripleError: what the last document says of it is more than a triple's metadata can hold.
        """
        metadata = dict(self.plain)
        if self.documents:
            metadata |= {KEPT: dict(self.kept)} if self.kept is not None else {}
            metadata[DOCUMENTS] = _fitted(self.documents, MAX_METADATA - _size(metadata) - len(f', "{DOCUMENTS}": '))
        return replace(self.triple, metadata=metadata)


def documents_of(triple: Triple | None) -> dict[str, Entry]:
    """Return what a triple holds of each document that says it."""
    return dict(triple.metadata.get(DOCUMENTS) or {}) if triple is not None else {}


def carried_in(entries: Mapping[str, Entry]) -> dict[str, Carried]:
    """Return the texts and metadata that are in a triple's entries, by document."""
    return {each: (entry.get("text", ""), entry["metadata"]) for each, entry in entries.items() if entry and "metadata" in entry}


def place_in(entry: Entry) -> str:
    """Return the path or URL of an entry's document, "" if nobody said one."""
    return str(((entry or {}).get("provenance") or {}).get("uri") or "")


def remembered(entries: Iterable[Entry]) -> dict[str, Any]:
    """Return what is left of a document's metadata where none of its triples carries it."""
    found: dict[str, Any] = {}
    for entry in entries:
        own = (entry or {}).get("own", {})
        known = {**own, **({_WHOLE: entry[_WHOLE]} if entry and _WHOLE in entry else {})}
        found |= {key: known[key] for key in (*_SHOWN, _WHOLE) if isinstance(known.get(key), str)}
        if place := place_in(entry):
            found.setdefault("source", place)
    return found


def problem_with(document: SourceDocument, called: str = "") -> ConfigurationError | TripleError | None:
    """Return what is wrong with a document that cannot be stored; None if it can.

    Args:
        document: what to look at.
        called: what the error calls it; "" for its id.
    """
    called = called or repr(document.id)
    if len(document.text) > MAX_TEXT:
        return ConfigurationError(
            f"document {called}: expected at most {MAX_TEXT} characters, got {len(document.text)}: split it"
        )
    try:
        plain = plain_metadata(document.metadata)
        entries = [(triple, entry_of(triple, document, plain)) for triple in document.triples]
        if entries:  # any triple may have to carry the text: if the one with the least room can, all can
            triple, entry = max(entries, key=lambda each: _size(each[1]))
            said = SaidTriple(triple)
            said.say(triple, document.id, entry)
            said.carry(document.id, document.text, plain)
            said.finished()
    except TripleError as error:
        return error_in(f"document {called}", error)
    return None


def error_in(what: str, error: TripleError) -> TripleError:
    """Return an error of a triple as one that says what the triple was read from."""
    return TripleError(error.field, f"{what}: {str(error).removeprefix(f'{error.field}: ')}")


def last_of_each(items: Iterable[tuple[str, Item]]) -> dict[str, Item]:
    """Return the last item of each id, in the order of these last ones."""
    found: dict[str, Item] = {}
    for each, item in items:
        found.pop(each, None)
        found[each] = item
    return found


def plain_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as JSON holds it: NaN, an empty cell of a table, as null.

    Raises:
        TripleError: JSON cannot hold it.
    """
    try:
        text = json.dumps(dict(metadata), default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise TripleError("metadata", f"expected what JSON can hold: {error}") from None
    plain: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)
    return plain


def entry_of(triple: Triple, document: SourceDocument, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept beside each triple of a document.

    Args:
        triple: what it says.
        document: who says it.
        plain: its metadata, as `plain_metadata` returns it.
    """
    shown = {key: plain[key] for key in _SHOWN if isinstance(plain.get(key), str)}
    entry: dict[str, Any] = {"own": {**shown, **triple.metadata}}
    provenance = joined_provenance(triple.provenance, document)
    if provenance is not None:
        entry["provenance"] = provenance.to_dict()
    if plain.get(_WHOLE) is not None and entry["own"].get(_WHOLE) != str(plain[_WHOLE]):
        entry[_WHOLE] = str(plain[_WHOLE])
    return entry


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
    plain = {key: value for key, value in metadata.items() if key not in (DOCUMENTS, KEPT)}
    if isinstance(metadata.get(DOCUMENTS), Mapping):
        plain["document_ids"] = list(metadata[DOCUMENTS])
    return plain


def joined_provenance(own: Provenance | None, document: SourceDocument) -> Provenance | None:
    """Return what a triple says of where it was read, and what its document says where the triple does not."""
    metadata = document.metadata
    origin = document.origin or provenance_of(document.id, metadata.get("source") or metadata.get("url"))
    if own is None or origin is None:
        return own or origin
    return replace(own, document=own.document or origin.document, uri=own.uri or origin.uri, span=own.span or origin.span)


def _fitted(documents: dict[str, Entry], room: int) -> dict[str, Entry]:
    """Return documents in so many characters: details go first, then texts, whole documents last; the last one stays."""
    fitted, sizes = dict(documents), {each: _size({each: entry}) for each, entry in documents.items()}
    left = room - sum(sizes.values())
    for less in (_without_details, _without_text, None):
        for each in list(fitted)[:-1]:
            if left >= 0:
                return fitted
            left += sizes[each]
            if less is None:
                del fitted[each]
            else:
                fitted[each] = less(fitted[each])
                sizes[each] = _size({each: fitted[each]})
                left -= sizes[each]
    return fitted


def _without_details(entry: Entry) -> Entry:
    """Return an entry without what it says of the triple, but for where the document lies."""
    entry, place = entry or {}, place_in(entry)
    whole = entry.get(_WHOLE) or entry.get("own", {}).get(_WHOLE)
    less = {"provenance": {"uri": place} if place else None, _WHOLE: whole}
    carried = {key: entry[key] for key in _CARRIED if key in entry}
    return {**{key: value for key, value in less.items() if value}, **carried} or None


def _without_text(entry: Entry) -> Entry:
    """Return an entry without the text and metadata of its document."""
    return {key: value for key, value in (entry or {}).items() if key not in _CARRIED} or None


def _size(part: Mapping[str, Any]) -> int:
    """Return as how many characters a part of metadata counts, no fewer than it takes."""
    return len(json.dumps(part, ensure_ascii=False))
