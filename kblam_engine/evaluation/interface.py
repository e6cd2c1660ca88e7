"""What the harness asks of a model: the part of `KBLaM` it calls, so that tests can bring a stand-in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from kblam_engine.triples import Triple

Message = dict[str, str]


class AttendedLike(Protocol):
    """One attended triple of an answer."""

    @property
    def triple(self) -> Triple:
        """The triple."""

    @property
    def weight(self) -> float:
        """Its share of the attention."""


class UsageLike(Protocol):
    """Token counts of an answer."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer."""


class AnswerLike(Protocol):
    """The fields of `kblam_engine.Answer` the harness reads."""

    @property
    def text(self) -> str:
        """The answer."""

    @property
    def refused(self) -> bool:
        """Whether the model says that it cannot know."""

    @property
    def confidence(self) -> float:
        """How sure it is that the knowledge base covers the question."""

    @property
    def attended(self) -> Sequence[AttendedLike]:
        """Attended triples, best first."""

    @property
    def usage(self) -> UsageLike:
        """Token counts."""

    @property
    def finish_reason(self) -> str:
        """Why generation ended."""

    @property
    def ttft_ms(self) -> float:
        """Milliseconds to the first token, everything before it included."""

    @property
    def ms_per_token(self) -> float:
        """Milliseconds for each token after the first."""


class EvaluatedModel(Protocol):
    """A model that answers with a knowledge base and without one."""

    @property
    def encoder(self) -> Any:
        """The sentence encoder (`SentenceEncoder`)."""

    @property
    def tokenizer(self) -> Any:
        """The base model's tokenizer."""

    @property
    def lm(self) -> Any:
        """The base model."""

    @property
    def indexes(self) -> Any:
        """How the keys of large knowledge bases are searched (`Indexes`)."""

    def chat_prompt(self, messages: list[Message]) -> str:
        """Return the prompt text of a conversation."""

    def answer(self, question: Any, kb: Any = None, *, max_new_tokens: int = 128, **options: Any) -> Any:
        """Answer a question or conversation from a knowledge base; an `AnswerLike`."""

    def answer_batch(self, questions: Any, kbs: Any = None, **options: Any) -> Sequence[Any]:
        """Answer several questions or conversations at once, from one knowledge base or with the base model alone."""

    def generate_text(self, messages: list[Message], max_new_tokens: int) -> Any:
        """Continue a conversation with the base model alone; an `AnswerLike`."""

    def retrieve(self, question: Any, kb: Any, k: int = 10) -> Iterable[Any]:
        """Return the `k` triples nearest to the question."""
