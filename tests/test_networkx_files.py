"""Files of graphs: what networkx writes is read back, what others write too, and what is broken is told with its place."""

import json
import re
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

import kblam_engine
from kblam_engine import KnowledgeBase
from kblam_engine.errors import ImportFileError, MissingDependencyError
from kblam_engine.sources import open_source
from kblam_engine.sources.graph_files import GraphFile, is_graph_file, read_graph
from kblam_engine.sources.graphs import GraphOptions

EXPECTED = {
    ("Acme Robotics", "founder", "Lena Hoffmann"),
    ("Acme Robotics", "city", "Bonn"),
    ("Orca 2", "maker", "Acme Robotics"),
}


def parts(triples):
    return {(t.name, t.property, t.value) for t in triples}


def company(kind=nx.DiGraph):
    graph = kind()
    graph.add_node("Acme Robotics", city="Bonn")
    graph.add_edge("Acme Robotics", "Lena Hoffmann", relation="founder", weight=0.5)
    graph.add_edge("Orca 2", "Acme Robotics", relation="maker", weight=1.0)
    return graph


def write_node_link(graph, path):
    path.write_text(json.dumps(nx.node_link_data(graph, edges="links")), "utf-8")


WRITERS = {
    ".graphml": nx.write_graphml,
    ".gexf": nx.write_gexf,
    ".gml": nx.write_gml,
    ".json": write_node_link,
    ".edgelist": lambda graph, path: nx.write_edgelist(graph, path, delimiter="\t"),
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("kind", [nx.DiGraph, nx.MultiDiGraph])
def test_what_networkx_writes_is_read(tmp_path, suffix, kind):
    path = tmp_path / f"graph{suffix}"
    WRITERS[suffix](company(kind), path)
    expected = EXPECTED - {("Acme Robotics", "city", "Bonn")} if suffix == ".edgelist" else EXPECTED
    triples = {(t.name, t.property, t.value): t for t in GraphFile(path)}
    assert triples.keys() == expected and is_graph_file(path)
    assert triples["Orca 2", "maker", "Acme Robotics"].metadata["weight"] == 1.0
    assert read_graph(path).is_directed()


@pytest.mark.parametrize("suffix", [".graphml", ".json"])
@pytest.mark.parametrize("pairs", [1, 2])
def test_keys_of_a_multigraph_outlive_the_file(tmp_path, suffix, pairs):
    graph = nx.MultiDiGraph()
    for relation in ("founder", "chair")[:pairs]:
        graph.add_edge("Acme", "Lena", key=relation)
    path = tmp_path / f"graph{suffix}"
    WRITERS[suffix](graph, path)
    assert parts(GraphFile(path)) == {("Acme", r, "Lena") for r in ("founder", "chair")[:pairs]}


def test_ids_of_edges_and_layout_are_no_knowledge(tmp_path):
    path = tmp_path / "graph.gexf"
    path.write_text(
        '<gexf xmlns="http://www.gexf.net/1.2draft" xmlns:viz="http://www.gexf.net/1.2draft/viz" version="1.2">'
        '<graph defaultedgetype="directed"><nodes><node id="0" label="Acme"><viz:size value="3"/></node>'
        '<node id="1" label="Lena"/></nodes><edges><edge id="7" source="0" target="1" label="founder"/></edges>'
        "</graph></gexf>"
    )
    assert parts(GraphFile(path)) == {("Acme", "founder", "Lena")}


def test_node_link_json_of_others(tmp_path):
    path = tmp_path / "graph.json"
    nodes = [{"id": 1, "label": "Acme"}, {"id": 2, "label": "Lena"}]
    path.write_text(json.dumps({"nodes": nodes, "edges": [{"source": 1, "target": 2, "type": "founder"}]}))
    assert parts(GraphFile(path)) == {("Acme", "founder", "Lena")}


@pytest.mark.parametrize("content", ["[1, 2]", '{"nodes": 3, "links": []}', '{"nodes": []}', "{", "[" * 100_000])
def test_other_json_is_no_graph(tmp_path, content):
    path = tmp_path / "graph.json"
    path.write_text(content)
    assert not is_graph_file(path) and not is_graph_file(tmp_path / "nothing.json")
    with pytest.raises(ImportFileError):
        read_graph(path)


def test_lines_of_an_edge_list(tmp_path):
    path = tmp_path / "graph.edgelist"
    path.write_text(
        "# head tail\n\nAcme Robotics\tLena Hoffmann\tfounder\nBonn Kiel 12.5\n"
        "Orca Acme {'relation': 'maker', 'since': 2019}\nKiel Bonn\n",
        "utf-8",
    )
    triples = {(t.name, t.property, t.value): t.metadata for t in GraphFile(path)}
    assert triples.keys() == {
        ("Acme Robotics", "founder", "Lena Hoffmann"),
        ("Bonn", "neighbour", "Kiel"),
        ("Orca", "maker", "Acme"),
        ("Kiel", "neighbour", "Bonn"),
    }
    assert triples["Bonn", "neighbour", "Kiel"]["weight"] == 12.5 and triples["Orca", "maker", "Acme"]["since"] == 2019
    named = GraphFile(path, options=GraphOptions(default_relation="road to"))
    assert ("Kiel", "road to", "Bonn") in parts(named)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("g.edgelist", b"a b\nalone\n", "line 2: expected head and tail"),
        ("g.edgelist", b"a b\na c {'x': __import__('os')}\n", "line 2: Failed to convert edge data"),
        ("g.edgelist", b"a b\n\xff\xfe\n", "not UTF-8"),
        ("g.graphml", b"<graphml>\n<graph", "line 2: not XML"),
        ("g.graphml", b"<html></html>", "no .graphml graph"),
        ("g.gexf", b"<gexf></gexf>", "no .gexf graph"),
        ("g.gml", b"graph [ node [ label 3 ] ]", "no .gml graph"),
        ("g.json", b'{"nodes": [{"id": 1}], "links": [{"source": 1}]}', "no .json graph: misses 'target'"),
        ("g.txt", b"a b", r"expected a graph \(.graphml, .* got .txt"),
    ],
)
def test_broken_files_are_told_with_their_place(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImportFileError, match=message):
        list(GraphFile(path))
    with pytest.raises(FileNotFoundError):
        list(GraphFile(tmp_path / f"missing.{name}"))


def test_a_value_without_text_names_the_file(tmp_path):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({"nodes": [{"id": "Orca 2", "size": {"x": 1}}], "links": []}))
    with pytest.raises(ImportFileError, match=r"graph.json: value: node 'Orca 2', attribute 'size'.*got dict"):
        list(GraphFile(path))
    assert list(GraphFile(path, options=GraphOptions(skip={"size"}))) == []


def test_what_is_too_long_is_left_out_and_counted(tmp_path):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({"nodes": [{"id": "Orca 2", "text": "x" * 10_001, "size": 3}], "links": []}))
    source = GraphFile(path)
    assert parts(source) == {("Orca 2", "size", "3")} and sum(source.skipped.values()) == 1


def test_a_file_fills_a_knowledge_base_and_says_where_it_came_from(tmp_path, hashing_encoder):
    path = tmp_path / "graph.graphml"
    nx.write_graphml(company(), path)
    with KnowledgeBase.open(":memory:", encoder=hashing_encoder) as kb:
        assert kb.add(GraphFile(path)).added == 3
        provenance = kb.get("Acme Robotics", "city").provenance
        assert (provenance.uri, provenance.extractor) == (str(path), "graph")


def test_the_command_line_imports_graphs(tmp_path, kblam):
    path = tmp_path / "graph.graphml"
    graph = nx.DiGraph([("Bonn", "Kiel", {"kind": "ferry to"}), ("Kiel", "Bonn", {})])
    nx.write_graphml(graph, path)
    kb = tmp_path / "a.kb"
    options = ["--option", "relation=kind", "--option", "default_relation=road to"]
    code, _, err = kblam("kb", "import", path, "--kb", kb, "--encoder", "hashing", *options)
    assert code == 0, err
    with KnowledgeBase.open(kb) as opened:
        assert parts(opened) == {("Bonn", "ferry to", "Kiel"), ("Kiel", "road to", "Bonn")}


@pytest.mark.parametrize("suffix", sorted(WRITERS))
def test_the_command_line_reads_graphs_as_python_does(tmp_path, kblam, suffix):
    path, kb = tmp_path / f"graph{suffix}", tmp_path / "a.kb"
    WRITERS[suffix](nx.DiGraph([("Bonn", "Kiel", {"relation": "ferry to", "hours": 7})]), path)
    told = {"inverse": "ferry to:reached by ferry from", "skip": "hours,colour", "lists": "joined",
            "edge_attributes": "triples", "both_directions": "false", "default_relation": "ferry to"}  # fmt: skip
    options = [part for key, value in told.items() for part in ("--option", f"{key}={value}")]
    code, _, err = kblam("kb", "import", path, "--kb", kb, "--encoder", "hashing", *options)
    assert code == 0, err
    with KnowledgeBase.open(kb) as opened:
        assert {("Bonn", "ferry to", "Kiel"), ("Kiel", "reached by ferry from", "Bonn")} == parts(opened)


@pytest.mark.parametrize(
    ("option", "told"),
    [("both_directions=maybe", "expected true or false, got 'maybe'"), ("lists=all", "'triples' or 'joined', got 'all'")],
)
def test_the_command_line_says_what_an_option_of_graphs_may_be(tmp_path, kblam, option, told):
    path = tmp_path / "graph.graphml"
    nx.write_graphml(company(), path)
    code, _, err = kblam("kb", "import", path, "--kb", tmp_path / "a.kb", "--encoder", "hashing", "--option", option)
    assert code != 0 and told in " ".join(err.split())


@pytest.mark.parametrize("text", ['[{"name": "a", "b": "c"}]', '{"name": "a", "b": "c"}'])
def test_options_of_graphs_need_a_graph(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ImportFileError, match="expected a graph, an object with nodes and links, for the options relation"):
        list(open_source(path, relation="kind"))


def test_without_networkx_the_error_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(MissingDependencyError, match=r"needs networkx; pip install 'kblam-engine\[networkx\]'"):
        read_graph(tmp_path / "graph.gml")


def test_the_snippets_of_the_docs_print_what_they_say(tmp_path):
    text = (Path(kblam_engine.__file__).parents[1] / "docs" / "networkx.md").read_text("utf-8")
    pairs = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(pairs) == 3
    for snippet, printed in pairs:
        done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert [line.rstrip() for line in done.stdout.splitlines()] == printed.splitlines()
