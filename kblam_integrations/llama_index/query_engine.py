"""A query engine that takes the place of retriever, prompt and LLM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any

from llama_index.core import Settings
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.schema import NodeWithScore, QueryBundle

from kblam_engine.errors import ConfigurationError
from kblam_integrations.llama_index._found import FoundSoFar
from kblam_integrations.llama_index.llm import KBLaMLLM
from kblam_integrations.llama_index.retriever import KBLaMRetriever


class KBLaMQueryEngine(BaseQueryEngine):
    """A query engine whose knowledge is a knowledge base in the model's attention.

    Put it where ``index.as_query_engine()`` stood: in a ``QueryEngineTool``, a router, a chat engine, an evaluator. A
    response's ``source_nodes`` are the triples that the answer attended, with their share of the attention as score; a
    refusal has none. ``metadata`` says `refused`, `confidence`, `usage` in tokens and times in milliseconds.

    With `streaming`, a response has its source nodes from the beginning: the triples that the answer may attend, with
    the probability that they answer as score. When the last piece has been read, the same list holds the attended
    ones as above, and the metadata is complete.

    Example:
        .. code-block:: python

            from kblam_integrations.llama_index import KBLaMQueryEngine

            engine = KBLaMQueryEngine(kb=[("Orca 2", "battery life", "11 hours")])
            response = engine.query("How long does the battery of the Orca 2 last?")
            print(response, response.source_nodes[0].metadata["property"])

    Raises:
        ConfigurationError: arguments contradict each other, an option is not valid, or there is no such knowledge base.
        TimeoutError: an answer took longer than the LLM's `timeout`, in seconds.
    """

    def __init__(
        self,
        kb: Any = None,
        *,
        llm: KBLaMLLM | None = None,
        kb_id: str | None = None,
        streaming: bool = False,
        system_prompt: str | None = None,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> None:
        """Load nothing yet.

        Args:
            kb: a KnowledgeBase, its directory, a file of triples, a networkx graph, graph documents, or triples.
            llm: what answers; then `kb` and `options` are its own, and not given here. None makes a ``KBLaMLLM``.
            kb_id: the knowledge base with this id, of the LLM's ``kbs``.
            streaming: answer with a ``StreamingResponse``, or an ``AsyncStreamingResponse`` from `aquery`.
            system_prompt: what stands before every question; None: the LLM's own, if it has one.
            callback_manager: None takes the LLM's, or that of LlamaIndex's settings.
            options: fields of ``KBLaMLLM``: `model`, `engine`, `kbs`, `max_tokens`, `refusal_threshold` ...

        Raises:
            ConfigurationError: `llm` is given together with `kb` or `options`, or is no ``KBLaMLLM``.
        """
        if llm is None:
            llm = KBLaMLLM(kb=kb, callback_manager=callback_manager or Settings.callback_manager, **options)
        elif kb is not None or options:
            raise ConfigurationError("expected llm, or kb and its options, got both: give them to the KBLaMLLM")
        if not isinstance(llm, KBLaMLLM):
            raise ConfigurationError(f"llm: expected a KBLaMLLM, got {type(llm).__name__}: no other LLM takes a KB")
        super().__init__(callback_manager or llm.callback_manager)
        self._llm = llm
        self._kb_id = kb_id
        self._call_options = {} if kb_id is None else {"kb_id": kb_id}
        self._streaming = streaming
        self._system_prompt = llm.system_prompt if system_prompt is None else system_prompt

    @property
    def llm(self) -> KBLaMLLM:
        """What answers."""
        return self._llm

    @property
    def retriever(self) -> KBLaMRetriever:
        """The retrieval layer alone, for what wants nodes before an answer (rerankers, retrieval evaluation)."""
        return KBLaMRetriever(llm=self._llm, kb_id=self._kb_id)

    def close(self) -> None:
        """Let the LLM's shared engine go; see ``KBLaMLLM.close``."""
        self._llm.close()

    def retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """Return the triples that most probably answer, without writing an answer."""
        return self.retriever.retrieve(query_bundle)

    async def aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """Return the triples that most probably answer, without writing an answer."""
        return await self.retriever.aretrieve(query_bundle)

    def _get_prompt_modules(self) -> dict[str, Any]:
        return {}  # there is no prompt to change

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        question = query_bundle.query_str
        with self.callback_manager.event(
            CBEventType.QUERY, payload={EventPayload.QUERY_STR: question}
        ) as event:
            response: RESPONSE_TYPE
            if self._streaming:
                found = FoundSoFar(question)
                pieces = self._llm.stream_chat(self._messages(question), **self._call_options)
                begin = found.hear(next(pieces))

                def texts() -> Generator[str, None, None]:
                    try:
                        yield from begin
                        for piece in pieces:
                            yield from found.hear(piece)
                    finally:
                        pieces.close()

                response = StreamingResponse(texts(), found.nodes, found.metadata)
            else:
                response = _response(question, self._llm.chat(self._messages(question), **self._call_options).raw)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        question = query_bundle.query_str
        with self.callback_manager.event(
            CBEventType.QUERY, payload={EventPayload.QUERY_STR: question}
        ) as event:
            response: RESPONSE_TYPE
            if self._streaming:
                found = FoundSoFar(question)
                pieces = await self._llm.astream_chat(self._messages(question), **self._call_options)
                begin = found.hear(await anext(pieces))

                async def texts() -> AsyncGenerator[str, None]:
                    try:
                        for text in begin:
                            yield text
                        async for piece in pieces:
                            for text in found.hear(piece):
                                yield text
                    finally:
                        await pieces.aclose()

                response = AsyncStreamingResponse(texts(), found.nodes, found.metadata)
            else:
                answered = await self._llm.achat(self._messages(question), **self._call_options)
                response = _response(question, answered.raw)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _messages(self, question: str) -> list[ChatMessage]:
        messages = [ChatMessage(role=MessageRole.USER, content=question)]
        if self._system_prompt is not None:
            messages.insert(0, ChatMessage(role=MessageRole.SYSTEM, content=self._system_prompt))
        return messages


def _response(question: str, raw: Mapping[str, Any]) -> Response:
    found = FoundSoFar(question)
    found.fill(raw)
    return Response(raw["text"], found.nodes, found.metadata)
