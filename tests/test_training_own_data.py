"""Training on graphs and triples of the user's own."""

import json
from random import Random

import networkx as nx
import pytest
from graph_parts import ACME, parts
from typer.testing import CliRunner

from kblam_engine.cli import build_app
from kblam_engine.errors import ConfigurationError, ImportFileError
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.sources.graphs import GraphTriples
from kblam_engine.training.config import recipe
from kblam_engine.training.graph_edges import edges_of
from kblam_engine.training.kg2kv import kg2kv
from kblam_engine.training.own_data import digest_of, own_worlds, read_own
from kblam_engine.training.recipe import real_worlds, train
from kblam_engine.triple_files import write_triples
from kblam_engine.triples import Triple

TRIPLES = [
    Triple(f"Boat {n}", prop, f"{prop} {n}")
    for n in range(8)
    for prop in ("home port", "year of the last inspection by the harbour office")
]


@pytest.fixture
def files(tmp_path):
    """The same graph in two formats, and triples as a file and as a knowledge base."""
    graph = nx.MultiDiGraph()
    for head, relation, tail in ACME:
        graph.add_edge(head, tail, relation=relation)
    nx.write_graphml(graph, tmp_path / "acme.graphml")
    (tmp_path / "acme.edgelist").write_text("\n".join("\t".join((h, t, r)) for h, r, t in ACME), "utf-8")
    write_triples(tmp_path / "boats.jsonl", TRIPLES)
    with KnowledgeBase.open(tmp_path / "boats.kb", encoder=HashingEncoder()) as kb:
        kb.add(TRIPLES)
    return tmp_path


def test_graphs_are_read_in_both_directions_whatever_their_format(files):
    expected = parts(kg2kv(ACME).triples)
    for name in ("acme.graphml", "acme.edgelist"):
        assert parts(read_own(files / name).triples) == expected


def test_triples_keep_their_properties_and_are_asked_forwards(files):
    for name in ("boats.jsonl", "boats.kb"):
        found = read_own(files / name)
        assert parts(found.triples) == parts(TRIPLES), name
        assert {s.masked for s in found.samples} == {"tail"} and len(found.samples) == len(TRIPLES)
        assert "What is the home port of Boat 3?" in {s.question for s in found.samples}


def test_what_cannot_be_asked_about_is_told(tmp_path):
    (tmp_path / "a.edgelist").write_text("a b\nb c\n", "utf-8")
    with pytest.raises(ConfigurationError, match=r"a\.edgelist: expected triples to ask about.*2 edges dropped: no relation"):
        read_own(tmp_path / "a.edgelist")
    (tmp_path / "a.xyz").write_text("?", "utf-8")
    with pytest.raises(ImportFileError, match=r"a\.xyz"):
        read_own(tmp_path / "a.xyz")


def test_worlds_hold_what_the_run_does_not_leave_out(files):
    config = recipe(
        "smoke",
        data=(str(files / "boats.kb"), str(files / "acme.graphml")),
        n_data_worlds=2,
        exclude_names=frozenset({"Boat 3"}),
        exclude_properties=frozenset({"headquarters"}),
    )
    worlds = list(real_worlds(config, Random(0)))
    assert worlds == list(own_worlds(config, Random(0))) and len(worlds) == 4
    boats, _, acme, _ = worlds
    assert {k.triple.name for k in boats.known} == {f"Boat {n}" for n in range(8) if n != 3}
    properties = {k.triple.property for k in acme.known}
    assert "founder" in properties and "headquarters" not in properties
    assert any(acme.known[at].triple.value == "Lena Hoffmann" for at, _ in acme.links), "a graph has chains"
    with pytest.raises(ConfigurationError, match="left out"):
        list(own_worlds(recipe("smoke", data=config.data, exclude_names={t.name for t in TRIPLES}), Random(0)))


def test_other_contents_are_another_run(files):
    paths = [str(files / "boats.kb"), str(files / "acme.graphml")]
    before = digest_of(paths)
    assert before == digest_of(paths) != digest_of(paths[::-1])
    (files / "acme.graphml").write_text("<graphml/>", "utf-8")
    assert digest_of(paths) != before
    with pytest.raises(OSError):
        digest_of([str(files / "none.jsonl")])


def test_opening_a_knowledge_base_does_not_make_another_run_of_it(files):
    """While it is open, and after a process that had it open was killed, more files lie in its folder."""
    paths = [str(files / "boats.kb")]
    before = digest_of(paths)
    with KnowledgeBase.open(paths[0], encoder=HashingEncoder()):
        assert digest_of(paths) == before
    read_own(paths[0])
    (files / "boats.kb" / "kb.sqlite-wal").touch()
    (files / "boats.kb" / "left over").write_text("by a killed process", "utf-8")
    assert digest_of(paths) == before


def test_other_triples_in_a_knowledge_base_are_another_run(files):
    paths, seen = [str(files / "boats.kb")], set()
    for change in (
        lambda kb: None,
        lambda kb: kb.add([Triple("Boat 9", "home port", "Kiel")]),
        lambda kb: kb.remove(name="Boat 9"),
        lambda kb: (kb.remove(name="Boat 0"), kb.add(TRIPLES[:2])),  # the same in another order: other draws
    ):
        with KnowledgeBase.open(paths[0], encoder=HashingEncoder()) as kb:
            change(kb)
        seen.add(digest_of(paths))
    assert len(seen) == 3, "with and without Boat 9, and in another order"


def test_a_run_trains_on_them(files, tiny_model_folder, tmp_path):
    seen = set()
    config = recipe(
        "smoke",
        model=str(tiny_model_folder),
        encoder="hashing",
        data=(str(files / "acme.graphml"),),
        n_questions=20,
        n_queries=0,
        native_steps=2,
    )
    result = train(config, tmp_path / "adapter", lambda stage, *_: seen.add(stage))
    card = (result.folder / "README.md").read_text("utf-8")
    assert "acme.graphml" in card and {"evidence", "native tokens", "sentence embeddings"} <= seen
    told = config.to_dict()
    assert told["n_data_worlds"] == 4 and "data" not in recipe("smoke").to_dict()


def test_the_command_line_takes_data_and_kinds(files, tiny_model_folder, tmp_path, monkeypatch):
    seen = []

    def run(config, *_, **__):
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("kblam_engine.training.recipe.train", run)
    arguments = ["train", "--model", str(tiny_model_folder), "--recipe", "smoke", "--output", str(tmp_path / "a")]
    CliRunner().invoke(build_app(), [*arguments, "--data", "a.kb", "--data", "b.gml", "--kinds", "simple=9,chain=0"])
    assert seen[0].data == ("a.kb", "b.gml")
    assert dict(seen[0].answer_kinds) == {**dict(recipe("smoke").answer_kinds), "simple": 9.0, "chain": 0.0}
    done = CliRunner().invoke(build_app(), [*arguments, "--kinds", "simple:9"])
    assert done.exit_code == 2 and "simple=4" in done.output
    done = CliRunner().invoke(build_app(), [*arguments, "--kinds", "riddle=1"])
    assert done.exit_code == 2 and "riddle" in done.output and len(seen) == 1
    done = CliRunner().invoke(build_app(), [*arguments, "--data", str(files / "boats.kb"), "--dry-run", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["seconds"]["hard negatives"] >= 0


def test_training_and_sources_read_the_same_edges():
    """One place says what the edges of a graph are, which keys are relations, and where relations are kept."""
    graph = nx.MultiDiGraph()
    graph.add_edge("Lena", "Acme", key="founded")
    graph.add_edge("Lena", "Bo", relation="knows", weight=2)
    graph.add_edge("Bo", "Acme", predicate="works for")
    edges, _ = edges_of(graph)
    assert {(e.head, e.relation, e.tail) for e in edges} == parts(GraphTriples(graph))
    graph.add_edge("Bo", "Ulm", key="e12")  # GraphML's number of an edge
    edges, _ = edges_of(graph)
    assert [e.relation for e in edges if e.tail == "Ulm"] == [""]
