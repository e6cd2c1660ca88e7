"""Those who hold the shards: this process, or whoever else can be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kblam_engine.cluster.shard import Shard, asked


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to a shard: the name of one of `shard.QUESTIONS`, and what goes with it."""

    question: str
    arguments: tuple[Any, ...] = ()


class Shards(Protocol):
    """All shards of one knowledge base that have triples, numbered from 0."""

    def ask(self, questions: Mapping[int, Ask]) -> dict[int, Any]:
        """Ask some shards, all at the same time, and return what they say; safe from several threads.

        Raises:
            KnowledgeBaseError: a shard cannot be read, or does not answer any more.
        """

    def close(self) -> None:
        """Let go of all shards."""


class ShardsHere:
    """Shards that this process has mapped itself; they are asked one after the other, each on all of torch's threads."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        """Keep the shards."""
        self._shards = list(shards)

    def ask(self, questions: Mapping[int, Ask]) -> dict[int, Any]:
        """Ask some shards."""
        return {at: asked(self._shards[at], ask.question, ask.arguments) for at, ask in questions.items()}

    def close(self) -> None:
        """Close all."""
        for shard in self._shards:
            shard.close()
