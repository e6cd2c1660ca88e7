"""A LangChain chat model that answers from a knowledge base in its attention."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any, Self, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig, run_in_executor
from langchain_core.runnables.config import get_config_list
from pydantic import BaseModel, ConfigDict, Field, model_validator

from kblam_engine.answers import Answer, Selected
from kblam_engine.engine import KBLaM
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_integrations._fields import (
    PASSED_ON,
    VERSION,
    AnsweringFields,
    kb_identity,
    kb_revision_of,
    too_late,
)
from kblam_integrations._serving import MAX_BATCH, queue_of
from kblam_integrations.langchain._messages import (
    PROVIDER,
    chat_of,
    first_chunk_of,
    last_chunk_of,
    message_of,
    size_of,
)


class ChatKBLaM(AnsweringFields, BaseChatModel):
    """A chat model whose knowledge is a knowledge base; put it where `retriever | prompt | llm` stood.

    Answers come from the triples of ``kb``, or are refusals. What an answer rests on is in
    ``message.additional_kwargs["attended_triples"]``, and as citations in ``message.content_blocks``. Changes to the
    knowledge base count from the next call on. Calls that wait at the same time, from `batch` or from many tasks, are
    answered in one batch.

    Example:
        .. code-block:: python

            from kblam_integrations.langchain import ChatKBLaM

            llm = ChatKBLaM(kb=[("Orca 2", "battery life", "11 hours")])
            print(llm.invoke("How long does the battery of the Orca 2 last?").text)

    Attributes:
        model: an embedded model's name, a local folder, or a Hugging Face id; loaded by the first call, and shared by all
            objects of the same configuration.
        adapter: an adapter folder; None takes the one that ships for the model.
        encoder: sentence encoder; None takes the adapter's own.
        dtype: "float32", "bfloat16" or "float16"; None takes what the hardware computes fastest.
        device: "cpu", "cuda" ...; None takes a GPU where there is one.
        engine: a loaded ``KBLaM`` in the place of these.
        kb: a KnowledgeBase, its directory, a file of triples, a networkx graph, graph documents, or triples; None: the base model answers alone.
        kbs: knowledge bases by id, a ``KBRegistry`` or a mapping.
        kb_id: which of them, before ``kb``; a call may name another.
        temperature: 0 for the likeliest token, higher for more variety.
        top_k: choose among the k likeliest tokens; 0 for all.
        top_p: choose among the likeliest tokens that together have this probability.
        seed: makes sampling reproducible.
        max_tokens: longest answer, in tokens.
        stop: texts that end an answer and are not part of it; those of a call are added.
        refusal_threshold: probability, 0 to 1, below which a question counts as not covered; None: the adapter's.
        max_hops: above 1, answers may go on from a triple to what its value names.
        unknown: what happens with a question that is not covered: "refuse", or "base" for the base model's answer.
        chat_template_kwargs: what the base model's chat template takes besides the messages: {"enable_thinking": False}.
        timeout: seconds for a call, waiting included; then it ends with TimeoutError. None: no limit.
        streaming: let `invoke` stream to attached callbacks.
        max_retries: accepted because every LangChain model takes it; there is nothing to retry.
        api_key: likewise; nothing is sent anywhere.

    Raises:
        ConfigurationError: an option or a message is not valid (at the call that uses it).
        ValidationError: a field has a wrong type or is unknown.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    # Not False by default: `configurable_fields` sets every field again, and a False that was set turns streaming off.
    streaming: bool | None = None
    max_retries: int | None = None
    api_key: Any = Field(default=None, exclude=True, repr=False)  # many an app passes along a real one

    @model_validator(mode="after")
    def _name_version(self) -> Self:
        self._add_version("kblam-integrations", VERSION["kblam_engine"])  # of the package that holds both
        return self

    @property
    def _llm_type(self) -> str:
        return "chat-kblam"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """What makes answers differ, the state of the knowledge base included: LangChain's caches go by it."""
        own = {name: getattr(self, name) for name in (*PASSED_ON, "max_tokens")}
        kb = kb_identity(self.knowledge_base())
        return {**VERSION, **self._engine_identity(), **own, "model_stop": self.stop, **kb}

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        params = super()._get_invocation_params(stop=stop, **kwargs)
        if kwargs.get("kb_id") is not None:
            params.update(kb_identity(self.knowledge_base(kwargs["kb_id"])))
        return params

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = PROVIDER
        params["ls_model_name"] = str(kwargs.get("model") or self.model_name())
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        profile = ModelProfile(
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            tool_calling=False,
            structured_output=False,
        )
        if self.engine is not None:
            profile["max_input_tokens"] = int(self.engine.lm.config.max_position_embeddings)
        return profile

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = _Call(self, messages, stop, kwargs)
        future = call.submit(self.load_engine(call.model))
        try:
            answer = future.result(call.timeout)
        except TimeoutError:
            raise too_late(call.timeout) from None
        finally:
            future.cancel()  # after a timeout or Ctrl-C nothing goes on; of an answer that is there, nothing happens
        return _result(answer, call.where)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = await run_in_executor(None, _Call, self, messages, stop, kwargs)
        future = call.submit(await self._aload_engine(call.model))
        # A cancelled task cancels the future, and that ends the decoding.
        try:
            answer = await asyncio.wait_for(asyncio.wrap_future(future), call.timeout)
        except TimeoutError:
            raise too_late(call.timeout) from None
        return _result(answer, call.where)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = _Call(self, messages, stop, kwargs)
        engine = self.load_engine(call.model)
        news: queue.SimpleQueue[Selected | str | None] = queue.SimpleQueue()
        future = call.submit(engine, news.put, news.put)
        future.add_done_callback(lambda _: news.put(None))
        ends = _end_of(call.timeout)
        try:
            while (piece := news.get(timeout=_left(ends))) is not None:
                chunk = _chunk(piece)
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
            chunk = ChatGenerationChunk(message=last_chunk_of(future.result(), call.where))
            if run_manager is not None:
                run_manager.on_llm_new_token("", chunk=chunk)
            yield chunk
        except queue.Empty:
            raise too_late(call.timeout) from None
        finally:
            future.cancel()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = await run_in_executor(None, _Call, self, messages, stop, kwargs)
        engine = await self._aload_engine(call.model)
        loop, news = asyncio.get_running_loop(), asyncio.Queue[Selected | str | None]()

        def tell(piece: Selected | str | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.put_nowait, piece)

        future = call.submit(engine, tell, tell)
        future.add_done_callback(lambda _: tell(None))
        ends = _end_of(call.timeout)
        try:
            while (piece := await asyncio.wait_for(news.get(), _left(ends))) is not None:
                chunk = _chunk(piece)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
            chunk = ChatGenerationChunk(message=last_chunk_of(future.result(), call.where))
            if run_manager is not None:
                await run_manager.on_llm_new_token("", chunk=chunk)
            yield chunk
        except TimeoutError:
            raise too_late(call.timeout) from None
        finally:
            future.cancel()

    async def agenerate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """Answer chats; what changes in a large knowledge base is read in a thread, and not by the event loop."""
        await run_in_executor(None, self._read_ahead, kwargs.get("kb_id"))
        return await super().agenerate(messages, *args, **kwargs)

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """Stream an answer; what changes in a large knowledge base is read in a thread, and not by the event loop."""
        await run_in_executor(None, self._read_ahead, kwargs.get("kb_id"))
        async with aclosing(cast(AsyncGenerator[AIMessageChunk], super().astream(input, config, **kwargs))) as chunks:
            async for chunk in chunks:
                yield chunk

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer many inputs; those in flight at the same time share batches of up to 16 rows.

        As `Runnable.batch`, but as many inputs are in flight as fill the batches, unless the config says
        `max_concurrency`. `abatch` has no such limit and needs nothing of its own.
        """
        configs = get_config_list(config, len(inputs))
        for each in configs:
            if each.get("max_concurrency") is None:
                each["max_concurrency"] = max(1, min(len(inputs), 2 * MAX_BATCH))
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """Return the base model's token ids of a text; the first call loads the engine."""
        return self.load_engine().token_ids(text)

    def get_num_tokens(self, text: str) -> int:
        """Return how many tokens of the base model a text is."""
        return len(self.get_token_ids(text))

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Return how many tokens the prompt of a chat is, the chat template's included.

        Parts of a chat count as well, such as ``trim_messages`` tries: one without a question, or in an order that the
        template does not take, which is then counted without it.

        Raises:
            ConfigurationError: a message is no text of a system, a user or an assistant.
            NotImplementedError: tools are given.
        """
        if tools:
            raise NotImplementedError(_NO_TOOLS)
        chat = chat_of(messages)
        if chat and chat[-1]["role"] == "assistant" and not chat[-1]["content"].strip():
            chat.pop()  # an answer that has not begun: the template makes room for it by itself
        return size_of(self.load_engine(), chat, self.chat_template_kwargs) if chat else 0

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Refuse: the model calls no tools, and pretending to would end in calls that never come.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(_NO_TOOLS)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Refuse: the model's words follow triples, not a schema.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "ChatKBLaM writes no structured output: read the triples of an answer from "
            'message.additional_kwargs["attended_triples"]'
        )

    def _read_ahead(self, kb_id: str | None) -> None:
        """Read knowledge base and adapter as they are now: LangChain asks for their identity on the event loop."""
        kb_identity(self.knowledge_base(kb_id))
        self._engine_identity()

    async def _aload_engine(self, model: str | None) -> KBLaM:
        """Return the engine; loading it takes seconds, and is done in a thread."""
        if self.engine is not None or self.engine_config(model).loaded() is not None:
            return self.load_engine(model)
        return await run_in_executor(None, self.load_engine, model)


_NO_TOOLS = (
    "ChatKBLaM calls no tools: give tools to another model and this one as a tool or a node beside it, "
    "or put what the tool knows into the knowledge base"
)


class _Call:
    """One call: its chat, its knowledge base as it is now, its options."""

    def __init__(
        self, llm: ChatKBLaM, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> None:
        given = {key: value for key, value in kwargs.items() if key != "stream"}  # LangChain's own switch
        self.model: str | None = given.pop("model", None)
        timeout = given.pop("timeout", None)
        self.timeout: float | None = llm.timeout if timeout is None else timeout
        kb = llm.knowledge_base(given.pop("kb_id", None))
        # The state that the key of a cache was made of, not the one of when the queue comes to this call.
        self._kb = kb.snapshot() if isinstance(kb, KnowledgeBase) else kb
        self.where = {"model_name": llm.model_name(self.model), **kb_revision_of(self._kb)}
        self._chat = chat_of(messages)
        own = [stop] if isinstance(stop, str) else stop or []
        self._options = llm.engine_options(given, *own, others="kb_id, model or timeout")

    def submit(
        self,
        engine: KBLaM,
        on_piece: Callable[[str], object] | None = None,
        on_selected: Callable[[Selected], object] | None = None,
    ) -> Future[Answer]:
        return queue_of(engine).submit(engine, self._chat, self._kb, self._options, on_piece, on_selected)


def _result(answer: Answer, where: Mapping[str, Any]) -> ChatResult:
    message = message_of(answer, where)
    return ChatResult(generations=[ChatGeneration(message=message)])


def _chunk(news: Selected | str) -> ChatGenerationChunk:
    if isinstance(news, Selected):
        return ChatGenerationChunk(message=first_chunk_of(news))
    return ChatGenerationChunk(message=AIMessageChunk(content=news, response_metadata={"model_provider": PROVIDER}))


def _end_of(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _left(ends: float | None) -> float | None:
    return None if ends is None else max(0.0, ends - time.monotonic())

