"""A document as a source: read, then given to extractors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.sources.documents.document import Document
from kblam_engine.sources.documents.reading import read_document
from kblam_engine.sources.extractors.base import Extractor, confidence_of, unique
from kblam_engine.sources.source import MAX_MB, FileSource
from kblam_engine.triples import Triple

EXTRACTORS = ("structured", "rules")
"""The extractors that are known by name; an `LLMExtractor` needs a chat model and is passed as an object."""


class DocumentSource(FileSource):
    """A text, Markdown, HTML, PDF or Word file, and what extractors find in it.

    The surest comes last, so that it is the value that a knowledge base with one value a property keeps.

    Args:
        path: the file.
        extractors: names of `EXTRACTORS` or extractors, in the order in which they are believed: what one has
            found, the next does not say again.
        min_confidence: 0 to 1; what is less sure is counted in `skipped`.
        document_id: default made from the file's bytes.
        topic: what the document is about, for the tables and pairs that stand under no heading of their own.
        password: of an encrypted PDF.
        uri: what triples name as their source; default the path as given.
        max_mb: larger files are refused.

    Raises:
        ConfigurationError: an extractor is not known, or a confidence is not 0 to 1.
        MissingDependencyError: an extractor needs a package that is not installed.
    """

    def __init__(
        self,
        path: Any,
        *,
        extractors: Sequence[str | Extractor] = EXTRACTORS,
        min_confidence: float = 0.5,
        document_id: str | None = None,
        topic: str | None = None,
        password: str | None = None,
        uri: str | None = None,
        max_mb: float = MAX_MB,
    ) -> None:
        super().__init__(path, uri=uri, max_mb=max_mb)
        self.extractors = the_extractors(extractors, min_confidence, topic)
        self.min_confidence = min_confidence
        self.document_id = document_id
        self.password = password

    def read(self) -> Document:
        """Return the document itself, whose text the spans of its triples refer to.

        Raises:
            ImportFileError: it is damaged, or has no text.
            MissingDependencyError: a package for this kind of document is not installed.
        """
        return read_document(
            self.path,
            uri=self.uri,
            document_id=self.document_id,
            password=self.password,
            max_mb=self.max_mb,
        )

    def _read(self) -> Iterator[Triple]:
        yield from sure_triples(self.read(), self.extractors, self.min_confidence, self.skipped)


def the_extractors(
    extractors: Sequence[str | Extractor], min_confidence: float, topic: str | None
) -> list[Extractor]:
    """Return extractors, made where they are told by name.

    Raises:
        ConfigurationError: one is not known, there is none, or the confidence is not 0 to 1.
        MissingDependencyError: one needs a package that is not installed.
    """
    if not 0 <= min_confidence <= 1:
        raise ConfigurationError(f"min_confidence: expected 0 to 1, got {min_confidence}")
    if isinstance(extractors, str):
        extractors = [extractors]
    found = [_extractor(which, topic) for which in extractors]
    if not found:
        raise ConfigurationError(f"extractors: expected at least one of {', '.join(EXTRACTORS)}, got none")
    return found


def sure_triples(
    document: Document, extractors: Sequence[Extractor], min_confidence: float, skipped: Counter[str]
) -> list[Triple]:
    """Return what extractors find in a document, the surest last; what is left out is counted in `skipped`."""
    triples = list(unique(_found(document, extractors, skipped), skipped))
    sure = [triple for triple in triples if confidence_of(triple) >= min_confidence]
    if len(sure) < len(triples):
        skipped[f"confidence below {min_confidence:g}"] += len(triples) - len(sure)
    return sorted(sure, key=confidence_of)


def _found(document: Document, extractors: Sequence[Extractor], skipped: Counter[str]) -> Iterator[Triple]:
    for extractor in extractors:
        yield from extractor(document)
        for reason, count in extractor.rejected.items():
            skipped[f"{extractor.name}: {reason}"] += count


def _extractor(which: str | Extractor, topic: str | None) -> Extractor:
    if which == "structured":
        from kblam_engine.sources.extractors.structured import StructuredExtractor

        return StructuredExtractor(topic=topic)
    if which == "rules":
        from kblam_engine.sources.extractors.rules import RuleExtractor

        return RuleExtractor()
    if isinstance(which, str):
        remedy = "; pass LLMExtractor(chat), or --llm MODEL on the command line" if which == "llm" else ""
        raise ConfigurationError(f"extractors: expected {' or '.join(EXTRACTORS)}, got {which!r}{remedy}")
    return which
