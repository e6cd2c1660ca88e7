"""Graphs become triples and triples graphs, whatever the kind of graph, the order and the types."""

import datetime
import doctest
import enum
import os
import random
import subprocess
import sys
import tracemalloc
from decimal import Decimal

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kblam_integrations.networkx
from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import ConfigurationError, MissingDependencyError, TripleError
from kblam_integrations._shared import as_knowledge_base
from kblam_integrations.networkx import fingerprint, graph_from_kb, neighbours, triples_from_graph

KINDS = [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph]


def parts(triples):
    return {(t.name, t.property, t.value) for t in triples}


def edge(**attributes):
    return nx.DiGraph([("Acme", "Lena", attributes)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attribute", ["relation", "label", "type"])
def test_edges_and_node_attributes_of_every_kind_of_graph(kind, attribute):
    graph = kind()
    graph.add_edge("Acme Robotics", "Lena Hoffmann", **{attribute: "founder"})
    graph.add_node("Orca 2", **{"battery life": "11 hours", "weight": 3.5})
    expected = {
        ("Acme Robotics", "founder", "Lena Hoffmann"),
        ("Orca 2", "battery life", "11 hours"),
        ("Orca 2", "weight", "3.5"),
    }
    if not graph.is_directed():
        expected.add(("Lena Hoffmann", "founder", "Acme Robotics"))
    assert parts(triples_from_graph(graph)) == expected


def test_keys_of_a_multigraph_are_relations_where_no_attribute_is():
    graph = nx.MultiDiGraph()
    graph.add_edge("Acme", "Lena", key="founder")
    graph.add_edge("Acme", "Lena", key="chair", relation="chairwoman")
    assert parts(triples_from_graph(graph)) == {("Acme", "founder", "Lena"), ("Acme", "chairwoman", "Lena")}


def test_an_undirected_edge_gives_one_triple_on_request():
    graph = nx.Graph([("Acme", "Lena", {"relation": "partner"}), ("Acme", "Acme", {"relation": "owner"})])
    both = [t.value for t in triples_from_graph(graph)]
    assert both == ["Lena", "Acme", "Acme"]  # the loop once
    once = triples_from_graph(graph, both_directions=False)
    assert parts(once) == {("Acme", "partner", "Lena"), ("Acme", "owner", "Acme")}


def test_a_relation_may_be_a_list_and_may_lie_elsewhere():
    graph = edge(kind=["founder", "chair"], relation="link")
    assert parts(triples_from_graph(graph, relation="kind")) == {("Acme", "founder", "Lena"), ("Acme", "chair", "Lena")}


@pytest.mark.parametrize("key", [0, "7", "e12", None])
def test_an_edge_without_a_relation_is_an_error_that_says_what_to_do(key):
    graph = nx.MultiDiGraph()
    graph.add_edge("Acme", "Lena", key=key, since=2009)
    with pytest.raises(TripleError, match="edge 'Acme' -> 'Lena'.*it has since.*default_relation=") as raised:
        list(triples_from_graph(graph))
    assert raised.value.field == "property"
    assert parts(triples_from_graph(graph, default_relation="contact")) == {("Acme", "contact", "Lena")}
    with pytest.raises(TripleError, match="in the attribute kind"):
        list(triples_from_graph(edge(relation="founder"), relation="kind"))


@pytest.mark.parametrize("inverse", [{"founder": "company"}, lambda r: "company" if r == "founder" else None])
def test_inverse_relations_on_request(inverse):
    graph = nx.DiGraph([("Acme", "Lena", {"relation": "founder"}), ("Acme", "Bonn", {"relation": "seat"})])
    expected = {("Acme", "founder", "Lena"), ("Lena", "company", "Acme"), ("Acme", "seat", "Bonn")}
    assert parts(triples_from_graph(graph, inverse=inverse)) == expected


def test_nodes_are_called_by_labels_that_tell_them_apart():
    graph = nx.DiGraph([("n1", 2, {"relation": "founder"})])
    graph.add_node("n1", label="Acme Robotics", city="Bonn")
    graph.add_node(2, label="Lena Hoffmann")
    expected = {("Acme Robotics", "founder", "Lena Hoffmann"), ("Acme Robotics", "city", "Bonn")}
    assert parts(triples_from_graph(graph)) == expected
    for label in (str, lambda node: str(node)):
        assert ("n1", "founder", "2") in parts(triples_from_graph(graph, label=label))


@pytest.mark.parametrize(
    ("first", "second"),
    [(("a", "Person"), ("b", "Person")), (("Lena", "Person"), ("Acme", "Company")), (("a", "Person"), ("b", None))],
    ids=["a class", "nodes that are names", "not on every node"],
)
def test_labels_that_are_no_names_stay_attributes(first, second):
    graph = nx.DiGraph([(first[0], second[0], {"relation": "knows"})])
    for node, label in (first, second):
        graph.add_node(node, **({"label": label} if label else {}))
    found = parts(triples_from_graph(graph))
    assert (first[0], "knows", second[0]) in found and (first[0], "label", first[1]) in found


def test_any_attribute_can_name_the_nodes():
    graph = nx.DiGraph([(1, 2, {"relation": "knows"})])
    graph.add_node(1, title="Lena", age=61)
    graph.add_node(2)  # has none: the node itself
    assert parts(triples_from_graph(graph, label="title")) == {("Lena", "knows", "2"), ("Lena", "age", "61")}


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (" 11 hours ", ["11 hours"]),
        (3, ["3"]),
        (2.5, ["2.5"]),
        (True, ["true"]),
        (Decimal("1.10"), ["1.10"]),
        (datetime.date(2009, 3, 12), ["2009-03-12"]),
        (Colour.RED, ["red"]),
        (np.float32(0.5), ["0.5"]),
        (np.array([1, 2]), ["1", "2"]),
        (["red", 2, None], ["red", "2"]),
        ({"b", "a"}, ["a", "b"]),
        ((["a"], "b"), ["a", "b"]),
        (None, []),
        ("  ", []),
        (float("nan"), []),
        ([], []),
    ],
)
def test_values_of_many_types(value, texts):
    graph = nx.Graph()
    graph.add_node("Orca 2", thing=value)
    assert [t.value for t in triples_from_graph(graph)] == texts
    joined = [t.value for t in triples_from_graph(graph, lists="joined")]
    assert joined == ([", ".join(texts)] if texts else [])


def test_weights_and_other_attributes_of_edges_are_metadata():
    graph = edge(relation="founder", weight=0.5, since=datetime.date(2009, 3, 12), name="x", roles=["a"], none=None)
    (triple,) = triples_from_graph(graph)
    assert triple.metadata == {"weight": 0.5, "since": "2009-03-12", "edge_name": "x", "roles": ["a"]}
    (triple,) = triples_from_graph(graph, edge_attributes="drop")
    assert not triple.metadata


def test_attributes_of_edges_become_triples_on_request():
    graph = edge(relation="founder", since=2009, weight=1.0)
    found = list(triples_from_graph(graph, edge_attributes="triples", skip={"weight"}))
    assert parts(found) == {("Acme", "founder", "Lena"), ("Lena as founder of Acme", "since", "2009")}
    assert found[0].metadata == {"since": 2009}


def test_properties_can_be_reworded():
    graph = edge(relation="founded_by")
    graph.add_node("Acme", head_office="Bonn")
    found = parts(triples_from_graph(graph, property_text=lambda name: name.replace("_", " ")))
    assert found == {("Acme", "founded by", "Lena"), ("Acme", "head office", "Bonn")}


class Thing:
    pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.add_node("Orca 2", viz={"x": 1}), "node 'Orca 2', attribute 'viz'.*got dict.*skip={'viz'}"),
        (lambda g: g.add_node("Orca 2", raw=[b"x"]), "attribute 'raw'.*got bytes"),
        (lambda g: g.add_node("Orca 2", thing=Thing()), "got test_networkx.Thing"),
        (lambda g: g.add_edge("a", "b", relation="r", thing=Thing()), "edge 'a' -> 'b', attribute 'thing'.*Thing"),
        (lambda g: g.add_edge("a", "b", relation=Thing()), "attribute 'relation'.*Thing"),
        (lambda g: g.add_edge((0, 1), "b", relation="r"), r"node \(0, 1\).*got tuple.*label="),
        (lambda g: g.add_node("Orca 2", text="x" * 10_001), "at most 10000 characters.*'Orca 2', 'text'"),
    ],
)
def test_unknown_types_are_named(change, message):
    graph = nx.DiGraph()
    change(graph)
    with pytest.raises(TripleError, match=message):
        list(triples_from_graph(graph))


def test_what_is_no_graph_or_no_option_is_told():
    with pytest.raises(ConfigurationError, match="expected a networkx graph, got list"):
        triples_from_graph([("a", "b")])
    with pytest.raises(ConfigurationError, match="options: expected label, .*; got colour"):
        triples_from_graph(nx.Graph(), colour="red")
    with pytest.raises(ConfigurationError, match="lists: expected 'triples' or 'joined', got 'both'"):
        triples_from_graph(nx.Graph(), lists="both")
    with pytest.raises(ConfigurationError, match="skip: expected a set"):
        triples_from_graph(nx.Graph(), skip="viz")
    for option in ({"inverse": "owner of"}, {"property_text": "lower"}, {"label": 3}):
        with pytest.raises(ConfigurationError, match=f"{next(iter(option))}: expected .* function"):
            triples_from_graph(nx.Graph(), **option)


def test_triples_can_be_iterated_again_and_follow_the_graph():
    graph = edge(relation="founder")
    triples = triples_from_graph(graph)
    assert list(triples) == list(triples) and len(triples) == 1
    graph.add_node("Acme", city="Bonn")
    assert len(triples) == 2 and ("Acme", "city", "Bonn") in parts(triples)


def test_a_large_graph_streams():
    graph = nx.MultiDiGraph()
    graph.add_edges_from((i, i + 1, "next", {"weight": i}) for i in range(20_000))
    triples = iter(triples_from_graph(graph))
    next(triples)
    tracemalloc.start()
    n = 1 + sum(1 for _ in triples)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n == 20_000 and peak < 100_000


def test_a_million_edges_are_read_one_by_one():
    n_read = 0

    class Chain(nx.DiGraph):
        """A million edges that are nowhere at once."""

        def edges(self, **kwargs):
            nonlocal n_read
            for n_read in range(1, 1_000_001):
                yield n_read - 1, n_read, {"relation": "next"}

    for n_taken, triple in enumerate(triples_from_graph(Chain()), 1):
        if n_read - n_taken > 1:
            break
    assert (n_taken, triple.value) == (1_000_000, "1000000")


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_knows_no_order(kind):
    edges = [("Acme", "Lena", {"relation": "founder"}), ("Orca 2", "Acme", {"relation": "maker"})]
    nodes = [("Acme", {"tags": {"b", "a", "c"}}), ("Orca 2", {"price": 3})]
    seen = set()
    for seed in range(4):
        shuffled = random.Random(seed)
        shuffled.shuffle(edges)
        shuffled.shuffle(nodes)
        graph = kind()
        graph.add_nodes_from(nodes)
        graph.add_edges_from(edges)
        seen.add(fingerprint(graph))
    assert len(seen) == 1
    graph.add_node("Orca 2", price=4)
    assert fingerprint(graph) not in seen


def test_the_fingerprint_is_the_same_from_every_source_and_process(memory_kb, six_triples):
    known = fingerprint(six_triples)
    assert fingerprint(memory_kb) == fingerprint(graph_from_kb(memory_kb)) == known
    assert fingerprint([*six_triples, Triple(*six_triples[0].to_dict().values(), metadata={"page": 3})]) == known
    script = (
        "import networkx as nx; from kblam_integrations.networkx import fingerprint; g = nx.DiGraph();"
        "g.add_node('a', tags={'x', 'y', 'z'}); print(fingerprint(g))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(outputs) == 1 and len(outputs.pop().strip()) == 32


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=8)


@given(st.lists(st.builds(Triple, TEXT, TEXT, TEXT, st.dictionaries(st.just("page"), st.integers())), max_size=8))
def test_a_graph_of_triples_gives_the_triples_back(triples):
    metadata = {}  # of triples that differ in nothing else: joined
    for t in triples:
        metadata.setdefault((t.name, t.property, t.value), {}).update(t.metadata)
    back = list(triples_from_graph(graph_from_kb(triples), label=str))
    assert len(back) == len(metadata)
    assert {(t.name, t.property, t.value): dict(t.metadata) for t in back} == metadata


def test_a_knowledge_base_becomes_a_graph(memory_kb):
    memory_kb.add([Triple("Orca 2", "maker", "Acme Robotics", {"page": 3})])
    for source in (memory_kb, memory_kb.snapshot()):
        graph = graph_from_kb(source)
        assert isinstance(graph, nx.MultiDiGraph) and graph.number_of_edges() == 7
        assert graph.edges["Orca 2", "Acme Robotics", "maker"] == {"relation": "maker", "page": 3}
    assert nx.shortest_path(graph, "Orca 2", "Lena Hoffmann") == ["Orca 2", "Acme Robotics", "Lena Hoffmann"]


def test_values_that_are_no_names_can_be_attributes():
    triples = [Triple("Orca 2", "maker", "Acme"), Triple("Acme", "city", "Bonn"), Triple("Acme", "city", "Kiel")]
    graph = graph_from_kb([*triples, Triple("Orca 2", "battery life", "11 hours")], literals="attributes")
    assert list(graph.edges(keys=True)) == [("Orca 2", "Acme", "maker")]
    assert graph.nodes["Orca 2"] == {"battery life": "11 hours"} and graph.nodes["Acme"] == {"city": ["Bonn", "Kiel"]}
    with pytest.raises(ConfigurationError, match="literals: expected"):
        graph_from_kb(triples, literals="both")


def test_neighbours_are_chains_of_triples(hashing_encoder):
    with KnowledgeBase.open(":memory:", encoder=hashing_encoder, multi=True) as kb:
        kb.add([
            Triple("Orca 2", "maker", "Acme"),
            Triple("Acme", "founder", "Lena"),
            Triple("Bolt", "owner", "Acme"),
            Triple("Lena", "company", "Acme"),
        ])
        (step,) = kb.neighbours("Orca 2")
        assert (step.name, step.triple.property, step.outgoing, step.hops) == ("Acme", "maker", True, 1)
        steps = [(n.name, n.outgoing, n.hops) for n in neighbours(kb, "Orca 2", hops=3)]
        assert steps == [("Acme", True, 1), ("Lena", True, 2), ("Bolt", False, 2), ("Lena", False, 2)]
        assert [n.name for n in kb.neighbours(" Orca 2 ", hops=2, incoming=False)] == ["Acme", "Lena"]
        assert kb.neighbours("nobody") == []
        for wrong in ({"hops": 0}, {"hops": "2"}, {"name": "  "}, {"name": None}):
            with pytest.raises(ConfigurationError, match=next(iter(wrong))):
                kb.neighbours(**{"name": "Acme", **wrong})
        kb.add([Triple("Bolt", "colour", "red", namespace="paint")])
        assert [n.name for n in kb.view(namespace="paint").neighbours("Bolt")] == ["red"]
        assert [n.triple.property for n in kb.view(revision=1).neighbours("Bolt", hops=1)] == ["owner"]


def test_a_graph_is_a_knowledge_base(hashing_encoder):
    graph = nx.MultiDiGraph()
    graph.add_edge("Acme", "Lena", key="founder")
    graph.add_edge("Acme", "Ada", key="founder")
    kb = as_knowledge_base(graph, encoder=hashing_encoder)
    assert {t.value for t in kb.get_all("Acme", "founder")} == {"Lena", "Ada"}


def test_reading_a_graph_needs_no_networkx(monkeypatch):
    script = "import sys, kblam_integrations.networkx; print('networkx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "kblam-engine\[networkx\]"'):
        graph_from_kb([])


def test_the_docstrings_are_true():
    assert doctest.testmod(kblam_integrations.networkx).failed == 0


@pytest.mark.parametrize("label", ["name", "label"])
def test_properties_that_are_called_as_labels_are_come_back(label):
    triples = [Triple("n1", label, "Orca"), Triple("n2", label, "Kite"), Triple("n1", "price", "3")]
    graph = graph_from_kb(triples, literals="attributes")
    assert graph.nodes["n1"] == {"price": "3"}
    assert fingerprint(graph) == fingerprint(triples)


def test_a_snapshot_has_a_fingerprint(memory_kb):
    assert fingerprint(memory_kb.snapshot()) == fingerprint(memory_kb)


def test_one_triple_in_many_namespaces_takes_no_square_of_time():
    triples = [Triple("Orca 2", "maker", "Acme", namespace=f"n{i}") for i in range(3000)]
    graph = graph_from_kb([*triples, *triples])
    assert len(graph.edges) == 3000 and ("Orca 2", "Acme", "maker (3000)") in graph.edges
