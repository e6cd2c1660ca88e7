"""A LlamaIndex LLM that answers from a knowledge base in its attention."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from pydantic import ConfigDict

from kblam_engine.answers import Answer, Selected
from kblam_engine.decoding import DecodingOptions
from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.models import resolve_model
from kblam_integrations._fields import NOT_TEXT, PASSED_ON, AnsweringFields, kb_revision_of
from kblam_integrations.llama_index._calls import EngineCall
from kblam_integrations.llama_index._messages import chat_of

_NO_STRUCTURE = (
    'KBLaMLLM writes no structured output: read the triples of an answer from response.raw["attended"], or give what '
    "needs a schema another LLM"
)


class KBLaMLLM(AnsweringFields, CustomLLM):
    """An LLM whose knowledge is a knowledge base; without one it is the base model.

    A response's ``raw`` is the answer as JSON: ``text``, ``refused``, ``grounded``, ``confidence``, ``attended`` (triples with
    weights and character spans), ``usage`` in tokens, ``finish_reason`` and times in milliseconds. All async methods
    leave the event loop free, and a cancelled one stops decoding. Calls at the same time share a batch.

    A stream over a knowledge base begins with a response without text, whose ``raw`` says what the answer will rest on:
    ``selected`` (triples with the probability that they answer), ``refused`` and ``confidence``.

    Example:
        .. code-block:: python

            from kblam_integrations.llama_index import KBLaMLLM

            llm = KBLaMLLM(kb=[("Orca 2", "battery life", "11 hours")])
            print(llm.complete("How long does the battery of the Orca 2 last?"))

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
        context_window: tokens of prompt and answer together; None: what the model's configuration says.

    Raises:
        ConfigurationError: an option or a message is not valid (at the call that uses it).
        ValidationError: a field has a wrong type or is unknown.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    context_window: int | None = None

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises it."""
        return "KBLaMLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex asks before it fills a prompt; loads no weights where the configuration is at hand."""
        return LLMMetadata(
            context_window=self.context_window or self._context_window(),
            num_output=self.max_tokens or DecodingOptions().max_new_tokens,
            is_chat_model=True,
            is_function_calling_model=False,
            model_name=self.model_name(),
        )

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return the options as JSON, and under `left_out` what no JSON can say: the engine and the knowledge bases."""
        held = [name for name in NOT_TEXT if getattr(self, name) is not None]
        return {**super().to_dict(**kwargs), **({"left_out": held} if held else {})}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Return an LLM of these options; what they leave out has to be given.

        Args:
            data: what ``to_dict`` has returned.
            kwargs: further fields, which come before those of `data`: `kb`, `kbs`, `engine` ...

        Raises:
            ConfigurationError: the LLM had an engine or knowledge bases, and they are not given.
        """
        options = dict(data)
        if missing := [name for name in options.pop("left_out", ()) if kwargs.get(name) is None]:
            raise ConfigurationError(
                f"{', '.join(missing)}: expected what the dictionary of a KBLaMLLM leaves out, got none: without it, another "
                f"model or the base model alone would answer; from_dict(data, {missing[0]}=...)"
            )
        return super().from_dict(options, **kwargs)

    def to_payload(self) -> dict[str, Any]:
        """Return what events say about the model; loads nothing."""
        own = {name: getattr(self, name) for name in (*PASSED_ON, "max_tokens", "kb_id")}
        return {"class_name": self.class_name(), "model_name": self.model_name(), **own}

    def get_token_ids(self, text: str) -> list[int]:
        """Return the base model's token ids of a text: for ``Settings.tokenizer`` and ``TokenCountingHandler``."""
        return self.load_engine().token_ids(text)

    def call(self, messages: Sequence[ChatMessage], **options: Any) -> EngineCall:
        """Return a call that has not begun: the engine, the chat, and the knowledge base as it is now.

        Args:
            messages: the chat.
            options: ``kb_id``, ``model``, ``stop``, ``max_tokens``, ``timeout``, and what the fields above name.

        Raises:
            ConfigurationError: a message or an option is not valid, or unknown.
        """
        chat = chat_of(messages)
        given = dict(options)
        engine = self.load_engine(given.pop("model", None))
        kb = self.knowledge_base(given.pop("kb_id", None))
        snapshot = kb.snapshot() if isinstance(kb, KnowledgeBase) else kb
        timeout = given.pop("timeout", None)
        return EngineCall(
            engine, chat, snapshot, self._options(given), self.timeout if timeout is None else timeout
        )

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last message of a chat; `kwargs` are options of this call (see ``call``)."""
        call = self.call(messages, **kwargs)
        return _chat_response(call, call.wait())

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last message of a chat."""
        call = await asyncio.to_thread(self.call, messages, **kwargs)
        return _chat_response(call, await call.awaited())

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer piece by piece; ``raw`` of the first response says what it will rest on, of the last the whole answer."""
        call = self.call(messages, **kwargs)

        def responses() -> Generator[ChatResponse, None, None]:
            text = ""
            for piece in call.pieces():
                if isinstance(piece, Selected):
                    yield ChatResponse(message=_message(""), delta="", raw=_raw(call, piece))
                    continue
                text += piece
                yield ChatResponse(message=_message(text), delta=piece)
            yield _chat_response(call, call.answer, delta="")

        return responses()

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Answer piece by piece; ``raw`` of the first response says what it will rest on, of the last the whole answer."""
        call = await asyncio.to_thread(self.call, messages, **kwargs)

        async def responses() -> AsyncGenerator[ChatResponse, None]:
            text, pieces = "", call.apieces()
            try:
                async for piece in pieces:
                    if isinstance(piece, Selected):
                        yield ChatResponse(message=_message(""), delta="", raw=_raw(call, piece))
                        continue
                    text += piece
                    yield ChatResponse(message=_message(text), delta=piece)
            finally:
                await pieces.aclose()
            yield _chat_response(call, call.answer, delta="")

        return responses()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a text, as a chat of one message; the model knows nothing but chats."""
        call = self.call(self._as_chat(prompt, formatted), **kwargs)
        return _completion(call, call.wait())

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a text, as a chat of one message."""
        call = await asyncio.to_thread(self.call, self._as_chat(prompt, formatted), **kwargs)
        return _completion(call, await call.awaited())

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answer a text piece by piece, as ``stream_chat`` does."""
        call = self.call(self._as_chat(prompt, formatted), **kwargs)

        def responses() -> Generator[CompletionResponse, None, None]:
            text = ""
            for piece in call.pieces():
                if isinstance(piece, Selected):
                    yield CompletionResponse(text="", delta="", raw=_raw(call, piece))
                    continue
                text += piece
                yield CompletionResponse(text=text, delta=piece)
            yield _completion(call, call.answer, delta="")

        return responses()

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer a text piece by piece, as ``stream_chat`` does."""
        call = await asyncio.to_thread(self.call, self._as_chat(prompt, formatted), **kwargs)

        async def responses() -> AsyncGenerator[CompletionResponse, None]:
            text, pieces = "", call.apieces()
            try:
                async for piece in pieces:
                    if isinstance(piece, Selected):
                        yield CompletionResponse(text="", delta="", raw=_raw(call, piece))
                        continue
                    text += piece
                    yield CompletionResponse(text=text, delta=piece)
            finally:
                await pieces.aclose()
            yield _completion(call, call.answer, delta="")

        return responses()

    def structured_predict(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: the model's words follow triples, not a schema.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(_NO_STRUCTURE)

    async def astructured_predict(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse, as ``structured_predict`` does.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(_NO_STRUCTURE)

    def stream_structured_predict(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse, as ``structured_predict`` does.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(_NO_STRUCTURE)

    async def astream_structured_predict(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse, as ``structured_predict`` does.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(_NO_STRUCTURE)

    def as_structured_llm(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse, as ``structured_predict`` does.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(_NO_STRUCTURE)

    def _as_chat(self, prompt: str, formatted: bool) -> list[ChatMessage]:
        if not formatted and self.completion_to_prompt is not None:
            prompt = self.completion_to_prompt(prompt)
        return [ChatMessage(role=MessageRole.USER, content=prompt)]

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        stop = given.pop("stop", None)
        own = [stop] if isinstance(stop, str) else stop or []
        return self.engine_options(given, *own, others="kb_id, model or timeout")

    def _context_window(self) -> int:
        engine = self.engine or self.engine_config().loaded()
        if engine is None:
            file = Path(resolve_model(self.model).path_or_id) / "config.json"
            if file.is_file():
                found = json.loads(file.read_bytes()).get("max_position_embeddings")
                if isinstance(found, int):
                    return found
            engine = self.load_engine()
        return int(engine.lm.config.max_position_embeddings)


def _raw(call: EngineCall, found: Answer | Selected) -> Mapping[str, Any]:
    """Return an answer as JSON, with the base model's name and the ids of knowledge base and revision."""
    return {**found.to_dict(), "model": call.engine.name, **kb_revision_of(call.kb)}


def _message(text: str) -> ChatMessage:
    return ChatMessage(role=MessageRole.ASSISTANT, content=text)


def _chat_response(call: EngineCall, answer: Answer | None, delta: str | None = None) -> ChatResponse:
    assert answer is not None  # the pieces have been read to their end
    return ChatResponse(
        message=_message(answer.text), delta=delta, raw=_raw(call, answer), additional_kwargs=_extras(answer)
    )


def _completion(call: EngineCall, answer: Answer | None, delta: str | None = None) -> CompletionResponse:
    assert answer is not None
    return CompletionResponse(
        text=answer.text, delta=delta, raw=_raw(call, answer), additional_kwargs=_extras(answer)
    )


def _extras(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "finish_reason": answer.finish_reason,
    }
