"""Documents that loaders of any framework leave, into a knowledge base and out of it again."""

import doctest
from dataclasses import replace
from types import SimpleNamespace

import pytest
from integration_parts import kb_of
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from llama_index.core import Document as LlamaDocument
from llama_index.core.node_parser import SentenceSplitter

from kblam_engine.errors import ConfigurationError, ReadOnlyError, TripleError
from kblam_engine.knowledge_base import KBDocument
from kblam_engine.knowledge_base.documents import DocumentStore
from kblam_engine.sources import loaded
from kblam_engine.sources.loaded import MAX_CHARS, LoadedDocumentExtractor, loaded_document
from kblam_engine.triples import Triple
from kblam_integrations.langchain import KBLaMDocumentIndex
from kblam_integrations.llama_index import KBLaMIndex

PAGE = "Orca 2\n\nThe Orca 2 was designed by Acme Robotics.\n\nPayload: 80 kg\nSpeed: 2 m/s\n"
ORCA = Document(PAGE, metadata={"source": "orca.txt"})
KITE = Document("name: Kite\nmaker: Acme", metadata={"source": "table.csv", "row": 0})


def told(kb):
    return {(t.name, t.property, t.value) for t in kb}


@pytest.fixture
def kb():
    return kb_of()


def test_prose_pairs_and_records_become_triples_with_the_characters_that_say_them(kb):
    done = kb.add_documents(iter([ORCA, KITE]))
    assert told(kb) == {
        ("Orca 2", "designer", "Acme Robotics"),
        ("Orca 2", "description", "designed by Acme Robotics"),
        ("Orca 2", "payload", "80 kg"),
        ("Orca 2", "speed", "2 m/s"),
        ("Kite", "maker", "Acme"),
    }
    assert done.n_triples == len(kb) and len(done.ids) == 2 and done.empty == done.removed == []
    for triple in kb.view(source="orca.txt"):
        start, end = triple.provenance.span
        assert triple.value.removesuffix(".") in PAGE[start:end] and triple.provenance.extractor in ("structured", "rules")
        assert 0.5 <= triple.provenance.confidence <= 1
    (kite,) = kb.view(source="table.csv")
    assert KITE.page_content[slice(*kite.provenance.span)] == "maker: Acme" and kite.provenance.document in done.ids


def test_the_same_documents_again_change_nothing(kb):
    first = kb.add_documents([ORCA, KITE, KITE])
    revision = kb.revision
    again = kb.add_documents([ORCA, KITE])
    assert kb.revision == revision == 1 and (again.ids, again.removed) == (first.ids, [])


def test_a_file_that_is_loaded_again_leaves_nothing_behind(kb):
    kb.add_documents([ORCA, KITE])
    done = kb.add_documents([Document(PAGE.replace("80 kg", "95 kg").replace("Speed: 2 m/s\n", ""), metadata=ORCA.metadata)])
    assert kb.get("Orca 2", "payload").value == "95 kg" and kb.get("Orca 2", "speed") is None
    assert kb.get("Kite", "maker") and len(done.removed) == 1


def test_documents_go_by_id_and_by_source_and_a_triple_with_the_last_that_says_it(kb):
    kb.add([Triple("Orca 2", "speed", "2 m/s", {"checked": True})])
    kb.add_documents([ORCA, KITE, Document("name: Kite\nmaker: Acme", id="note")])
    assert [d for d in kb.documents() if d.id == "note"] == [KBDocument("note", "", 1)]
    assert kb.remove_documents("table.csv", "nothing.txt") and kb.get("Kite", "maker")
    assert kb.remove_documents("note") == ["note"] and kb.get("Kite", "maker") is None
    assert len(kb.remove_documents("orca.txt")) == 1
    assert [(t.property, dict(t.metadata)) for t in kb] == [("speed", {"checked": True})]
    assert kb.documents() == []


def test_parts_of_a_document_count_from_its_beginning_and_keep_their_page(kb):
    parts = [Document("Payload: 80 kg\nSpeed: 2 m/s", metadata={"source": "a.pdf", "start_index": 100, "page_label": "7"})]
    kb.add_documents(parts, extract=LoadedDocumentExtractor(["structured"], topic="Orca 2"))
    triple = kb.get("Orca 2", "speed")
    assert triple.provenance.span == (115, 127) and triple.metadata["page"] == 7


def test_documents_of_llama_index_by_their_shape(kb):
    document = LlamaDocument(text=PAGE, doc_id="sheet", metadata={"file_path": "orca.txt"})
    extract = LoadedDocumentExtractor(["structured"])
    kb.add_documents([document], extract=extract)
    assert kb.get("Orca 2", "payload").provenance.to_dict() == {
        "document": "sheet", "uri": "orca.txt", "span": [PAGE.index("Payload"), PAGE.index("\nSpeed")],
        "extractor": "structured", "confidence": 0.9,
    }  # fmt: skip
    nodes = SentenceSplitter(chunk_size=24, chunk_overlap=0, include_metadata=False)([document])
    assert len(nodes) > 1
    kb.add_documents(nodes, extract=LoadedDocumentExtractor(["structured"], topic="Orca 2"))
    for triple in kb:
        assert triple.provenance.document == "sheet" and triple.value in PAGE[slice(*triple.provenance.span)]


def test_the_extractor_fits_the_indexes_of_the_bridges(kb):
    extract = LoadedDocumentExtractor(["structured"])
    records, sheets = InMemoryRecordManager("kb"), KBLaMDocumentIndex(kb=kb, extract=extract)
    records.create_schema()
    options = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    assert index([ORCA], records, sheets, **options)["num_added"] == 1
    assert index([ORCA], records, sheets, **options)["num_skipped"] == 1
    where = kb.get("Orca 2", "payload").provenance
    (stored,) = kb.documents()
    assert where.document == stored.id and PAGE[slice(*where.span)] == "Payload: 80 kg"
    llama = KBLaMIndex.from_documents([LlamaDocument(text=PAGE, doc_id="sheet")], kb=kb_of(), extract=extract)
    assert llama.kb.get("Orca 2", "speed").provenance.document == "sheet"
    llama.delete_ref_doc("sheet")
    assert not len(llama.kb)


def test_a_triple_that_hundreds_of_documents_say(kb):
    pages = [Document(f"name: Orca {n}\nmaker: Acme\nplace: Hall", metadata={"source": f"{n}.txt"}) for n in range(3)]
    same = [Document("name: Kite\nmaker: Acme", metadata={"source": f"copy {n}.txt"}) for n in range(600)]
    assert len(kb.add_documents([*pages, *same]).ids) == 603 and len(kb) == 7
    assert kb.remove_documents(*(f"copy {n}.txt" for n in range(599))) and kb.get("Kite", "maker")
    assert kb.get("Kite", "maker").provenance.uri == "copy 599.txt"
    assert kb.remove_documents("copy 599.txt") and kb.get("Kite", "maker") is None and len(kb) == 6
    many = [Document("name: Kite\nmaker: Acme", metadata={"source": f"{n} {'x' * 100}"}) for n in range(2000)]
    kb.add_documents(many)  # more than its metadata can name: the latest are remembered
    assert 100 < len(kb.documents()) - 3 < 2000
    kb.remove_documents(*(document.metadata["source"] for document in many))
    assert kb.get("Kite", "maker") is None and len(kb) == 6


@pytest.mark.parametrize(
    "document",
    ["a text", SimpleNamespace(page_content=3), SimpleNamespace(metadata={}), None, SimpleNamespace(page_content="x" * (MAX_CHARS + 1))],
)
def test_what_is_no_document_is_named_and_nothing_is_added(kb, document):
    with pytest.raises(ConfigurationError, match="expected"):
        kb.add_documents([KITE, document])
    assert not len(kb)


def test_what_gives_nothing_is_told(kb):
    with pytest.raises(ConfigurationError, match="an iterable of documents, got NoneType"):
        kb.add_documents(None)
    empty = Document("Hello!", id="hello")
    done = kb.add_documents([empty, Document(f"name: {'x' * 600}\nmaker: Acme", id="long"), KITE])
    assert done.empty == ["hello", "long"] and len(kb) == 1
    assert done.skipped == {"name empty, too long or no text": 1}
    with pytest.raises(TripleError):
        kb.add_documents([empty], extract=lambda document: ["no triple"])


def test_options_and_views(kb):
    for options in ({"extractors": []}, {"extractors": ["llm"]}, {"min_confidence": 2}):
        with pytest.raises(ConfigurationError):
            LoadedDocumentExtractor(**options)
    kb.add_documents([KITE], extract=LoadedDocumentExtractor("structured"))
    with pytest.raises(ReadOnlyError):
        kb.view(source="table.csv").add_documents([ORCA])
    assert [d.source for d in kb.view(source="table.csv").documents()] == ["table.csv"]


def test_shapes_and_places():
    node = SimpleNamespace(text="a", metadata={"url": "https://a.example/\n", "file_path": "b.txt"}, id_="n", ref_doc_id="d")
    known = loaded_document(node)
    assert (known.id, known.origin.document, known.origin.uri) == ("n", "d", "https://a.example/")
    assert loaded_document(SimpleNamespace(text="a")).id == loaded_document(SimpleNamespace(text="a")).id
    assert doctest.testmod(loaded).failed == 0


class Followed(DocumentStore):
    """Remembers how many triples it read each time."""

    def __init__(self, kb):
        super().__init__(kb)
        self.n_read = []

    def _note(self, triples):
        triples = list(triples)
        self.n_read.append(len(triples))
        super()._note(triples)


def known(store):
    return {each: (store.place_of(each), store.n_triples(each)) for each in store.ids()}


def test_what_others_change_is_followed_and_only_that_is_read(kb):
    kb.add_documents([ORCA, KITE])
    store = Followed(kb)
    assert len(known(store)) == 2 and store.n_read == [5]
    more = [Document(f"name: Kite {n}\nmaker: Acme", metadata={"source": "more.csv"}) for n in range(3)]
    for n_read, change in (
        (3, lambda: kb.add_documents(more)),
        (1, lambda: kb.add([Triple("Kite", "owner", "nobody")])),
        (1, lambda: kb.add([Triple("Kite", "maker", "Acme", namespace="elsewhere")])),
        (0, lambda: kb.remove("Orca 2", "speed")),
        (0, lambda: kb.remove_documents("more.csv")),
        (1, lambda: kb.set("Kite", "maker", "Borealis")),
        (2, lambda: kb.rollback(1)),
        (None, lambda: kb.remove(namespace="elsewhere", source="nowhere")),
    ):
        store.n_read.clear()
        change()
        assert known(store) == known(DocumentStore(kb))
        assert store.n_read == ([] if n_read is None else [n_read])
    kb.remove("Orca 2", "payload")
    kb.compact()  # what was removed since can no longer be asked for
    assert known(store) == known(DocumentStore(kb)) and store.n_read[-1] == len(kb) == 4
    kb.remove_documents("orca.txt")
    assert known(store) == known(DocumentStore(kb)) and store.ids(["orca.txt"]) == []


def test_a_triple_of_two_namespaces_is_said_until_both_are_gone(kb):
    kb.add_documents([KITE])
    (said,) = kb
    kb.add([replace(said, namespace="elsewhere")])
    store = Followed(kb)
    assert list(known(store).values()) == [("table.csv", 1)]
    kb.remove(namespace="elsewhere")
    assert list(known(store).values()) == [("table.csv", 1)]
    kb.remove("Kite")
    assert known(store) == {}
