"""What comes over HTTP: read, bounded and checked before any of it reaches a model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Protocol

from kblam_engine.errors import ConfigurationError

OPTIONS = frozenset(
    {"max_new_tokens", "temperature", "top_k", "top_p", "seed", "stop", "refusal_threshold", "max_hops", "unknown"}
)
"""What a request may set; see `KBLaM.answer`."""
MAX_NEW_TOKENS = 1_024
"""More than this is refused: a request should not hold a replica for long."""
MAX_BODY = 1_000_000
"""Bytes of a request: several times what a base model can read."""


class Request(Protocol):
    """What is read of an HTTP request; starlette's is one."""

    def stream(self) -> AsyncIterator[bytes]:
        """Yield the body, piece by piece."""
        ...


class TooLargeError(ConfigurationError):
    """A request is longer than anything that could be answered."""


async def body_of(request: Request) -> bytes:
    """Return the body of a request.

    Raises:
        TooLargeError: it has more than `MAX_BODY` bytes; the rest is not read.
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise TooLargeError(f"expected a request of at most {MAX_BODY:,} bytes, got more")
    return body


def read_request(body: bytes) -> dict[str, Any]:
    """Return the question and options of a request.

    Raises:
        ConfigurationError: it is no JSON object with a question or messages, or has an option that there is not.
    """
    try:
        asked = json.loads(body)
        json.dumps(asked, ensure_ascii=False).encode()  # half a character, as "\\ud800", is none that a model could read
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f'expected JSON such as {{"question": "..."}}, got {error}') from None
    if not isinstance(asked, dict) or ("question" in asked) == ("messages" in asked):
        raise ConfigurationError('expected a JSON object with "question" or "messages"')
    question = _question_of(asked)
    unknown = sorted(set(asked) - OPTIONS)
    if unknown:
        raise ConfigurationError(f"unknown option {unknown[0]!r}: expected some of {', '.join(sorted(OPTIONS))}")
    longest = asked.get("max_new_tokens", 0)
    if isinstance(longest, int) and longest > MAX_NEW_TOKENS:
        raise ConfigurationError(f"max_new_tokens: expected at most {MAX_NEW_TOKENS}, got {longest}")
    if not isinstance(asked.get("stop"), str | list | None):
        raise ConfigurationError(f"stop: expected a text or a list of texts, got {asked['stop']!r}")
    return {"question": question, **asked}


def _question_of(asked: dict[str, Any]) -> str | list[Any]:
    """Take the question, or the messages, out of a request; the messages are checked by who answers them."""
    if "question" in asked:
        question = asked.pop("question")
        if not isinstance(question, str):
            raise ConfigurationError(f'question: expected a text, got {type(question).__name__}; a chat goes under "messages"')
        return question
    messages = asked.pop("messages")
    if not isinstance(messages, list):
        raise ConfigurationError(f"messages: expected a list of messages, got {type(messages).__name__}")
    return messages
