"""Documents read line by line: the triples of lines ``property: value``, and nodes that cut no line in two."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.node_parser import SentenceSplitter, TextSplitter
from llama_index.core.schema import BaseNode, MetadataMode, TransformComponent

from kblam_engine.errors import TripleError
from kblam_engine.sources.loaded import text_under
from kblam_engine.triples import Triple
from kblam_integrations._documents import MAX_TEXT
from kblam_integrations.llama_index.graph import OnRejected, origin_of, provenance_from, triples_from_node

__all__ = ["LineSplitter", "extract_triples", "log_rejected", "whole_lines"]

_log = logging.getLogger(__name__)
_NAME = "name"
_NAME_KEYS = (_NAME, "title", "file_name")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_Pair = tuple[str, str, tuple[int, int]]


def extract_triples(node: BaseNode, on_rejected: OnRejected | None = None) -> list[Triple]:
    """Return the triples that a node says plainly, which needs no model.

    First, what KG extractors left in its metadata. If there is nothing of that, each line ``property: value`` of its text
    is a triple about what the last line ``name: ...`` above it names; lines above all of these are about the metadata's
    ``name``, or else the first such line, or else the metadata's ``title`` or ``file_name``. A triple's provenance has the
    document and the characters of the line in it.

    Args:
        node: any node.
        on_rejected: told, in one line, of each property, relation or line that makes no usable triple, and of a node with
            such lines that says no name; None: a warning is logged.
    """
    told = on_rejected or log_rejected
    found = triples_from_node(node, told)
    if found:
        return found
    pairs = list(_pairs(node.get_content(MetadataMode.NONE)))
    name = _first_name(pairs, node.metadata)
    if name is None:
        if pairs:
            told(
                f"node {node.node_id!r}: {len(pairs)} lines `property: value`, the first about {pairs[0][0]!r}, and no name: "
                "expected a line `name: ...`, or name, title or file_name in the metadata"
            )
        return []
    origin = origin_of(node)
    for prop, value, span in pairs:
        if prop.lower() == _NAME:
            name = value
            continue
        try:
            found.append(Triple(name, prop, value, origin, provenance_from(node, span)))
        except TripleError as error:
            told(f"node {node.node_id!r}, {prop[:40]!r}: {error}")
    return found


def log_rejected(reason: str) -> None:
    """Log what makes no usable triple, and why."""
    _log.warning("no usable triple: %s", reason)


def whole_lines(transformations: Sequence[TransformComponent]) -> list[TransformComponent]:
    """Return transformations with a ``LineSplitter`` in the place of each sentence splitter."""
    return [LineSplitter() if isinstance(each, SentenceSplitter) else each for each in transformations]


class LineSplitter(TextSplitter):
    r"""Keeps a document of up to 20,000 characters as one node, and cuts a longer one between two lines.

    The last line ``name: ...`` above a cut names what the next lines are about, so it goes with them, as ``name`` in the
    metadata of that node. Only a line that is itself too long is cut, where a sentence or at least a word ends.

    Example:
        .. code-block:: python

            from llama_index.core import Document
            from kblam_integrations.llama_index import LineSplitter

            log = "name: Orca 2\n" + "".join(f"mission {n}: to the north of the harbour\n" for n in range(900))
            first, second = LineSplitter()([Document(text=log)])
            print(first.text[:12], second.metadata, second.text[:11])

    Args:
        kwargs: of LlamaIndex's ``NodeParser``.
    """

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises it."""
        return "LineSplitter"

    def split_text(self, text: str) -> list[str]:
        """Return the parts of a text, in order; joined, they are the text again."""
        parts = [""]
        for line in text.splitlines(keepends=True):
            for piece in _pieces(line):
                if len(parts[-1]) + len(piece) > MAX_TEXT:
                    parts.append("")
                parts[-1] += piece
        return parts

    def _parse_nodes(self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any) -> list[BaseNode]:
        parsed: list[BaseNode] = []
        for node in nodes:
            name = None
            for part in super()._parse_nodes([node], show_progress, **kwargs):
                if name is not None:
                    part.metadata[_NAME] = name
                name = _last_name(part.get_content(MetadataMode.NONE)) or name
                parsed.append(part)
        return parsed


def _pairs(text: str) -> Iterator[_Pair]:
    """Yield property, value and characters of each line ``property: value``."""
    start = 0
    for line in text.splitlines(keepends=True):
        prop, colon, value = line.partition(":")
        if colon and prop.strip() and value.strip():
            yield prop.strip(), value.strip(), (start, start + len(line.rstrip()))
        start += len(line)


def _first_name(pairs: Sequence[_Pair], metadata: Mapping[str, Any]) -> str | None:
    """Return what the first lines are about, None if nothing says it."""
    named = next((value for prop, value, _ in pairs if prop.lower() == _NAME), None)
    given = {key: text_under(key, metadata) for key in _NAME_KEYS}
    return given[_NAME] or named or next((text for text in given.values() if text), None)


def _last_name(text: str) -> str | None:
    """Return what the last line ``name: ...`` of a text names, None if it has no such line."""
    names = [value for prop, value, _ in _pairs(text) if prop.lower() == _NAME]
    return names[-1] if names else None


def _pieces(line: str) -> Iterator[str]:
    """Yield a line, or the pieces of one that is too long for a node."""
    while len(line) > MAX_TEXT:
        head = line[:MAX_TEXT]
        ends = [match.end() for match in _SENTENCE_END.finditer(head)]
        cut = ends[-1] if ends else head.rfind(" ") + 1 or MAX_TEXT
        yield line[:cut]
        line = line[cut:]
    yield line
