"""Markdown (CommonMark and GitHub's tables) by markdown-it-py, which comes with rich. Spans are of the plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kblam_engine.sources.documents.document import Document, DocumentBuilder

if TYPE_CHECKING:
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_PAIR = re.compile(r"([A-Za-z][\w -]{0,40}):[ \t]+(\S.*)")
_DEFINITION = re.compile(r"[^\n]+\n(?::[ \t]+[^\n]+\n?)+")


def markdown_document(text: str, uri: str, data: bytes) -> Document:
    """Return a Markdown text as a document: its plain text, without code blocks and HTML."""
    from markdown_it import MarkdownIt

    builder = DocumentBuilder(uri)
    front = _FRONT_MATTER.match(text)
    if front:
        text = text[front.end() :]
        _add_front_matter(builder, front[1])
    _add_blocks(builder, MarkdownIt("commonmark", {"maxNesting": 50}).enable("table").parse(text))
    return builder.build(data)


def _add_front_matter(builder: DocumentBuilder, front: str) -> None:
    """Take the simple pairs of a YAML header; "title" is the document's."""
    rows = []
    for line in front.splitlines():
        match = _FRONT_PAIR.fullmatch(line.strip())
        if match is None or line[:1].isspace():
            continue
        key, value = match[1].strip(), match[2].strip().strip("'\"[]")
        if key.lower() == "title":
            builder.title = value
        elif value:
            rows.append([(key, True), (value, False)])
    builder.table(rows, kind="pairs")


def _add_blocks(builder: DocumentBuilder, tokens: Sequence[Token]) -> None:
    depth, is_item_start, rows = -1, False, []  # type: int, bool, list[list[tuple[str, bool]]]
    for place, token in enumerate(tokens):
        if token.type in ("bullet_list_open", "ordered_list_open"):
            depth += 1
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            depth -= 1
        elif token.type == "list_item_open":
            is_item_start = True
        elif token.type == "table_open":
            rows = []
        elif token.type == "table_close":
            # An empty header, which Markdown wants where there is none, says that the rows are keys and values.
            is_pairs = len(rows[0]) == 2 and not any(text for text, _ in rows[0])
            builder.table(rows, kind="pairs" if is_pairs else "table")
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            text, before = plain(token), tokens[place - 1]
            if before.type == "heading_open":
                if not builder.title and before.tag == "h1":
                    builder.title = text
                builder.heading(text, int(before.tag[1]))
            elif before.type in ("th_open", "td_open"):
                rows[-1].append((text, before.type == "th_open"))
            elif depth >= 0 and is_item_start:
                builder.paragraph(text, item_level=depth)
                is_item_start = False
            elif _DEFINITION.fullmatch(text):
                term, *meanings = text.split("\n")
                builder.table(
                    [[(term, True), (meaning.lstrip(": "), False)] for meaning in meanings], kind="definitions"
                )
            else:
                builder.paragraph(text)


def plain(token: Token) -> str:
    """Return inline Markdown as plain text: links as what they say, no images, no HTML."""
    parts = []
    for child in token.children or ():
        if child.type in ("text", "code_inline", "text_special"):
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append("\n")
    return "".join(parts)
