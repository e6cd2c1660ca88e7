"""A chat engine whose responses say what they rest on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.callbacks import CallbackManager, trace_method
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.chat_engine.types import AgentChatResponse, StreamingAgentChatResponse
from llama_index.core.memory import BaseMemory
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
    and in the same list, when the last piece has been read, the attended ones.

    Example:
        .. code-block:: python

            from kblam_integrations.llama_index import KBLaMChatEngine, KBLaMLLM

            engine = KBLaMChatEngine.from_defaults(llm=KBLaMLLM(kb=[("Orca 2", "battery life", "11 hours")]))
            response = engine.chat("How long does the battery of the Orca 2 last?")
            print(response, response.source_nodes[0].metadata["property"], response.metadata["refused"])

    Raises:
        ConfigurationError: the LLM is no ``KBLaMLLM``, or an option or message is not valid (at the call that uses it).
        TimeoutError: an answer took longer than the LLM's `timeout`, in seconds.
    """

    def __init__(
        self,
        llm: KBLaMLLM,
        memory: BaseMemory,
        prefix_messages: list[ChatMessage],
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Take an LLM and its memory; ``from_defaults(llm=...)`` makes the memory.

        Args:
            llm: what answers.
            memory: keeps the conversation.
            prefix_messages: what stands before every conversation, a system prompt for example; where there is none, the
                LLM's own.
            callback_manager: of LlamaIndex.

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

    @trace_method("chat")
    def chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """Answer a message.

        Args:
            message: what is asked now.
            chat_history: in the place of what the memory holds.
        """
        answered = self._llm.chat(self._conversation(message, chat_history))
        self._memory.put(answered.message)
        return _response(message, answered)

    @trace_method("chat")
    async def achat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """Answer a message; see ``chat``."""
        answered = await self._llm.achat(await self._aconversation(message, chat_history))
        await self._memory.aput(answered.message)
        return _response(message, answered)

    @trace_method("chat")
    def stream_chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> KBLaMChatStream:
        """Answer a message piece by piece; see ``chat``."""
        asked = self._conversation(message, chat_history)
        found, responses = FoundSoFar(message), self._llm.stream_chat(asked)
        first = next(responses)
        found.hear(first)

        def heard() -> Generator[ChatResponse, None, None]:
            try:
                yield first
                for response in responses:
                    found.hear(response)
                    yield response
            finally:
                responses.close()

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
        asked = await self._aconversation(message, chat_history)
        found, responses = FoundSoFar(message), await self._llm.astream_chat(asked)
        first = await anext(responses)
        found.hear(first)

        async def heard() -> AsyncGenerator[ChatResponse, None]:
            try:
                yield first
                async for response in responses:
                    found.hear(response)
                    yield response
            finally:
                await responses.aclose()

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

    def _size_of_prefix(self) -> int:
        """Return what a memory with a limit is told of the messages before the conversation, in tokens."""
        tokenizer = getattr(self._memory, "tokenizer_fn", None)
        prefix = " ".join(message.content or "" for message in self._prefix_messages)
        return 0 if tokenizer is None else len(tokenizer(prefix))


def _user(message: str) -> ChatMessage:
    return ChatMessage(role=MessageRole.USER, content=message)


def _response(question: str, answered: ChatResponse) -> AgentChatResponse:
    found = FoundSoFar(question)
    assert answered.raw is not None  # a KBLaMLLM always says what its answer rests on
    found.fill(answered.raw)
    text = answered.message.content or ""
    return AgentChatResponse(response=text, source_nodes=found.nodes, metadata=found.metadata)


__all__ = ["KBLaMChatEngine", "KBLaMChatStream"]
