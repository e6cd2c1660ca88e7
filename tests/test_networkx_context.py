"""What is known of a triple beside its words, in a graph and back again."""

import networkx as nx
import pytest

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import TripleError
from kblam_engine.sources import open_source
from kblam_engine.triples import Provenance
from kblam_integrations.networkx import graph_from_kb, triples_from_graph


def told_apart():
    """Return triples that say all that a triple can, some of them alike in words."""
    known = Provenance("doc 1", "https://a.example/x.pdf", (3, 21), "rules", 0.9)
    return [
        Triple("Orca 2", "maker", "Acme", {"page": 3}, known, "fleet", ("ships", "new"), "2019", "2024-03-05"),
        Triple("Orca 2", "maker", "Acme", namespace="museum"),
        Triple("Orca 2", "maker", "Acme", provenance=Provenance(uri="b.txt")),
        Triple("Orca 2", "maker (2)", "Acme", tags=("odd",)),
        Triple("Acme", "founder", "Lena Hoffmann", valid_from="2009-03-12T10:00:00Z"),
    ]


def with_contexts(triples):
    return sorted((t.name, t.property, t.value, str(t.context()), str(dict(t.metadata))) for t in triples)


def test_a_graph_keeps_what_is_known_of_a_triple(hashing_encoder, tmp_path):
    triples = told_apart()
    with KnowledgeBase.open(":memory:", encoder=hashing_encoder, multi=True) as kb:
        kb.add(triples)
        graph = graph_from_kb(kb)
    assert with_contexts(triples_from_graph(graph)) == with_contexts(triples)
    assert with_contexts(triples_from_graph(graph_from_kb(triples[::-1]))) == with_contexts(triples)
    assert all(isinstance(v, str | int) for _, _, data in graph.edges(data=True) for v in data.values())
    nx.write_graphml(graph, tmp_path / "a.graphml")
    back = list(open_source(tmp_path / "a.graphml"))
    assert {t.namespace for t in back} == {"", "fleet", "museum"} and len(back) == 5
    assert next(t for t in back if t.namespace == "fleet").context() == triples[0].context()
    about = list(triples_from_graph(graph, edge_attributes="triples"))
    assert not any(t.property.startswith("kb_") for t in about) and any(t.property == "page" for t in about)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("kb_provenance", "page 3", "provenance: kb_provenance: expected a JSON object"),
        ("kb_provenance", "[1]", "expected an object, got list"),
        ("kb_valid_from", "soon", "valid_from"),
    ],
)
def test_a_context_that_is_none_is_an_error(attribute, value, message):
    graph = nx.DiGraph([("Orca 2", "Acme", {"relation": "maker", attribute: value})])
    with pytest.raises(TripleError, match=message):
        list(triples_from_graph(graph))
