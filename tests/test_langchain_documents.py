"""Documents in and out of a knowledge base, graph documents, and triples out as documents."""

from types import SimpleNamespace

import pytest
from engine_parts import QUESTION
from integration_parts import kb_of, ships, tiny_engine
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from pydantic import ValidationError

from kblam_engine.errors import ConfigurationError
from kblam_engine.triples import Triple
from kblam_integrations._documents import MAX_TEXT
from kblam_integrations._shared import triples_of
from kblam_integrations.langchain import (
    KBLaMDocumentIndex,
    KBLaMRetriever,
    triples_from_document,
    triples_from_graph_document,
)

ORCA = Document("name: Orca 2\nbattery life: 11 hours\nmaker: Acme", id="orca", metadata={"source": "orca.csv", "row": 1})
KITE = Document("name: Kite\nmaker: Acme", id="kite", metadata={"source": "kite.csv"})


def contents(kb):
    return {(t.name, t.property, t.value) for t in kb}


def new_index(**options):
    return KBLaMDocumentIndex(kb=kb_of(), **options)


def test_a_retriever_gives_what_the_engine_retrieves():
    expected = tiny_engine().retrieve(QUESTION, ships(), k=3)
    documents = KBLaMRetriever(engine=tiny_engine(), kb=ships(), k=3).invoke(QUESTION)
    assert [d.page_content for d in documents] == [found.triple.statement for found in expected]
    assert [d.metadata["score"] for d in documents] == [round(found.score, 6) for found in expected]
    assert [d.id for d in documents] == [str(found.id) for found in expected]


def test_a_retriever_takes_tenants_and_a_least_score():
    retriever = KBLaMRetriever(engine=tiny_engine(), kbs={"a": ships(), "b": kb_of(("Orca 2", "maker", "Acme"))})
    assert [d.metadata["value"] for d in retriever.invoke(QUESTION, kb_id="b")] == ["Acme"]
    scores = [d.metadata["score"] for d in retriever.invoke(QUESTION, kb_id="a")]
    least = KBLaMRetriever(engine=tiny_engine(), kb=ships(), min_score=scores[1])
    assert all(d.metadata["score"] >= scores[1] for d in least.invoke(QUESTION)) and least.invoke(QUESTION)
    assert least.invoke("  ") == []
    with pytest.raises(ConfigurationError, match="got None"):
        retriever.invoke(QUESTION)
    with pytest.raises(ConfigurationError, match="k: expected at least 1"):
        least.invoke(QUESTION, k=0)
    with pytest.raises(ValidationError, match="top_k"):
        KBLaMRetriever(engine=tiny_engine(), kb=ships(), top_k=3)


def test_documents_that_say_what_their_triples_are():
    assert contents(triples_from_document(ORCA)) == {
        ("Orca 2", "battery life", "11 hours"),
        ("Orca 2", "maker", "Acme"),
    }
    typed = Document("11 hours", metadata={"name": "Orca 2", "property": "battery life"})
    assert contents(triples_from_document(typed)) == {("Orca 2", "battery life", "11 hours")}
    titled = Document("maker: Acme\nsite: https://acme.example", metadata={"title": "Orca 2"})
    assert ("Orca 2", "site", "https://acme.example") in contents(triples_from_document(titled))
    for text in ("The Orca 2 is a robot.", "maker: Acme", ""):
        with pytest.raises(ConfigurationError, match="extract="):
            triples_from_document(Document(text))


def test_the_indexing_api_fills_a_knowledge_base_once_and_cleans_up():
    records, kb_index = InMemoryRecordManager("kb"), new_index()
    records.create_schema()

    def run(*documents):
        done = index(documents, records, kb_index, cleanup="full", source_id_key="source", key_encoder="sha256")
        return done["num_added"], done["num_skipped"], done["num_deleted"]

    assert run(ORCA, KITE) == (2, 0, 0)
    assert contents(kb_index.kb) == contents(triples_from_document(ORCA) + triples_from_document(KITE))
    revision = kb_index.kb.revision
    assert run(ORCA, KITE) == (0, 2, 0) and kb_index.kb.revision == revision
    changed = Document("name: Orca 2\nbattery life: 12 hours", metadata=ORCA.metadata)
    assert run(changed, KITE) == (1, 1, 1)
    assert contents(kb_index.kb) == {("Orca 2", "battery life", "12 hours"), ("Kite", "maker", "Acme")}
    assert run(KITE) == (0, 1, 1) and contents(kb_index.kb) == {("Kite", "maker", "Acme")}


def test_a_triple_goes_with_the_last_document_that_says_it():
    kb_index = new_index()
    kb_index.kb.add([Triple("Orca 2", "maker", "Acme", {"checked": True})])
    again = Document("name: Orca 2\nbattery life: 11 hours", id="again")
    kb_index.upsert([ORCA, again])
    assert kb_index.delete(["orca", "nobody"])["succeeded"] == ["orca"]
    assert contents(kb_index.kb) == {("Orca 2", "maker", "Acme"), ("Orca 2", "battery life", "11 hours")}
    assert dict(kb_index.kb.get("Orca 2", "maker").metadata)["checked"] is True  # it was there before
    kb_index.delete(["again"])
    assert contents(kb_index.kb) == {("Orca 2", "maker", "Acme")}
    with pytest.raises(ValueError, match="ids"):
        kb_index.delete()


def test_a_changed_document_leaves_nothing_behind():
    kb_index = new_index()
    kb_index.upsert([ORCA, KITE])
    kb_index.upsert([Document("name: Orca 3\nmaker: Acme", id="orca")])
    assert contents(kb_index.kb) == {("Orca 3", "maker", "Acme"), ("Kite", "maker", "Acme")}
    assert [d.page_content for d in kb_index.get(["orca"])] == ["name: Orca 3\nmaker: Acme"]


def test_others_may_change_the_knowledge_base_too():
    kb_index = new_index()
    kb_index.upsert([ORCA])
    kb_index.kb.set("Orca 2", "battery life", "9 hours")
    assert kb_index.delete(["orca"])["num_deleted"] == 1
    assert contents(kb_index.kb) == {("Orca 2", "battery life", "9 hours")}


def test_documents_that_give_nothing_are_told_and_store_nothing():
    kb_index = new_index(extract=lambda document: [])
    with pytest.raises(ConfigurationError, match="'orca': no triples"):
        kb_index.upsert([ORCA])
    long = Document("name: a\nb: " + "c" * MAX_TEXT, id="long")
    with pytest.raises(ConfigurationError, match="'long': expected at most"):
        new_index(extract=lambda document: [Triple("a", "b", "c")]).upsert([ORCA, long])
    assert len(kb_index.kb) == 0
    with pytest.raises(ValidationError, match="KBSnapshot"):
        KBLaMDocumentIndex(kb=ships().snapshot())


def test_an_index_finds_documents_by_meaning():
    kb_index = new_index(k=1)
    kb_index.upsert([ORCA, KITE])
    (found,) = kb_index.invoke("battery life of the Orca 2")
    assert found == ORCA
    assert {d.id for d in kb_index.invoke("who made the Kite", k=2)} == {"orca", "kite"}


def test_answers_name_documents_without_their_texts():
    kb_index = new_index()
    kb_index.upsert([ORCA])
    (document, *_) = KBLaMRetriever(engine=tiny_engine(), kb=kb_index.kb).invoke(QUESTION)
    assert document.metadata["document_ids"] == ["orca"] and document.metadata["source"] == "orca.csv"
    assert "documents" not in document.metadata


def graph_document():
    lena = SimpleNamespace(id="Lena Hoffmann", type="Person", properties={})
    acme = SimpleNamespace(id="acme", type="Company", properties={"name": "Acme", "size": 12, "old": None})
    founded = SimpleNamespace(source=acme, target=lena, type="FOUNDED_BY", properties={"year": 2009})
    return SimpleNamespace(nodes=[lena, acme], relationships=[founded], source=ORCA)


def test_graph_documents_are_read_by_their_shape():
    triples = list(triples_from_graph_document(graph_document()))
    assert contents(triples) == {("Acme", "size", "12"), ("Acme", "founded by", "Lena Hoffmann")}
    edge = next(t for t in triples if t.property == "founded by")
    assert dict(edge.metadata) == {"relationship_year": "2009", "document_id": "orca", "source": "orca.csv"}
    assert list(triples_of([graph_document()])) == triples == list(triples_of(graph_document()))
    kb_index = new_index(extract=lambda document: triples_from_graph_document(graph_document()))
    kb_index.upsert([ORCA])
    assert contents(kb_index.kb) == contents(triples) and kb_index.get(["orca"]) == [ORCA]
