"""networkx graphs as triples, and a knowledge base as a graph again.

An edge from u to v whose relation is r gives the triple (u, r, v), an attribute a = x of a node (node, a, x). networkx
is imported when a graph is made, not before: what reads graphs goes by their methods.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from kblam_engine.errors import ConfigurationError, MissingDependencyError
from kblam_engine.knowledge_base.neighbours import Neighbour
from kblam_engine.sources.graph_context import context_attributes
from kblam_engine.sources.graph_files import read_graph
from kblam_engine.sources.graphs import LABEL_ATTRIBUTES, GraphOptions, GraphTriples
from kblam_engine.triples import Triple
from kblam_integrations._shared import triples_of

if TYPE_CHECKING:
    import networkx as nx

    from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase

__all__ = [
    "GraphOptions",
    "GraphTriples",
    "Neighbour",
    "fingerprint",
    "graph_from_kb",
    "neighbours",
    "read_graph",
    "triples_from_graph",
]

_FINGERPRINT_BITS = 128


def triples_from_graph(graph: Any, **options: Any) -> GraphTriples:
    """Return the triples of a graph, made one by one as they are iterated over.

    The relation of an edge is its attribute ``relation``, ``label`` or ``type``, or else a multigraph's key; its other
    attributes, a weight for example, are the triple's metadata. An edge of an undirected graph gives a triple in
    either direction. A list gives a triple for each element: add them to a knowledge base opened with ``multi=True``,
    as edges of one node with the same relation need it too. Nodes are called by their ``label`` or ``name`` where
    that tells them apart.

    >>> import networkx as nx
    >>> graph = nx.MultiDiGraph()
    >>> _ = graph.add_edge("Acme Robotics", "Lena Hoffmann", key="founder", since=2009)
    >>> graph.add_node("Orca 2", colours=["red", "white"])
    >>> for triple in triples_from_graph(graph, inverse={"founder": "company founded"}):
    ...     print(triple.name, "|", triple.property, "|", triple.value, dict(triple.metadata))
    Orca 2 | colours | red {}
    Orca 2 | colours | white {}
    Acme Robotics | founder | Lena Hoffmann {'since': 2009}
    Lena Hoffmann | company founded | Acme Robotics {'since': 2009}

    Args:
        graph: a Graph, DiGraph, MultiGraph or MultiDiGraph.
        options: fields of ``GraphOptions``: `label`, `relation`, `default_relation`, `inverse`, `property_text`,
            `both_directions`, `lists`, `edge_attributes`, `skip`.

    Raises:
        ConfigurationError: it is no graph, or an option is unknown or none of its choices.
        TripleError: while iterating: a node, attribute or relation is of a type that has no text, or an edge has no
            relation; the message names type, place and remedy.
    """
    known = [option.name for option in fields(GraphOptions)]
    if unknown := sorted(set(options) - set(known)):
        raise ConfigurationError(f"options: expected {', '.join(known)}; got {', '.join(unknown)}")
    return GraphTriples(graph, GraphOptions(**options))


def graph_from_kb(
    kb: KnowledgeBase | KBSnapshot | Iterable[Triple], *, literals: Literal["nodes", "attributes"] = "nodes"
) -> nx.MultiDiGraph:
    """Return a knowledge base, or triples, as a graph: an edge from name to value for each triple.

    An edge's key and its attribute ``relation`` are the property. Its attributes ``kb_provenance`` (a JSON object),
    ``kb_namespace``, ``kb_tags`` (with commas between) and ``kb_valid_from``, ``kb_valid_to`` are what is known of these, as
    text; its others are the metadata. Of triples that are alike in words and namespace the metadata is joined and the last
    one's context stays; the same words in another namespace are another edge, whose key has a number. So
    ``triples_from_graph`` of the graph gives the same triples; metadata called ``relation`` or ``kb_...`` gets lost.

    >>> graph = graph_from_kb([Triple("Orca 2", "maker", "Acme"), Triple("Acme", "founder", "Lena")])
    >>> list(graph.edges(keys=True))
    [('Orca 2', 'Acme', 'maker'), ('Acme', 'Lena', 'founder')]

    Args:
        kb: a knowledge base, its snapshot, or triples.
        literals: what becomes of a value that is no name of the knowledge base, such as "11 hours": a node like
            others, or an attribute of the name's node (a list, where there are several), without metadata or context.
            Of a property called ``name`` or ``label`` it is a node all the same: as attributes, these say what nodes are called.

    Raises:
        ConfigurationError: `literals` is neither.
        MissingDependencyError: networkx is not installed.
    """
    if literals not in ("nodes", "attributes"):
        raise ConfigurationError(f"literals: expected 'nodes' or 'attributes', got {literals!r}")
    try:
        import networkx as nx
    except ImportError as error:
        raise MissingDependencyError(
            'graphs need the package networkx: pip install "kblam-engine[networkx]"'
        ) from error
    triples = list(_all_triples(kb))
    graph = nx.MultiDiGraph()
    names = {triple.name for triple in triples}
    attributes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    key_of = _EdgeKeys(graph)
    for triple in triples:
        if literals == "nodes" or triple.value in names or triple.property in LABEL_ATTRIBUTES:
            data = {**triple.metadata, "relation": triple.property, **context_attributes(triple)}
            graph.add_edges_from([(triple.name, triple.value, key_of(triple), data)])
        else:
            graph.add_node(triple.name)
            attributes[triple.name][triple.property].append(triple.value)
    for name, values in attributes.items():
        graph.nodes[name].update({prop: each[0] if len(each) == 1 else each for prop, each in values.items()})
    return graph


class _EdgeKeys:
    """The keys of a graph's edges: a triple's property, and a number where another triple's edge has that key."""

    def __init__(self, graph: nx.MultiDiGraph) -> None:
        self._graph = graph
        self._given: dict[tuple[str, ...], str] = {}
        self._numbers: dict[tuple[str, ...], int] = {}  # the last one of each words: looking for it again takes a walk

    def __call__(self, triple: Triple) -> str:
        words = (triple.name, triple.value, triple.property)
        if (*words, triple.namespace) not in self._given:
            number = self._numbers.get(words, 0) + 1
            while self._graph.has_edge(triple.name, triple.value, _numbered(triple.property, number)):
                number += 1
            self._numbers[words] = number
            self._given[*words, triple.namespace] = _numbered(triple.property, number)
        return self._given[*words, triple.namespace]


def _numbered(key: str, number: int) -> str:
    return key if number == 1 else f"{key} ({number})"


def neighbours(kb: KnowledgeBase, name: str, *, hops: int = 1, incoming: bool = True) -> list[Neighbour]:
    """Return what a name is linked to, the nearest first: ``KnowledgeBase.neighbours`` as a function."""
    return kb.neighbours(name, hops=hops, incoming=incoming)


def fingerprint(source: Any) -> str:
    """Return a text that is the same for the same triples, whatever their order or source, and in every process.

    Metadata does not count, nor does how often a triple occurs.

    Args:
        source: a graph, a knowledge base, graph documents, or triples.

    Raises:
        ConfigurationError: it holds no triples.
        TripleError: one of the triples is not usable.
    """
    hashes = {_hash(triple) for triple in triples_of(source)}
    return f"{sum(hashes) % 2**_FINGERPRINT_BITS:0{_FINGERPRINT_BITS // 4}x}"


def _hash(triple: Triple) -> int:
    content = json.dumps([triple.name, triple.property, triple.value], ensure_ascii=False).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[: _FINGERPRINT_BITS // 8], "big")


def _all_triples(kb: KnowledgeBase | KBSnapshot | Iterable[Triple]) -> Iterable[Triple]:
    if isinstance(kb, Iterable):
        return kb
    return kb.triples(range(len(kb)))
