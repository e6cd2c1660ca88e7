"""What the bridges take for a knowledge base."""

import networkx
import pytest

from kblam_engine.errors import ConfigurationError, KnowledgeBaseNotFoundError
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Triple
from kblam_integrations._shared import KBRegistry, as_knowledge_base

FOUNDER = Triple("Acme", "founder", "Lena")


def told(source):
    return [(t.name, t.property, t.value) for t in as_knowledge_base(source, encoder=HashingEncoder())]


def test_files_of_any_kind_that_sources_read(tmp_path):
    table, page, graph = (tmp_path / name for name in ("a.csv", "a.md", "a.graphml"))
    table.write_text("name,founder\nAcme,Lena\n")
    page.write_text("# Acme\n\n- founder: Lena\n")
    edges = networkx.DiGraph()
    edges.add_edge("Acme", "Lena", relation="founder")
    networkx.write_graphml(edges, graph)
    for path in (table, page, graph, str(table)):
        assert told(path) == [("Acme", "founder", "Lena")], path


def test_graphs_triples_and_mappings():
    edges = networkx.DiGraph()
    edges.add_edge("Acme", "Lena", relation="founder")
    for source in (edges, [FOUNDER], [("Acme", "founder", "Lena")], [FOUNDER.to_dict()]):
        assert told(source) == [("Acme", "founder", "Lena")]


def test_a_folder_is_a_knowledge_base_whatever_it_is_called(tmp_path):
    with KnowledgeBase.open(tmp_path / "shop.csv", encoder=HashingEncoder()) as kb:
        kb.add([FOUNDER])
        assert as_knowledge_base(kb) is kb
    found = as_knowledge_base(tmp_path / "shop.csv")
    assert found.get("Acme", "founder") == FOUNDER
    assert as_knowledge_base(str(tmp_path / "shop.csv")) is found, "opened once"
    found.close()


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(KnowledgeBaseNotFoundError):
        as_knowledge_base(tmp_path / "no.kb")
    with pytest.raises(FileNotFoundError):
        as_knowledge_base(tmp_path / "no.md")
    with pytest.raises(ConfigurationError, match="got int"):
        as_knowledge_base(3)
    assert not list(tmp_path.iterdir())


def test_a_registry_takes_files_too(tmp_path):
    (tmp_path / "a.csv").write_text("name,founder\nAcme,Lena\n")
    registry = KBRegistry({"acme": tmp_path / "a.csv"}, encoder=HashingEncoder())
    assert registry.get("acme").get("Acme", "founder").value == "Lena"
    with pytest.raises(ConfigurationError, match="no knowledge base is registered as 'other'"):
        registry.get("other")


def test_what_is_no_registry_is_told():
    for wrong in ([("a", [FOUNDER])], "acme.kb"):
        with pytest.raises(ConfigurationError, match="kbs: expected a mapping"):
            KBRegistry(wrong)
