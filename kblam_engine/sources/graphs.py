"""Triples of a graph, told by its shape: anything with networkx's ``nodes`` and ``edges``. Imports no networkx."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

from kblam_engine.errors import ConfigurationError, TripleError
from kblam_engine.sources.graph_context import CONTEXT_ATTRIBUTES, with_context
from kblam_engine.sources.values import as_text
from kblam_engine.triples import Triple

__all__ = ["GraphOptions", "GraphTriples"]

RELATION_ATTRIBUTES = ("relation", "label", "type", "predicate", "rel")
"""Where edges usually keep their relation, best first; after them comes a multigraph's key."""
LABEL_ATTRIBUTES = ("label", "name")
"""Where nodes usually keep their name, best first."""
EDGE_ID = re.compile(r"e?\d+")
"""What GraphML and GEXF number edges with: no relation."""
_RESERVED = frozenset({"name", "property", "value", "metadata"})
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """How a graph is read.

    >>> import networkx as nx
    >>> graph = nx.Graph([("Oslo", "Bergen", {"kind": "train_to", "hours": 7})])
    >>> options = GraphOptions(relation="kind", property_text=lambda text: text.replace("_", " "), edge_attributes="drop")
    >>> [(triple.name, triple.property, triple.value) for triple in GraphTriples(graph, options)]
    [('Oslo', 'train to', 'Bergen'), ('Bergen', 'train to', 'Oslo')]

    Attributes:
        label: what a node is called: a node attribute, or a function of the node (``str``: the node itself as text).
            None: ``label`` or ``name``, if every node has one, no two have the same, and no node reads as a name
            itself; else the node as text.
        relation: edge attribute that holds the relation. None: the first of ``RELATION_ATTRIBUTES`` that an edge
            has, or else a multigraph's key that is text.
        default_relation: the relation of edges that have none. None: they are an error.
        inverse: a second triple for every edge of a directed graph, from its tail to its head: relation to inverse
            relation, as a mapping or as a function; a relation that is not there, or for which the function returns
            None, has no inverse.
        property_text: turns attribute names and relations into properties; None leaves them as they are.
        both_directions: whether an edge of an undirected graph gives two triples, one from either end, as
            ``to_directed()`` gives two edges; else it gives one, from the end that the graph lists first.
        lists: an attribute that is a list or set gives a triple for each element ("triples"), or one with the
            elements joined by commas ("joined").
        edge_attributes: what becomes of an edge's attributes beside its relation, a weight for example: the triple's
            ``metadata``, ``triples`` of their own ("<tail> as <relation> of <head>", attribute, value) beside the
            metadata, or nothing ("drop").
        skip: attributes of nodes and edges to leave out.

    Raises:
        ConfigurationError: an option is none of its choices.
    """

    label: str | Callable[[Any], str] | None = None
    relation: str | None = None
    default_relation: str | None = None
    inverse: Mapping[str, str] | Callable[[str], str | None] | None = None
    property_text: Callable[[str], str] | None = None
    both_directions: bool = True
    lists: Literal["triples", "joined"] = "triples"
    edge_attributes: Literal["metadata", "triples", "drop"] = "metadata"
    skip: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name, choices in (("lists", ("triples", "joined")), ("edge_attributes", ("metadata", "triples", "drop"))):
            if getattr(self, name) not in choices:
                raise ConfigurationError(
                    f"{name}: expected {' or '.join(map(repr, choices))}, got {getattr(self, name)!r}"
                )
        for name, ok, expected in (
            ("label", isinstance(self.label, str | None) or callable(self.label), "an attribute, a function or None"),
            ("inverse", isinstance(self.inverse, Mapping | None) or callable(self.inverse), "a mapping, a function or None"),
            ("property_text", self.property_text is None or callable(self.property_text), "a function or None"),
        ):
            if not ok:
                raise ConfigurationError(f"{name}: expected {expected}, got {getattr(self, name)!r}")
        if isinstance(self.skip, str):
            raise ConfigurationError(f"skip: expected a set of attribute names, got the text {self.skip!r}")
        object.__setattr__(self, "skip", frozenset(self.skip))


class Parts(NamedTuple):
    """A triple in the making, its texts not checked yet."""

    name: str
    property: str
    value: str
    metadata: Mapping[str, Any] = _NOTHING


GRAPH_OPTIONS = frozenset(field.name for field in fields(GraphOptions)) - {"property_text"}
"""Those that can be said of a file, too."""


class GraphTriples:
    """A graph's triples, made one by one each time they are iterated over; they show what the graph is by then.

    Node attributes come first, then edges, each in the order of the graph. Nothing but the triple in hand is kept
    (and, where nodes are called by a label that is found by itself, one set of labels at the start).

    >>> import networkx as nx
    >>> graph = nx.DiGraph([("Orca 2", "Acme", {"relation": "maker", "since": 2016})])
    >>> triples = GraphTriples(graph)
    >>> graph.add_edge("Kite", "Acme", relation="maker")
    >>> len(triples), next(iter(triples)).statement, dict(next(iter(triples)).metadata)
    (2, 'The maker of Orca 2 is Acme.', {'since': 2016})

    Args:
        graph: a Graph, DiGraph, MultiGraph or MultiDiGraph.
        options: how to read it; None: ``GraphOptions()``.

    Raises:
        ConfigurationError: it is no graph.
        TripleError: while iterating: a node, attribute or relation is of a type that has no text, or an edge has no
            relation.
    """

    def __init__(self, graph: Any, options: GraphOptions | None = None) -> None:
        """Look at nothing but the kind of graph.

        Raises:
            ConfigurationError: it is no graph.
        """
        methods = (getattr(graph, name, None) for name in ("nodes", "edges", "is_directed", "is_multigraph"))
        if not all(callable(method) for method in methods):
            raise ConfigurationError(f"graph: expected a networkx graph, got {type(graph).__name__}")
        self.graph = graph
        self.options = options or GraphOptions()

    def __iter__(self) -> Iterator[Triple]:
        """Yield the triples.

        Raises:
            TripleError: a node, attribute or relation is of a type that has no text, or an edge has no relation; the
                message names type, place and remedy.
        """
        for parts in self.parts():
            try:
                yield with_context(Triple(*parts))
            except TripleError as error:
                reason = str(error).removeprefix(f"{error.field}: ")
                raise TripleError(error.field, f"{reason} (at {parts.name!r}, {parts.property!r})") from None

    def __len__(self) -> int:
        """Return how many there are, which takes a walk over the graph."""
        return sum(1 for _ in self.parts())

    def __repr__(self) -> str:
        return f"GraphTriples({self.graph})"

    def parts(self) -> Iterator[Parts]:
        """Yield the triples as plain texts, unchecked; raises as ``__iter__`` does."""
        label = self.options.label
        if label is None:
            label = _label_attribute(self.graph)
        yield from _node_parts(self.graph, label, self.options)
        yield from _edge_parts(self.graph, _namer(self.graph, label), self.options)


def _node_parts(graph: Any, label: str | Callable[[Any], str] | None, options: GraphOptions) -> Iterator[Parts]:
    name_of = _namer(graph, label)
    for node, data in graph.nodes(data=True):
        if not data:
            continue
        name = name_of(node)
        for attribute, value in data.items():
            if attribute == label or attribute in options.skip:
                continue
            for text in _texts(value, options, f"node {name!r}", attribute):
                if attribute not in LABEL_ATTRIBUTES or text != name:
                    yield Parts(name, _property(attribute, options), text)


def edges_of_graph(graph: Any) -> Iterator[tuple[Any, Any, Any, Mapping[Any, Any]]]:
    """Yield each edge of a graph with networkx's ``edges`` as head, tail, key (None but for multigraphs) and attributes."""
    multi = getattr(graph, "is_multigraph", None)
    edges = graph.edges(keys=True, data=True) if callable(multi) and multi() else graph.edges(data=True)
    for head, tail, *key, data in edges:
        yield head, tail, key[0] if key else None, data


def relation_key(key: Any) -> str | None:
    """Return a multigraph's key if it is a relation: text, and no number that a file format gave the edge."""
    return key if isinstance(key, str) and key.strip() and not EDGE_ID.fullmatch(key) else None


def _edge_parts(graph: Any, name_of: Callable[[Any], str], options: GraphOptions) -> Iterator[Parts]:
    directed = graph.is_directed()
    for head_node, tail_node, key, data in edges_of_graph(graph):
        head, tail = name_of(head_node), name_of(tail_node)
        attribute, relations = _relations(head, tail, key, data, options)
        metadata = _metadata(head, tail, attribute, data, options)
        for relation in relations:
            prop = _property(relation, options)
            yield Parts(head, prop, tail, metadata)
            if directed:
                inverse = _inverse(relation, options)
                if inverse:
                    yield Parts(tail, _property(inverse, options), head, metadata)
            elif options.both_directions and head != tail:
                yield Parts(tail, prop, head, metadata)
            if metadata and options.edge_attributes == "triples":
                yield from _own_triples(f"{tail} as {prop} of {head}", attribute, data, options)


def _own_triples(
    name: str, relation_attribute: str | None, data: Mapping[Any, Any], options: GraphOptions
) -> Iterator[Parts]:
    for attribute, value in data.items():
        if attribute != relation_attribute and attribute not in options.skip | CONTEXT_ATTRIBUTES:
            for text in _texts(value, options, f"edge {name!r}", attribute):
                yield Parts(name, _property(attribute, options), text)


def _relations(
    head: str, tail: str, key: Any, data: Mapping[Any, Any], options: GraphOptions
) -> tuple[str | None, list[str]]:
    """Return the attribute that holds the relation, if one does, and the relation, several where it is a list."""
    for attribute in RELATION_ATTRIBUTES if options.relation is None else (options.relation,):
        if attribute in data:
            found = _texts(data[attribute], options, f"edge {head!r} -> {tail!r}", attribute)
            if found:
                return attribute, found
    named = relation_key(key)
    if options.relation is None and named is not None:
        return None, [named]
    if options.default_relation is not None:
        return None, [options.default_relation]
    wanted = options.relation or "relation, label or type"
    has = ", ".join(map(str, data)) or "no attribute"
    raise TripleError(
        "property",
        f"edge {head!r} -> {tail!r}: expected its relation in the attribute {wanted}, or as a multigraph's key; it "
        f"has {has}: say which attribute (relation=...) or what to call such edges (default_relation=...)",
    )


def _metadata(
    head: str, tail: str, relation_attribute: str | None, data: Mapping[Any, Any], options: GraphOptions
) -> Mapping[str, Any]:
    if options.edge_attributes == "drop" or len(data) <= (relation_attribute is not None):
        return _NOTHING
    metadata = {}
    for attribute, value in data.items():
        if attribute == relation_attribute or attribute in options.skip:
            continue
        kept = _json(value, f"edge {head!r} -> {tail!r}", attribute)
        if kept is not None:
            name = str(attribute)
            metadata[f"edge_{name}" if name in _RESERVED else name] = kept
    return metadata


def _inverse(relation: str, options: GraphOptions) -> str | None:
    if options.inverse is None:
        return None
    return options.inverse.get(relation) if isinstance(options.inverse, Mapping) else options.inverse(relation)


def _property(attribute: Any, options: GraphOptions) -> str:
    text = attribute if isinstance(attribute, str) else str(attribute)
    return text if options.property_text is None else options.property_text(text)


def _label_attribute(graph: Any) -> str | None:
    """Return the attribute that tells the nodes apart; a class such as "Person" does not, being on many of them."""
    for attribute in LABEL_ATTRIBUTES:
        seen: set[str] = set()
        for node, data in graph.nodes(data=True):
            label = data.get(attribute)
            if not isinstance(label, str) or not label.strip() or label in seen or _reads_as_name(node):
                break
            seen.add(label)
        else:
            if seen:
                return attribute
    return None


def _reads_as_name(node: Any) -> bool:
    """Return whether a node is words, such as "Orca 2" or "Lena", and not an id such as n1, Q42 or DE."""
    if not isinstance(node, str):
        return False
    return len(node.split()) > 1 or (node.isalpha() and node[0].isupper() and not node.isupper())


def _namer(graph: Any, label: str | Callable[[Any], str] | None) -> Callable[[Any], str]:
    nodes = graph.nodes

    def by_attribute(node: Any) -> str:
        text = _scalar_text(nodes[node].get(label))
        return text.strip() if text and text.strip() else by_itself(node)

    def by_itself(node: Any) -> str:
        text = node if type(node) is str else _scalar_text(node)
        if text is None or not text.strip():
            raise TripleError(
                "name",
                f"node {node!r}: expected a node that is text, a number or a date, got {_kind(node)}; name an attribute "
                "or give a function that says what nodes are called (label=...)",
            )
        return text.strip()

    if callable(label):
        return label
    return by_itself if label is None else by_attribute


def _texts(value: Any, options: GraphOptions, where: str, attribute: Any) -> list[str]:
    """Return an attribute as texts: none, where it holds nothing; several, where it is a list."""
    text = value if type(value) is str else _scalar_text(value)
    if text is not None:
        return [text.strip()] if text.strip() else []
    if _is_nothing(value):
        return []
    elements = _elements(value)
    if elements is None:
        raise _unknown(value, where, attribute)
    texts = [text for element in elements for text in _texts(element, options, where, attribute)]
    if isinstance(value, set | frozenset):
        texts.sort()
    return [", ".join(texts)] if options.lists == "joined" and texts else texts


def _scalar_text(value: Any) -> str | None:
    """Return the text of a single value, None where it is no such value or nothing."""
    if isinstance(value, Enum):
        return _scalar_text(value.value)
    if isinstance(value, Fraction | complex | PurePath):
        return str(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # of numpy
        item = value.item()
        return None if getattr(item, "ndim", None) == 0 else _scalar_text(item)
    return as_text(value)


def _is_nothing(value: Any) -> bool:
    """Return whether a value is None, blank text, or not a number."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (getattr(value, "ndim", 0) == 0 and (value != value) is True)


def _elements(value: Any) -> list[Any] | None:
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if getattr(value, "ndim", 0) and hasattr(value, "tolist"):
        listed = value.tolist()
        return listed if isinstance(listed, list) else None
    return None


def _json(value: Any, where: str, attribute: Any) -> Any:
    """Return an edge's attribute as JSON holds it; None where it holds nothing."""
    if isinstance(value, Enum):
        return _json(value.value, where, attribute)
    if isinstance(value, bool | int | str):
        return value
    if _is_nothing(value):
        return None
    if isinstance(value, float):
        return value if abs(value) != float("inf") else str(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return _json(value.item(), where, attribute)
    text = _scalar_text(value)
    if text is not None:
        return text
    if isinstance(value, Mapping):
        return {str(key): _json(inner, where, attribute) for key, inner in value.items()}
    elements = _elements(value)
    if elements is None:
        raise _unknown(value, where, attribute)
    listed = [_json(element, where, attribute) for element in elements]
    return sorted(listed, key=str) if isinstance(value, set | frozenset) else listed


def _unknown(value: Any, where: str, attribute: Any) -> TripleError:
    return TripleError(
        "value",
        f"{where}, attribute {attribute!r}: expected text, a number, a date or a list of these, got {_kind(value)}; "
        f"leave it out (skip={{{attribute!r}}}) or turn it into text",
    )


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
