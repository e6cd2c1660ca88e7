"""Graphs as knowledge: every edge is accounted for, relations become nouns, and samples can be drawn from the world."""

import json
from collections import defaultdict
from datetime import date
from random import Random

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kblam_engine.errors import ConfigurationError
from kblam_engine.training.kg2kv import kg2kv, listed
from kblam_engine.training.relations import RelationNamer, RelationNouns, named_by_rules, relation_words
from kblam_engine.training.samples import draw, follow_up
from kblam_engine.triples import Triple

ACME = [
    ("Acme", "foundedBy", "Lena Hoffmann"),
    ("Acme", "foundedBy", "Bo Quin"),
    ("Acme", "headquartered_in", "Ulm"),
    ("Acme", "acquired", "Orca Labs"),
    ("Orca Labs", "foundedBy", "Ana Silva"),
    ("Orca Labs", "located in", "Porto"),
    ("Lena Hoffmann", "born_in", "Ulm"),
    ("Ana Silva", "works-for", "Acme"),
]


def parts(triples):
    return {(t.name, t.property, t.value) for t in triples}


# --- relations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "of_head", "of_tail"),
    [
        ("foundedBy", "founder", "founded organisation"),
        ("FOUNDED_BY", "founder", "founded organisation"),
        ("hasBeenFoundedBy", "founder", "founded organisation"),
        ("founded", "founded organisation", "founder"),
        ("born_in", "birthplace", "native"),
        ("http://dbpedia.org/ontology/birthPlace", "birthplace", "native"),
        ("dbo:birthPlace", "birthplace", "native"),
        ("people.person.place_of_birth", "birthplace", "native"),
        ("isPartOf", "whole", "part"),
        ("has_part", "part", "whole"),
        ("has_capital", "capital", "country or region"),
        ("capitalOf", "country or region", "capital"),
        ("parent", "parent", "child"),
        ("mother of", "child", "parent"),
        ("WORKS_FOR", "employer", "employee"),
        ("worked at", "employer", "employee"),
        ("directed by", "director", "directed work"),
        ("nominated_by", "nominator", "nominated entity"),
        ("inhibits", "inhibited entity", "inhibitor"),
        ("frobnicated", "frobnicated entity", "frobnicator"),
        ("manufacturedIn", "place of manufacturing", "entity manufactured there"),
        ("exports to", "exporting destination", "entity exporting to it"),
        ("carried_out_by", "responsible party", "entity carried out by it"),
        ("won_award", "award", "winner"),
        ("speaksLanguage", "language", "speaker"),
        ("required skill", "required skill", "entity with this required skill"),
        ("mascotOf", "entity with this mascot", "mascot"),
        ("flight from", "flight origin", "entity with this flight origin"),
        ("date-of-birth", "date of birth", "entity with this date of birth"),
        ("GDPPerCapita", "GDP per capita", "entity with this GDP per capita"),
        ("hasISBN", "ISBN", "entity with this ISBN"),
        ("CEO", "CEO", "entity with this CEO"),
        ("coAuthor", "co-author", "co-author"),
        ("works", "works", "entity with this works"),
        ("marriedTo", "spouse", "spouse"),
        ("because", "cause", "effect"),
        ("as a result", "effect", "cause"),
        ("instance_of", "kind", "instance"),
        ("创始人", "创始人", "entity with this 创始人"),
    ],
)
def test_rules_name_relations(label, of_head, of_tail):
    nouns = named_by_rules(label)
    assert nouns is not None and (nouns.of_head, nouns.of_tail, nouns.source) == (of_head, of_tail, "rules")


@pytest.mark.parametrize("label", ["", "->", " __ ", "http://", "{}"])
def test_a_relation_without_words_has_no_noun(label):
    assert named_by_rules(label) is None


@given(st.text(max_size=40))
def test_any_label_gives_nouns_that_templates_can_hold(label):
    nouns = named_by_rules(label)
    assert (nouns is None) == (not relation_words(label))
    if nouns is not None:
        assert nouns.of_head.strip() == nouns.of_head != "" and nouns.of_tail.strip() == nouns.of_tail != ""
        assert not set("{}_") & set(nouns.of_head + nouns.of_tail)
        for question in (*nouns.ask_of_head, *nouns.ask_of_tail):
            assert question.count("{n}") == 1 and "{" not in question.replace("{n}", "")


def test_questions_fit_the_direction():
    nouns = named_by_rules("acquired")
    assert nouns.ask_of_head[0] == "What did {n} acquire?" and nouns.ask_of_tail[0] == "Who or what acquired {n}?"
    swapped = named_by_rules("acquired by")
    assert (swapped.ask_of_head, swapped.ask_of_tail) == (nouns.ask_of_tail, nouns.ask_of_head)
    assert "Whose mascot is {n}?" in named_by_rules("mascot").ask_of_tail


# --- a chat model -----------------------------------------------------------------------------------------


class Chat:
    """A chat model that says what it was told to, and remembers what it was asked."""

    def __init__(self, **replies):
        self.replies, self.asked = replies, []

    def __call__(self, messages):
        assert [m["role"] for m in messages] == ["system", "user"]
        label = messages[-1]["content"].split()[1]
        self.asked.append(label)
        return self.replies[label]


def reply(tail, head):
    return json.dumps({"tail": tail, "head": head})


def test_a_chat_model_is_asked_once_per_relation():
    chat = Chat(foundedBy="Sure!\n```json\n" + reply("The originator", "brainchild.") + "\n```")
    namer = RelationNamer(chat)
    for _ in range(3):
        nouns = namer("foundedBy")
    assert (nouns.of_head, nouns.of_tail, nouns.source) == ("originator", "brainchild", "model")
    assert chat.asked == ["foundedBy"] and not namer.refused
    again = RelationNamer(given=namer.named)  # another run needs no model
    assert again("foundedBy").of_head == "originator"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("founder", "expected a JSON object"),
        ("{tail: founder}", "not JSON"),
        (reply("founder", 3), "expected a text under 'head'"),
        (reply("founder", ""), "expected 1 to"),
        (reply("founder", "the company that somebody has once founded there"), "expected 1 to"),
        (reply("founder", "founded by"), "not a verb phrase"),
        (reply("founder", "is founded"), "not a verb phrase"),
        (reply("founder", "{n}"), "JSON"),
        (reply("founder", "org_name"), "expected letters"),
        (reply("Founder", "founder"), "the same noun"),
        (None, "expected a JSON object"),
    ],
)
def test_unusable_nouns_are_refused_and_the_rules_name_the_relation(text, why):
    namer = RelationNamer(Chat(foundedBy=text))
    assert namer("foundedBy") == named_by_rules("foundedBy")
    assert why in namer.refused["foundedBy"]


def test_two_relations_get_no_common_noun_from_a_model():
    namer = RelationNamer(Chat(born_in=reply("place", "person"), lives_in=reply("place", "inhabitant")))
    assert namer("born_in").of_head == "place"
    assert namer("lives_in").of_head == "residence" and "taken by 'born_in'" in namer.refused["lives_in"]


def test_what_a_chat_model_raises_reaches_the_caller():
    def broken(messages):
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError):
        kg2kv(ACME, namer=RelationNamer(broken))


def test_given_nouns_come_first_and_are_checked():
    nouns = RelationNouns("country code", "country", ("Which code has {n}?",))
    namer = RelationNamer(Chat(), given={"P297": nouns})
    found = kg2kv([("France", "P297", "FR")], namer=namer)
    assert parts(found.triples) == {("France", "country code", "FR"), ("FR", "country", "France")}
    assert found.samples[0].question == "Which code has France?" and found.relations["P297"].source == "given"
    with pytest.raises(ConfigurationError, match="expected a noun"):
        RelationNamer(given={"x": RelationNouns("a{n}", "b")})
    with pytest.raises(ConfigurationError, match="expected a question"):
        RelationNamer(given={"x": RelationNouns("a", "b", ("What?",))})


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
