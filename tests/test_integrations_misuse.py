"""What bridges refuse instead of leaving it out in silence, and what they survive: forks, closed KBs, failed answers."""

import asyncio
import copy
import pickle
import subprocess
import sys

import pytest
from engine_parts import QUESTION
from integration_parts import copier, endless_engine, kb_of, ships
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, trim_messages
from llama_index.core import StorageContext, load_index_from_storage
from llama_index.core.base.llms.types import ChatMessage as LlamaMessage
from llama_index.core.base.llms.types import MessageRole, TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.llms.mock import MockLLM

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_integrations._shared import KBRegistry
from kblam_integrations.langchain import ChatKBLaM
from kblam_integrations.langchain._messages import chat_of
from kblam_integrations.llama_index import KBLaMChatEngine, KBLaMIndex, KBLaMLLM, KBLaMRetriever
from kblam_integrations.llama_index._messages import chat_of as llama_chat_of

TENANTS = {"a": [("Orca 2", "battery life", "1 hour")], "b": [("Orca 2", "battery life", "2 days")]}
WAYS = ("chat", "achat", "stream_chat", "astream_chat")


def tenants():
    return {kb_id: kb_of(*triples) for kb_id, triples in TENANTS.items()}


def index_of(**options):
    return KBLaMIndex(kb=kb_of(*TENANTS["a"]), llm=KBLaMLLM(engine=copier(), max_tokens=60, **options))


def test_an_index_refuses_what_its_retriever_does_not_know():
    index = index_of()
    for unknown in ({"filters": object()}, {"doc_ids": ["a"]}, {"similarity_topk": 3}):
        with pytest.raises(ConfigurationError, match=f"similarity_top_k, got {next(iter(unknown))}"):
            index.as_retriever(**unknown)
        with pytest.raises(ConfigurationError, match=next(iter(unknown))):
            index.as_query_engine(llm=MockLLM(), **unknown)
    of_engines = {"response_mode": "compact", "streaming": False, "node_postprocessors": [], "use_async": False}
    assert index.as_retriever(similarity_top_k=2, **of_engines).similarity_top_k == 2
    assert "1 hour" in str(index.as_query_engine(llm=MockLLM(), similarity_top_k=1, **of_engines).query(QUESTION))
    assert index.as_chat_engine("context", MockLLM(), similarity_top_k=1, system_prompt="Be brief.")


def test_a_chat_engine_answers_from_the_knowledge_base_it_is_told():
    index = index_of(kbs=tenants())
    assert "2 days" in str(index.as_chat_engine(kb_id="b", similarity_top_k=3).chat(QUESTION))
    assert "1 hour" in str(index.as_chat_engine().chat(QUESTION))
    with pytest.raises(ConfigurationError, match="no knowledge base is registered as 'c'"):
        index.as_chat_engine(kb_id="c").chat(QUESTION)
    for make in (index.as_chat_engine, lambda **options: KBLaMChatEngine.from_defaults(llm=index._llm, **options)):
        with pytest.raises(ConfigurationError, match="unknown options tenant: expected .*kb_id"):
            make(tenant="b")


@pytest.mark.parametrize("kind", [ChatKBLaM, KBLaMLLM])
def test_what_holds_a_knowledge_base_is_not_copied_into_other_processes(kind):
    llm = kind(engine=copier(), kb=ships(), max_tokens=60)
    for way in (pickle.dumps, copy.deepcopy):
        with pytest.raises(ConfigurationError, match=f"a {kind.__name__} with engine and kb is neither pickled"):
            way(llm)
    assert llm.kb is ships() and llm.model_copy().kb is ships()
    assert pickle.loads(pickle.dumps(kind(temperature=0.5))).temperature == 0.5  # a name goes anywhere


def test_an_llm_from_a_dictionary_asks_for_what_that_leaves_out():
    data = KBLaMLLM(engine=copier(), kb=ships(), max_tokens=60).to_dict()
    with pytest.raises(ConfigurationError, match="kb: expected what the dictionary of a KBLaMLLM leaves out"):
        KBLaMLLM.from_dict(data, engine=copier())
    assert "7.5 hours" in KBLaMLLM.from_dict(data, engine=copier(), kb=ships()).complete(QUESTION).text
    assert KBLaMLLM.from_dict(KBLaMLLM(temperature=0.5).to_dict()).temperature == 0.5


FORKED = """
import os, sys
from kblam_integrations._serving import queue_of

class Engine: pass

def ask():
    queue = queue_of(engine)
    return queue._executor.submit(lambda: "answered").result(20)

engine = Engine()
ask()
child = os.fork()
if not child:
    os._exit(0 if ask() == "answered" else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_process_answers_too():
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=60)


def test_a_key_that_an_app_passes_along_is_not_shown():
    llm = ChatKBLaM(engine=copier(), kb=ships(), api_key="sk-secret")
    assert llm.api_key == "sk-secret"
    assert "sk-secret" not in f"{llm!r} {llm} {llm.model_dump()} {llm.to_json()}"


def said(engine, way, message):
    async def asked():
        if way == "achat":
            return await engine.achat(message)
        return [piece async for piece in (await engine.astream_chat(message)).async_response_gen()]

    if way.startswith("a"):
        return asyncio.run(asked())
    response = getattr(engine, way)(message)
    return list(response.response_gen) if way == "stream_chat" else response


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"timeout": 0.05}], ids=["at once", "in the middle"])
def test_a_message_without_an_answer_is_taken_back(way, options):
    engine = KBLaMChatEngine.from_defaults(
        llm=KBLaMLLM(engine=endless_engine(), kb=ships(), max_tokens=1500, **options),
        chat_history=[LlamaMessage(role=MessageRole.USER, content="Hello"), LlamaMessage(role=MessageRole.ASSISTANT, content="Hi")],
    )
    with pytest.raises((ConfigurationError, TimeoutError)):
        said(engine, way, "Hello")
    assert [message.content for message in engine.chat_history] == ["Hello", "Hi"]


def test_a_cancelled_message_is_taken_back():
    engine = KBLaMChatEngine.from_defaults(llm=KBLaMLLM(engine=endless_engine(), kb=ships(), max_tokens=1500))

    async def cancelled():
        task = asyncio.create_task(engine.achat(QUESTION))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert engine.chat_history == []


def test_an_index_is_loaded_with_its_knowledge_base_or_not_at_all(tmp_path):
    index = index_of()
    index.storage_context.persist(tmp_path)
    storage = StorageContext.from_defaults(persist_dir=str(tmp_path))
    with pytest.raises(ConfigurationError, match="kb: expected the knowledge base that the index was made over"):
        load_index_from_storage(storage)
    loaded = load_index_from_storage(storage, kb=index.kb, llm=KBLaMLLM(engine=copier()))
    assert isinstance(loaded, KBLaMIndex) and loaded.kb is index.kb and loaded.index_id == index.index_id


def test_a_registry_opens_again_what_somebody_has_closed(tmp_path, monkeypatch):
    KnowledgeBase.open(tmp_path / "a.kb", encoder=HashingEncoder()).close()
    monkeypatch.chdir(tmp_path)
    registry = KBRegistry({"a": "a.kb"})
    monkeypatch.chdir("/")
    first = registry.get("a")
    assert registry.get("a") is first
    first.close()
    assert registry.get("a").revision >= 0
    registry.get("a").close()


@pytest.mark.parametrize("name", ["NullRetriever", "attended_documents"])
def test_what_only_reads_answers_loads_no_model(name):
    script = f"import sys; from kblam_integrations.langchain import {name}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_parts_of_a_chat_are_counted():
    llm = ChatKBLaM(engine=copier(), kb=ships())
    asked = [SystemMessage("Be brief."), HumanMessage(QUESTION)]
    assert llm.get_num_tokens_from_messages([]) == 0
    assert llm.get_num_tokens_from_messages([*asked, AIMessage("")]) == llm.get_num_tokens_from_messages(asked)
    assert llm.get_num_tokens_from_messages([*asked, AIMessage("So"), HumanMessage("")]) > 0
    (kept,) = trim_messages([HumanMessage("one two three\n" * 40)], max_tokens=60, token_counter=llm, allow_partial=True)
    assert 0 < llm.get_num_tokens_from_messages([kept]) <= 60


def test_thoughts_are_left_out_and_tool_calls_refused():
    thought = AIMessage([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": None}, {"type": "text", "text": "Hi"}])
    assert chat_of([thought, ChatMessage("Be kind.", role="developer")]) == [
        {"role": "assistant", "content": "Hi"},
        {"role": "system", "content": "Be kind."},
    ]
    llama = LlamaMessage(role=MessageRole.ASSISTANT, blocks=[ThinkingBlock(content="hm"), TextBlock(text="Hi")])
    assert llama_chat_of([llama]) == [{"role": "assistant", "content": "Hi"}]
    call = {"name": "f", "args": {}, "id": "1"}
    block = {"type": "tool_use", "name": "f", "id": "1", "input": {}}
    for message in (AIMessage("", tool_calls=[call]), AIMessage([block])):
        with pytest.raises(ConfigurationError, match="message 0: this model calls no tools"):
            chat_of([message])
    for more in ({"blocks": [ToolCallBlock(tool_name="f")]}, {"additional_kwargs": {"tool_calls": [call]}}):
        with pytest.raises(ConfigurationError, match="message 0: this model calls no tools"):
            llama_chat_of([LlamaMessage(role=MessageRole.ASSISTANT, **more)])


def test_a_timeout_is_an_option_of_a_call_and_says_how_long():
    options = {"engine": endless_engine(), "kb": ships(), "max_tokens": 1500}
    chat, llm = ChatKBLaM(**options), KBLaMLLM(**options)

    async def streamed():
        return [piece async for piece in await llm.astream_complete(QUESTION, timeout=0.05)]

    for ask in (
        lambda: chat.invoke(QUESTION, timeout=0.05),
        lambda: list(chat.stream(QUESTION, timeout=0.05)),
        lambda: asyncio.run(chat.ainvoke(QUESTION, timeout=0.05)),
        lambda: llm.complete(QUESTION, timeout=0.05),
        lambda: list(llm.stream_complete(QUESTION, timeout=0.05)),
        lambda: asyncio.run(llm.acomplete(QUESTION, timeout=0.05)),
        lambda: asyncio.run(streamed()),
    ):
        with pytest.raises(TimeoutError, match="longer than timeout=0.05 seconds"):
            ask()


def test_nothing_is_found_for_a_blank_question():
    assert KBLaMRetriever(ships(), engine=copier()).retrieve(" ") == []
