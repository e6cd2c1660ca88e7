"""A chat engine whose responses say what they rest on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from llama_index.core import Settings
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.callbacks import CallbackManager, trace_method
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.chat_engine.types import AgentChatResponse, StreamingAgentChatResponse
from llama_index.core.llms import LLM
from llama_index.core.memory import BaseMemory, Memory
from llama_index.core.types import Thread

from kblam_engine.errors import ConfigurationError
from kblam_integrations.llama_index._found import FoundSoFar
from kblam_integrations.llama_index.llm import KBLaMLLM


@dataclass
class KBLaMChatStream(StreamingAgentChatResponse):
    """A streamed chat response with what ``AgentChatResponse.metadata`` says of one that is not streamed.

    Example:
        .. code-block:: python

            from kblam_integrations.llama_index import KBLaMChatEngine, KBLaMLLM

            engine = KBLaMChatEngine.from_defaults(llm=KBLaMLLM(kb=[("Orca 2", "battery life", "11 hours")]))
            stream = engine.stream_chat("How long does the battery of the Orca 2 last?")
            print(stream.metadata["refused"], "".join(stream.response_gen))

    Attributes:
        metadata: `refused` and `confidence` from the beginning, the rest when the last piece has been read.

    Raises:
        TimeoutError: while it is read: the answer took longer than the LLM's `timeout`, in seconds.
    """

    metadata: dict[str, Any] = field(default_factory=dict)


class KBLaMChatEngine(SimpleChatEngine):
    """A conversation with a knowledge base in the model's attention; ``KBLaMIndex.as_chat_engine()`` makes one.

    A response's ``source_nodes`` are the triples that the answer attended, with their share of the attention as score; a
    refusal has none. ``metadata`` says `refused`, `confidence`, `usage` in tokens and times in milliseconds. A streamed
    response has from the beginning the triples that the answer may attend, with the probability that they answer as score,
    and in the same list, when the last piece has been read, the attended ones. A message whose answer failed or was cancelled
    is taken back: the memory is as if it had not been asked.

    Example:
        .. code-block:: python

            from kblam_integrations.llama_index import KBLaMChatEngine, KBLaMLLM

            engine = KBLaMChatEngine.from_defaults(llm=KBLaMLLM(kb=[("Orca 2", "battery life", "11 hours")]))
            response = engine.chat("How long does the battery of the Orca 2 last?")
            print(response, response.source_nodes[0].metadata["property"], response.metadata["refused"])

    Raises:
        ConfigurationError: the LLM is no ``KBLaMLLM``, `from_defaults` has no such option, or a message or `kb_id` is not
            valid (at the call that uses it).
        TimeoutError: an answer took longer than the LLM's `timeout`, in seconds.
    """

    def __init__(
        self,
        llm: KBLaMLLM,
        memory: BaseMemory,
        prefix_messages: list[ChatMessage],
        callback_manager: CallbackManager | None = None,
        kb_id: str | None = None,
    ) -> None:
        """Take an LLM and its memory; ``from_defaults(llm=...)`` makes the memory.

        Args:
            llm: what answers.
            memory: keeps the conversation.
            prefix_messages: what stands before every conversation, a system prompt for example; where there is none, the
                LLM's own.
            callback_manager: of LlamaIndex.
            kb_id: the knowledge base with this id, of the LLM's ``kbs``.

        Raises:
            ConfigurationError: the LLM is no ``KBLaMLLM``.
        """
        if not isinstance(llm, KBLaMLLM):
            raise ConfigurationError(
                f"llm: expected a KBLaMLLM, got {type(llm).__name__}: no other says what it attended; use SimpleChatEngine"
            )
        if not prefix_messages and llm.system_prompt:
            prefix_messages = [ChatMessage(role=MessageRole.SYSTEM, content=llm.system_prompt)]
        super().__init__(llm, memory, prefix_messages, callback_manager)
        self._call_options = {} if kb_id is None else {"kb_id": kb_id}

    @classmethod
    def from_defaults(
        cls,
        chat_history: list[ChatMessage] | None = None,
        memory: BaseMemory | None = None,
        memory_cls: type[BaseMemory] = Memory,
        system_prompt: str | None = None,
        prefix_messages: list[ChatMessage] | None = None,
        llm: LLM | None = None,
        callback_manager: CallbackManager | None = None,
        kb_id: str | None = None,
        **unknown: Any,
    ) -> KBLaMChatEngine:
        """Return an engine with a memory of its own.

        Args:
            chat_history: the conversation so far.
            memory: in the place of a new one.
            memory_cls: what the new one is.
            system_prompt: what stands before every conversation; None: the LLM's own, if it has one.
            prefix_messages: in the place of a system prompt.
            llm: a ``KBLaMLLM``; None: that of LlamaIndex's settings.
            callback_manager: None: that of LlamaIndex's settings.
            kb_id: the knowledge base with this id, of the LLM's ``kbs``.
            unknown: nothing else is known, and LlamaIndex's engine would leave it out in silence.

        Raises:
            ConfigurationError: an option is unknown, the LLM is no ``KBLaMLLM``, or there are both a system prompt and messages
                in its place.
        """
        if unknown:
            raise ConfigurationError(
                f"unknown options {', '.join(sorted(unknown))}: expected chat_history, memory, memory_cls, system_prompt, "
                "prefix_messages, llm, callback_manager or kb_id; how to answer is said to the KBLaMLLM"
            )
        if system_prompt is not None and prefix_messages is not None:
            raise ConfigurationError("expected system_prompt or prefix_messages, got both")
        llm = llm or Settings.llm
        if memory is None:
            limit = llm.metadata.context_window - 256
            memory = memory_cls.from_defaults(chat_history=chat_history or [], token_limit=limit)
        if system_prompt is not None:
            prefix_messages = [ChatMessage(role=llm.metadata.system_role, content=system_prompt)]
        callback_manager = callback_manager or Settings.callback_manager
        return cls(cast(KBLaMLLM, llm), memory, prefix_messages or [], callback_manager, kb_id)

    @trace_method("chat")
    def chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """Answer a message.

        Args:
            message: what is asked now.
            chat_history: in the place of what the memory holds.
        """
        with self._taken_back(message):
            answered = self._llm.chat(self._conversation(message, chat_history), **self._call_options)
            self._memory.put(answered.message)
        return _response(message, answered)

    @trace_method("chat")
    async def achat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """Answer a message; see ``chat``."""
        async with self._ataken_back(message):
            asked = await self._aconversation(message, chat_history)
            answered = await self._llm.achat(asked, **self._call_options)
            await self._memory.aput(answered.message)
        return _response(message, answered)

    @trace_method("chat")
    def stream_chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> KBLaMChatStream:
        """Answer a message piece by piece; see ``chat``."""
        found = FoundSoFar(message)
        with self._taken_back(message):
            asked = self._conversation(message, chat_history)
            responses = self._llm.stream_chat(asked, **self._call_options)
            first = next(responses)
        found.hear(first)

        def heard() -> Generator[ChatResponse, None, None]:
            with self._taken_back(message), closing(responses):
                yield first
                for response in responses:
                    found.hear(response)
                    yield response

        stream = KBLaMChatStream(chat_stream=heard(), source_nodes=found.nodes, metadata=found.metadata)
        thread = Thread(target=stream.write_response_to_history, args=(self._memory,))
        stream.write_response_to_history_thread = thread
        thread.start()
        return stream

    @trace_method("chat")
    async def astream_chat(
        self, message: str, chat_history: list[ChatMessage] | None = None
    ) -> KBLaMChatStream:
        """Answer a message piece by piece; see ``chat``."""
        found = FoundSoFar(message)
        async with self._ataken_back(message):
            asked = await self._aconversation(message, chat_history)
            responses = await self._llm.astream_chat(asked, **self._call_options)
            first = await anext(responses)
        found.hear(first)

        async def heard() -> AsyncGenerator[ChatResponse, None]:
            async with self._ataken_back(message), aclosing(responses):
                yield first
                async for response in responses:
                    found.hear(response)
                    yield response

        stream = KBLaMChatStream(achat_stream=heard(), source_nodes=found.nodes, metadata=found.metadata)
        task = asyncio.create_task(stream.awrite_response_to_history(self._memory))
        stream.awrite_response_to_history_task = task
        return stream

    def _conversation(self, message: str, history: list[ChatMessage] | None) -> list[ChatMessage]:
        """Put a message into the memory; return the conversation with it."""
        if history is not None:
            self._memory.set(history)
        self._memory.put(_user(message))
        return self._prefix_messages + self._memory.get(initial_token_count=self._size_of_prefix())

    async def _aconversation(self, message: str, history: list[ChatMessage] | None) -> list[ChatMessage]:
        """Put a message into the memory; return the conversation with it."""
        if history is not None:
            await self._memory.aset(history)
        await self._memory.aput(_user(message))
        return self._prefix_messages + await self._memory.aget(initial_token_count=self._size_of_prefix())

    @contextmanager
    def _taken_back(self, message: str) -> Iterator[None]:
        """Take a message out of the memory again if there is no answer: the next call would ask it once more."""
        try:
            yield
        except BaseException:  # a cancelled call and a closed stream, too
            self._memory.set(_without(self._memory.get_all(), message))
            raise

    @asynccontextmanager
    async def _ataken_back(self, message: str) -> AsyncIterator[None]:
        """Do the same, without waiting for the memory."""
        try:
            yield
        except BaseException:
            await self._memory.aset(_without(await self._memory.aget_all(), message))
            raise

    def _size_of_prefix(self) -> int:
        """Return what a memory with a limit is told of the messages before the conversation, in tokens."""
        tokenizer = getattr(self._memory, "tokenizer_fn", None)
        prefix = " ".join(message.content or "" for message in self._prefix_messages)
        return 0 if tokenizer is None else len(tokenizer(prefix))


def _user(message: str) -> ChatMessage:
    return ChatMessage(role=MessageRole.USER, content=message)


def _without(messages: list[ChatMessage], asked: str) -> list[ChatMessage]:
    """Return messages without the last one that asks this."""
    for place in reversed(range(len(messages))):
        if messages[place].role == MessageRole.USER and messages[place].content == asked:
            return messages[:place] + messages[place + 1 :]
    return messages


def _response(question: str, answered: ChatResponse) -> AgentChatResponse:
    found = FoundSoFar(question)
    assert answered.raw is not None  # a KBLaMLLM always says what its answer rests on
    found.fill(answered.raw)
    text = answered.message.content or ""
    return AgentChatResponse(response=text, source_nodes=found.nodes, metadata=found.metadata)


__all__ = ["KBLaMChatEngine", "KBLaMChatStream"]
