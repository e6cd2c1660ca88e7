"""KBLaMQueryEngine and what LlamaIndex puts around a query engine: tools, routers, chat engines, evaluators, events."""

import asyncio
import json

import pytest
from engine_parts import QUESTION
from integration_parts import copier, kb_of, ships
from llama_index.core import Settings
from llama_index.core.base.llms.types import CompletionResponse, LLMMetadata, MessageRole
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.chat_engine import CondenseQuestionChatEngine, ContextChatEngine, SimpleChatEngine
from llama_index.core.evaluation import FaithfulnessEvaluator, RetrieverEvaluator
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.mock import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine, RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeRelationship, QueryBundle
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.tools import QueryEngineTool
from llama_index.core.workflow import WorkflowRuntimeError

from kblam_engine.errors import ConfigurationError
from kblam_engine.triples import Triple
from kblam_integrations._serving import queue_of
from kblam_integrations.langchain import ChatKBLaM
from kblam_integrations.llama_index import KBLaMLLM, KBLaMQueryEngine, KBLaMRetriever, KBLaMWorkflow
from kblam_integrations.llama_index.workflow import PieceEvent, SourcesEvent

COPIED = "The battery life of Orca 2 is 7.5 hours"
BUNDLE = QueryBundle(QUESTION)
FOUNDER = "What is the founder of Acme Robotics?"


def copying(kb=None, **options):
    """Return a query engine that answers with what it finds."""
    kb = ships() if kb is None and "kbs" not in options else kb
    return KBLaMQueryEngine(kb, engine=copier(), max_tokens=60, **options)


class Scripted(CustomLLM):
    """Another LLM: it gives one reply after the other, and keeps the prompts."""

    replies: list[str]
    seen: list[str] = []

    @property
    def metadata(self):
        return LLMMetadata()

    def complete(self, prompt, formatted=False, **kwargs):
        self.seen.append(prompt)
        return CompletionResponse(text=self.replies.pop(0))

    def stream_complete(self, prompt, formatted=False, **kwargs):
        yield self.complete(prompt)


def all_ways(**options):
    """Return the response of each way to ask, streams read to their end."""
    streaming = copying(streaming=True, **options)

    async def streamed():
        response = await streaming.aquery(QUESTION)
        assert isinstance(response, AsyncStreamingResponse)
        return await response.get_response()

    stream = streaming.query(QUESTION)
    assert isinstance(stream, StreamingResponse)
    return {
        "query": copying(**options).query(QUESTION),
        "aquery": asyncio.run(copying(**options).aquery(BUNDLE)),
        "stream": stream.get_response(),
        "astream": asyncio.run(streamed()),
    }


def test_all_ways_give_the_answer_and_what_it_rests_on():
    expected = copier().answer(QUESTION, kb=ships(), max_new_tokens=60)
    for way, response in all_ways().items():
        assert isinstance(response, Response) and response.response == expected.text, way
        (node,) = response.source_nodes
        (attended,) = [a for a in expected.attended if a.weight > 0]
        assert node.score == pytest.approx(attended.weight) and node.node.text == COPIED + ".", way
        metadata = node.node.metadata
        assert (metadata["name"], metadata["property"], metadata["value"]) == ("Orca 2", "battery life", "7.5 hours")
        ((start, end),) = metadata["spans"]
        assert response.response[start:end] == "7.5 hours", way
        assert not response.metadata["refused"] and response.metadata["usage"]["n_triples"] == 6, way
        assert json.loads(json.dumps(response.metadata)) == response.metadata, way


def test_a_stream_has_its_sources_before_its_first_word():
    engine = copying(streaming=True)
    stream = engine.query(QUESTION)
    (node,) = nodes = stream.source_nodes
    assert node.node.text == COPIED + "." and "spans" not in node.node.metadata
    (selected,) = copier().stream(QUESTION, ships()).selected.triples
    assert node.score == pytest.approx(selected.score) and not stream.metadata["refused"]
    first = next(stream.response_gen)
    assert stream.source_nodes[0] is node and COPIED.startswith(first)
    assert list(stream.response_gen) and stream.source_nodes is nodes
    assert nodes[0].node.node_id == node.node.node_id and nodes[0].node.metadata["spans"]

    async def before_the_first_word(**options):
        response = await copying(streaming=True, **options).aquery(QUESTION)
        known = [each.node.text for each in response.source_nodes], response.metadata.get("refused")
        await response.get_response()
        return known

    assert asyncio.run(before_the_first_word()) == ([COPIED + "."], False)
    assert asyncio.run(before_the_first_word(refusal_threshold=0.999999)) == ([], True)
    assert asyncio.run(before_the_first_word(kbs={"none": ships()})) == ([], None)  # no KB: the base model answers


def test_a_refusal_has_no_sources():
    for way, response in all_ways(refusal_threshold=0.999999).items():
        assert response.metadata["refused"] and response.source_nodes == [], way
        assert "cannot find" in response.response, way


def test_nodes_name_their_document_and_keep_their_ids():
    kb = kb_of(("Orca 2", "maker", "Acme"))
    kb.set("Orca 2", "battery life", "7.5 hours", {"ref_doc_id": "manual", "page": 3})
    first, second = (copying(kb).query(QUESTION).source_nodes[0].node for _ in range(2))
    assert first.node_id == second.node_id and first.metadata["page"] == 3
    assert first.ref_doc_id == first.relationships[NodeRelationship.SOURCE].node_id == "manual"
    (found,) = copying(kb).retriever.retrieve(QUESTION)[:1]
    assert found.node.node_id == first.node_id and 0 < found.score <= 1
    assert found.node.get_content() == found.node.get_content(metadata_mode="llm") == COPIED + "."


class Events(BaseEventHandler):
    """Keeps the events of one test."""

    seen: list = []

    @classmethod
    def class_name(cls):
        return "Events"

    def handle(self, event, **kwargs):
        self.seen.append(event)


@pytest.fixture
def events():
    handler, dispatcher = Events(seen=[]), get_dispatcher()
    dispatcher.add_event_handler(handler)
    yield handler.seen
    dispatcher.event_handlers.remove(handler)


def test_instrumentation_hears_of_it(events):
    copying().query(QUESTION)
    names = [event.class_name() for event in events]
    assert names == ["QueryStartEvent", "LLMChatStartEvent", "LLMChatEndEvent", "KBLaMAttentionEvent", "QueryEndEvent"]
    attention = events[3]
    assert attention.query == QUESTION and attention.nodes[0].node.text == COPIED + "."
    assert not attention.refused and attention.n_triples == 6 and 0 < attention.confidence <= 1


def test_callbacks_hear_of_it():
    handler = LlamaDebugHandler(print_trace_on_end=False)
    copying(callback_manager=CallbackManager([handler])).query(QUESTION)
    (start, end), = handler.get_event_pairs(CBEventType.QUERY)
    assert start.payload["query_str"] == QUESTION and COPIED in str(end.payload["response"])
    assert len(handler.get_llm_inputs_outputs()) == 1


def test_what_does_not_go_together_is_told():
    with pytest.raises(ConfigurationError, match="expected llm, or kb"):
        KBLaMQueryEngine(ships(), llm=KBLaMLLM(engine=copier()))
    with pytest.raises(ConfigurationError, match="expected a KBLaMLLM, got MockLLM"):
        KBLaMQueryEngine(llm=MockLLM())
    with pytest.raises(ConfigurationError, match="similarity_top_k"):
        KBLaMRetriever(ships(), engine=copier(), similarity_top_k=0)
    with pytest.raises(ConfigurationError, match="knowledge base to search, got none"):
        KBLaMRetriever(engine=copier()).retrieve(QUESTION)
    assert copying().get_prompts() == {}


def test_one_llm_serves_engines_of_several_knowledge_bases():
    kbs = {"a": kb_of(("Orca 2", "battery life", "1 hour")), "b": kb_of(("Orca 2", "battery life", "2 days"))}
    llm = KBLaMLLM(engine=copier(), kbs=kbs, max_tokens=60)
    answers = [str(KBLaMQueryEngine(llm=llm, kb_id=kb_id).query(QUESTION)) for kb_id in "ab"]
    assert "1 hour" in answers[0] and "2 days" in answers[1]
    assert KBLaMQueryEngine(llm=llm, kb_id="b").retrieve(QueryBundle(QUESTION))[0].metadata["value"] == "2 days"


def test_the_retriever_finds_the_best_first():
    retriever = KBLaMRetriever(ships(), engine=copier(), similarity_top_k=3)
    nodes = retriever.retrieve(QUESTION)
    assert len(nodes) == 3 and nodes[0].metadata["property"] == "battery life"
    assert [n.score for n in nodes] == sorted((n.score for n in nodes), reverse=True)
    assert [n.node_id for n in asyncio.run(retriever.aretrieve(QUESTION))] == [n.node_id for n in nodes]


def test_the_retriever_feeds_another_llm_and_a_retrieval_evaluator():
    llm = Scripted(replies=["7.5 hours"])
    retriever = KBLaMRetriever(ships(), engine=copier(), similarity_top_k=2)
    response = RetrieverQueryEngine.from_args(retriever, llm=llm).query(QUESTION)
    assert str(response) == "7.5 hours" and COPIED in llm.seen[0] and len(response.source_nodes) == 2
    expected = [retriever.retrieve(QUESTION)[0].node_id]
    result = RetrieverEvaluator.from_metric_names(["mrr", "hit_rate"], retriever=retriever).evaluate(QUESTION, expected)
    assert result.metric_vals_dict == {"mrr": 1.0, "hit_rate": 1.0}


def test_as_a_tool():
    tool = QueryEngineTool.from_defaults(copying(), name="ships", description="What is known of ships.")
    output = tool(QUESTION)
    assert COPIED in output.content and output.raw_output.source_nodes
    assert COPIED in asyncio.run(tool.acall(QUESTION)).content


def test_in_a_router():
    tools = [
        QueryEngineTool.from_defaults(copying(kb_of(("Bolt", "owner", "Acme"))), name="firms", description="Firms."),
        QueryEngineTool.from_defaults(copying(), name="ships", description="Ships."),
    ]
    choice = json.dumps([{"choice": 2, "reason": "It is about a ship."}])
    llm = Scripted(replies=[choice, choice])
    router = RouterQueryEngine(LLMSingleSelector.from_defaults(llm=llm), tools, llm=llm)
    response = router.query(QUESTION)
    assert COPIED in str(response) and response.source_nodes and not response.metadata["refused"]
    assert COPIED in str(asyncio.run(router.aquery(QUESTION)))


@pytest.mark.parametrize("use_async", [False, True])
def test_with_sub_questions(use_async):
    tool = QueryEngineTool.from_defaults(copying(), name="ships", description="Ships.")
    questions = [{"sub_question": q, "tool_name": "ships"} for q in (QUESTION, FOUNDER)]
    llm = Scripted(replies=[json.dumps({"items": questions}), "7.5 hours, and Lena Hoffmann."])
    engine = SubQuestionQueryEngine(
        LLMQuestionGenerator.from_defaults(llm=llm),
        get_response_synthesizer(llm=llm),
        [tool],
        verbose=False,
        use_async=use_async,
    )
    response = engine.query("How long does the Orca 2 last, and who founded its maker?")
    assert str(response) == "7.5 hours, and Lena Hoffmann." and COPIED in llm.seen[1]
    assert {"battery life", "founder"} <= {node.metadata.get("property") for node in response.source_nodes}


def test_chat_engines():
    condensing = CondenseQuestionChatEngine.from_defaults(copying(), llm=Scripted(replies=[FOUNDER]))
    first = condensing.chat(QUESTION)
    assert COPIED in str(first) and first.source_nodes
    assert "Lena Hoffmann" in str(condensing.chat("And who founded Acme?"))
    streaming = CondenseQuestionChatEngine.from_defaults(copying(streaming=True), llm=Scripted(replies=[]))
    assert COPIED in "".join(streaming.stream_chat(QUESTION).response_gen)
    llm = copying().llm
    simple = SimpleChatEngine.from_defaults(llm=llm)
    assert COPIED in str(simple.chat(QUESTION))
    assert [m.role for m in simple.chat_history] == [MessageRole.USER, MessageRole.ASSISTANT]
    assert COPIED in "".join(SimpleChatEngine.from_defaults(llm=llm).stream_chat(QUESTION).response_gen)
    context = ContextChatEngine.from_defaults(copying().retriever, llm=Scripted(replies=["So it is."]))
    answered = context.chat(QUESTION)
    assert str(answered) == "So it is." and answered.source_nodes[0].metadata["property"] == "battery life"


def test_the_faithfulness_evaluator_reads_the_triples():
    judge = Scripted(replies=["YES", "NO"])
    evaluator = FaithfulnessEvaluator(llm=judge)
    response = copying().query(QUESTION)
    assert evaluator.evaluate_response(query=QUESTION, response=response).passing
    assert COPIED in judge.seen[0] and response.response in judge.seen[0]
    assert not evaluator.evaluate_response(query=QUESTION, response=response).passing


def test_settings_lend_their_callbacks(monkeypatch):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    monkeypatch.setattr(Settings, "_callback_manager", CallbackManager([handler]))
    copying().query(QUESTION)
    assert len(handler.get_event_pairs(CBEventType.QUERY)) == 1


def run_workflow(workflow, **start):
    async def run():
        handler = workflow.run(**start)
        pieces = [event.delta async for event in handler.stream_events() if isinstance(event, PieceEvent)]
        return await handler, pieces

    return asyncio.run(run())


@pytest.mark.parametrize("streaming", [False, True])
def test_a_workflow_streams_the_answer(streaming):
    response, pieces = run_workflow(KBLaMWorkflow(query_engine=copying(streaming=streaming)), query=QUESTION)
    assert COPIED in str(response) and "".join(pieces) == str(response) and (len(pieces) > 1) is streaming
    assert response.metadata["answered_by"] == "knowledge base" and response.source_nodes


def test_a_workflow_falls_back_when_the_knowledge_base_refuses():
    other = RetrieverQueryEngine.from_args(
        KBLaMRetriever(kb_of(Triple("Orca 2", "battery life", "9 days")), engine=copier()), llm=MockLLM()
    )
    options = {"engine": copier(), "max_tokens": 60, "fallback": other}
    response, pieces = run_workflow(KBLaMWorkflow(ships(), **options), query=QUESTION)
    assert response.metadata["answered_by"] == "knowledge base" and pieces == [str(response)]
    response, pieces = run_workflow(KBLaMWorkflow(ships(), refusal_threshold=0.999999, **options), query=QUESTION)
    assert response.metadata["answered_by"] == "fallback" and "9 days" in str(response) and pieces == [str(response)]
    response, _ = run_workflow(KBLaMWorkflow(query_engine=copying(refusal_threshold=0.999999)), query=QUESTION)
    assert response.metadata["refused"]


def test_a_workflow_with_a_fallback_streams_what_it_knows():
    other = copying(kb_of(("Orca 2", "battery life", "9 days")), streaming=True)

    def run(**options):
        workflow = KBLaMWorkflow(query_engine=copying(streaming=True, **options), fallback=other)

        async def events():
            handler = workflow.run(query=QUESTION)
            told = [event async for event in handler.stream_events() if isinstance(event, PieceEvent | SourcesEvent)]
            return await handler, told

        return asyncio.run(events())

    for options, by, value in (({}, "knowledge base", "7.5 hours"), ({"refusal_threshold": 0.999999}, "fallback", "9 days")):
        response, (sources, *pieces) = run(**options)
        assert response.metadata["answered_by"] == by and value in str(response)
        assert isinstance(sources, SourcesEvent) and sources.nodes[0].metadata["value"] == value
        assert len(pieces) > 1 and "".join(piece.delta for piece in pieces) == str(response)  # no refusal among them


def test_a_workflow_says_what_it_needs():
    with pytest.raises((ConfigurationError, WorkflowRuntimeError), match="run\\(query=...\\)"):
        run_workflow(KBLaMWorkflow(query_engine=copying()), question=QUESTION)
    with pytest.raises(ConfigurationError, match="got both"):
        KBLaMWorkflow(ships(), query_engine=copying())


def test_one_engine_serves_llama_index_and_langchain_together():
    engine, n_calls = copier(), 6
    kbs = [kb_of(("Orca 2", "battery life", f"{n} hours"), ("Acme Robotics", "founder", f"Ada {n}")) for n in range(n_calls)]
    asked = [(kb, question) for kb in kbs for question in (QUESTION, FOUNDER)]
    serial = [engine.answer(question, kb=kb, max_new_tokens=60).text for kb, question in asked]
    assert len(set(serial)) == 2 * n_calls

    async def both():
        llama = [KBLaMQueryEngine(kb, engine=engine, max_tokens=60).aquery(question) for kb, question in asked]
        lang = [ChatKBLaM(kb=kb, engine=engine, max_tokens=60).ainvoke(question) for kb, question in asked]
        mixed = [call for pair in zip(llama, lang, strict=True) for call in pair]
        return await asyncio.gather(*mixed)

    sizes = queue_of(engine).batch_sizes
    sizes.clear()
    found = asyncio.run(both())
    assert [str(response) for response in found[::2]] == serial
    assert [message.text for message in found[1::2]] == serial
    assert max(sizes) > 1  # they did share batches
