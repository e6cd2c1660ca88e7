"""Documents that change, in a knowledge base opened again and through a pipeline as well, and what is of no use in them."""

import asyncio
import logging

import pytest
from integration_parts import copier
from llama_index.core import Document
from llama_index.core.graph_stores import SimplePropertyGraphStore
from llama_index.core.graph_stores.types import EntityNode, Relation
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode, TransformComponent

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_integrations.llama_index import KBLaMIndex, KBLaMLLM, KBLaMTripleSink, triples_from_node
from kblam_integrations.llama_index.index import extract_triples


def parts(triples):
    return {(t.name, t.property, t.value) for t in triples}


def folder_of(tmp_path, *triples):
    with KnowledgeBase.open(tmp_path / "a.kb", encoder=HashingEncoder(), multi=True) as kb:
        kb.add(triples)
    return tmp_path / "a.kb"


def in_small_nodes(folder, *documents, **options):
    """Return an index of documents in a folder, several nodes each, as of a new process: with a docstore of its own."""
    splitter = SentenceSplitter(chunk_size=60, chunk_overlap=0, paragraph_separator="\n", tokenizer=str.split)
    llm = KBLaMLLM(engine=copier(), max_tokens=60)
    return KBLaMIndex.from_documents(list(documents), kb=folder, llm=llm, transformations=[splitter], **options)


LONG = "colour: red\nmaker: Acme\n" + "\n".join(f"deck {n}: built of {n} parts of oak" for n in range(24))


def long_sheet(text=LONG, doc_id="sheet"):
    return Document(text=text, doc_id=doc_id, metadata={"name": "Orca 2"})


@pytest.mark.parametrize("way", ["refresh", "insert", "ainsert", "from_documents"])
def test_a_changed_document_replaces_itself_in_a_reopened_index(tmp_path, way):
    folder = folder_of(tmp_path, Triple("Orca 2", "maker", "Acme"))
    brochure = Document(text="colour: red", doc_id="brochure", metadata={"name": "Orca 2"})
    first = in_small_nodes(folder, long_sheet(), brochure)
    before = first.ref_doc_info["sheet"].node_ids
    assert len(before) > 1 and first.kb.get("Orca 2", "deck 11").value == "built of 11 parts of oak"
    first.kb.close()
    changed = long_sheet(LONG.replace("red", "blue").replace("of 11 parts", "of 99 parts").replace("maker", "yard"))
    if way == "from_documents":
        again = in_small_nodes(folder, changed)
    else:
        again = in_small_nodes(folder)
        if way == "refresh":
            assert again.refresh_ref_docs([changed]) == [True]
        else:
            asyncio.run(again.ainsert(changed)) if way == "ainsert" else again.insert(changed)
    assert {t.value for t in again.kb.get_all("Orca 2", "colour")} == {"red", "blue"}  # the brochure still says red
    assert [t.value for t in again.kb.get_all("Orca 2", "deck 11")] == ["built of 99 parts of oak"]
    assert [t.value for t in again.kb.get_all("Orca 2", "yard")] == ["Acme"]
    assert again.kb.get("Orca 2", "maker").value == "Acme"  # it was there before any document
    assert len(again.kb) == 28 and not {*before} & {*again.ref_doc_info["sheet"].node_ids}
    again.insert(long_sheet("nothing to read here"))
    again.delete_ref_doc("brochure")
    assert parts(again.kb) == {("Orca 2", "maker", "Acme")} and again.ref_doc_info == {}


def test_nodes_of_a_document_can_come_in_several_calls():
    index, nodes = KBLaMIndex([], llm=KBLaMLLM(engine=copier())), []
    for number in range(2):
        node = TextNode(text=f"deck {number}: oak", metadata={"name": "Orca 2"})
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="sheet")
        nodes.append(node)
        index.insert_nodes([node])
    assert {t.property for t in index.kb} == {"deck 0", "deck 1"}
    index.insert_nodes(nodes[1:], whole_documents=True)
    assert {t.property for t in index.kb} == {"deck 1"}


class LinesExtractor(TransformComponent):
    """Leaves a relation for each line "property: value" of a node."""

    def __call__(self, nodes, **kwargs):
        for node in nodes:
            pairs = [line.split(": ") for line in node.text.splitlines() if ": " in line]
            node.metadata["nodes"] = [EntityNode(name=node.metadata["name"]), *(EntityNode(name=v) for _, v in pairs)]
            relations = [Relation(label=p, source_id=node.metadata["name"], target_id=v) for p, v in pairs]
            node.metadata["relations"] = relations
        return nodes


def through_a_pipeline(folder, *documents, **options):
    """Send documents through a pipeline of a new process, in which nodes get new ids."""
    splitter = SentenceSplitter(chunk_size=60, chunk_overlap=0, paragraph_separator="\n", tokenizer=str.split)
    with KnowledgeBase.open(folder, multi=True) as kb:
        sink = KBLaMTripleSink(kb, **options)
        nodes = IngestionPipeline(transformations=[splitter, LinesExtractor(), sink]).run(documents=list(documents))
        return nodes, {(t.property, t.value) for t in kb}


def test_a_sink_forgets_what_a_changed_document_no_longer_says(tmp_path):
    folder, brochure = folder_of(tmp_path), Document(text="colour: red", doc_id="b", metadata={"name": "Orca 2"})
    nodes, said = through_a_pipeline(folder, long_sheet(), brochure)
    assert len(nodes) > 2 and len(said) == 26
    _, said = through_a_pipeline(folder, long_sheet("colour: blue\nmaker: Acme"))
    assert said == {("colour", "red"), ("colour", "blue"), ("maker", "Acme")}
    _, said = through_a_pipeline(folder, long_sheet("nothing to read"), brochure)
    assert said == {("colour", "red")}
    _, said = through_a_pipeline(folder, long_sheet(), brochure)
    index = KBLaMIndex(kb=folder, llm=KBLaMLLM(engine=copier()))
    index.delete_ref_doc("sheet")  # the way to take back what a sink has filled in
    assert parts(index.kb) == {("Orca 2", "colour", "red")} and set(index.ref_doc_info) == {"b"}


def test_a_sink_takes_a_documents_nodes_in_several_calls(tmp_path):
    folder = folder_of(tmp_path)
    through_a_pipeline(folder, long_sheet("colour: red"))
    _, said = through_a_pipeline(folder, long_sheet("maker: Acme"), whole_documents=False)
    assert said == {("colour", "red"), ("maker", "Acme")}


def test_an_index_counts_and_tells_what_it_leaves_out(caplog):
    long = "x" * 10_001
    sheet = TextNode(text=f"name: Orca 2\ncolour: red\nlog: {long}\nmaker: Acme", id_="sheet")
    nameless = TextNode(text="colour: red\nmaker: Acme", id_="nameless")
    left = TextNode(text="", id_="left")
    left.metadata["nodes"] = [EntityNode(name="Lena", properties={"age": 61, "diary": long, "city": "Bonn"})]
    left.metadata["relations"] = [Relation(label=" ", source_id="Lena", target_id="Acme")]
    with caplog.at_level(logging.WARNING):
        index = KBLaMIndex([sheet, nameless, left, TextNode(text="prose")], llm=KBLaMLLM(engine=copier()))
    assert {(t.property, t.value) for t in index.kb} == {
        ("colour", "red"), ("maker", "Acme"), ("age", "61"), ("city", "Bonn")
    }  # what is wrong with one property is not wrong with the others of its name
    told = [record.getMessage() for record in caplog.records]
    assert index.n_rejected == len(told) == 4 and all(line.startswith("no usable triple: ") for line in told)
    for part in ("'sheet', 'log': value", "'nameless': 2 lines", "property 'diary' of 'Lena'", "'Lena' -[ ]-> 'Acme'"):
        assert any(part in line for line in told), part


def test_an_index_of_a_graph_store_counts_what_it_leaves_out(caplog):
    store = SimplePropertyGraphStore()
    store.upsert_nodes([EntityNode(name="Lena"), EntityNode(name="Acme")])
    relations = [Relation(label=label, source_id="Lena", target_id="Acme") for label in (" ", "FOUNDED")]
    store.upsert_relations(relations)
    with caplog.at_level(logging.WARNING):
        index = KBLaMIndex.from_property_graph_store(store, llm=KBLaMLLM(engine=copier()))
    assert parts(index.kb) == {("Lena", "founded", "Acme")} and index.n_rejected == 1
    assert "no usable triple: 'Lena' -[ ]-> 'Acme'" in caplog.text


def test_extracting_alone_tells_the_log_or_a_listener(caplog):
    node = TextNode(text="colour: red", id_="nameless")
    assert extract_triples(node) == [] and "'nameless': 1 lines" in caplog.text
    told = []
    assert extract_triples(node, told.append) == [] and len(told) == 1


def test_labels_of_entities_are_triples_when_asked_for():
    def node():
        found = TextNode(text="Lena runs Acme.", id_="n")
        found.metadata["nodes"] = [EntityNode(name="Lena", label="PERSON"), EntityNode(name="Acme")]
        return found

    typed = {("Lena", "type", "PERSON")}  # and nothing of Acme, which nobody gave a label
    assert parts(triples_from_node(node(), node_types=True)) == typed and triples_from_node(node()) == []
    kb = KnowledgeBase.open(":memory:", encoder=HashingEncoder())
    KBLaMTripleSink(kb, node_types=True)([node()])
    assert parts(kb) == typed
    store = SimplePropertyGraphStore()
    store.upsert_nodes(node().metadata["nodes"])
    for options, expected in (({}, set()), ({"node_types": True}, typed)):
        llm = KBLaMLLM(engine=copier())
        assert parts(KBLaMIndex.from_property_graph_store(store, llm=llm, **options).kb) == expected
