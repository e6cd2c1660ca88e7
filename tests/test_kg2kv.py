"""Graphs as knowledge: every edge is accounted for, and samples can be drawn from the world."""

from collections import defaultdict
from datetime import date
from random import Random

import networkx as nx
import pytest
from graph_parts import ACME, parts
from hypothesis import given
from hypothesis import strategies as st

from kblam_engine.errors import ConfigurationError
from kblam_engine.training.kg2kv import kg2kv, listed
from kblam_engine.training.relations import named_by_rules
from kblam_engine.training.samples import draw, follow_up
from kblam_engine.triples import Triple

# --- edges ------------------------------------------------------------------------------------------------


def test_an_edge_is_read_in_both_directions():
    found = kg2kv(ACME)
    assert found.n_edges == found.n_used == 8 and not found.dropped and not found.one_way
    assert ("Orca Labs", "founder", "Ana Silva") in parts(found.triples)
    assert ("Ana Silva", "founded organisation", "Orca Labs") in parts(found.triples)
    assert len(found.triples) == 16
    by_key = {s.key: s for s in found.samples}
    sample = by_key["the headquarters of Acme"]
    assert (sample.question, sample.values, sample.masked) == ("Where is Acme based?", ("Ulm",), "tail")
    assert sample.answer == "The headquarters of Acme is Ulm." and sample.relation == "headquartered_in"
    assert by_key["the native of Ulm"].values == ("Lena Hoffmann",) and by_key["the native of Ulm"].masked == "head"


def test_one_direction_on_request():
    assert {s.masked for s in kg2kv(ACME, masked=["tail"]).samples} == {"tail"}
    assert {s.masked for s in kg2kv(ACME, masked=["head"]).samples} == {"head"}
    with pytest.raises(ConfigurationError, match="masked"):
        kg2kv(ACME, masked=[])


def test_several_tails_are_several_values():
    found = kg2kv(ACME)
    sample = next(s for s in found.samples if s.key == "the founder of Acme")
    assert sample.values == ("Lena Hoffmann", "Bo Quin")
    assert sample.answer == "The founder of Acme is Lena Hoffmann and Bo Quin."
    assert [t.value for t in found.triples if (t.name, t.property) == ("Acme", "founder")] == list(sample.values)
    assert listed(["a", "b", "c"]) == "a, b and c" and listed(["a, b", "c"]) == "a, b; c"


def test_too_many_values_are_in_no_sample_and_are_told():
    found = kg2kv([(f"Person {i}", "born in", "Ulm") for i in range(6)])
    assert found.crowded == (("Ulm", "native"),) and found.n_used == 6 and len(found.triples) == 12
    assert "native" not in {s.property for s in found.samples} and "too many values" in found.summary()


def test_what_is_dropped_is_counted():
    edges = [
        ("a", "knows", "A"),
        ("", "knows", "b"),
        ("a", None, "b"),
        ("a", "knows", float("nan")),
        ("a", "->", "b"),
        ("a", "b"),
        "abc",
        ("Acme", "founded by", "Lena"),
        ("Acme", "founder", "Lena"),  # says the same
        ("Lena", "founded", "Acme"),
        ("x" * 61, "knows", "y" * 61),
        ("a", "knows", "b\ud800"),
        ("c", "knows", "d\0"),
    ]
    found = kg2kv(edges)
    assert found.dropped == {
        "a self-loop": 1,
        "no head": 1,
        "no relation": 1,
        "no tail": 1,
        "a relation without words": 1,
        "not three parts": 2,
        "says again what another edge says": 2,
        "the name is longer than 60 characters": 1,
        "not usable text: value": 2,
    }
    assert found.n_edges == 13 and found.n_used == 1 and set(found.relations) == {"founded by"}
    for why in found.dropped:
        assert why in found.summary()


@pytest.mark.parametrize(
    "tail", [84000, 3.5, True, date(1998, 5, 4), "84,000", "12 km", "1998-05-04", "4 May 1998", "$3.5 million",
             "https://acme.example/x", "a@b.example", "yes", "word " * 13]
)  # fmt: skip
def test_literals_are_not_asked_backwards(tail):
    found = kg2kv([("Acme", "detail", tail)])
    assert [t.property for t in found.triples] == ["detail"] and found.one_way == {"the tail is a literal": 1}


@pytest.mark.parametrize("tail", ["3M", "50 Cent", "7-Eleven", "Apollo 11", "U2", "Ulm"])
def test_names_with_digits_are_no_literals(tail):
    assert len(kg2kv([("Acme", "detail", tail)]).triples) == 2


def test_a_year_with_edges_of_its_own_is_a_thing():
    assert len(kg2kv([("Acme", "event", "1998"), ("1998", "part of", "the nineties")]).triples) == 4


def test_long_labels_are_values_and_no_names():
    text = "x" * 100
    found = kg2kv([("Acme", "motto", text), (text, "used in", "Ulm"), ("Acme", "creed", "y" * 300)])
    assert parts(found.triples) == {("Acme", "motto", text), ("Ulm", "entity used for it", text)}
    assert found.one_way == {"the name is longer than 60 characters": 2}
    assert found.dropped == {"the value is longer than 280 characters": 1}


def test_triples_are_edges_too():
    assert kg2kv([Triple(*edge) for edge in ACME]) == kg2kv(ACME) == kg2kv(iter(ACME))


@pytest.mark.parametrize("graph", ["abc", {"a": "b"}, 3, None])
def test_what_is_no_graph_is_told(graph):
    with pytest.raises(ConfigurationError, match="expected .head, relation, tail. edges or a networkx graph"):
        kg2kv(graph)


# --- networkx ---------------------------------------------------------------------------------------------


def test_directed_graphs():
    graph = nx.DiGraph()
    for head, relation, tail in ACME[1:]:
        graph.add_edge(head, tail, relation=relation, weight=1)
    assert parts(kg2kv(graph).triples) == parts(kg2kv(ACME[1:]).triples)


def test_multigraphs_keep_parallel_edges_and_their_keys():
    graph = nx.MultiDiGraph()
    graph.add_edge("Lena", "Acme", key="founded")
    graph.add_edge("Lena", "Acme", key="works_for")
    graph.add_edge("Lena", "Bo", kind="knows")
    assert set(kg2kv(graph).relations) == {"founded", "works_for"} and kg2kv(graph).dropped == {"no relation": 1}
    assert set(kg2kv(graph, relation_attribute="kind").relations) == {"knows"}


def test_an_undirected_graph_says_only_what_is_true_both_ways():
    graph = nx.Graph()
    graph.add_edge("Acme", "Berlin", relation="seat")
    graph.add_edge("Ana", "Bo", relation="married to")
    found = kg2kv(graph)
    assert parts(found.triples) == {("Ana", "spouse", "Bo"), ("Bo", "spouse", "Ana")}
    assert found.dropped == {"no direction": 1}


def test_node_labels_and_labels_that_several_nodes_share():
    graph = nx.DiGraph()
    graph.add_node(1, label="Smith")
    graph.add_node(2, label="Smith")
    graph.add_edge(1, 3, label="knows")
    graph.add_edge(2, 4, label="knows")
    found = kg2kv(graph)
    assert found.shared_labels == ("Smith",) and "labels shared" in found.summary()
    assert ("Smith", "acquaintance", "3") in parts(found.triples)
    assert not kg2kv(graph, label=lambda node: f"Person {node}").shared_labels


def test_karate_club_has_no_relations_and_says_so():
    found = kg2kv(nx.karate_club_graph())
    assert found.n_used == 0 and found.dropped == {"no relation": 78}


# --- properties -------------------------------------------------------------------------------------------

LABELS = st.sampled_from(["Acme", "Lena", "Bo", "Ulm", "1998", "a, b and c", "", " ", "x" * 61, "acme", "y" * 281, "{n}"])
RELATIONS = st.sampled_from(["foundedBy", "founded", "born_in", "knows", "capital", "mascotOf", "->", "", "wins{n}"])
EDGES = st.lists(st.tuples(LABELS, RELATIONS, LABELS) | st.just(("a", "b")), max_size=25)


@given(EDGES)
def test_every_edge_is_accounted_for(edges):
    found = kg2kv(edges)
    assert found.n_edges == len(edges) == found.n_used + sum(found.dropped.values())
    assert sum(found.one_way.values()) <= found.n_used <= len(found.triples) <= 2 * found.n_used
    assert len(parts(found.triples)) == len(found.triples)
    said = set()
    for edge in edges:
        nouns = named_by_rules(edge[1]) if len(edge) == 3 else None
        if nouns is not None:
            head, tail = edge[0].strip(), edge[2].strip()
            said |= {(head, nouns.of_head, tail), (tail, nouns.of_tail, head)}
    assert parts(found.triples) <= said
    values = defaultdict(list)
    for triple in found.triples:
        values[triple.name, triple.property].append(triple.value)
    assert {(s.name, s.property): list(s.values) for s in found.samples} == {
        key: v for key, v in values.items() if key not in found.crowded
    }


@given(EDGES, st.integers(0, 3))
def test_a_world_of_any_graph_can_be_drawn_from(edges, seed):
    found = kg2kv(edges)
    by_name = defaultdict(set)
    for sample in found.samples:
        by_name[sample.name].add(sample.property)
    if not any(len(properties) > 1 for properties in by_name.values()):
        with pytest.raises(ConfigurationError, match="two properties"):
            found.world(Random(seed))
        return
    world = found.world(Random(seed))
    assert {k.triple.name for k in world.known} == set(by_name)
    for number, members in enumerate(world.entities):
        assert {world.known[p].entity for p in members} == {number}
        assert len({world.known[p].triple.property for p in members}) == len(members)
    follow_up(Random(seed), world)


# --- the world --------------------------------------------------------------------------------------------


def graph_of_people(n=60):
    edges = []
    for i in range(n):
        edges += [
            (f"Person {i}", "born_in", f"Town {i % 7}"),
            (f"Person {i}", "worksFor", f"Firm {i % 11}"),
            (f"Person {i}", "marriedTo", f"Person {n - 1 - i}"),
            (f"Person {i}", "plays_instrument", ["oboe", "harp", "lute"][i % 3]),
            (f"Firm {i % 11}", "founded year", str(1900 + i % 11)),
            (f"Firm {i % 11}", "chaired by", f"Person {i % 11}"),
        ]
    return edges


def test_samples_are_drawn_as_from_any_other_world():
    found = kg2kv(graph_of_people())
    world = found.world(Random(0), 40)
    assert len(world.entities) == 40 and all(k.phrases is not None for k in world.known)
    assert sum(len(entity) > 1 for entity in world.entities) > 30  # entities keep several relations
    samples = [draw(Random(i), world) for i in range(200)]
    assert {s.kind for s in samples} == {"simple", "follow_up", "two_facts", "unanswerable"}
    assert all("{" not in m["content"] for s in samples for m in s.messages)
    assert world == found.world(Random(0), 40) != found.world(Random(1), 40)


def test_a_world_is_mostly_of_entities_with_several_properties():
    star = [("hub of a star", f"detail {'abcdefgh'[i % 8]}", f"leaf {i}") for i in range(40)]
    world = kg2kv(graph_of_people() + star + [(f"x{i}", "detail", f"y{i}") for i in range(300)]).world(Random(0), 50)
    assert len(world.entities) == 50 and sum(len(entity) > 1 for entity in world.entities) == 40


def test_phrases_of_a_relation():
    phrases = kg2kv(graph_of_people()).phrases
    employer, spouse = phrases["employer"], phrases["spouse"]
    assert employer.questions[0] == "Who does {n} work for?" and "Who is the employer of {n}?" in employer.questions
    assert spouse.value_kind == "person" and "Who is its spouse?" in spouse.follow_ups
    for noun, p in phrases.items():
        assert p.property == noun not in p.near and len(p.near) == len(p.near_questions) > 0 and p.values
        assert all(q.count("{n}") == 1 for q in (*p.questions, *p.near_questions))
        assert all("{" not in f for f in p.follow_ups)
        assert all(a.count("{v}") == 1 and a.count("{n}") <= 1 for a in p.answers)
    assert set(employer.near) >= {"birthplace", "spouse", "instrument"}  # what people of this graph have beside it
