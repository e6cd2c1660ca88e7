"""Files of graphs: GraphML, GEXF, GML, node-link JSON and edge lists, read by networkx."""

from __future__ import annotations

import importlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import ParseError

from kblam_engine.errors import ImportFileError, TripleError
from kblam_engine.sources.graph_context import with_context
from kblam_engine.sources.graphs import EDGE_ID, RELATION_ATTRIBUTES, GraphOptions, GraphTriples
from kblam_engine.sources.source import MAX_MB, FileSource, missing
from kblam_engine.triples import Triple

__all__ = ["GRAPH_SUFFIXES", "GraphFile", "is_graph_file", "read_graph"]

GRAPH_SUFFIXES = (".graphml", ".gexf", ".gml", ".edgelist", ".edges", ".json")
"""Of these, ``.json`` may hold something else: ``is_graph_file`` looks."""
FILE_RELATION = "neighbour"
"""What edges of a file are called that say no relation."""
_EDGE_KEYS = ("links", "edges")


def is_graph_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a graph by its suffix, and for ``.json`` by its nodes and edges."""
    suffix = Path(path).suffix.lower()
    if suffix != ".json":
        return suffix in GRAPH_SUFFIXES
    try:
        return _is_node_link(json.loads(Path(path).read_bytes()))
    except (OSError, ValueError, RecursionError):
        return False


class GraphFile(FileSource):
    """The triples of a file that holds a graph; see ``read_graph`` for the formats.

    Args:
        path: the file; ``.json`` is node-link JSON.
        options: how to read the graph.
        label: in place of that option: the attribute that names nodes.
        relation: likewise: the attribute that holds the relation of edges.
        default_relation: likewise: what to call edges that say no relation; "neighbour" if nobody says.
        inverse: likewise: relation to inverse relation.
        lists: likewise: "triples" or "joined".
        edge_attributes: likewise: "metadata", "triples" or "drop".
        both_directions: likewise: whether an undirected edge gives two triples.
        skip: likewise: attributes to leave out.
        uri: what triples name as their source; default the path as given.
        max_mb: larger files are refused.

    Raises:
        ConfigurationError: `max_mb` is not above 0, or an option is none of its choices.
    """

    extractor = "graph"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        options: GraphOptions | None = None,
        label: str | None = None,
        relation: str | None = None,
        default_relation: str | None = None,
        inverse: Mapping[str, str] | None = None,
        lists: Literal["triples", "joined"] | None = None,
        edge_attributes: Literal["metadata", "triples", "drop"] | None = None,
        both_directions: bool | None = None,
        skip: Iterable[str] | None = None,
        uri: str | None = None,
        max_mb: float = MAX_MB,
    ) -> None:
        super().__init__(path, uri=uri, max_mb=max_mb)
        options = options or GraphOptions()
        told: dict[str, Any] = {
            "label": label or None,
            "relation": relation or None,
            "default_relation": default_relation or options.default_relation or FILE_RELATION,
            "inverse": inverse,
            "lists": lists,
            "edge_attributes": edge_attributes,
            "both_directions": both_directions,
            "skip": None if skip is None else frozenset(skip),
        }
        self.options = replace(options, **{name: value for name, value in told.items() if value is not None})

    def _read(self) -> Iterator[Triple]:
        try:
            for name, prop, value, metadata in GraphTriples(read_graph(self.path), self.options).parts():
                triple = self.checked(name, prop, value, metadata)
                if triple is not None:
                    yield with_context(triple)
        except TripleError as error:
            raise self.error(0, str(error)) from None


def read_graph(path: str | os.PathLike[str]) -> Any:
    """Return the graph that a file holds, as one of networkx's four classes.

    An edge list has a line for each edge: head, tail, and the relation, a weight, or a dictionary of attributes as
    Python writes it; between them tabs, or white space where a line has no tab. What comes after # is a comment. It
    is read as a ``MultiDiGraph``.

    Raises:
        ImportFileError: the suffix is none of these, or the file is no such graph.
        MissingDependencyError: networkx is not installed.
        OSError: the file cannot be opened.
    """
    suffix = Path(path).suffix.lower()
    readers: dict[str, Callable[[Any, Path], Any]] = {
        ".graphml": lambda nx, file: _without_ids(nx.read_graphml(file)),
        ".gexf": lambda nx, file: _without_ids(nx.read_gexf(file)),
        ".gml": lambda nx, file: nx.read_gml(file, label="id"),
        ".edgelist": _read_edge_list,
        ".edges": _read_edge_list,
        ".json": _read_node_link,
    }
    if suffix not in readers:
        expected = ", ".join(GRAPH_SUFFIXES)
        raise ImportFileError(path, 0, f"expected a graph ({expected}), got {suffix or 'no suffix'}")
    nx = _networkx()
    try:
        return readers[suffix](nx, Path(path))
    except (ImportFileError, OSError):
        raise
    except ParseError as error:
        raise ImportFileError(path, error.position[0], f"not XML: {error}") from None
    except (nx.NetworkXError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        reason = f"misses {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise ImportFileError(path, 0, f"no {suffix} graph: {reason}") from None


def _networkx() -> Any:
    try:
        return importlib.import_module("networkx")
    except ImportError as error:
        raise missing("networkx", "networkx", "a file that holds a graph") from error


def _without_ids(graph: Any) -> Any:
    """Drop what the formats add for themselves: ids of edges, and how and where to draw nodes.

    networkx writes a multigraph's keys as ids. Where no two nodes have two edges it reads them back as an attribute.
    """
    for _, data in graph.nodes(data=True):
        data.pop("viz", None)
    for *_, data in graph.edges(data=True):
        edge_id = data.pop("id", None)
        data.pop("viz", None)
        if isinstance(edge_id, str) and not EDGE_ID.fullmatch(edge_id) and not data.keys() & set(RELATION_ATTRIBUTES):
            data["relation"] = edge_id
    return graph


def _read_node_link(nx: Any, path: Path) -> Any:
    data = json.loads(path.read_bytes())
    if not _is_node_link(data):
        raise ImportFileError(path, 0, 'expected node-link JSON, an object with "nodes" and "links" (or "edges")')
    edges = next(key for key in _EDGE_KEYS if key in data)
    # A file that does not say so was not written by networkx but by somebody who has a source and a target in mind.
    return nx.node_link_graph(data, directed=True, edges=edges)


def _is_node_link(data: Any) -> bool:
    lists = isinstance(data, Mapping) and isinstance(data.get("nodes"), list)
    return lists and any(isinstance(data.get(key), list) for key in _EDGE_KEYS)


def _read_edge_list(nx: Any, path: Path) -> Any:
    graph = nx.MultiDiGraph()
    with open(path, encoding="utf-8-sig") as file:
        for number in itertools.count(1):
            try:
                line = file.readline()
                if not line:
                    return graph
                _add_edge(nx, graph, line)
            except UnicodeDecodeError:
                raise ImportFileError(path, number, "not UTF-8") from None
            except (TypeError, ValueError, IndexError) as error:
                raise ImportFileError(path, number, str(error)) from None


def _add_edge(nx: Any, graph: Any, line: str) -> None:
    """Add the edge of one line; networkx takes it apart, and evaluates no more than literals."""
    if not line.partition("#")[0].strip():
        return
    delimiter = "\t" if "\t" in line else None
    parts = [part.strip() for part in line.partition("#")[0].split(delimiter)]
    if len(parts) < 2:
        raise ValueError("expected head and tail of an edge, got one word")
    extra = " ".join(parts[2:])
    if extra.startswith("{"):
        read = nx.parse_edgelist([line.rstrip()], delimiter=delimiter, create_using=nx.MultiDiGraph, data=True)
        graph.add_edges_from((u.strip(), v.strip(), data) for u, v, data in read.edges(data=True))
    elif extra:
        try:
            graph.add_edge(*parts[:2], weight=float(extra))
        except ValueError:
            graph.add_edge(*parts[:2], relation=extra)
    else:
        graph.add_edge(*parts[:2])
