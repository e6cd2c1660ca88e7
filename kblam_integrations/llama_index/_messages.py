"""LlamaIndex's messages as the engine's chats."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.base.llms.types import (
    ChatMessage,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from kblam_engine.errors import ConfigurationError
from kblam_integrations._fields import NO_TOOL_CALLS

__all__ = ["chat_of"]

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}


def chat_of(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    """Return LlamaIndex messages as the engine's; neighbours of one role become one message.

    Chat templates of many models refuse two messages of one role in a row. What a model has thought before an answer
    is left out: chat templates leave it out of earlier turns as well.

    Raises:
        ConfigurationError: a message has another role (a tool's result, say), calls tools, or holds more than text.
    """
    chat: list[dict[str, str]] = []
    for number, message in enumerate(messages):
        role = _ROLES.get(message.role)
        if role is None:
            raise ConfigurationError(
                f"message {number}: expected the role system, user or assistant, got {message.role.value!r}; "
                "this model calls no tools"
            )
        _check_blocks(message, number)
        text = message.content or ""
        if chat and chat[-1]["role"] == role:
            chat[-1]["content"] = f"{chat[-1]['content']}\n\n{text}".strip()
        else:
            chat.append({"role": role, "content": text})
    return chat


def _check_blocks(message: ChatMessage, number: int) -> None:
    blocks = message.blocks
    if message.additional_kwargs.get("tool_calls") or any(isinstance(block, ToolCallBlock) for block in blocks):
        raise ConfigurationError(f"message {number}: {NO_TOOL_CALLS}")
    other = next((block for block in blocks if not isinstance(block, TextBlock | ThinkingBlock)), None)
    if other is not None:
        raise ConfigurationError(f"message {number}: this model reads text only, got a {type(other).__name__}")
