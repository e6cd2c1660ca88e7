"""A stand-in for a chat model."""

from collections.abc import Sequence


class Scripted:
    """A chat model that gives one reply after the other."""

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.seen: list[list[dict[str, str]]] = []

    def __call__(self, messages: Sequence[dict[str, str]], /) -> str:
        self.seen.append(list(messages))
        return self.replies.pop(0)
