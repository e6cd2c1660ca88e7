"""KBLaMLLM: answers are the engine's in all eight ways to ask, the event loop stays free, pretending is refused."""

import asyncio
import json
import subprocess
import sys
import time

import pytest
from engine_parts import QUESTION
from integration_parts import copier, endless_engine, gaps_during, kb_of, ships, tiny_engine
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import LLM
from pydantic import ValidationError

import kblam_integrations.llama_index
from kblam_engine.errors import ConfigurationError, MissingDependencyError
from kblam_integrations._serving import queue_of
from kblam_integrations.llama_index import KBLaMChatEngine, KBLaMLLM, KBLaMQueryEngine
from kblam_integrations.llama_index.llm import chat_of

COPIED = "The battery life of Orca 2 is 7.5 hours"


def copying(kb=None, **options):
    """Return an LLM that answers with what it finds."""
    return KBLaMLLM(engine=copier(), kb=ships() if kb is None else kb, max_tokens=60, **options)


def user(text=QUESTION):
    return [ChatMessage(role=MessageRole.USER, content=text)]


def in_all_ways(llm, question=QUESTION, **options):
    """Return (text, response) of each way to ask; of a stream, the last response, its deltas joined."""

    async def last(responses):
        return joined([response async for response in await responses])

    def joined(responses):
        text = "".join(response.delta or "" for response in responses)
        begins = 0 if responses[-1].raw["kb"] is None else 1
        assert responses[-1].delta == "" and all(r.raw is None for r in responses[begins:-1])
        if begins:
            assert (responses[0].delta, responses[0].raw["refused"]) == ("", responses[-1].raw["refused"])
        return text, responses[-1]

    async def waited():
        return {
            "achat": await llm.achat(user(question), **options),
            "acomplete": await llm.acomplete(question, **options),
            "astream_chat": await last(llm.astream_chat(user(question), **options)),
            "astream_complete": await last(llm.astream_complete(question, **options)),
        }

    found = {
        "chat": llm.chat(user(question), **options),
        "complete": llm.complete(question, **options),
        "stream_chat": joined(list(llm.stream_chat(user(question), **options))),
        "stream_complete": joined(list(llm.stream_complete(question, **options))),
        **asyncio.run(waited()),
    }
    return {way: item if isinstance(item, tuple) else (text_of(item), item) for way, item in found.items()}


def text_of(response):
    return response.message.content if hasattr(response, "message") else response.text


def test_all_ways_give_the_engines_answer():
    expected = copier().answer(QUESTION, kb=ships(), max_new_tokens=60)
    assert COPIED in expected.text
    for way, (text, response) in in_all_ways(copying()).items():
        assert text == text_of(response) == expected.text, way
        assert response.raw["attended"] == json.loads(json.dumps([a.to_dict() for a in expected.attended])), way
        assert response.raw["refused"] is expected.refused and response.raw["model"] == "tiny-llama", way
        usage = expected.usage
        assert response.additional_kwargs["prompt_tokens"] == usage.prompt_tokens, way
        assert response.additional_kwargs["completion_tokens"] == usage.completion_tokens, way
        assert response.additional_kwargs["finish_reason"] == "stop", way


def test_it_is_an_llm_of_llama_index_and_says_what_it_is():
    llm = copying(context_window=100)
    assert isinstance(llm, LLM) and llm.class_name() == "KBLaMLLM"
    metadata = llm.metadata
    assert metadata.is_chat_model and not metadata.is_function_calling_model
    assert (metadata.model_name, metadata.context_window, metadata.num_output) == ("tiny-llama", 100, 60)
    assert copying().metadata.context_window == 2048
    json.dumps(llm.to_payload())


def test_the_context_window_needs_no_weights(tiny_model_folder):
    llm = KBLaMLLM(model=str(tiny_model_folder))
    assert llm.metadata.context_window == 2048 and llm.metadata.num_output == 256
    assert llm.engine_config().loaded() is None


def test_without_a_knowledge_base_the_base_model_answers():
    response = KBLaMLLM(engine=tiny_engine(), max_tokens=12).complete(QUESTION)
    assert response.text == tiny_engine().answer(QUESTION, max_new_tokens=12).text
    assert response.raw["attended"] == [] and response.raw["kb"] is None


def test_options_of_a_call_come_before_those_of_the_object():
    llm = copying(stop=["hours"])
    for way, (text, response) in in_all_ways(llm, stop=[" is"], max_tokens=40).items():
        assert text == "The battery life of Orca 2" and response.raw["finish_reason"] == "stop", way
    assert llm.complete(QUESTION).text.strip() == "The battery life of Orca 2 is 7.5"
    assert copying().complete(QUESTION, max_tokens=2).raw["finish_reason"] == "length"
    refusing = copying().complete(QUESTION, refusal_threshold=0.999999)
    assert refusing.raw["refused"] and not any(item["weight"] for item in refusing.raw["attended"])
    with pytest.raises(ConfigurationError, match="unknown options colour"):
        llm.complete(QUESTION, colour="red")
    with pytest.raises(ValidationError, match="temprature"):
        KBLaMLLM(temprature=1.0)


def test_knowledge_bases_by_id():
    kbs = {"a": kb_of(("Orca 2", "battery life", "1 hour")), "b": kb_of(("Orca 2", "battery life", "2 days"))}
    llm = KBLaMLLM(engine=copier(), kbs=kbs, kb_id="a", max_tokens=60)
    assert "1 hour" in llm.complete(QUESTION).text and "2 days" in llm.complete(QUESTION, kb_id="b").text
    with pytest.raises(ConfigurationError, match="no knowledge base is registered as 'c'"):
        llm.complete(QUESTION, kb_id="c")


def test_a_change_counts_from_the_next_call_on():
    kb = kb_of(("Orca 2", "battery life", "1 hour"))
    llm = copying(kb)
    first = llm.complete(QUESTION)
    kb.set("Orca 2", "battery life", "9 days")
    second = llm.complete(QUESTION)
    assert "1 hour" in first.text and "9 days" in second.text
    assert first.raw["kb"] == second.raw["kb"] and second.raw["kb_revision"] > first.raw["kb_revision"]


def test_roles_and_neighbours():
    messages = [
        ChatMessage(role=MessageRole.SYSTEM, content="Be brief."),
        ChatMessage(role=MessageRole.DEVELOPER, content="Be kind."),
        ChatMessage(role=MessageRole.CHATBOT, content="Hello."),
        ChatMessage(role=MessageRole.USER, blocks=[TextBlock(text="one"), TextBlock(text="two")]),
    ]
    assert chat_of(messages) == [
        {"role": "system", "content": "Be brief.\n\nBe kind."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "one\ntwo"},
    ]
    with pytest.raises(ConfigurationError, match="message 0: .*got 'tool'"):
        chat_of([ChatMessage(role=MessageRole.TOOL, content="42")])
    with pytest.raises(ConfigurationError, match="text only, got a ImageBlock"):
        chat_of([ChatMessage(role=MessageRole.USER, blocks=[ImageBlock(image=b"x")])])


def test_tokens_are_counted_by_the_model():
    handler = TokenCountingHandler(tokenizer=copying().get_token_ids)
    llm = copying(callback_manager=CallbackManager([handler]))
    answered = llm.chat(user())
    streamed = list(llm.stream_chat(user()))[-1]
    usage = answered.raw["usage"]
    assert streamed.raw["usage"] == usage
    assert handler.prompt_llm_token_count == 2 * usage["prompt_tokens"]
    assert handler.completion_llm_token_count == 2 * usage["completion_tokens"]
    assert len(llm.get_token_ids("the battery")) > 1


def test_async_calls_leave_the_event_loop_to_others():
    llm = KBLaMLLM(engine=tiny_engine(), kb=ships(), max_tokens=60, stop=["never"])
    queries, chats = KBLaMQueryEngine(llm=llm), KBLaMChatEngine.from_defaults(llm=llm)

    async def streamed():
        return [piece async for piece in await llm.astream_chat(user())]

    async def all_ways():
        began = time.perf_counter()
        asked = [llm.achat(user()), llm.acomplete(QUESTION), streamed(), queries.aquery(QUESTION), chats.achat(QUESTION)]
        _, gaps = await gaps_during(asyncio.gather(*asked))
        return gaps[-1], time.perf_counter() - began

    blocked, whole = asyncio.run(all_ways())
    assert blocked < whole / 3, f"blocked for {blocked:.3f} of {whole:.3f} s"


def test_calls_that_wait_together_share_batches_and_do_not_mix():
    kbs = {str(i): kb_of(("Orca 2", "battery life", f"{i} days")) for i in range(4)}
    llm = KBLaMLLM(engine=copier(), kbs=kbs, max_tokens=60)
    sizes = queue_of(copier()).batch_sizes
    sizes.clear()

    async def all_at_once():
        return await asyncio.gather(*(llm.acomplete(QUESTION, kb_id=str(i % 4)) for i in range(12)))

    for i, response in enumerate(asyncio.run(all_at_once())):
        assert f"{i % 4} days" in response.text
    assert max(sizes) > 1


def test_a_cancelled_call_and_a_closed_stream_end_decoding():
    llm = KBLaMLLM(engine=endless_engine(), kb=ships(), max_tokens=1900)

    async def cancelled():
        task = asyncio.create_task(llm.achat(user()))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stream = await llm.astream_chat(user())
        await anext(stream)
        await stream.aclose()

    asyncio.run(cancelled())
    stream = llm.stream_chat(user())
    next(stream)
    stream.close()
    began = time.perf_counter()
    assert llm.complete(QUESTION, max_tokens=2).raw["usage"]["completion_tokens"] == 2  # the queue is free at once
    assert time.perf_counter() - began < 5.0


def test_a_call_that_takes_too_long_says_so():
    llm = KBLaMLLM(engine=endless_engine(), kb=ships(), max_tokens=1900, timeout=0.05)
    with pytest.raises(TimeoutError):
        llm.complete(QUESTION)
    with pytest.raises(TimeoutError):
        list(llm.stream_complete(QUESTION))
    with pytest.raises(TimeoutError):
        asyncio.run(llm.acomplete(QUESTION))


def test_what_goes_wrong_in_the_worker_is_raised_where_one_waits():
    llm = copying()
    for ask in (llm.complete, lambda q, **o: list(llm.stream_complete(q, **o))):
        with pytest.raises(ConfigurationError, match="temperature"):
            ask(QUESTION, temperature=-1.0)
    with pytest.raises(ConfigurationError, match="temperature"):
        asyncio.run(llm.acomplete(QUESTION, temperature=-1.0))


def test_importing_the_package_imports_no_llama_index(monkeypatch):
    script = "import sys, kblam_integrations.llama_index as k; dir(k); print('llama_index' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    monkeypatch.delitem(vars(kblam_integrations.llama_index), "KBLaMLLM", raising=False)
    monkeypatch.delitem(sys.modules, "kblam_integrations.llama_index.llm", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "llama_index"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'kblam-engine\[llama-index\]'"):
        _ = kblam_integrations.llama_index.KBLaMLLM
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = kblam_integrations.llama_index.Nothing


def test_structured_output_is_refused_in_every_way():
    llm = copying()

    async def asynchronous():
        for way in (llm.astructured_predict, llm.astream_structured_predict):
            with pytest.raises(NotImplementedError, match="writes no structured output"):
                await way(LLM, "prompt")

    asyncio.run(asynchronous())
    for way in (llm.structured_predict, llm.stream_structured_predict, llm.as_structured_llm):
        with pytest.raises(NotImplementedError, match="writes no structured output"):
            way(LLM, "prompt")
