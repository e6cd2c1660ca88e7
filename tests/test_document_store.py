"""The engine's store of documents: texts that move between triples, triples that many documents say, what cannot be stored."""

import pytest
from integration_parts import kb_of

from kblam_engine.errors import ConfigurationError, TripleError
from kblam_engine.knowledge_base.document_entries import MAX_TEXT, SourceDocument, problem_with
from kblam_engine.knowledge_base.documents import DocumentStore
from kblam_engine.triples import MAX_METADATA, Triple


def sheet(document_id, *pairs, text="a sheet", **metadata):
    """Return a document that says pairs (property, value) of the Orca 2."""
    return SourceDocument(document_id, text, metadata, [Triple("Orca 2", *pair) for pair in pairs])


def contents(kb):
    return {(t.property, t.value) for t in kb}


def carrier(kb, document_id):
    """Return the property of the triple that carries a document's text."""
    (found,) = [t.property for t in kb if "text" in (t.metadata["documents"].get(document_id) or {})]
    return found


def texts(store, *ids):
    return {found.id: (found.text, found.metadata) for found in store.get(ids)}


ORCA = sheet("orca", ("speed", "2 m/s"), ("maker", "Acme"), ("colour", "red"), text="all of it", row=7)
WHOLE = {"orca": ("all of it", {"row": 7})}


@pytest.mark.parametrize("change", ["set", "remove", "another document"])
def test_a_document_outlives_the_triple_that_carries_its_text(change):
    kb = kb_of()
    store = DocumentStore(kb)
    store.upsert([ORCA])
    carrying = carrier(kb, "orca")
    if change == "set":
        kb.set("Orca 2", carrying, "another")
    elif change == "remove":
        kb.remove("Orca 2", carrying)
    else:
        store.upsert([sheet("second", (carrying, "another"))])
        assert carrier(kb, "orca") != carrying and texts(DocumentStore(kb), "orca") == WHOLE  # for other processes too
    assert texts(store, "orca") == WHOLE and store.n_triples("orca") == 2
    again = DocumentStore(kb)  # knows what the knowledge base holds, and nothing else
    assert again.ids() == store.ids() and [found.id for found in again.get(["orca"])] == ["orca"]
    assert again.delete(["orca"]) == ["orca"]
    assert contents(kb) == (set() if change == "remove" else {(carrying, "another")})


def test_a_text_that_has_lost_its_triple_gets_another_with_the_next_change():
    kb = kb_of(multi=True)
    store = DocumentStore(kb)
    store.upsert([ORCA])
    kb.remove("Orca 2", carrier(kb, "orca"))
    assert store.ids() == ["orca"]  # it has seen the change
    store.upsert([sheet("other", ("weight", "9 kg"))])
    assert texts(DocumentStore(kb), "orca") == WHOLE


def test_a_document_whose_last_triple_is_replaced_is_gone():
    kb = kb_of()
    store = DocumentStore(kb)
    store.upsert([sheet("first", ("speed", "2 m/s"))])
    store.upsert([sheet("second", ("speed", "3 m/s"))])
    assert store.ids() == ["second"] == DocumentStore(kb).ids() and store.get(["first"]) == []


@pytest.mark.parametrize("size", [200, 6_000, MAX_TEXT])
def test_any_number_of_documents_may_say_a_triple(size):
    kb = kb_of(multi=True)
    store = DocumentStore(kb)
    named = [
        sheet(f"d{n:02}", ("maker", "Acme"), text=str(n % 10) * size, source=f"{n}.txt", pad="p" * 400) for n in range(70)
    ]
    store.upsert(named[:40])
    for document in named[40:]:
        store.upsert([document])
    assert len(kb) == 1 and len(store.ids()) == 70 and store.place_of("d00") == "0.txt"
    found = texts(DocumentStore(kb), *store.ids())
    whole = [each for each, (text, metadata) in found.items() if len(text) == size and len(metadata["pad"]) == 400]
    assert whole == [f"d{n:02}" for n in range(70 - len(whole), 70)]  # the latest
    assert len(whole) == {200: 70, 6_000: 9, MAX_TEXT: 3}[size] and found["d00"][1]["source"] == "0.txt"
    assert len(store.delete(found)) == 70 and len(kb) == 0


def test_of_a_full_triple_details_go_before_texts():
    kb = kb_of(multi=True)
    store = DocumentStore(kb)
    own = {"note": "n" * 1_500}
    said = [
        SourceDocument(f"d{n:02}", "t" * 500, {}, [Triple("Orca 2", "maker", "Acme", own)]) for n in range(60)
    ]
    store.upsert(said)
    (triple,) = kb
    entries = triple.metadata["documents"]
    assert len(entries) == 60 and all(entry["text"] == "t" * 500 for entry in entries.values())
    with_details = ["own" in entry for entry in entries.values()]
    assert not with_details[0] and with_details[-1] and with_details == sorted(with_details)  # the earliest go first


def test_of_documents_with_one_id_the_last_counts():
    kb = kb_of()
    store = DocumentStore(kb)
    store.upsert([sheet("a", ("speed", "1"), ("maker", "Acme")), sheet("b", ("speed", "2")), sheet("a", ("speed", "3"))])
    assert contents(kb) == {("speed", "3")} and store.ids() == ["a"]  # said last, and of a single value


def test_a_document_that_cannot_be_stored_is_named_and_nothing_is_changed():
    kb = kb_of()
    store = DocumentStore(kb)
    for wrong, error, told in (
        (sheet("bad", ("maker", "Acme"), text="t" * (MAX_TEXT + 1)), ConfigurationError, "document 'bad': expected at most"),
        (sheet("bad", ("maker", "Acme"), pad="p" * MAX_METADATA), TripleError, "metadata: document 'bad': expected at most"),
        (SourceDocument("bad", "", {(1, 2): 3}, ORCA.triples), TripleError, "document 'bad': expected what JSON can hold"),
    ):
        with pytest.raises(error, match=told):
            store.upsert([ORCA, wrong])
        assert "document 'the bad one': " in str(problem_with(wrong, "'the bad one'"))
    assert len(kb) == 0 and problem_with(ORCA) is None


def test_what_is_no_number_is_null_in_a_documents_metadata():
    store = DocumentStore(kb_of())
    store.upsert([sheet("orca", ("maker", "Acme"), weight=float("nan"), range=float("inf"), row=0)])
    assert texts(store, "orca")["orca"][1] == {"weight": None, "range": None, "row": 0}
    assert contents(store.kb) == {("maker", "Acme")}
