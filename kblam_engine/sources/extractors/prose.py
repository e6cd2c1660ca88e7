"""What of a document is English prose: its sentences one by one, as a parser wants them.

A parser reads on behind "2 m/s." as if the sentence did, takes the cells of a table for words of one, and another language for
odd English. So sentences are cut before they are parsed, and what is no English sentence is left out and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kblam_engine.sources.documents.document import Block, Document
from kblam_engine.sources.extractors.base import CONTROL, sentences
from kblam_engine.sources.extractors.structured import holds_pairs

_MAX_BLOCK = 100_000
_WORD = re.compile(rf"[^\s{CONTROL}]+")
# The full stop behind "2 m/s" would be taken for a part of the unit, as that of "Inc." is.
_UNIT_END = re.compile(r"(?:\d ?|/)[^\W\d_]{1,3}\.\Z")
_GAP = re.compile(r"(?<=[^\s.!?:;,])(?:(?P<wide>[ ]{3,}|[ ]*\t[ ]*)|[ ]{2})(?=\S)")
_STRETCHED = 50
"""Characters from which two spaces may be those of a line that was stretched to the margin."""

_ENGLISH = frozenset(
    "the of and to is was are were be been has have had by for with from that which who it its as at this these his her their "
    "they he she or not but into than can will would when where while after about over between also any what without more such "
    "only other if then there you your we our each every both through under during before since until because".split()
)
# Of languages that are likely beside English. Few of them are English words as well, and names have them: "Rio de la Plata".
_OTHERS = frozenset(
    "der die das und ist nicht ein eine einen einem einer dem des mit von zu auf für im wird wurde sind auch sich bei "
    "le la les et est une un dans pour du au aux avec sur qui ce cette sont été "
    "el los las y es una del que por con para como su fue al se lo il gli di che è per della delle sono nel "
    "de het een en van voor niet zijn wordt op te aan os da em uma não na dos foi og att som är på det av til och ett "
    "jest nie się że oraz przez ve bir bu için".split()
)
_FEW = 20
"""Words below which a text may be English without any of its small words."""
_SHARE = 0.05
"""Of small words in English prose, at least; there they are a third."""


class Sentence(NamedTuple):
    """A sentence with single spaces, and where each of its characters stands in the document."""

    block: Block
    section: tuple[str, ...]
    text: str
    places: list[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where characters of this text stand in the document's."""
        return self.places[start], self.places[end - 1] + 1


def prose(document: Document, rejected: Counter[str]) -> Iterator[Sentence]:
    """Yield the English sentences of a document's paragraphs and list items; what is left out is counted by reason."""
    for block, section in _english(document, _blocks(document, rejected), rejected):
        for start, end in sentences(document.text, block.start, block.end):
            if _has_columns(document.text, start, end):
                rejected["line with columns"] += 1
                continue
            sentence = _sentence(document.text, start, end, block, section)
            if sentence.text:
                yield sentence


def _blocks(document: Document, rejected: Counter[str]) -> Iterator[tuple[Block, tuple[str, ...]]]:
    for block, section in document.in_sections():
        if block.kind not in ("paragraph", "item") or holds_pairs(document, block):
            continue
        if block.end - block.start > _MAX_BLOCK:
            rejected["paragraph of more than 100,000 characters"] += 1
            continue
        yield block, section


def _english(
    document: Document, blocks: Iterable[tuple[Block, tuple[str, ...]]], rejected: Counter[str]
) -> Iterator[tuple[Block, tuple[str, ...]]]:
    """Yield the blocks that are English, and those too short to tell where most of the others are."""
    blocks = list(blocks)
    texts = [document.text_of(block) for block, _ in blocks]
    told = [is_english(text) for text in texts]
    balance = sum(len(text) * (1 if is_so else -1) for text, is_so in zip(texts, told, strict=True) if is_so is not None)
    mostly = balance > 0 if any(is_so is not None for is_so in told) else is_english(" ".join(texts)) is not False
    for block, is_so in zip(blocks, told, strict=True):
        if mostly if is_so is None else is_so:
            yield block
        else:
            rejected["not English"] += 1


def is_english(text: str) -> bool | None:
    """Say whether a text is English, by its small words; None where it has too few of them to tell."""
    words = re.findall(r"[^\W\d_]+", text)
    n_english, others = sum(word.lower() in _ENGLISH for word in words), [word for word in words if word in _OTHERS]
    if len(others) > n_english and len(set(others)) > 1 and (len(others) > 2 or not n_english):
        return False
    if n_english < _SHARE * len(words):
        return False if len(words) >= _FEW else None
    return True if n_english > 1 else None


def _has_columns(text: str, start: int, end: int) -> bool:
    """Say whether a sentence has gaps inside its lines, as between the cells of a table; not behind a full stop or a comma."""
    for gap in _GAP.finditer(text, start, end):
        line = text[text.rfind("\n", 0, gap.start()) + 1 :].partition("\n")[0]
        if gap["wide"] or len(line.strip()) < _STRETCHED:
            return True
    return False


def _sentence(text: str, start: int, end: int, block: Block, section: tuple[str, ...]) -> Sentence:
    """Return a sentence without line ends, double spaces and control characters."""
    words, places = list[str](), list[int]()
    for match in _WORD.finditer(text, start, end):
        if words:
            places.append(match.start() - 1)
        words.append(match[0])
        places += range(*match.span())
    plain = " ".join(words)
    if _UNIT_END.search(plain):
        plain, places = f"{plain[:-1]} .", [*places[:-1], *places[-1:] * 2]
    return Sentence(block, section, plain, places)
