"""ChatKBLaM: answers are the engine's, citations, caches, options, refusals to pretend, cancelling."""

import asyncio
import functools
import json
import operator
import time

import networkx as nx
import pytest
from engine_parts import QUESTION
from integration_parts import copier, endless_engine, kb_of, ships, tiny_engine
from langchain_core.caches import InMemoryCache
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnablePassthrough
from pydantic import ValidationError

from kblam_engine.errors import ConfigurationError, KnowledgeBaseNotFoundError
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Provenance, Triple
from kblam_integrations._serving import queue_of
from kblam_integrations.langchain import ChatKBLaM, KBRegistry, kb_prompt
from kblam_integrations.langchain._messages import chat_of, citations_of

ORCA = ("Orca 2", "battery life", "7.5 hours")
COPIED = "The battery life of Orca 2 is 7.5 hours"


def chat(**options):
    return ChatKBLaM(**{"engine": tiny_engine(), "kb": ships(), "max_tokens": 12, **options})


def copying(kb=None, **options):
    """Return a model that answers with what it finds, and a question's answer is known."""
    return ChatKBLaM(engine=copier(), kb=ships() if kb is None else kb, max_tokens=60, **options)


def test_invoke_is_the_engines_answer():
    expected = tiny_engine().answer(QUESTION, kb=ships(), max_new_tokens=12)
    message = chat().invoke(QUESTION)
    assert message.content == expected.text and expected.text
    assert message.additional_kwargs["attended_triples"] == json.loads(
        json.dumps([attended.to_dict() for attended in expected.attended])
    )
    usage = expected.usage
    assert message.usage_metadata == {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    metadata = message.response_metadata
    assert metadata["model_name"] == "tiny-llama" and metadata["finish_reason"] == expected.finish_reason
    assert metadata["refused"] == expected.refused and metadata["n_triples"] == 6 and metadata["ttft_ms"] > 0


def test_without_a_knowledge_base_the_base_model_answers():
    message = chat(kb=None).invoke(QUESTION)
    assert message.content == tiny_engine().answer(QUESTION, max_new_tokens=12).text
    assert message.additional_kwargs["attended_triples"] == [] and not message.response_metadata["grounded"]


def merged(chunks):
    return functools.reduce(operator.add, chunks)


async def in_all_ways(llm, *question, **options):
    """Return the message of each way to ask."""
    return {
        "invoke": await asyncio.to_thread(llm.invoke, *question, **options),
        "stream": merged(await asyncio.to_thread(lambda: list(llm.stream(*question, **options)))),
        "ainvoke": await llm.ainvoke(*question, **options),
        "astream": merged([chunk async for chunk in llm.astream(*question, **options)]),
    }


@pytest.mark.parametrize("version", [None, "v1"])
async def test_all_ways_give_the_same_message(version):
    messages = await in_all_ways(copying(output_version=version), QUESTION)
    reference = messages["invoke"]
    for way, message in messages.items():
        assert str(message.text) == str(reference.text) and COPIED in str(message.text), way
        assert message.usage_metadata == reference.usage_metadata, way
        assert message.response_metadata["model_name"] == "tiny-llama", way
        assert message.response_metadata["finish_reason"] == reference.response_metadata["finish_reason"], way
        assert message.additional_kwargs == reference.additional_kwargs, way
        assert len(message.content_blocks) == 1, way


async def test_the_first_chunk_says_what_the_answer_will_rest_on():
    kb = kb_of(Triple(*ORCA, {"page": 3}, Provenance("sheet", "orca.pdf", (4, 30))))
    llm = copying(kb)
    for chunks in (list(llm.stream(QUESTION)), [chunk async for chunk in llm.astream(QUESTION)]):
        first, second = chunks[:2]
        assert first.text == "" and second.text and not first.response_metadata["refused"]
        (selected,) = first.response_metadata["selected_triples"]
        assert (selected["name"], selected["property"], selected["value"]) == ORCA and 0 < selected["score"] <= 1
        assert selected["provenance"] == {"document": "sheet", "uri": "orca.pdf", "span": [4, 30]}
        (attended,) = merged(chunks).additional_kwargs["attended_triples"]
        assert attended["id"] == selected["id"] and attended["provenance"] == selected["provenance"]
        (citation,) = merged(chunks).content_blocks[0]["annotations"]
        assert citation["title"] == "orca.pdf" and citation["extras"]["provenance"]["span"] == [4, 30]
    refusal = next(iter(llm.stream(QUESTION, refusal_threshold=0.999999)))
    assert refusal.response_metadata["refused"] and refusal.response_metadata["selected_triples"] == []
    alone = next(iter(chat(kb=None).stream(QUESTION)))
    assert alone.text and "selected_triples" not in alone.response_metadata


@pytest.mark.parametrize("version", [None, "v1"])
async def test_citations_point_at_the_words_of_the_answer(version):
    kb = kb_of(ORCA)
    kb.set(*ORCA, metadata={"source": "https://example.org/orca", "page": 3})
    for way, message in (await in_all_ways(copying(kb, output_version=version), QUESTION)).items():
        (block,) = message.content_blocks
        (citation,) = block["annotations"]
        assert block["text"][citation["start_index"] : citation["end_index"]] == "7.5 hours", way
        assert citation["url"] == "https://example.org/orca" and citation["extras"]["metadata"]["page"] == 3, way
        assert citation["cited_text"] == COPIED and citation["extras"]["value"] == "7.5 hours", way


def test_citations_come_in_the_order_of_the_text():
    triples = [
        {"id": 1, "name": "a", "property": "b", "value": "c", "weight": 0.5, "spans": [[9, 12], [1, 2]]},
        {"id": 2, "name": "d", "property": "e", "value": "f", "weight": 0.5, "spans": [[4, 6]]},
        {"id": 3, "name": "g", "property": "h", "value": "i", "weight": 0.0},
    ]
    assert [(c["start_index"], c["extras"]["triple_id"]) for c in citations_of(triples)] == [(1, 1), (4, 2), (9, 1)]


async def test_stop_texts_end_every_way_and_add_up():
    llm = copying(stop=["hours"])
    for way, message in (await in_all_ways(llm, QUESTION)).items():
        assert str(message.text) == COPIED.removesuffix(" hours"), way
        assert message.response_metadata["finish_reason"] == "stop", way
    assert llm.invoke(QUESTION, stop=["battery"]).text == "The"
    assert llm.invoke(QUESTION, stop=[]).text == COPIED.removesuffix(" hours")


def test_options_reach_the_engine():
    assert chat(max_tokens=3).invoke(QUESTION).usage_metadata["output_tokens"] == 3
    assert chat().invoke(QUESTION, max_tokens=2).response_metadata["finish_reason"] == "length"
    warm = chat(temperature=2.0, seed=7)
    assert warm.invoke(QUESTION).text == warm.invoke(QUESTION).text != warm.invoke(QUESTION, seed=8).text
    greedy = warm.invoke(QUESTION, temperature=0.0).text
    assert greedy == chat().invoke(QUESTION).text == chat(temperature=2.0, top_k=1).invoke(QUESTION).text
    assert chat(refusal_threshold=0.999).invoke(QUESTION).response_metadata["refused"]
    assert not chat(refusal_threshold=0.001).invoke(QUESTION).response_metadata["refused"]


def test_questions_that_are_not_covered_may_go_to_the_base_model():
    llm = chat(refusal_threshold=0.999, unknown="base")
    message = llm.invoke(QUESTION)
    assert message.text == chat(kb=None).invoke(QUESTION).text and not message.response_metadata["grounded"]
    assert llm.invoke(QUESTION, unknown="refuse").response_metadata["refused"]


def test_wrong_options_are_told():
    for options, name in (({"tool_choice": "any"}, "tool_choice"), ({"tools": []}, "tools"), ({"seed": -1}, "seed")):
        with pytest.raises(ConfigurationError, match=name):
            chat().invoke(QUESTION, **options)
    with pytest.raises(ValidationError, match="max_token\n"):
        ChatKBLaM(max_token=5)
    with pytest.raises(ValidationError, match="expected a KBLaM"):
        ChatKBLaM(engine="smollm2-135m")
    with pytest.raises(ConfigurationError, match="the engine given is 'tiny-llama'"):
        chat().invoke(QUESTION, model="another")
    with pytest.raises(KnowledgeBaseNotFoundError):
        ChatKBLaM(kb="no-such.kb")


def test_it_does_not_pretend_to_call_tools_or_to_follow_schemas():
    with pytest.raises(NotImplementedError, match="calls no tools"):
        chat().bind_tools([len])
    with pytest.raises(NotImplementedError, match="structured output"):
        chat().with_structured_output({"title": "x", "type": "object"})
    with pytest.raises(NotImplementedError, match="calls no tools"):
        chat().get_num_tokens_from_messages([HumanMessage("a")], tools=[len])
    assert chat().profile["tool_calling"] is False and chat().profile["max_input_tokens"] == 2048


def test_messages_become_a_chat():
    messages = [
        SystemMessage("Be short."), SystemMessage([{"type": "text", "text": "Be kind."}]),
        HumanMessage("Hello"), HumanMessage("there", name="anna"),
        AIMessage([{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "Hi"}, "!"]),
        ChatMessage("And?", role="user"), AIMessageChunk("So"),
    ]  # fmt: skip
    assert chat_of(messages) == [
        {"role": "system", "content": "Be short.\n\nBe kind."},
        {"role": "user", "content": "Hello\n\nthere"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "So"},
    ]
    for message, reason in (
        (ToolMessage("4", tool_call_id="1"), "calls no tools"),
        (HumanMessage([{"type": "image", "url": "https://example.org/a.png"}]), "reads text only"),
        (ChatMessage("x", role="critic"), "critic"),
    ):
        with pytest.raises(ConfigurationError, match=f"message 1.*{reason}"):
            chat_of([HumanMessage("a"), message])


def test_an_unfinished_answer_is_continued():
    started = [HumanMessage(QUESTION), AIMessage("The battery")]
    expected = tiny_engine().answer(chat_of(started), kb=ships(), max_new_tokens=12)
    assert chat().invoke(started).content == expected.text


def test_tokens_are_counted_offline():
    llm = chat()
    assert llm.get_num_tokens("Orca 2") == len(llm.get_token_ids("Orca 2")) > 1
    prompt = llm.get_num_tokens_from_messages([HumanMessage(QUESTION)])
    assert prompt == llm.invoke(QUESTION).usage_metadata["input_tokens"]


def test_caches_mix_neither_knowledge_bases_nor_their_revisions():
    cache = InMemoryCache()
    first, second = kb_of(ORCA), kb_of(("Orca 2", "battery life", "9 hours"))
    assert "7.5" in copying(first, cache=cache).invoke(QUESTION).text
    assert "9" in copying(second, cache=cache).invoke(QUESTION).text
    alone = ChatKBLaM(engine=copier(), max_tokens=60, cache=cache).invoke(QUESTION)
    assert "7.5" not in alone.text and "total_cost" not in alone.usage_metadata
    again = copying(first, cache=cache).invoke(QUESTION)
    assert again.usage_metadata["total_cost"] == 0  # LangChain's mark of an answer from the cache
    first.set("Orca 2", "battery life", "8 hours")
    assert "8 hours" in copying(first, cache=cache).invoke(QUESTION).text
    assert "total_cost" not in copying(second, cache=cache, stop=["hours"]).invoke(QUESTION).usage_metadata


def test_caches_keep_the_tenants_of_one_model_apart():
    kbs = {"a": kb_of(ORCA), "b": kb_of(("Orca 2", "battery life", "9 hours"))}
    llm = ChatKBLaM(engine=copier(), kbs=kbs, cache=InMemoryCache(), max_tokens=60)
    for kb_id, value in (("a", "7.5 hours"), ("b", "9 hours"), ("a", "7.5 hours")):
        assert value in llm.invoke(QUESTION, kb_id=kb_id).text
    kbs["a"].set("Orca 2", "battery life", "8 hours")
    assert "8 hours" in llm.bind(kb_id="a").invoke(QUESTION).text
    with pytest.raises(ConfigurationError, match="no knowledge base is registered as 'c'"):
        llm.invoke(QUESTION, kb_id="c")
    with pytest.raises(ConfigurationError, match="no kbs were given"):
        chat().invoke(QUESTION, kb_id="a")


async def test_a_configurable_field_chooses_the_knowledge_base():
    registry = KBRegistry({"a": [ORCA], "b": [("Orca 2", "battery life", "9 hours")]}, encoder=HashingEncoder())
    llm = ChatKBLaM(engine=copier(), kbs=registry, kb_id="a", max_tokens=60)
    chain = ChatPromptTemplate.from_messages([("human", "{question}")]) | llm.configurable_fields(
        kb_id=ConfigurableField(id="tenant")
    ) | StrOutputParser()
    asked = {"question": QUESTION}
    assert "7.5 hours" in chain.invoke(asked)
    config = {"configurable": {"tenant": "b"}}
    assert "9 hours" in chain.invoke(asked, config)
    pieces = [piece async for piece in chain.astream(asked, config)]
    assert "9 hours" in "".join(pieces) and len(pieces) > 3  # still token by token


def test_a_change_counts_from_the_next_call_of_a_chain():
    kb = kb_of(ORCA)
    chain = ChatPromptTemplate.from_messages([("human", "{q}")]) | copying(kb) | StrOutputParser()
    assert "7.5 hours" in chain.invoke({"q": QUESTION})
    kb.set("Orca 2", "battery life", "9 hours")
    assert "9 hours" in chain.invoke({"q": QUESTION})


def test_knowledge_bases_from_what_users_hold(tmp_path):
    with KnowledgeBase.open(tmp_path / "ships.kb", encoder=HashingEncoder()) as kb:
        kb.add(ships())
    graph = nx.DiGraph()
    graph.add_edge("Orca 2", "7.5 hours", relation="battery life")
    for source in (str(tmp_path / "ships.kb"), tmp_path / "ships.kb", [ORCA], graph, kb_of(ORCA).snapshot()):
        llm = copying(source)
        assert "7.5 hours" in llm.invoke(QUESTION).text, source
    assert copying(tmp_path / "ships.kb").kb is copying(str(tmp_path / "ships.kb")).kb


def test_many_inputs_share_batches():
    llm = chat(max_tokens=4)
    questions = [QUESTION, "Who founded Acme Robotics?"] * 5
    alone = [str(llm.invoke(question).text) for question in questions[:2]]
    sizes = queue_of(tiny_engine()).batch_sizes
    sizes.clear()
    assert [str(message.text) for message in llm.batch(questions)] == alone * 5
    assert max(sizes) > 5 and len(sizes) < 8  # on a busy machine not all ten come in time for the first batches
    sizes.clear()
    llm.batch(questions[:3], {"max_concurrency": 1})
    assert list(sizes) == [1, 1, 1]


async def test_abatch_shares_batches_and_returns_exceptions():
    llm = copying()
    results = await llm.abatch([QUESTION, " ", QUESTION], return_exceptions=True)
    assert isinstance(results[1], ConfigurationError)
    assert results[0].text == results[2].text == llm.invoke(QUESTION).text


async def test_a_timeout_frees_the_model():
    llm = chat(engine=endless_engine(), kb=None, max_tokens=1900, timeout=0.2)
    for ask in (llm.invoke, lambda q: list(llm.stream(q))):
        with pytest.raises(TimeoutError, match="timeout=0.2"):
            await asyncio.to_thread(ask, QUESTION)
    with pytest.raises(TimeoutError, match="timeout=0.2"):
        await llm.ainvoke(QUESTION)
    with pytest.raises(TimeoutError, match="timeout=0.2"):
        async for _ in llm.astream(QUESTION):
            pass
    begun = time.perf_counter()
    chat(engine=endless_engine()).invoke(QUESTION, max_tokens=1)
    assert time.perf_counter() - begun < 2


def test_the_prompt_is_the_question_after_the_conversation():
    chain = {"question": RunnablePassthrough()} | kb_prompt
    assert [(m.type, m.text) for m in chain.invoke("Who founded Acme?").messages] == [("human", "Who founded Acme?")]
    before = [("human", "Who founded Acme?"), ("ai", "Lena Hoffmann.")]
    asked = kb_prompt.invoke({"chat_history": before, "question": "When?"}).messages
    assert [(m.type, m.text) for m in asked] == [*before, ("human", "When?")]
