"""What each block of a document is about: the nearest heading that names a thing, else the document's title, else its file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import NamedTuple

from kblam_engine.sources.documents.document import Block, Document, one_line
from kblam_engine.sources.documents.headings import kinds_of

_FROM_FILE_NAME = 0.8
"""Factor where the subject is the name of the file."""
_UNSURE = 0.65
"""The most confidence where the subject is a heading below that of another thing, which may as well name a part of that."""


class Subject(NamedTuple):
    """What a block is about, and how far that can be relied on."""

    name: str
    factor: float = 1.0
    """For the confidence in what is said of it."""
    limit: float = 1.0
    """The most confidence in what is said of it."""
    is_own_heading: bool = False
    """Whether it is the heading right above."""


def subjects_of(
    document: Document,
    blocks: Sequence[tuple[Block, tuple[str, ...]]],
    topic: str | None,
    keys_of: Callable[[Document, Block], set[str]],
) -> list[Subject]:
    """Return the subject of each block.

    Args:
        document: the document.
        blocks: its blocks with the headings they stand under (`Document.in_sections`).
        topic: what all of it is about, in place of its headings and title.
        keys_of: the keys of a block that holds keys and values, casefolded.
    """
    kinds = kinds_of([document.text_of(block) for block, _ in blocks if block.kind == "heading"])
    alike = _with_common_keys(document, blocks, keys_of)
    stem = PurePath(document.uri).stem.replace("_", " ").replace("-", " ").strip()

    def subject(section: tuple[str, ...]) -> Subject:
        if topic is not None:
            return Subject(topic)
        things = [heading for heading in section if heading.casefold() not in kinds]
        if not things:
            return Subject(document.title) if document.title else Subject(stem, _FROM_FILE_NAME)
        own = things[-1]
        is_sure = len(things) == 1 or _is_name(own) or own.casefold() in alike
        return Subject(own, limit=1.0 if is_sure else _UNSURE, is_own_heading=own == section[-1])

    return [subject(section) for _, section in blocks]


def _with_common_keys(
    document: Document, blocks: Sequence[tuple[Block, tuple[str, ...]]], keys_of: Callable[[Document, Block], set[str]]
) -> set[str]:
    """Return the headings, casefolded, below which the same keys stand as below another: of what is said alike, each is a thing."""
    below: dict[str, set[str]] = {}
    for block, section in blocks:
        if section:
            below.setdefault(section[-1].casefold(), set()).update(keys_of(document, block))
    n_headings = Counter(key for keys in below.values() for key in keys)
    return {heading for heading, keys in below.items() if any(n_headings[key] > 1 for key in keys)}


def _is_name(heading: str) -> bool:
    """Say whether a heading reads like a name: with a number, or several words with capitals."""
    words = one_line(heading).split()
    return any(char.isdigit() for char in heading) or sum(word[:1].isupper() for word in words) > 1
