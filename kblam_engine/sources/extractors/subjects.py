"""What each block of a document is about: the nearest heading that names a thing, else the document's title, else its file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import NamedTuple

from kblam_engine.sources.documents.document import Block, Document, one_line
from kblam_engine.sources.documents.headings import is_telling, kinds_of
from kblam_engine.sources.documents.titles import read_title
from kblam_engine.sources.extractors.sections import sections_of

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
    part: str = ""
    """The heading of the part that the block is in: "Charging" of what is said of the Orca 2; empty where it adds nothing."""


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
    sections = sections_of(document, blocks, kinds, keys_of)
    alike = _with_common_keys(document, blocks, keys_of, set(sections.titles))
    has_headings = any(section for _, section in blocks)
    stem = PurePath(document.uri).stem.replace("_", " ").replace("-", " ").strip()

    def subject(section: tuple[str, ...]) -> Subject:
        if topic is not None:
            return Subject(topic)
        path = sections.thing(section)
        part, is_sure = sections.part(section)
        if section and section[-1].casefold() in kinds and is_telling(section[-1]):
            part = section[-1]
        limit = 1.0 if is_sure else _UNSURE
        if not path:
            # The author above all headings is that of the manual.
            title = document.title if not section and has_headings else read_title(document.title).name
            return Subject(title, 1.0, limit, part=part) if title else Subject(stem, _FROM_FILE_NAME, limit, part=part)
        own = path[-1]
        is_alone = sum(path[:end] in sections.titles for end in range(1, len(path) + 1)) == 1
        if not (is_alone or _is_name(own) or path in alike):
            limit = _UNSURE
        return Subject(sections.titles[path].name, 1.0, limit, path == section, part)

    return [subject(section) for _, section in blocks]


def _with_common_keys(
    document: Document,
    blocks: Sequence[tuple[Block, tuple[str, ...]]],
    keys_of: Callable[[Document, Block], set[str]],
    things: set[tuple[str, ...]],
) -> set[tuple[str, ...]]:
    """Return the things below whose headings the same keys stand as below another's: of what is said alike, each is a thing."""
    below: dict[tuple[str, ...], set[str]] = {}
    for block, section in blocks:
        if section in things:
            below.setdefault(section, set()).update(keys_of(document, block))
    n_headings = Counter(key for keys in below.values() for key in keys)
    return {section for section, keys in below.items() if any(n_headings[key] > 1 for key in keys)}


def _is_name(heading: str) -> bool:
    """Say whether a heading reads like a name: with a number, or several words with capitals."""
    words = one_line(heading).split()
    return any(char.isdigit() for char in heading) or sum(word[:1].isupper() for word in words) > 1
