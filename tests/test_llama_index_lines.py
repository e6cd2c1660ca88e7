"""Documents read line by line: whole lines, their names in every part, documents that become empty, nodes that come twice."""

import asyncio

import pytest
from integration_parts import copier, kb_of
from llama_index.core import Document, Settings
from llama_index.core.graph_stores.types import Relation
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import MarkdownNodeParser, SentenceSplitter
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

from kblam_integrations._documents import MAX_TEXT
from kblam_integrations.llama_index import KBLaMIndex, KBLaMLLM, KBLaMTripleSink, LineSplitter
from kblam_integrations.llama_index.lines import extract_triples


def parts(triples):
    return {(t.name, t.property, t.value) for t in triples}


def index_of(*documents, **options):
    options = {"kb": kb_of(multi=True), "llm": KBLaMLLM(engine=copier()), **options}
    return KBLaMIndex.from_documents(list(documents), **options)


def log(n_lines):
    """Return lines of about 100 characters: 400 of them are what LlamaIndex's own splitter makes ten nodes of."""
    return "".join(f"mission {n}: to buoy {n}, along the quay, past the old harbour master's office and home\n" for n in range(n_lines))


def missions(n_lines, name="Orca 2"):
    lines = log(n_lines).splitlines()
    return {(name, *line.split(": ", 1)) for line in lines}


@pytest.mark.parametrize("n_lines", [100, 1_000])
@pytest.mark.parametrize("way", ["from_documents", "insert", "ainsert"])
def test_no_line_is_cut_in_two_and_none_loses_its_name(n_lines, way):
    document = Document(text="name: Orca 2\n" + log(n_lines), doc_id="log", metadata={"file_name": "log.txt"})
    index = index_of(*([document] if way == "from_documents" else []))
    if way != "from_documents":
        asyncio.run(index.ainsert(document)) if way == "ainsert" else index.insert(document)
    assert parts(index.kb) == missions(n_lines)
    assert len(index.ref_doc_info["log"].node_ids) == (1 if n_lines == 100 else 5)
    for triple in index.kb:
        start, end = triple.provenance.span
        assert document.text[start:end] == f"{triple.property}: {triple.value}"


def test_lines_are_about_the_last_name_above_them():
    text = "maker: Acme\nname: Kite\ncolour: red\n\nName: Orca 2\ncolour: blue"
    lines = {("Kite", "colour", "red"), ("Orca 2", "colour", "blue")}
    assert parts(extract_triples(TextNode(text=text))) == lines | {("Kite", "maker", "Acme")}
    for key, about in (("name", "fleet"), ("title", "Kite"), ("file_name", "Kite")):
        assert parts(extract_triples(TextNode(text=text, metadata={key: "fleet"}))) == lines | {(about, "maker", "Acme")}
    assert parts(extract_triples(TextNode(text="maker: Acme", metadata={"name": 0, "title": "b"}))) == {("0", "maker", "Acme")}
    fleet = "".join(f"name: Kite {n}\n{log(60)}" for n in range(5))
    expected = set().union(*(missions(60, f"Kite {n}") for n in range(5)))
    assert parts(index_of(Document(text=fleet, metadata={"name": "fleet"})).kb) == expected


def test_a_splitter_gives_the_whole_text_and_no_part_is_too_long():
    prose = "Sentences of one line follow each other. " * 1_200
    for text in ("", "one line", log(1_000), prose, "x" * 50_000, "no end " * 9_000, log(10) + prose + log(300)):
        split = LineSplitter().split_text(text)
        assert "".join(split) == text and all(len(part) <= MAX_TEXT for part in split)
        assert len(split) <= 2 + len(text) // (MAX_TEXT - 1_000)
    assert all(part.endswith("other. ") for part in LineSplitter().split_text(prose))


def test_transformations_of_ones_own_are_kept(monkeypatch):
    text = "name: Orca 2\n" + log(100)
    cut = index_of(Document(text=text), transformations=[SentenceSplitter(chunk_size=100, chunk_overlap=0)])
    assert len(cut.kb) < 100  # most nodes have no name
    monkeypatch.setattr(Settings, "_transformations", [SentenceSplitter(chunk_size=100, chunk_overlap=0), Marked()])
    index = index_of(Document(text=text, doc_id="log"))
    assert parts(index.kb) == missions(100) and index.ref_doc_info["log"].metadata["marked"]


class Marked(MarkdownNodeParser):
    """Stands for whatever an app has among its settings."""

    def __call__(self, nodes, **kwargs):
        for node in nodes:
            node.metadata["marked"] = True
        return nodes


class Paragraphs(LineSplitter):
    """A parser that makes no node of an empty document, as those of Markdown and HTML do."""

    def split_text(self, text):
        return [part for part in text.split("\n\n") if part.strip()]


@pytest.mark.parametrize("way", ["from_documents", "insert", "ainsert", "refresh"])
def test_an_emptied_document_says_nothing_any_more(way):
    sheet, other = Document(text="name: Kite\ncolour: red", doc_id="sheet"), Document(text="name: Kite\nmaker: Acme", doc_id="other")
    index = index_of(sheet, other, transformations=[Paragraphs()])
    assert len(index.kb) == 2
    empty = Document(text=" \n", doc_id="sheet")
    if way == "from_documents":
        index = index_of(empty, kb=index.kb, transformations=[Paragraphs()])
    elif way == "refresh":
        index.refresh_ref_docs([empty])
    else:
        asyncio.run(index.ainsert(empty)) if way == "ainsert" else index.insert(empty)
    assert parts(index.kb) == {("Kite", "maker", "Acme")} and set(index.ref_doc_info) == {"other"}


def test_a_sink_does_not_see_an_emptied_document():
    """The limit that its docstring and docs/llama_index.md tell, and the way out."""
    index = index_of(Document(text="name: Kite\ncolour: red", doc_id="sheet"), transformations=[Paragraphs()])
    pipeline = IngestionPipeline(transformations=[Paragraphs(), KBLaMTripleSink(index.kb)])
    pipeline.run(documents=[Document(text="", doc_id="sheet")])
    assert len(index.kb) == 1
    KBLaMIndex(kb=index.kb, llm=KBLaMLLM(engine=copier())).delete_ref_doc("sheet")
    assert len(index.kb) == 0


def node(text, node_id, document="sheet"):
    made = TextNode(text=text, id_=node_id)
    made.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=document)
    return made


def test_of_nodes_with_one_id_the_last_counts():
    index = index_of()
    index.insert_nodes([node("colour: red", "a"), node("name: Kite\ncolour: blue", "b"), node("name: Kite\ncolour: green", "a")])
    assert parts(index.kb) == {("Kite", "colour", "blue"), ("Kite", "colour", "green")}
    assert index.n_rejected == 0  # the first has no name, and does not count
    twice = [node("", "c"), node("", "c")]
    for each, target in zip(twice, ("red", "blue"), strict=True):
        each.metadata["relations"] = [Relation(label="colour", source_id="Orca 2", target_id=target)]
    KBLaMTripleSink(index.kb)(twice)
    assert [t.value for t in index.kb.get_all("Orca 2")] == ["blue"]


def test_a_document_is_replaced_after_its_text_has_lost_its_triple():
    index = index_of(Document(text="name: Kite\ncolour: red\nmaker: Acme", doc_id="sheet"))
    carrying = [t.property for t in index.kb if "text" in next(iter(t.metadata["documents"].values()))]
    index.kb.remove("Kite", *carrying)
    again = KBLaMIndex(kb=index.kb, llm=KBLaMLLM(engine=copier()))
    assert set(again.ref_doc_info) == {"sheet"}
    again.insert(Document(text="name: Kite\nweight: 9 kg", doc_id="sheet"))
    assert parts(again.kb) == {("Kite", "weight", "9 kg")}
    again.delete_ref_doc("sheet")
    assert len(again.kb) == 0
