"""KBLaMChatEngine: a conversation whose responses say what they rest on, in all four ways to have one."""

import asyncio
import json

import pytest
from engine_parts import QUESTION
from integration_parts import copier, ships
from llama_index.core import Document
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.llms.mock import MockLLM

from kblam_engine.errors import ConfigurationError
from kblam_integrations.llama_index import KBLaMChatEngine, KBLaMIndex, KBLaMLLM

COPIED = "The battery life of Orca 2 is 7.5 hours"
WAYS = ("chat", "achat", "stream_chat", "astream_chat")


def chatting(**options):
    """Return a chat engine that answers with what it finds."""
    given = {"kb": ships(), **options}
    return KBLaMChatEngine.from_defaults(llm=KBLaMLLM(engine=copier(), max_tokens=60, **given), system_prompt="Be brief.")


def said(engine, way, message=QUESTION, **more):
    """Return (text, response, what was known before the first word) of one way to chat."""

    async def asked():
        if way == "achat":
            response = await engine.achat(message, **more)
            return str(response), response, None
        response = await engine.astream_chat(message, **more)
        early = known(response)
        return "".join([piece async for piece in response.async_response_gen()]), response, early

    def known(response):
        return [dict(node.metadata) for node in response.source_nodes], dict(response.metadata)

    if way.startswith("a"):
        return asyncio.run(asked())
    response = getattr(engine, way)(message, **more)
    early = known(response) if way == "stream_chat" else None
    return ("".join(response.response_gen) if early else str(response)), response, early


@pytest.mark.parametrize("way", WAYS)
def test_a_response_says_what_it_rests_on(way):
    engine = chatting()
    text, response, _ = said(engine, way)
    expected = copier().answer(QUESTION, kb=ships(), max_new_tokens=60)
    assert text == expected.text
    (node,) = response.source_nodes
    ((start, end),) = node.metadata["spans"]
    assert text[start:end] == node.metadata["value"] == "7.5 hours" and 0 < node.score <= 1
    assert response.metadata["refused"] is False and response.metadata["usage"]["n_triples"] == 6
    assert json.loads(json.dumps(response.metadata)) == response.metadata
    roles = [(m.role, m.content) for m in engine.chat_history]
    assert roles == [(MessageRole.USER, QUESTION), (MessageRole.ASSISTANT, text)]


@pytest.mark.parametrize("way", WAYS)
def test_a_refusal_says_so_and_has_no_sources(way):
    text, response, early = said(chatting(refusal_threshold=0.999999), way)
    assert "cannot find" in text and response.metadata["refused"] is True and response.source_nodes == []
    assert early is None or (early[0] == [] and early[1]["refused"] is True)


@pytest.mark.parametrize("way", ["stream_chat", "astream_chat"])
def test_a_stream_has_its_sources_before_its_first_word(way):
    text, response, (nodes, metadata) = said(chatting(), way)
    assert [node["value"] for node in nodes] == ["7.5 hours"] and metadata["refused"] is False
    assert COPIED in text and response.response == text and "usage" in response.metadata


@pytest.mark.parametrize("way", WAYS)
def test_a_conversation_goes_on_from_a_history(way):
    engine = chatting()
    history = [ChatMessage(role=MessageRole.USER, content="Hello"), ChatMessage(role=MessageRole.ASSISTANT, content="Hi")]
    text, _, _ = said(engine, way, chat_history=history)
    assert [m.content for m in engine.chat_history] == ["Hello", "Hi", QUESTION, text]
    chat = [{"role": m.role.value, "content": m.content} for m in engine.chat_history[:-1]]
    chat.insert(0, {"role": "system", "content": "Be brief."})
    assert text == copier().answer(chat, kb=ships(), max_new_tokens=60).text
    engine.reset()
    assert engine.chat_history == []


@pytest.mark.parametrize("mode", [ChatMode.BEST, ChatMode.SIMPLE])
def test_an_index_gives_such_an_engine(mode):
    index = KBLaMIndex.from_documents(
        [Document(text="name: Orca 2\nbattery life: 7.5 hours", doc_id="sheet")], llm=KBLaMLLM(engine=copier(), max_tokens=60)
    )
    response = index.as_chat_engine(mode).chat(QUESTION)
    assert response.source_nodes[0].node.ref_doc_id == "sheet" and not response.metadata["refused"]


@pytest.mark.parametrize("llm", [None, MockLLM()])
def test_an_unknown_mode_is_told_with_those_there_are(llm):
    index = KBLaMIndex.from_documents([Document(text="name: Orca 2\nprice: 3")], llm=KBLaMLLM(engine=copier()))
    with pytest.raises(ConfigurationError, match="chat_mode: expected one of .*best, got 'cheerful'"):
        index.as_chat_engine("cheerful", llm)
    with pytest.raises(ConfigurationError, match="chat_mode: 'context' needs an LLM"):
        index.as_chat_engine("context")


def test_without_a_knowledge_base_there_is_nothing_to_rest_on():
    for way in WAYS:
        text, response, _ = said(chatting(kb=None), way)
        assert response.source_nodes == [] and not response.metadata["refused"], way


def test_another_llm_is_refused():
    with pytest.raises(ConfigurationError, match="expected a KBLaMLLM, got MockLLM"):
        KBLaMChatEngine.from_defaults(llm=MockLLM())
    assert issubclass(KBLaMChatEngine, SimpleChatEngine)
