"""What an answer is: its text, whether it refuses, and the triples it attended. Holds no maths and no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kblam_engine.triples import Triple

__all__ = ["Answer", "AttendedTriple", "FinishReason", "RetrievedTriple", "Selected", "Usage"]

FinishReason = Literal["stop", "length", "cancelled"]
"""Why an answer ended: by itself or at a stop string, at `max_new_tokens`, or because the caller said so."""


@dataclass(frozen=True, slots=True)
class AttendedTriple:
    """A triple that the answer attended.

    Attributes:
        id: stable id in its knowledge base.
        triple: the triple as it was when the answer was written.
        weight: its share of the attention, 0 to 1.
        spans: character ranges `(start, end)` of the answer's text that it supports, in order.
    """

    id: int
    triple: Triple
    weight: float
    spans: tuple[tuple[int, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return one flat JSON object, provenance, namespace, tags and times where known; metadata stays an object."""
        return {
            "id": self.id,
            "name": self.triple.name,
            "property": self.triple.property,
            "value": self.triple.value,
            "weight": self.weight,
            "spans": [list(span) for span in self.spans],
            **self.triple.context(),
            "metadata": dict(self.triple.metadata),
        }


@dataclass(frozen=True, slots=True)
class RetrievedTriple:
    """A triple that the retrieval layer found.

    Attributes:
        id: stable id in its knowledge base.
        triple: the triple.
        score: probability that it answers, 0 to 1.
    """

    id: int
    triple: Triple
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Return one flat JSON object; metadata stays an object of its own."""
        return {
            "id": self.id,
            "name": self.triple.name,
            "property": self.triple.property,
            "value": self.triple.value,
            "score": self.score,
            **self.triple.context(),
            "metadata": dict(self.triple.metadata),
        }


@dataclass(frozen=True, slots=True)
class Selected:
    """What is known of an answer before its first token.

    Attributes:
        triples: all that the answer may attend, the most probable first; with `max_hops` above 1 more can follow.
            None where it refuses, or where the base model will answer.
        refused: whether the answer will say that the knowledge base does not hold it.
        confidence: estimated probability that the knowledge base holds the answer, 0 to 1.
        n_triples: size of the knowledge base.
    """

    triples: tuple[RetrievedTriple, ...]
    refused: bool
    confidence: float
    n_triples: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "selected": [triple.to_dict() for triple in self.triples],
            "refused": self.refused,
            "confidence": self.confidence,
            "n_triples": self.n_triples,
        }


@dataclass(frozen=True, slots=True)
class Usage:
    """How much an answer read and wrote, in tokens; `n_triples` is the size of its knowledge base."""

    prompt_tokens: int
    completion_tokens: int
    n_triples: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return the counts as a JSON object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "n_triples": self.n_triples,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and what it rests on.

    Attributes:
        text: the answer.
        refused: whether the knowledge base does not hold the answer and the text says so.
        confidence: estimated probability that the knowledge base holds the answer, 0 to 1.
        attended: attended triples, the most probable answer first (a triple reached by a hop after the one before it);
            none where the base model answered.
        usage: token counts.
        finish_reason: why the answer ended.
        ttft_ms: milliseconds from the call to the first token, retrieval included.
        ms_per_token: milliseconds for each token after the first.
    """

    text: str
    refused: bool
    confidence: float
    attended: tuple[AttendedTriple, ...]
    usage: Usage
    finish_reason: FinishReason
    ttft_ms: float
    ms_per_token: float

    @property
    def grounded(self) -> bool:
        """Whether the answer rests on triples: neither a refusal nor the base model's own words."""
        return bool(self.attended) and not self.refused

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as a JSON object."""
        return {
            "text": self.text,
            "refused": self.refused,
            "grounded": self.grounded,
            "confidence": self.confidence,
            "attended": [attended.to_dict() for attended in self.attended],
            "usage": self.usage.to_dict(),
            "finish_reason": self.finish_reason,
            "ttft_ms": self.ttft_ms,
            "ms_per_token": self.ms_per_token,
        }
