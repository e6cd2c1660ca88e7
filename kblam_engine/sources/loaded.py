"""Documents that another library has loaded, told by their shape: LangChain's, LlamaIndex's, your own. Imports none of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kblam_engine.errors import ConfigurationError, TripleError
from kblam_engine.sources.documents.source import EXTRACTORS, sure_triples, the_extractors
from kblam_engine.sources.documents.text import text_document
from kblam_engine.sources.extractors.base import Extractor
from kblam_engine.sources.values import flat_text
from kblam_engine.triples import MAX_LABEL, Provenance, Triple

__all__ = ["NAME_FIELDS", "LoadedDocument", "LoadedDocumentExtractor", "fields_of", "loaded_document", "text_under"]

NAME_FIELDS = ("name", "title", "id", "key")
"""Fields that say what a record is about, best first."""
MAX_CHARS = 5_000_000
"""Characters of one document; beyond that, load it in parts."""
_PLACES = ("source", "url", "file_path", "file_name")
_TITLES = ("title", "name")
_RECORD = "record"


@dataclass(frozen=True, slots=True)
class LoadedDocument:
    """What is known of a document, whoever has loaded it.

    Attributes:
        text: its text.
        metadata: as the loader left it.
        id: its own, or one made from its place and text.
        origin: the document and its place as a triple's provenance; a part of a document names the whole.
        title: what it calls itself; empty if it does not.
        start: its first character in the whole document, of which it may be a part.
        page: from 1; None where there are no pages.
    """

    text: str
    metadata: Mapping[str, Any]
    id: str
    origin: Provenance
    title: str
    start: int
    page: int | None


def loaded_document(document: Any) -> LoadedDocument:
    """Return what is known of a document.

    Args:
        document: anything with `page_content`, `get_content()` or `text`, and perhaps `metadata` and an `id`. Of the
            metadata, `source`, `url`, `file_path` or `file_name` says where it lies, `title` or `name` what it is called,
            `page_label` or `page_number` its page, and `start_index` where a part of a document begins.

    Raises:
        ConfigurationError: it has no text, or more than `MAX_CHARS` characters of it.
    """
    text = _text_of(document)
    if len(text) > MAX_CHARS:
        raise ConfigurationError(
            f"document {text[:40]!r}: expected at most {MAX_CHARS:,} characters, got {len(text):,}; "
            "split it"
        )
    given = getattr(document, "metadata", None)
    metadata: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    uri = _first(metadata, _PLACES) or _label(getattr(document, "uri", ""))
    start = metadata.get("start_index", getattr(document, "start_char_idx", None))
    own = _label(getattr(document, "id", None)) or _label(getattr(document, "id_", None))
    made = "sha256:" + hashlib.sha256(f"{uri}\0{text}".encode("utf-8", "replace")).hexdigest()[:16]
    return LoadedDocument(
        text=text,
        metadata=metadata,
        id=own or made,
        origin=Provenance(_label(getattr(document, "ref_doc_id", None)) or own, uri),
        title=_first(metadata, _TITLES),
        start=start if isinstance(start, int) and start > 0 else 0,
        page=_page(metadata),
    )


def fields_of(text: str) -> list[tuple[str, str, tuple[int, int]]] | None:
    """Return a text of lines `field: value` as fields, values and the characters of each line; None if it is not one."""
    fields, start = [], 0
    for line in text.splitlines(keepends=True):
        field, colon, value = line.partition(":")
        if colon and field.strip():
            fields.append((field.strip(), value.strip(), (start, start + len(line.rstrip()))))
        elif line.strip():
            return None
        start += len(line)
    return fields or None


def text_under(key: str, metadata: Mapping[str, Any]) -> str | None:
    """Return what metadata says under a key, as text; 0 and False say something, None, NaN and empty ones do not."""
    said = metadata.get(key)
    text = flat_text(said)
    is_nothing = said is None or isinstance(said, str | bytes | float) or said in ([], (), {})
    return str(said) if text is None and not is_nothing else text


class LoadedDocumentExtractor:
    r"""From a loaded document to its triples, for `KnowledgeBase.add_documents` and for the indexes of the bridges.

    A document that is a record is read as one: its metadata has `name` and `property` (and `value`, or the text is the
    value), or its text is lines `field: value`, one of them called name, title, id or key, as loaders of tables
    write them. Any other goes through extractors. Provenance has the characters of the document that say a triple.

    >>> from types import SimpleNamespace
    >>> extract = LoadedDocumentExtractor(["structured"])
    >>> sheet = SimpleNamespace(page_content="Orca 2\n\nPayload: 80 kg\nSpeed: 2 m/s\n", metadata={"source": "orca.txt"})
    >>> for triple in extract(sheet):
    ...     print(triple.statement, triple.provenance.uri, triple.provenance.span)
    The payload of Orca 2 is 80 kg. orca.txt (8, 22)
    The speed of Orca 2 is 2 m/s. orca.txt (23, 35)

    Args:
        extractors: names ("structured", "rules") or extractors, in the order in which they are believed.
        min_confidence: 0 to 1; what is less sure is counted in `skipped`.
        topic: what the documents are about, for pairs and tables under no heading of their own.

    Raises:
        ConfigurationError: an extractor is not known, or a confidence is not 0 to 1; when called, the document has no
            text or too much of it.
        MissingDependencyError: an extractor needs a package that is not installed.
    """

    def __init__(
        self,
        extractors: Sequence[str | Extractor] = EXTRACTORS,
        *,
        min_confidence: float = 0.5,
        topic: str | None = None,
    ) -> None:
        self.extractors = the_extractors(extractors, min_confidence, topic)
        self.min_confidence = min_confidence
        self.skipped: Counter[str] = Counter()
        """How many candidates have been left out so far, by reason."""

    def __call__(self, document: Any) -> list[Triple]:
        """Return the triples of a document, the surest last."""
        loaded = loaded_document(document)
        record = self._record(loaded)
        if record is not None:
            return record
        read = text_document(loaded.text, loaded.origin.uri)
        read = replace(read, title=read.title or loaded.title)
        found = sure_triples(read, self.extractors, self.min_confidence, self.skipped)
        return [_placed(triple, loaded) for triple in found]

    def _record(self, loaded: LoadedDocument) -> list[Triple] | None:
        metadata = loaded.metadata
        name, prop = text_under("name", metadata), text_under("property", metadata)
        if name is not None and prop is not None:
            value = text_under("value", metadata)
            parts = [(name, prop, loaded.text if value is None else value, (0, len(loaded.text)))]
        else:
            fields = fields_of(loaded.text)
            about = None if fields is None else _about(fields, is_row=isinstance(metadata.get("row"), int))
            if fields is None or about is None or len(fields) < 2:
                return None
            parts = [(about[1], field, value, span) for field, value, span in fields if field != about[0] and value]
        triples = (self._checked(loaded, *part) for part in parts)
        return [triple for triple in triples if triple is not None]

    def _checked(
        self, loaded: LoadedDocument, name: str, prop: str, value: str, span: tuple[int, int]
    ) -> Triple | None:
        try:
            triple = Triple(name, prop, value, provenance=Provenance(span=span, extractor=_RECORD))
        except TripleError as error:
            self.skipped[f"{error.field} empty, too long or no text"] += 1
            return None
        return _placed(triple, loaded)


def _about(fields: Sequence[tuple[str, str, object]], *, is_row: bool) -> tuple[str, str] | None:
    """Return the field that names a record, and the name; of a table's row, its first column if no other does."""
    named = {field.lower(): (field, value) for field, value, _ in reversed(fields) if value}
    for key in NAME_FIELDS:
        if key in named:
            return named[key]
    return (fields[0][0], fields[0][1]) if is_row and fields[0][1] else None


def _placed(triple: Triple, loaded: LoadedDocument) -> Triple:
    """Return a triple with its document, the span in the whole of that, and its page."""
    known = triple.provenance or Provenance()
    span = known.span and (known.span[0] + loaded.start, known.span[1] + loaded.start)
    origin = replace(known, document=loaded.origin.document, uri=loaded.origin.uri, span=span)
    metadata = triple.metadata if loaded.page is None else {**triple.metadata, "page": loaded.page}
    return replace(triple, metadata=metadata, provenance=origin)


def _text_of(document: Any) -> str:
    content: Any = getattr(document, "page_content", None)
    read: Callable[[], Any] | None = getattr(document, "get_content", None)
    if content is None and callable(read):
        content = read()
    if content is None:
        content = getattr(document, "text", None)
    if not isinstance(content, str):
        raise ConfigurationError(
            f"documents: expected page_content, get_content() or text on each of them, got {type(document).__name__}"
        )
    return content


def _first(metadata: Mapping[str, Any], keys: Sequence[str]) -> str:
    return next((label for key in keys if (label := _label(metadata.get(key)))), "")


def _label(text: Any) -> str:
    """Return a text that can stand in a provenance; others are left out."""
    label = text.strip() if isinstance(text, str) else ""
    return label if len(label) <= MAX_LABEL and label.isprintable() else ""


def _page(metadata: Mapping[str, Any]) -> int | None:
    for key in ("page_label", "page_number"):
        page = str(metadata.get(key, ""))
        if page.isascii() and page.isdigit() and int(page) > 0:
            return int(page)
    return None
