"""Edges of whatever a graph comes as: an iterable of three parts, or an object with networkx's ``edges``.

``sources.graphs`` reads the same graphs for a knowledge base, where an edge that cannot be read is an error. For training it is
counted and left out, and a tail is told apart from a value.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.sources import graphs
from kblam_engine.triples import Triple

RELATION_ATTRIBUTES = (*graphs.RELATION_ATTRIBUTES, "name", "title", "property")
"""Where edges of a graph may keep their relation, best first."""
LABEL_ATTRIBUTES = (*graphs.LABEL_ATTRIBUTES, "title")
"""Where nodes of a graph may keep their name, best first; without one the node itself is its name."""

_LITERAL_TYPES = (bool, int, float, complex, Decimal, datetime.date, datetime.time, datetime.timedelta)
_UNIT = r"(?:[a-zµ°%€$£¥][\w/·²³%°]*|[KMGT]i?B|[KMGT]?Hz|[kMG]?[WVAKCFNJ]|Pa|USD|EUR|GBP)"
_LITERAL = re.compile(
    rf"[-+~<>≈]?[€$£¥]?\s?\d[\d.,]*(?:e[-+]?\d+)?(?:\s?{_UNIT}(?![^\W\d_])){{0,3}}"  # numbers, with units
    r"|\d{4}-\d\d(?:-\d\d(?:[T ].*)?)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{1,2}:\d\d(?::\d\d)?"  # dates and times
    r"|\d{1,2}\.? [A-Z][a-z]+,? \d{4}|[A-Z][a-z]+ \d{1,2}, \d{4}"
    r"|(?i:true|false|yes|no|unknown|none)"
    r"|[a-z][a-z0-9+.-]*://\S+|www\.\S+|[^\s@]+@[^\s@]+\.[a-z]+"
)
_SENTENCE_WORDS = 12
"""A tail of more words is a text and no name."""


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge as text.

    Attributes:
        head: label, with single spaces; empty: there is none.
        relation: likewise.
        tail: likewise.
        literal: whether the tail is a value (a number, a date, a text) and not a thing that has a name.
        directed: whether the graph says which end is the head.
        problem: why these are no three parts; empty if they are.
    """

    head: str
    relation: str
    tail: str
    literal: bool = False
    directed: bool = True
    problem: str = ""


def edges_of(
    graph: Any, relation_attribute: str | None = None, label: Callable[[Any], str] | None = None
) -> tuple[list[Edge], tuple[str, ...]]:
    """Return a graph's edges, and labels that several of its nodes share.

    Args:
        graph: an iterable of (head, relation, tail) or of ``Triple``; or an object with ``edges(data=True)``,
            ``is_directed()`` and ``is_multigraph()`` as networkx has them.
        relation_attribute: edge attribute that holds the relation; None: the first of ``RELATION_ATTRIBUTES`` that is
            text, or else a multigraph's key.
        label: gives the name of a node; None: the node's attribute, or the node itself as text.

    Raises:
        ConfigurationError: it is no such graph.
    """
    name_of = label or _namer(graph)
    seen: dict[str, Any] = {}
    shared: dict[str, None] = {}
    edges = []
    for item, directed in _raw_edges(graph, relation_attribute):
        if item is None:
            edges.append(Edge("", "", "", problem="not three parts"))
            continue
        head, relation, tail = item
        named_tail = name_of(tail)
        literal = _is_typed_literal(named_tail)
        start, end = _text(name_of(head)), _text(named_tail)
        for node, text in ((head, start),) if literal else ((head, start), (tail, end)):
            if text and seen.setdefault(text, node) != node:
                shared[text] = None
        edges.append(Edge(start, _text(relation), end, literal or _looks_literal(end), directed))
    return edges, tuple(shared)


def _raw_edges(graph: Any, attribute: str | None) -> Iterator[tuple[tuple[Any, Any, Any] | None, bool]]:
    """Yield three parts, or None where there are not three, and whether their order means anything."""
    listed = getattr(graph, "edges", None)
    if callable(listed):
        directed = bool(_asked(graph, "is_directed", True))
        for head, tail, key, data in graphs.edges_of_graph(graph):
            yield (head, _relation(data, key, attribute), tail), directed
        return
    if isinstance(graph, str | bytes | Mapping) or not isinstance(graph, Iterable):
        raise ConfigurationError(
            "graph: expected (head, relation, tail) edges or a networkx graph; "
            f"got {type(graph).__name__}"
        )
    for item in graph:
        if isinstance(item, Triple):
            yield (item.name, item.property, item.value), True
        elif isinstance(item, Sequence) and not isinstance(item, str | bytes) and len(item) == 3:
            yield (item[0], item[1], item[2]), True
        else:
            yield None, True


def _asked(graph: Any, method: str, default: bool) -> Any:
    found = getattr(graph, method, None)
    return found() if callable(found) else default


def _relation(data: Mapping[str, Any], key: Any, attribute: str | None) -> Any:
    if attribute is not None:
        return data.get(attribute)
    texts = (data[a] for a in RELATION_ATTRIBUTES if isinstance(data.get(a), str) and data[a].strip())
    return next(texts, graphs.relation_key(key))


def _namer(graph: Any) -> Callable[[Any], Any]:
    nodes: Any = getattr(graph, "nodes", None)
    if not callable(getattr(graph, "edges", None)) or not hasattr(nodes, "__getitem__"):
        return lambda node: node

    def name_of(node: Any) -> Any:
        data = nodes[node]
        return next((data[a] for a in LABEL_ATTRIBUTES if isinstance(data.get(a), str) and data[a].strip()), node)

    return name_of


def _text(part: Any) -> str:
    """Return a part as text with single spaces; of None and of what is not a number, nothing."""
    if part is None or (isinstance(part, float) and part != part):
        return ""
    return " ".join(str(part).split())


def _is_typed_literal(tail: Any) -> bool:
    """Return whether a tail's type says that it is a value; RDF's literals have a data type or a language."""
    return isinstance(tail, _LITERAL_TYPES) or hasattr(tail, "datatype")


def _looks_literal(text: str) -> bool:
    return len(text.split()) > _SENTENCE_WORDS or _LITERAL.fullmatch(text) is not None
