"""Documents in and out of a knowledge base, graph documents, and triples out as documents."""

import decimal
import math
from types import SimpleNamespace

import numpy as np
import pytest
from engine_parts import QUESTION
from integration_parts import kb_of, ships, tiny_engine
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from pydantic import ValidationError

from kblam_engine.errors import ConfigurationError, TripleError
from kblam_engine.sources.loaded import LoadedDocumentExtractor
from kblam_engine.triples import Provenance, Triple
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
    assert document.metadata["provenance"] == {"document": "orca", "uri": "orca.csv", "span": [13, 35]}


def test_triples_say_where_in_which_document_they_stand():
    kb_index = new_index()
    second = "name: Kite\n\n  maker: Acme  \nuse: to fly"
    part = Document(second, id="kite#1", metadata={"source": "kites.txt", "start_index": 100})
    kb_index.upsert([ORCA, part, Document("11 km", metadata={"name": "Kite", "property": "range", "url": "https://a.b"})])
    for triple in kb_index.kb:
        origin = triple.provenance
        if origin.document == "kite#1":
            start, end = (at - 100 for at in origin.span)
            assert second[start:end].strip() == f"{triple.property}: {triple.value}" and origin.uri == "kites.txt"
        elif triple.property == "range":
            assert (origin.uri, origin.span, len(origin.document) > 30) == ("https://a.b", None, True)
        else:
            start, end = origin.span
            assert ORCA.page_content[start:end] == f"{triple.property}: {triple.value}"
    kb = kb_index.kb
    assert {t.property for t in kb.view(source="kites.txt")} == {"maker", "use"} and len(kb.view(source="orca")) == 2
    own = Triple("Orca 2", "price", "9", provenance=Provenance(span=(5, 6), extractor="rules"))
    kb_index.extract = lambda document: [own]
    kb_index.upsert([ORCA])
    (triple,) = kb.view(source="orca")
    assert triple.provenance == Provenance("orca", "orca.csv", (5, 6), "rules")
    odd = Document("name: a\nb: c", id="x" * 3000, metadata={"source": "two\nlines"})
    assert triples_from_document(odd)[0].provenance is None  # what no provenance can hold is left out


def test_the_provenance_of_a_triple_is_the_last_document_that_says_it():
    kb_index = new_index()
    kb = kb_index.kb
    by_hand = Triple("Kite", "maker", "Acme", {"source": "a book", "page": 4}, Provenance("by hand"))
    kb.add([by_hand])
    for number in (1, 2):
        metadata = {"source": f"{number}.txt"}
        kb_index.upsert([Document("name: Kite\nmaker: Acme", id=f"d{number}", metadata=metadata)])
    triple = kb.get("Kite", "maker")
    assert triple.provenance == Provenance("d2", "2.txt", (11, 22)) and triple.metadata["source"] == "2.txt"
    assert [d.id for d in kb_index.get(["d1", "d2"])] == ["d1", "d2"] and triple.metadata["page"] == 4
    kb_index.delete(["d2"])
    triple = kb.get("Kite", "maker")
    assert triple.provenance == Provenance("d1", "1.txt", (11, 22)) and triple.metadata["source"] == "1.txt"
    kb_index.delete(["d1"])
    assert kb.get("Kite", "maker") == by_hand


@pytest.mark.parametrize("multi", [False, True])
def test_many_triples_go_in_one_transaction(multi):
    kb = kb_of(multi=multi)
    kb_index = KBLaMDocumentIndex(kb=kb)

    def sheet(number, n_lines, value="v"):
        lines = "\n".join(f"property {line}: {value} {line}" for line in range(n_lines))
        return Document(f"name: Robot {number}\n{lines}", id=f"sheet {number}")

    kb_index.upsert([sheet(n, 40) for n in range(5)])
    twin = Document("name: Robot 0\nproperty 3: v 3\nproperty 4: v 4", id="twin")
    kb_index.upsert([twin])
    assert kb.revision == 2 and len(kb) == 200
    kb_index.delete([f"sheet {n}" for n in range(1, 5)])
    assert kb.revision == 3 and len(kb) == 40
    kb_index.upsert([sheet(0, 6, "w")])  # all lines change, and of 34 nothing is left
    assert kb.revision == 5
    changed = {("Robot 0", f"property {n}", f"w {n}") for n in range(6)}
    assert contents(kb) == changed | (contents(triples_from_document(twin)) if multi else set())
    kb_index.delete(["sheet 0"])
    assert contents(kb) == (contents(triples_from_document(twin)) if multi else set())


def graph_document():
    lena = SimpleNamespace(id="Lena Hoffmann", type="Person", properties={})
    acme = SimpleNamespace(id="acme", type="Company", properties={"name": "Acme", "size": 12, "old": None})
    founded = SimpleNamespace(source=acme, target=lena, type="FOUNDED_BY", properties={"year": 2009})
    return SimpleNamespace(nodes=[lena, acme], relationships=[founded], source=ORCA)


def test_graph_documents_are_read_by_their_shape():
    triples = list(triples_from_graph_document(graph_document()))
    assert contents(triples) == {("Acme", "size", "12"), ("Acme", "founded by", "Lena Hoffmann")}
    edge = next(t for t in triples if t.property == "founded by")
    assert dict(edge.metadata) == {"relationship_year": "2009"}
    assert edge.provenance == Provenance("orca", "orca.csv")
    assert list(triples_of([graph_document()])) == triples == list(triples_of(graph_document()))
    kb_index = new_index(extract=lambda document: triples_from_graph_document(graph_document()))
    kb_index.upsert([ORCA])
    assert contents(kb_index.kb) == contents(triples) and kb_index.get(["orca"]) == [ORCA]


@pytest.mark.parametrize("nothing", [None, math.nan, np.float32("nan"), decimal.Decimal("NaN"), [], [None, math.nan]])
def test_what_a_graph_document_does_not_know_is_no_text(nothing):
    node = SimpleNamespace(id="Orca 2", type="Robot", properties={"price": nothing, "tags": ["new", nothing], "nickname": "nan"})
    maker = SimpleNamespace(id="Acme", type="Company", properties={})
    edge = SimpleNamespace(source=node, target=maker, type="MADE_BY", properties={"since": nothing})
    tags, nickname, made = triples_from_graph_document(SimpleNamespace(nodes=[node, maker], relationships=[edge]))
    assert (tags.value, nickname.value) == ("new", "nan")
    assert (made.value, dict(made.metadata)) == ("Acme", {})


def test_a_graph_document_gives_what_is_usable_and_tells_the_rest():
    nodes = [SimpleNamespace(id="", type="Person", properties={"age": 61}), SimpleNamespace(id="Acme", properties={"staff": 40})]
    edges = [
        SimpleNamespace(source=nodes[0], target=nodes[1], type="FOUNDED", properties={}),
        SimpleNamespace(source=nodes[1], target=SimpleNamespace(id="Bonn", properties={}), type="CITY", properties={}),
    ]
    told, broken = [], SimpleNamespace(nodes=nodes, relationships=edges, source=None)
    found = triples_from_graph_document(broken, on_rejected=told.append)
    assert contents(found) == {("Acme", "staff", "40"), ("Acme", "city", "Bonn")}
    assert [line.partition(":")[0] for line in told] == ["property 'age' of ''", "'' -[FOUNDED]-> 'Acme'"]
    with pytest.raises(TripleError, match="name"):
        list(triples_from_graph_document(broken))


def test_an_empty_page_can_be_skipped(caplog):
    pages = [
        Document("name: Orca 2\ncolour: red", metadata={"source": "a.pdf"}),
        Document("  ", metadata={"source": "blank.pdf"}),
        Document("name: Kite\ncolour: blue", metadata={"source": "b.pdf"}),
    ]
    options = {"cleanup": "incremental", "source_id_key": "source", "key_encoder": "sha256"}

    def indexed(target):
        records = InMemoryRecordManager("pages")
        records.create_schema()
        return index(pages, records, target, **options)

    with pytest.raises(ConfigurationError, match="expected metadata name and property"):
        indexed(new_index())
    skipping = new_index(empty="skip")
    indexed(skipping)
    assert contents(skipping.kb) == {("Orca 2", "colour", "red"), ("Kite", "colour", "blue")}
    assert "no triples were found in it; skipped" in caplog.text
    for extract in (triples_from_document, lambda document: []):
        one = new_index(empty="skip")
        one.upsert([Document("name: Orca 2\ncolour: red", id="orca")])
        one.extract = extract
        response = one.upsert([Document("x" * (MAX_TEXT + 1), id="orca")])  # what it said before goes
        assert (response["succeeded"], response["failed"]) == ([], ["orca"]) and len(one.kb) == 0
    with pytest.raises(ConfigurationError, match="no triples were found"):
        new_index(extract=lambda document: []).upsert([Document("a", id="a")])
    with pytest.raises(ValidationError, match="empty"):
        new_index(empty="ignore")


def test_what_is_wrong_with_a_skipping_index_is_still_an_error():
    def extract(document):
        raise ConfigurationError("the extractor has no model")

    with pytest.raises(ConfigurationError, match="has no model"):
        new_index(empty="skip", extract=extract).upsert([Document("a", id="a")])


def test_node_types_are_triples_when_asked_for():
    lena = SimpleNamespace(id="Lena", type="Person", properties={})
    known = SimpleNamespace(nodes=[lena, SimpleNamespace(id="Acme", type="Node", properties={})], relationships=[])
    assert contents(triples_from_graph_document(known, node_types=True)) == {("Lena", "type", "Person")}
    assert not list(triples_from_graph_document(known))


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (False, "false"), (0.0, "0.0"), ([1, 2], "1, 2"), ({"a": 1}, "{'a': 1}")])
def test_a_value_in_the_metadata_is_the_value_even_if_it_is_nought(value, text):
    document = Document("The whole page.", metadata={"name": "Orca 2", "property": "weight", "value": value})
    for read in (triples_from_document, LoadedDocumentExtractor(["structured"])):
        assert contents(read(document)) == {("Orca 2", "weight", text)}
    for nothing in (None, float("nan"), "", " ", []):
        document.metadata["value"] = nothing
        assert contents(triples_from_document(document)) == {("Orca 2", "weight", "The whole page.")}


def test_a_name_may_be_nought_and_none_is_no_name():
    assert contents(triples_from_document(Document("maker: Acme", metadata={"name": 0, "title": "b"}))) == {("0", "maker", "Acme")}
    nameless = Document("maker: Acme", metadata={"name": None, "property": None, "title": "Orca 2"})
    assert contents(triples_from_document(nameless)) == {("Orca 2", "maker", "Acme")}


def test_of_documents_with_one_id_in_a_batch_the_last_counts():
    kb_index = new_index(empty="skip")
    response = kb_index.upsert([ORCA, KITE, Document("prose", id="kite"), Document("name: Orca 2\nmaker: Borealis", id="orca")])
    assert (response["succeeded"], response["failed"]) == (["orca"], ["kite"])
    assert contents(kb_index.kb) == {("Orca 2", "maker", "Borealis")}
    assert [found.page_content for found in kb_index.get(["orca", "kite"])] == ["name: Orca 2\nmaker: Borealis"]


UNUSABLE = {
    "a long value": (Document("name: Kite\nlog: " + "x" * 10_001, id="bad"), "value: document 'bad': expected at most 10000"),
    "no name": (Document("a", id="bad", metadata={"name": "Kite", "property": "n" * 501}), "property: document 'bad'"),
    "a long text": (Document("name: Kite\nmaker: Acme\n" + "\n" * MAX_TEXT, id="bad"), "document 'bad': expected at most 20000"),
    "much metadata": (Document(KITE.page_content, id="bad", metadata={"a": "a" * 70_000}), "metadata: document 'bad'"),
    "no id": (Document("name: Kite\nlog: " + "x" * 10_001), "document 'name: Kite"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_document_that_cannot_be_stored_is_named_or_skipped(case, caplog):
    bad, told = UNUSABLE[case]
    with pytest.raises((TripleError, ConfigurationError), match=told):
        (strict := new_index()).upsert([ORCA, bad])
    assert len(strict.kb) == 0
    skipping = new_index(empty="skip")
    skipping.upsert([Document("name: Kite\nmaker: Acme", id="bad")])
    response = skipping.upsert([ORCA, bad])
    assert response["succeeded"] == ["orca"] and len(response["failed"]) == 1
    if bad.id:
        assert response["failed"] == ["bad"] and {t.name for t in skipping.kb} == {"Orca 2"}  # nor what it said before
    assert told in caplog.text and caplog.text.rstrip().endswith("; skipped")


def test_a_row_with_an_empty_cell_in_its_metadata_is_stored():
    kb_index = new_index()
    kb_index.upsert([ORCA.model_copy(update={"metadata": {"price": float("nan"), "row": 0}})])
    assert kb_index.get(["orca"])[0].metadata == {"price": None, "row": 0} and len(kb_index.kb) == 2
