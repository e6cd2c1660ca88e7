"""LlamaIndex's property graphs as triples: what KG extractors leave in a node's metadata, and whole graph stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llama_index.core.graph_stores.types import (
    KG_NODES_KEY,
    KG_RELATIONS_KEY,
    KG_SOURCE_REL,
    TRIPLET_SOURCE_KEY,
    VECTOR_SOURCE_KEY,
    ChunkNode,
    LabelledNode,
    PropertyGraphStore,
    Relation,
)
from llama_index.core.schema import BaseNode, Document, NodeRelationship

from kblam_engine.errors import TripleError
from kblam_engine.triples import Provenance, Triple
from kblam_integrations._documents import provenance_of
from kblam_integrations._graph_documents import triples_from_graph_document

REF_DOC, NODE = "ref_doc_id", "node_id"
"""Keys of a triple's metadata: the document and the node of LlamaIndex that said it last."""
_INTERNAL = frozenset({TRIPLET_SOURCE_KEY, VECTOR_SOURCE_KEY, "_node_content", "_node_type"})
_STRUCTURE = frozenset({KG_SOURCE_REL, *(relation.name for relation in NodeRelationship)})
_SOURCE_KEYS = ("source", "file_path", "file_name", "url")
_NO_LIMIT = 2**31 - 1
OnRejected = Callable[[str], object]
"""Told, in one line, what makes no usable triple and why."""


@dataclass(frozen=True, slots=True)
class _Entity:
    """A node as ``triples_from_graph_document`` takes it, and where it comes from, as metadata of its triples."""

    id: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    type: str = ""


@dataclass(frozen=True, slots=True)
class _Edge:
    source: _Entity
    target: _Entity
    type: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A graph of one node or one edge, so that what is wrong with one is not wrong with all."""

    nodes: tuple[_Entity, ...] = ()
    relationships: tuple[_Edge, ...] = ()


def triples_from_node(
    node: BaseNode, on_rejected: OnRejected | None = None, *, node_types: bool = False
) -> list[Triple]:
    """Return what KG extractors have left in a node's metadata as triples.

    A relation ``Lena -[FOUNDED]-> Acme`` gives (Lena, founded, Acme); a property of an entity gives
    (entity, property, value). Left out are what the extractors copy from the node's own metadata into every entity,
    and links between nodes (previous, next, parent). A triple's metadata names ``ref_doc_id``, ``node_id`` and, where the
    node does, ``source``; its provenance has the document, the source, and the node's characters in the document.

    Args:
        node: any node; without such metadata it gives nothing.
        on_rejected: told, in one line, of each property of an entity and each relation that makes no usable triple.
        node_types: a triple (entity, "type", label) as well for each entity whose label is not LlamaIndex's "entity".
    """
    shared = {key: value for key, value in node.metadata.items() if key not in (KG_NODES_KEY, KG_RELATIONS_KEY)}
    linked, origin = {node.node_id, *_linked_ids(node)}, origin_of(node)
    entities: dict[str, _Entity] = {}
    for item in node.metadata.get(KG_NODES_KEY) or ():
        name = _part(item, "name")
        if name is not None:
            entities[str(name).replace('"', " ")] = _Entity(
                str(name), _own(_part(item, "properties"), shared), origin, str(_part(item, "label") or "")
            )
    edges = []
    for item in node.metadata.get(KG_RELATIONS_KEY) or ():
        ends = str(_part(item, "source_id")), str(_part(item, "target_id"))
        if not linked.intersection(ends):
            source, target = (entities.get(end) or _Entity(end) for end in ends)
            properties = _own(_part(item, "properties"), shared)
            edges.append(_Edge(source, target, str(_part(item, "label")), properties, origin))
    found = _triples([*entities.values(), *edges], on_rejected, node_types)
    return [replace(triple, provenance=provenance_from(node)) for triple in found]


def triples_from_property_graph(
    store: PropertyGraphStore, on_rejected: OnRejected | None = None, *, node_types: bool = False
) -> list[Triple]:
    """Return a property graph store as triples, sorted: the same graph gives the same list in every process.

    Chunks of text, and what links them to entities and each other, are left out. Each triple's metadata names ``node_id``
    and ``ref_doc_id`` where the store knows them.

    Args:
        store: any store; of a ``SimplePropertyGraphStore`` the graph itself is read, because its ``get_triplets()``
            returns nothing without a filter and its relations can hide each other.
        on_rejected: told, in one line, of each property of an entity and each relation that makes no usable triple.
        node_types: a triple (entity, "type", label) as well for each entity whose label is not LlamaIndex's "entity".
    """
    nodes = {node.id: node for node in store.get()}
    chunks = {key: node for key, node in nodes.items() if isinstance(node, ChunkNode)}

    def described(properties: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        chunk = chunks.get(str(properties.get(TRIPLET_SOURCE_KEY)))
        shared = {} if chunk is None else chunk.properties
        document = shared.get(REF_DOC) or properties.get(REF_DOC)
        told = {NODE: properties.get(TRIPLET_SOURCE_KEY), REF_DOC: document}
        return _own(properties, shared), {key: str(value) for key, value in told.items() if value}

    entities = {
        key: _Entity(str(getattr(node, "name", key)), *described(node.properties), node.label)
        for key, node in sorted(nodes.items())
        if key not in chunks
    }
    edges = [
        _Edge(
            entities.get(source) or _Entity(source),
            entities.get(target) or _Entity(target),
            relation.label,
            *described(relation.properties),
        )
        for source, relation, target in _relations(store, nodes.values())
        if source not in chunks and target not in chunks and relation.label not in _STRUCTURE
    ]
    found = _triples([*entities.values(), *edges], on_rejected, node_types)
    found = [replace(t, provenance=provenance_of(t.metadata.get(REF_DOC) or t.metadata.get(NODE))) for t in found]
    unique = {(triple.name, triple.property, triple.value): triple for triple in found}
    return [unique[key] for key in sorted(unique)]


def origin_of(node: BaseNode) -> dict[str, Any]:
    """Return where the triples of a node come from, as metadata of a triple."""
    source = next((node.metadata[key] for key in _SOURCE_KEYS if isinstance(node.metadata.get(key), str)), None)
    known = {NODE: node.node_id, REF_DOC: document_of(node), "source": source}
    return {key: value for key, value in known.items() if value is not None}


def provenance_from(node: BaseNode, span: tuple[int, int] | None = None) -> Provenance | None:
    """Return where a node, or the characters `span` of its text, stand in its document.

    Args:
        node: any node; where nothing says which document it is of, it is taken as its own.
        span: characters of its text; None: all of it, where it is known where that begins.
    """
    begin, end = getattr(node, "start_char_idx", None), getattr(node, "end_char_idx", None)
    whole = (begin, end) if isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end else None
    if span is not None and whole is not None:
        span = (whole[0] + span[0], whole[0] + span[1])
    elif span is not None and not isinstance(node, Document):
        span = None  # of a part of a document, nobody knows which
    document = document_of(node) or node.node_id
    return provenance_of(document, origin_of(node).get("source"), whole if span is None else span)


def document_of(node: BaseNode) -> str | None:
    """Return the id of a node's document; a document that nobody has split is its own."""
    return node.node_id if isinstance(node, Document) else node.ref_doc_id


def _triples(parts: Iterable[_Entity | _Edge], on_rejected: OnRejected | None, node_types: bool) -> list[Triple]:
    found = []
    for part in parts:
        piece = _Piece(nodes=(part,)) if isinstance(part, _Entity) else _Piece(relationships=(part,))
        for triple in triples_from_graph_document(piece, node_types=node_types, on_rejected=on_rejected or _unheard):
            try:
                found.append(replace(triple, metadata={**triple.metadata, **part.origin}))
            except TripleError as error:  # more metadata than a triple may have
                (on_rejected or _unheard)(f"{triple.key_text}: {error}")
    return found


def _unheard(reason: str) -> None:
    """Take no notice."""


def _relations(
    store: PropertyGraphStore, nodes: Iterable[LabelledNode]
) -> Iterator[tuple[str, Relation, str]]:
    triplets = getattr(getattr(store, "graph", None), "triplets", None)
    if triplets is not None:
        relations = store.graph.relations  # type: ignore[attr-defined]
        for source_id, label, target_id in sorted(triplets):
            relation = relations.get(f"{source_id}_{label}_{target_id}")
            # Its key joins the parts by underscores, so that another relation may stand there.
            if relation is None or (relation.source_id, relation.label, relation.target_id) != (
                source_id,
                label,
                target_id,
            ):
                relation = Relation(label=label, source_id=source_id, target_id=target_id)
            yield source_id, relation, target_id
        return
    found = store.get_triplets() or store.get_rel_map(list(nodes), depth=1, limit=_NO_LIMIT)
    for source, relation, target in found:
        yield source.id, relation, target.id


def _own(properties: Any, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entity's properties without the copies of its text node's metadata."""
    own = dict(properties or {})
    return {key: value for key, value in own.items() if key not in _INTERNAL and _differs(key, value, shared)}


def _differs(key: str, value: Any, shared: Mapping[str, Any]) -> bool:
    return key not in shared or shared[key] != value


def _linked_ids(node: BaseNode) -> Iterator[str]:
    for related in node.relationships.values():
        for each in related if isinstance(related, list) else [related]:
            yield each.node_id


def _part(item: Any, name: str) -> Any:
    """Return a part of an entity or relation, which is a dictionary where it comes out of a cache."""
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)
