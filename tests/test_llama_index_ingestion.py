"""Into a knowledge base from LlamaIndex: KG extractors' metadata, property graph stores, documents; and out again."""

import asyncio
import json
import logging
import pickle
import random

import networkx as nx
import pytest
from engine_parts import QUESTION
from integration_parts import copier, kb_of
from llama_index.core import Document
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.graph_stores import SimplePropertyGraphStore
from llama_index.core.graph_stores.types import ChunkNode, EntityNode, PropertyGraphStore, Relation
from llama_index.core.indices.property_graph import ImplicitPathExtractor, SimpleLLMPathExtractor
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.mock import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from pydantic import Field

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import ConfigurationError
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Provenance
from kblam_integrations.llama_index import (
    KBLaMIndex,
    KBLaMLLM,
    KBLaMQueryEngine,
    KBLaMTripleSink,
    triples_from_node,
    triples_from_property_graph,
)
from kblam_integrations.networkx import fingerprint

ORCA = "name: Orca 2\nbattery life: 7.5 hours\nmaker: Acme Robotics"


def parts(triples):
    return {(t.name, t.property, t.value) for t in triples}


def node_with(entities=(), relations=(), **metadata):
    node = TextNode(text="Lena founded Acme.", id_="n1", metadata=dict(metadata), start_char_idx=3, end_char_idx=21)
    node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="doc")
    node.metadata.update(nodes=list(entities), relations=list(relations))
    return node


def lena(**properties):
    """Return what an extractor leaves of one sentence, the node's own metadata copied into it as extractors do."""
    copied = {"file_name": "a.txt"}
    entities = [
        EntityNode(name='Lena "Lee" Hoffmann', label="Person", properties={**properties, **copied}),
        EntityNode(name="Acme", label="Company", properties=copied),
    ]
    relation = Relation(label="FOUNDED", source_id=entities[0].id, target_id="Acme", properties={"year": 2009, **copied})
    return node_with(entities, [relation], **copied)


def test_what_extractors_leave_becomes_triples():
    found = triples_from_node(lena(age=61, triplet_source_id="x"))
    assert {t.provenance for t in found} == {Provenance("doc", "a.txt", (3, 21))}
    triples = {(t.name, t.property, t.value): t.metadata for t in found}
    origin = {"node_id": "n1", "ref_doc_id": "doc", "source": "a.txt"}
    assert triples == {
        ('Lena "Lee" Hoffmann', "age", "61"): origin,
        ('Lena "Lee" Hoffmann', "founded", "Acme"): {"relationship_year": "2009", **origin},
    }
    cached = lena(age=61)
    for key in ("nodes", "relations"):  # what an ingestion cache gives back
        cached.metadata[key] = [json.loads(item.model_dump_json()) for item in cached.metadata[key]]
    assert parts(triples_from_node(cached)) == set(triples)
    assert triples_from_node(TextNode(text="nothing")) == []


def test_links_between_nodes_are_no_knowledge():
    node = lena()
    node.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id="n2")
    node.relationships[NodeRelationship.CHILD] = [RelatedNodeInfo(node_id="n3")]
    (node,) = ImplicitPathExtractor()([node])
    assert len(node.metadata["relations"]) == 4
    assert parts(triples_from_node(node)) == {('Lena "Lee" Hoffmann', "founded", "Acme")}


def test_what_is_unusable_is_told_and_the_rest_kept():
    node = node_with((), [
        Relation(label="  ", source_id="Lena", target_id="Acme"),
        Relation(label="founder", source_id="Acme", target_id="Lena"),
        Relation(label="seat", source_id="Acme", target_id="x" * 20_000),
    ])
    told = []
    assert parts(triples_from_node(node, told.append)) == {("Acme", "founder", "Lena")}
    assert len(told) == 2 and "'Lena' -[  ]-> 'Acme': property" in told[0] and "10000 characters" in told[1]


def graph_store(order=0):
    store = SimplePropertyGraphStore()
    chunk = ChunkNode(text="Lena founded Acme.", id_="n1", properties={"file_name": "a.txt", "ref_doc_id": "doc"})
    told = {"triplet_source_id": "n1", "file_name": "a.txt"}
    nodes = [
        EntityNode(name="Lena", properties={"age": 61, **told}),
        EntityNode(name="Acme", properties=told),
        EntityNode(name="a_b"),
        EntityNode(name="d"),
        EntityNode(name="a"),
        chunk,
    ]
    relations = [
        Relation(label="FOUNDED", source_id="Lena", target_id="Acme", properties=told),
        Relation(label="c", source_id="a_b", target_id="d", properties={"p": 1}),
        Relation(label="b_c", source_id="a", target_id="d", properties={"p": 2}),  # the same key as the one before
        Relation(label="MENTIONS", source_id="n1", target_id="Lena"),
        Relation(label="SOURCE", source_id="Lena", target_id="somewhere"),
    ]
    shuffled = random.Random(order)
    shuffled.shuffle(nodes)
    shuffled.shuffle(relations)
    store.upsert_nodes(nodes)
    store.upsert_relations(relations)
    return store


EXPECTED = {("Lena", "founded", "Acme"), ("Lena", "age", "61"), ("a_b", "c", "d"), ("a", "b c", "d")}


def test_a_property_graph_store_becomes_triples_in_one_order():
    found = [triples_from_property_graph(graph_store(order)) for order in range(4)]
    assert all([(t.name, t.property, t.value) for t in each] == sorted(EXPECTED) for each in found)
    founded = next(t for t in found[0] if t.property == "founded")
    assert founded.metadata == {"node_id": "n1", "ref_doc_id": "doc"} and founded.provenance == Provenance("doc")
    assert len({fingerprint(each) for each in found}) == 1


class OtherStore(SimplePropertyGraphStore):
    """A store without a graph to look into, as of a database."""

    def __init__(self, inner, lists_all):
        self._inner, self._lists_all = inner, lists_all

    def get(self, properties=None, ids=None):
        return self._inner.get(properties, ids)

    def get_triplets(self, entity_names=None, relation_names=None, properties=None, ids=None):
        if not any((entity_names, relation_names, properties, ids)):
            return self._inner.graph.get_triplets() if self._lists_all else []
        return self._inner.get_triplets(entity_names, relation_names, properties, ids)


@pytest.mark.parametrize("lists_all", [True, False])
def test_other_stores_are_read_by_their_methods(lists_all):
    store = OtherStore(graph_store(), lists_all)
    assert isinstance(store, PropertyGraphStore) and not hasattr(store, "graph")
    found = parts(triples_from_property_graph(store))
    assert {("Lena", "founded", "Acme"), ("Lena", "age", "61")} <= found
    assert not any("Lena founded" in name for name, _, _ in found)


def test_a_graph_has_one_fingerprint_wherever_it_comes_from():
    graph = nx.DiGraph([("Lena", "Acme", {"relation": "founded"})])
    graph.add_node("Lena", age=61)
    relation = Relation(label="FOUNDED", source_id="Lena", target_id="Acme")
    entities = [EntityNode(name="Lena", properties={"age": 61}), EntityNode(name="Acme")]
    store = SimplePropertyGraphStore()
    store.upsert_nodes(entities)
    store.upsert_relations([relation])
    triples = [Triple("Lena", "age", "61"), Triple("Lena", "founded", "Acme")]
    known = fingerprint(triples)
    assert fingerprint(graph) == fingerprint(triples_from_node(node_with(entities, [relation]))) == known
    assert fingerprint(triples_from_property_graph(store)) == known


class Extracting(CustomLLM):
    """Finds the same two triples in every text, and keeps the prompts."""

    calls: list[str] = Field(default_factory=list, exclude=True)

    @property
    def metadata(self):
        return LLMMetadata()

    def complete(self, prompt, formatted=False, **kwargs):
        self.calls.append(prompt)
        return CompletionResponse(text="(Orca 2, battery life, 7.5 hours)\n(Orca 2, maker, Acme)")

    def stream_complete(self, prompt, formatted=False, **kwargs):
        yield self.complete(prompt)


def pipeline(kb, **options):
    llm = Extracting()
    extractor = SimpleLLMPathExtractor(llm=llm, parse_fn=parsed, num_workers=1)
    sink = KBLaMTripleSink(kb)
    transformations = [SentenceSplitter(chunk_size=200, chunk_overlap=0), extractor, sink]
    return IngestionPipeline(transformations=transformations, **options), sink, llm


def parsed(text):
    lines = [line for line in text.splitlines() if line.startswith("(")]
    return [tuple(part.strip() for part in line.strip("()").split(", ")) for line in lines]


def test_a_pipeline_fills_a_knowledge_base():
    kb = kb_of(("Bolt", "owner", "Acme"), multi=True)
    pipe, sink, _ = pipeline(kb)
    nodes = pipe.run(documents=[Document(text="The Orca 2 lasts.", doc_id="doc", metadata={"file_name": "a.txt"})])
    assert parts(kb) >= {("Orca 2", "battery life", "7.5 hours"), ("Orca 2", "maker", "Acme"), ("Bolt", "owner", "Acme")}
    assert all("nodes" not in node.metadata and "relations" not in node.metadata for node in nodes)
    assert sink.n_triples == 2 and sink.n_rejected == 0
    (node,) = KBLaMQueryEngine(kb, engine=copier(), max_tokens=60).query(QUESTION).source_nodes
    assert node.metadata["source"] == "a.txt" and node.node.ref_doc_id == "doc"
    assert node.metadata["provenance"]["document"] == "doc" and node.metadata["provenance"]["uri"] == "a.txt"


def test_an_answers_sources_are_places_in_documents():
    """From the document through its parts and the knowledge base to the characters that a source node stands for."""
    text = "name: Kite\ncolour: red\n\nname: Orca 2\nbattery life: 7.5 hours\nmaker: Acme"
    nodes = []
    for part in text.split("\n\n"):
        start = text.index(part)
        node = TextNode(text=part, metadata={"source": "sheets.txt"}, start_char_idx=start, end_char_idx=start + len(part))
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="sheets")
        nodes.append(node)
    index = KBLaMIndex(nodes, llm=KBLaMLLM(engine=copier(), max_tokens=60), kb=kb_of(multi=True))
    for triple in index.kb:
        start, end = triple.provenance.span
        assert text[start:end] == f"{triple.property}: {triple.value}"
    (source,) = index.as_query_engine().query(QUESTION).source_nodes
    assert text[source.node.start_char_idx : source.node.end_char_idx] == "battery life: 7.5 hours"
    assert source.node.ref_doc_id == "sheets" and source.metadata["provenance"]["uri"] == "sheets.txt"


def test_a_document_with_many_triples_goes_in_one_transaction():
    text = "name: Orca 2\n" + "\n".join(f"property {n}: value {n}" for n in range(50))
    index = KBLaMIndex.from_documents(
        [Document(text=text, doc_id="sheet")],
        llm=KBLaMLLM(engine=copier()),
        kb=kb_of(multi=True),
        transformations=[SentenceSplitter(chunk_size=4000)],
    )
    assert len(index.kb) == 50 and index.kb.revision == 1
    index.delete_ref_doc("sheet")
    assert len(index.kb) == 0 and index.kb.revision == 2


def test_a_pipeline_runs_in_an_event_loop():
    kb = kb_of(("Bolt", "owner", "Acme"), multi=True)
    pipe, _, _ = pipeline(kb)
    asyncio.run(pipe.arun(documents=[Document(text="The Orca 2 lasts.", doc_id="doc")]))
    assert kb.get("Orca 2", "maker").value == "Acme"


def test_the_cache_of_a_pipeline_never_hides_a_change():
    kb, cache = kb_of(("Bolt", "owner", "Acme"), multi=True), IngestionCache()
    documents = [Document(text="The Orca 2 lasts.", doc_id="doc")]

    def run():
        pipe, sink, llm = pipeline(kb, cache=cache)
        pipe.run(documents=documents)
        return len(llm.calls), sink.n_triples

    assert run() == (1, 2)
    assert run()[0] == 0  # extraction is cached
    revision = kb.revision
    run()
    assert kb.revision == revision  # nothing to do, nothing done
    kb.remove("Orca 2")
    assert run() == (0, 2) and kb.get("Orca 2", "maker").value == "Acme"


def test_a_sink_counts_what_it_rejects_and_can_leave_the_metadata(caplog):
    kb = kb_of(("Bolt", "owner", "Acme"), multi=True)
    sink = KBLaMTripleSink(kb, keep_metadata=True)
    node = node_with((), [Relation(label=" ", source_id="a", target_id="b")])
    with caplog.at_level(logging.WARNING):
        (given,) = sink([node])
    assert sink.n_rejected == 1 and "no usable triple: 'a' -[ ]-> 'b'" in caplog.text
    assert given.metadata["relations"] and len(kb) == 1


def test_a_sink_stays_in_its_process_and_needs_a_writable_kb():
    kb = kb_of(("Bolt", "owner", "Acme"))
    with pytest.raises(ConfigurationError, match="without num_workers"):
        pickle.dumps(KBLaMTripleSink(kb))
    with pytest.raises(ConfigurationError, match="can be changed, got KBSnapshot"):
        KBLaMTripleSink(kb.snapshot())


def index_of(*texts, **options):
    documents = [Document(text=text, doc_id=f"doc{i}") for i, text in enumerate(texts)]
    return KBLaMIndex.from_documents(documents, llm=KBLaMLLM(engine=copier(), max_tokens=60), **options)


def test_an_index_of_documents_answers():
    index = index_of(ORCA, "name: Bolt\nowner: Acme")
    assert parts(index.kb) == {
        ("Orca 2", "battery life", "7.5 hours"),
        ("Orca 2", "maker", "Acme Robotics"),
        ("Bolt", "owner", "Acme"),
    }
    response = index.as_query_engine().query(QUESTION)
    assert "7.5 hours" in str(response) and response.source_nodes[0].node.ref_doc_id == "doc0"
    assert "7.5 hours" in "".join(index.as_query_engine(streaming=True).query(QUESTION).response_gen)
    assert set(index.ref_doc_info) == {"doc0", "doc1"} and len(index.ref_doc_info["doc0"].node_ids) == 1
    (hit, *_) = index.as_retriever(similarity_top_k=2).retrieve(QUESTION)
    assert hit.metadata["value"] == "7.5 hours"


def test_deleting_a_document_takes_back_what_only_it_said():
    index = index_of(ORCA, "name: Orca 2\nmaker: Acme Robotics\ncolour: red")
    index.delete_ref_doc("doc0")
    assert parts(index.kb) == {("Orca 2", "maker", "Acme Robotics"), ("Orca 2", "colour", "red")}
    index.delete_ref_doc("unknown")
    asyncio.run(index.adelete_ref_doc("doc1", delete_from_docstore=True))
    assert len(index.kb) == 0 and index.ref_doc_info == {}
    assert index.as_query_engine().query(QUESTION).metadata["refused"]


def test_documents_are_refreshed_updated_and_inserted():
    index = index_of(ORCA)
    changed = Document(text=ORCA.replace("7.5", "9"), doc_id="doc0")
    assert index.refresh_ref_docs([changed, Document(text="name: Bolt\nowner: Acme", doc_id="new")]) == [True, True]
    assert index.refresh_ref_docs([changed]) == [False]
    assert [t.value for t in index.kb.get_all("Orca 2", "battery life")] == ["9 hours"]
    assert index.kb.get("Bolt", "owner").value == "Acme"
    asyncio.run(index.ainsert(Document(text="name: Bolt\ncolour: red", doc_id="newer")))
    assert index.kb.get("Bolt", "colour").value == "red"


def test_an_index_lives_in_its_knowledge_base(tmp_path):
    with KnowledgeBase.open(tmp_path / "a.kb", encoder=HashingEncoder(), multi=True) as kb:
        kb.add([Triple("Orca 2", "maker", "Acme Robotics")])
        index_of(ORCA, kb=kb)
    again = KBLaMIndex(kb=tmp_path / "a.kb", llm=KBLaMLLM(engine=copier(), max_tokens=60))
    assert "7.5 hours" in str(again.as_query_engine().query(QUESTION)) and set(again.ref_doc_info) == {"doc0"}
    again.delete_ref_doc("doc0")
    assert parts(again.kb) == {("Orca 2", "maker", "Acme Robotics")}  # it was there before any document


def test_an_index_takes_another_way_to_extract():
    index = index_of("anything", extract=lambda node: [Triple("Orca 2", "battery life", node.get_content())])
    assert index.kb.get("Orca 2", "battery life").value == "anything"
    nodes = [TextNode(text="colour: red", metadata={"title": "Orca 2"}), TextNode(text="no name: here")]
    assert parts(KBLaMIndex(nodes, llm=KBLaMLLM(engine=copier())).kb) == {("Orca 2", "colour", "red")}


def test_an_index_of_a_property_graph():
    index = KBLaMIndex.from_property_graph_store(graph_store(), llm=KBLaMLLM(engine=copier(), max_tokens=60))
    assert parts(index.kb) == EXPECTED
    assert "Acme" in str(index.as_query_engine().query("What is the founded of Lena?"))
    index.delete_ref_doc("doc")
    assert parts(index.kb) == {("a_b", "c", "d"), ("a", "b c", "d")}


def test_an_index_with_another_llm_puts_triples_into_its_prompt():
    index = index_of(ORCA)
    engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=2)
    assert isinstance(engine, RetrieverQueryEngine) and "7.5 hours" in str(engine.query(QUESTION))
    with pytest.raises(ConfigurationError, match="expected one knowledge base"):
        KBLaMIndex(kb=kb_of(("a", "b", "c")), llm=KBLaMLLM(engine=copier(), kb=index.kb))


def test_an_index_gives_a_chat_engine():
    index = index_of(ORCA)
    assert "7.5 hours" in str(index.as_chat_engine().chat(QUESTION))
    with pytest.raises(ConfigurationError, match="'condense_question' needs an LLM that follows instructions"):
        index.as_chat_engine(ChatMode.CONDENSE_QUESTION)
    condensing = index.as_chat_engine(ChatMode.CONDENSE_QUESTION, llm=MockLLM())
    assert condensing.chat(QUESTION).source_nodes


def test_an_index_takes_what_every_index_takes():
    index = index_of(ORCA)
    engine = index.as_query_engine(similarity_top_k=3, response_mode="compact", use_async=False, verbose=True)
    assert "7.5 hours" in str(engine.query(QUESTION))
    with pytest.raises(ConfigurationError, match="got node_postprocessors, text_qa_template: triples are in the model's"):
        index.as_query_engine(text_qa_template="?", node_postprocessors=[])
    other = index.as_query_engine(llm=MockLLM(), streaming=True, response_mode="compact", similarity_top_k=2)
    assert "7.5 hours" in "".join(other.query(QUESTION).response_gen)
    manager = CallbackManager()
    assert index.as_query_engine(callback_manager=manager).callback_manager is manager
    chatting = index.as_chat_engine("context", llm=MockLLM(), system_prompt="Be brief.", similarity_top_k=2)
    assert "7.5 hours" in str(chatting.chat(QUESTION))
    with pytest.raises(ConfigurationError, match="'condense_question' needs an LLM that follows instructions"):
        index.as_chat_engine("condense_question")


@pytest.mark.parametrize("start", ["query", "chat"])
def test_the_system_prompt_of_an_llm_is_that_of_its_engines(start, monkeypatch):
    index, asked = index_of(ORCA), []
    llm = KBLaMLLM(engine=copier(), kb=index.kb, system_prompt="Be brief.", max_tokens=60)
    chat = KBLaMLLM.chat
    monkeypatch.setattr(KBLaMLLM, "chat", lambda self, messages, **kwargs: asked.append(messages) or chat(self, messages, **kwargs))
    if start == "query":
        index.as_query_engine(llm=llm).query(QUESTION)
        index.as_query_engine(llm=llm, system_prompt="Be kind.").query(QUESTION)
    else:
        index.as_chat_engine(llm=llm).chat(QUESTION)
        index.as_chat_engine(llm=llm, system_prompt="Be kind.").chat(QUESTION)
    assert [messages[0].content for messages in asked] == ["Be brief.", "Be kind."]


def test_nodes_are_deleted_together_off_the_event_loop():
    index = index_of(ORCA, "name: Orca 2\ncolour: red")
    before = index.kb.revision
    asyncio.run(index.adelete_nodes([node for info in index.ref_doc_info.values() for node in info.node_ids]))
    assert len(index.kb) == 0 and index.kb.revision == before + 1
