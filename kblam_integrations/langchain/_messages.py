"""Between LangChain's messages and the engine's: chats in, answers with citations out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage
from langchain_core.messages import content as blocks
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.block_translators import register_translator

from kblam_engine.answers import Answer, Selected
from kblam_engine.chat_text import chat_text
from kblam_engine.errors import ConfigurationError
from kblam_integrations._documents import without_texts
from kblam_integrations._fields import NO_TOOL_CALLS

if TYPE_CHECKING:
    from kblam_engine.engine import KBLaM

PROVIDER = "kblam"
"""The name under which ``content_blocks`` finds the translator below."""
_ROLES = {"system": "system", "human": "user", "ai": "assistant"}
_CHAT_ROLES = {"system", "user", "assistant"}
_OTHER_ROLES = {"human": "user", "ai": "assistant", "developer": "system"}
_THOUGHTS = {"reasoning", "thinking", "redacted_thinking"}
_TOOL_CALLS = {"tool_call", "invalid_tool_call", "tool_call_chunk", "tool_use"}


def chat_of(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    """Return LangChain messages as the engine's; neighbours of one role become one message.

    Chat templates of many models refuse two messages of one role in a row, and LangChain's users send them. What a model
    has thought before an answer is left out: chat templates leave it out of earlier turns as well.

    Raises:
        ConfigurationError: a message is of another kind (a tool's result, say), calls tools, or holds more than text.
    """
    chat: list[dict[str, str]] = []
    for number, message in enumerate(messages):
        role, text = _role_of(message, number), _text_of(message, number)
        if chat and chat[-1]["role"] == role:
            chat[-1]["content"] = f"{chat[-1]['content']}\n\n{text}".strip()
        else:
            chat.append({"role": role, "content": text})
    return chat


def _role_of(message: BaseMessage, number: int) -> str:
    if isinstance(message, ChatMessage):
        role = _OTHER_ROLES.get(message.role, message.role)
        if role in _CHAT_ROLES:
            return role
        raise ConfigurationError(f"message {number}: expected the role system, user or assistant, got {role!r}")
    kind = message.type.removesuffix("MessageChunk").lower()
    if kind in _ROLES:
        return _ROLES[kind]
    raise ConfigurationError(
        f"message {number}: expected a system, human or AI message, got one of type {message.type!r}; "
        "this model calls no tools, so leave tool messages out or pass their text in a human message"
    )


def _text_of(message: BaseMessage, number: int) -> str:
    if isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls):
        raise ConfigurationError(f"message {number}: {NO_TOOL_CALLS}")
    if isinstance(message.content, str):
        return message.content
    parts = []
    for block in message.content:
        kind = "text" if isinstance(block, str) else block.get("type")
        if kind == "text":
            parts.append(block if isinstance(block, str) else str(block.get("text") or ""))
        elif kind in _TOOL_CALLS:
            raise ConfigurationError(f"message {number}: {NO_TOOL_CALLS}")
        elif kind not in _THOUGHTS:
            raise ConfigurationError(f"message {number}: this model reads text only, got a block of type {kind!r}")
    return "".join(parts)


def size_of(engine: KBLaM, chat: Sequence[Mapping[str, str]], template_kwargs: Mapping[str, Any] | None) -> int:
    """Return how many tokens a chat is, or a part of one that nobody could answer."""
    try:
        text = chat_text(engine.tokenizer, chat, template_kwargs)
    except ConfigurationError:
        return sum(len(engine.token_ids(message["content"])) for message in chat)
    return len(engine.token_ids(text))


def usage_of(answer: Answer) -> UsageMetadata:
    """Return token counts; triples of the knowledge base are no prompt tokens and are not among them."""
    usage = answer.usage
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def metadata_of(answer: Answer, where: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``response_metadata`` says of an answer.

    Args:
        answer: the answer.
        where: what gave it: `model_name`, and `kb` and `kb_revision`.
    """
    return {
        "model_provider": PROVIDER,
        **where,
        "finish_reason": answer.finish_reason,
        "refused": answer.refused,
        "grounded": answer.grounded,
        "confidence": round(answer.confidence, 6),
        "n_triples": answer.usage.n_triples,
        "ttft_ms": round(answer.ttft_ms, 3),
        "ms_per_token": round(answer.ms_per_token, 3),
    }


def extras_of(answer: Answer) -> dict[str, Any]:
    """Return what ``additional_kwargs`` carry: the attended triples, as JSON, the most probable answer first."""
    triples = [attended.to_dict() for attended in answer.attended]
    return {"attended_triples": [_without_texts(each) for each in triples]}


def _without_texts(triple: Mapping[str, Any]) -> dict[str, Any]:
    return {**triple, "metadata": without_texts(triple["metadata"])}


def message_of(answer: Answer, where: Mapping[str, Any]) -> AIMessage:
    """Return an answer as one message."""
    return AIMessage(
        content=answer.text,
        additional_kwargs=extras_of(answer),
        response_metadata=metadata_of(answer, where),
        usage_metadata=usage_of(answer),
    )


def first_chunk_of(selected: Selected) -> AIMessageChunk:
    """Return what begins a stream: no text, but which triples the answer may attend, and whether it will refuse."""
    triples = [each.to_dict() for each in selected.triples]
    return AIMessageChunk(
        content="",
        response_metadata={
            "model_provider": PROVIDER,
            "refused": selected.refused,
            "selected_triples": [_without_texts(each) for each in triples],
        },
    )


def last_chunk_of(answer: Answer, where: Mapping[str, Any]) -> AIMessageChunk:
    """Return what ends a stream: no text, but all that is known of the answer only now."""
    return AIMessageChunk(
        content="",
        additional_kwargs=extras_of(answer),
        response_metadata=metadata_of(answer, where),
        usage_metadata=usage_of(answer),
        chunk_position="last",
    )


def citations_of(attended: Sequence[Mapping[str, Any]]) -> list[blocks.Annotation]:
    """Return a citation for each range of the answer's text that an attended triple supports, in their order.

    Args:
        attended: attended triples as JSON objects (``AttendedTriple.to_dict``).
    """
    found = [(span, triple) for triple in attended for span in triple.get("spans", ())]
    return [_citation(span, triple) for span, triple in sorted(found, key=lambda item: tuple(item[0]))]


def _citation(span: Sequence[int], triple: Mapping[str, Any]) -> blocks.Annotation:
    metadata = triple.get("metadata") or {}
    known = triple.get("provenance") or {}
    source = str(metadata.get("source") or known.get("uri") or known.get("document") or "")
    url = str(metadata.get("url") or (source if "://" in source else ""))
    title = str(metadata.get("title") or source or f"{triple['name']}: {triple['property']}")
    return blocks.create_citation(
        url=url or None,
        title=title,
        start_index=int(span[0]),
        end_index=int(span[1]),
        cited_text=f"The {triple['property']} of {triple['name']} is {triple['value']}",
        # What is no field of a citation becomes its `extras`.
        triple_id=triple["id"],
        name=triple["name"],
        property=triple["property"],
        value=triple["value"],
        weight=triple["weight"],
        provenance=dict(known),
        metadata=dict(metadata),
    )


def _translate(message: AIMessage) -> list[blocks.ContentBlock]:
    """Return an answer's text as one block, with its citations; what is no plain text is left to LangChain."""
    if not isinstance(message.content, str):
        raise NotImplementedError
    annotations = citations_of(message.additional_kwargs.get("attended_triples", ()))
    # The text as a plain str: `.text` of a message is a subclass, which does not merge with plain ones.
    if annotations:
        return [blocks.create_text_block(str(message.content), annotations=annotations)]
    return [cast(blocks.ContentBlock, {"type": "text", "text": str(message.content)})] if message.content else []


register_translator(PROVIDER, _translate, cast(Any, _translate))
