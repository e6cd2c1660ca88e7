"""Graph documents, as LangChain's graph transformers make them, to triples; told by their shape, nothing imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from kblam_engine.errors import TripleError
from kblam_engine.triples import Provenance, Triple
from kblam_integrations._documents import provenance_of

__all__ = ["triples_from_graph_document"]

_NO_TYPES = frozenset({"Node", "entity"})
"""What LangChain and LlamaIndex call nodes of which nobody said a type."""

_NOTHING = frozenset({"None", "nan", "NaN", "NaT", "<NA>"})
"""What Python, numpy and pandas write for a value that is not there; text that says so is text."""


def triples_from_graph_document(
    document: Any, *, node_types: bool = False, on_rejected: Callable[[str], object] | None = None
) -> Iterator[Triple]:
    """Yield a triple for each relationship, and one for each property of a node or relationship.

    A relationship ``Lena -[FOUNDED {year: 2009}]-> Acme`` gives (Lena, founded, Acme), with the year in the metadata. A
    node's properties give (name, key, value). The name is the node's property ``name`` if it has one, else its id.
    Where the graph document has a source document, its id and metadata `source` are the provenance of every triple.

    Args:
        document: an object with ``nodes`` (``id``, ``type``, ``properties``), ``relationships`` (``source``,
            ``target``, ``type``, ``properties``) and perhaps ``source``.
        node_types: a triple (name, "type", type) as well for each node whose type says something, which "Node", what nodes
            are called that have none, does not.
        on_rejected: told, in one line, of each property or relationship that gives no usable triple, and the others
            come; None: the first of them is an error.

    Raises:
        TripleError: a node or relationship gives no usable triple, such as one with an empty id, and there is no
            `on_rejected`.
    """
    origin = _origin(getattr(document, "source", None))
    for parts in _parts(document, node_types):
        try:
            yield Triple(parts.name, parts.property, parts.value, parts.metadata, provenance=origin)
        except TripleError as error:
            if on_rejected is None:
                raise
            on_rejected(f"{parts.where}: {error}")


class _Parts(NamedTuple):
    """A triple in the making, and what it is made of, for messages."""

    where: str
    name: str
    property: str
    value: str
    metadata: Mapping[str, Any] = MappingProxyType({})


def _parts(document: Any, node_types: bool) -> Iterator[_Parts]:
    for node in document.nodes:
        kind = _text(getattr(node, "type", None)) if node_types else ""
        if kind and kind not in _NO_TYPES:
            yield _Parts(f"type {kind!r} of {node.id!r}", _name(node), "type", kind)
        for key, value in _properties(node).items():
            text = _text(value)
            if key != "name" and text:
                yield _Parts(f"property {key!r} of {node.id!r}", _name(node), _phrase(key), text)
    for edge in document.relationships:
        extra = {f"relationship_{key}": text for key, value in _properties(edge).items() if (text := _text(value))}
        where = f"{edge.source.id!r} -[{edge.type}]-> {edge.target.id!r}"
        yield _Parts(where, _name(edge.source), _phrase(edge.type), _name(edge.target), extra)


def _origin(source: Any) -> Provenance | None:
    if source is None:
        return None
    metadata = getattr(source, "metadata", None) or {}
    return provenance_of(getattr(source, "id", None), metadata.get("source"))


def _properties(part: Any) -> Mapping[str, Any]:
    return getattr(part, "properties", None) or {}


def _name(node: Any) -> str:
    return _text(_properties(node).get("name")) or _text(node.id)


def _phrase(name: Any) -> str:
    """Return words for a relationship's type: FOUNDED_BY and foundedBy are "founded by"."""
    text = str(name).replace("_", " ").replace("-", " ").strip()
    if text.isupper():
        return text.lower()
    spaced = "".join(f" {c}" if c.isupper() and i and text[i - 1].islower() else c for i, c in enumerate(text))
    return spaced.lower() if spaced != text else text


def _text(value: Any) -> str:
    """Return a value as one line, lists as "a, b"; empty for what says nothing (None, NaN, NaT)."""
    if isinstance(value, set | frozenset):
        return ", ".join(sorted(filter(None, map(_text, value))))
    if isinstance(value, list | tuple):
        return ", ".join(filter(None, map(_text, value)))
    text = " ".join(str(value).split())
    return "" if text in _NOTHING and not isinstance(value, str) else text
