"""What a base model reads for a chat: its own chat template, and nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kblam_engine.errors import ConfigurationError

__all__ = ["chat_text"]


def chat_text(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Return the text of a chat, up to where the assistant speaks, or goes on where the last message is its own.

    Where a template takes no system message, it goes before the first user message.

    Args:
        tokenizer: of transformers, with a chat template; not safe under threads.
        messages: ``{"role", "content"}``, at least one.
        template_kwargs: what the template takes besides the messages; what it does not know changes nothing.

    Raises:
        ConfigurationError: an argument is one that is set here, or the template takes no such messages.
    """
    from jinja2 import TemplateError

    continues = messages[-1]["role"] == "assistant"
    own = {"tokenize": False, "add_generation_prompt": not continues, "continue_final_message": continues}
    others = dict(template_kwargs or {})
    if fixed := own.keys() & others.keys():
        raise ConfigurationError(
            f"chat_template_kwargs: expected what the chat template takes, such as enable_thinking, got "
            f"{', '.join(sorted(fixed))}, which is set for every chat: leave it out"
        )

    def written(chat: Sequence[Mapping[str, str]]) -> str:
        return str(tokenizer.apply_chat_template([dict(m) for m in chat], **own, **others))

    try:
        return written(messages)
    except TemplateError as error:
        if len(messages) > 1 and messages[0]["role"] == "system" and messages[1]["role"] == "user":
            content = f"{messages[0]['content']}\n\n{messages[1]['content']}"
            try:
                return written([{"role": "user", "content": content}, *messages[2:]])
            except TemplateError:
                pass  # what is wrong is something else: the first error says it
        roles = ", ".join(message["role"] for message in messages)
        raise ConfigurationError(f"the model's chat template takes no chat of {roles}: {error}") from None
