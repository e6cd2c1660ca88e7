"""What an extractor is, and what all of them share: triples with provenance, cut sentences, no triple twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol
from unicodedata import normalize

from kblam_engine.errors import TripleError
from kblam_engine.sources.documents.document import Document, one_line
from kblam_engine.triples import Provenance, Triple

MAX_SENTENCE = 500
"""Characters of the sentence that is kept beside a triple."""
_SENTENCE = re.compile(r"\S.*?(?:[.!?…][\"'”’)\]]*(?=\s+[\"'“‘(\[]?[A-Z0-9À-Þ])|\Z)", re.DOTALL)
_ABBREVIATION = re.compile(
    r"(?:(?<!°)\b(?:[A-Z]|e\.g|i\.e|etc|cf|vs|al|No|Nos|Nr|St|Mt|Ft|Dr|Mr|Mrs|Ms|Prof|Rev|Hon|Jr|Sr|Gen|Col|Lt|Sgt|Capt|Gov|Sen|Rep|"
    r"Pres|Inc|Ltd|Co|Corp|Bros|approx|ca|Fig|vol|pp|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.)$"
)
# These may end a sentence as well, and do where the next word begins one and no name: "of 12 V. Its battery", "Acme Inc. The company".
_MAY_END = re.compile(r"(?:\b(?:[A-Z]|etc|al|Jr|Sr|Inc|Ltd|Co|Corp|Bros)\.)$")
_OPENING = re.compile(r"\s+(?:The|It|Its|They|Their|This|These|She|His|Her|We|In|On|At|A(?=\s))\b")
_DOTTED = re.compile(r"\b[^\W\d_]\.(?:[^\W\d_]\.)+$")
CONTROL = r"\x00-\x1f\x7f-\x9f\ue000-\uf8ff"
"""Of a character class: control characters, and those without a meaning that PDF files have for bullets."""
_NO_TEXT = re.compile(rf"[{CONTROL}]+")


class Extractor(Protocol):
    """Finds triples in a document."""

    @property
    def name(self) -> str:
        """What triples name as their extractor."""

    @property
    def rejected(self) -> Mapping[str, int]:
        """How many candidates the last document's run threw away, by reason."""

    def __call__(self, document: Document, /) -> Iterator[Triple]:
        """Yield the triples of a document, with provenance in their metadata."""


class TripleMaker:
    """Makes the triples of one extractor; counts what is no triple in `rejected`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rejected: Counter[str] = Counter()

    def make(
        self,
        document: Document,
        parts: tuple[str, str, str],
        span: tuple[int, int],
        confidence: float,
        *,
        section: Iterable[str] = (),
        page: int | None = None,
    ) -> Triple | None:
        """Return a triple with its provenance; None where a part is empty or too long."""
        sentence = one_line(_NO_TEXT.sub(" ", document.text[span[0] : span[1]]))
        if len(sentence) > MAX_SENTENCE:
            sentence = sentence[: MAX_SENTENCE - 1].rstrip() + "…"
        provenance = Provenance(document.id, document.uri, span, self.name, round(confidence, 2))
        known = {"sentence": sentence, "page": document.page_at(span[0]) or page, "section": " > ".join(section)}
        name, prop, value = (one_line(part) for part in parts)
        try:
            return Triple(name, prop, value, {key: what for key, what in known.items() if what}, provenance)
        except TripleError as error:
            self.rejected[f"{error.field} empty or too long"] += 1
            return None


def sentences(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield the spans of the sentences of a text, by punctuation alone."""
    begun: int | None = None
    for match in _SENTENCE.finditer(text, start, len(text) if end is None else end):
        first = match.start() if begun is None else begun
        if _ABBREVIATION.search(match[0]) and match.end() != end and not _ends(text, match):
            begun = first
            continue
        begun = None
        yield first, match.end()
    if begun is not None:
        yield begun, len(text) if end is None else end


def _ends(text: str, match: re.Match[str]) -> bool:
    return _MAY_END.search(match[0]) is not None and _OPENING.match(text, match.end()) is not None


def is_abbreviated(text: str) -> bool:
    """Say whether the full stop that a text ends with belongs to its last word: "Inc.", "p.m."."""
    return _ABBREVIATION.search(text) is not None or _DOTTED.search(text) is not None


def unique(triples: Iterable[Triple], rejected: Counter[str]) -> Iterator[Triple]:
    """Yield every triple once, case, spaces and the way accents are coded aside; the others are counted as "said twice"."""
    seen: set[tuple[str, ...]] = set()
    for triple in triples:
        key = tuple(normalize("NFC", part).casefold() for part in (triple.name, triple.property, triple.value))
        if key in seen:
            rejected["said twice"] += 1
            continue
        seen.add(key)
        yield triple


def confidence_of(triple: Triple) -> float:
    """Return the confidence of a triple, 1 where none is given."""
    known = triple.provenance.confidence if triple.provenance is not None else None
    return 1.0 if known is None else known
