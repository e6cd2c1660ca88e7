"""What a chat model is to the data tools and the judge: chat messages in, text out. Any function of that shape will do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Message = dict[str, str]
"""``{"role": "system" | "user" | "assistant", "content": text}``."""


class ChatModel(Protocol):
    """A chat model of any make: a client of a service, a local model, ``lambda m: engine.generate_text(m).text``."""

    def __call__(self, messages: Sequence[Message], /) -> str:
        """Return the assistant's reply to a conversation; what it raises reaches the caller, or is the cause of what does."""
