"""One small graph in every shape that the bridges read gives the same triples, in any order."""

import json
import random
from types import SimpleNamespace

import networkx as nx
import pytest
from langchain_core.documents import Document
from llama_index.core.graph_stores import SimplePropertyGraphStore
from llama_index.core.graph_stores.types import EntityNode, Relation
from llama_index.core.schema import TextNode

from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.sources import open_source
from kblam_engine.triples import Triple
from kblam_integrations.langchain import triples_from_graph_document
from kblam_integrations.llama_index import triples_from_node, triples_from_property_graph
from kblam_integrations.networkx import fingerprint, graph_from_kb

EDGES = [
    ("Acme Robotics", "founder", "Lena Hoffmann"),
    ("Acme Robotics", "city", "Ulm"),
    ("Orca 2", "maker", "Acme Robotics"),
    ("Lena Hoffmann", "birthplace", "Ulm"),
]
NODES = {"Orca 2": {"price": "48,000 euros"}, "Ulm": {"river": "Danube"}, "Acme Robotics": {}, "Lena Hoffmann": {}}


def triples(edges, nodes):
    own = [Triple(name, key, value) for name in nodes for key, value in NODES[name].items()]
    return [*own, *(Triple(*edge) for edge in edges)]


def in_networkx(kind):
    def build(edges, nodes):
        graph = kind()
        graph.add_nodes_from((name, NODES[name]) for name in nodes)
        for name, relation, value in edges:
            graph.add_edge(name, value, **({"key": relation} if graph.is_multigraph() else {"relation": relation}))
        return graph

    return build


def in_node_link_json(edges, nodes, path):
    (path / "graph.json").write_text(json.dumps(nx.node_link_data(in_networkx(nx.MultiDiGraph)(edges, nodes), edges="links")))
    return open_source(path / "graph.json")


def graph_document(edges, nodes):
    """Return it as the packages langchain-community and langchain-neo4j shape it."""
    made = {name: SimpleNamespace(id=name, type="Thing", properties=NODES[name]) for name in nodes}
    links = [
        SimpleNamespace(source=made[name], target=made[value], type=relation.upper(), properties={})
        for name, relation, value in edges
    ]
    return SimpleNamespace(nodes=list(made.values()), relationships=links, source=Document("Acme ...", id="d1"))


def entities_and_relations(edges, nodes):
    made = {name: EntityNode(name=name, properties=dict(NODES[name])) for name in nodes}
    links = [
        Relation(label=relation.upper(), source_id=made[name].id, target_id=made[value].id) for name, relation, value in edges
    ]
    return list(made.values()), links


def in_metadata(edges, nodes):
    """Return it as LlamaIndex's KG extractors leave it in a node."""
    node = TextNode(text="Acme ...")
    node.metadata["nodes"], node.metadata["relations"] = entities_and_relations(edges, nodes)
    return triples_from_node(node)


def in_a_store(edges, nodes):
    store = SimplePropertyGraphStore()
    entities, relations = entities_and_relations(edges, nodes)
    store.upsert_nodes(entities)
    store.upsert_relations(relations)
    return triples_from_property_graph(store)


def in_a_kb(edges, nodes):
    kb = KnowledgeBase.open(":memory:", encoder=HashingEncoder(), multi=True)
    kb.add(triples(edges, nodes))
    return kb


SHAPES = {
    "DiGraph": in_networkx(nx.DiGraph),
    "MultiDiGraph": in_networkx(nx.MultiDiGraph),
    "knowledge base": in_a_kb,
    "graph of a knowledge base": lambda edges, nodes: graph_from_kb(in_a_kb(edges, nodes)),
    "graph document": graph_document,
    "triples of a graph document": lambda edges, nodes: triples_from_graph_document(graph_document(edges, nodes)),
    "metadata of a node": in_metadata,
    "property graph store": in_a_store,
    "mappings": lambda edges, nodes: [triple.to_dict() for triple in triples(edges, nodes)],
}


@pytest.mark.parametrize("shape", [*SHAPES, "node-link JSON"])
def test_every_shape_has_the_same_fingerprint_in_any_order(shape, tmp_path):
    known = fingerprint(triples(EDGES, NODES))
    for seed in range(3):
        edges, nodes = random.Random(seed).sample(EDGES, len(EDGES)), random.Random(seed).sample(list(NODES), len(NODES))
        graph = in_node_link_json(edges, nodes, tmp_path) if shape not in SHAPES else SHAPES[shape](edges, nodes)
        assert fingerprint(graph) == known
    fewer = in_node_link_json(EDGES[1:], NODES, tmp_path) if shape not in SHAPES else SHAPES[shape](EDGES[1:], NODES)
    assert fingerprint(fewer) != known
