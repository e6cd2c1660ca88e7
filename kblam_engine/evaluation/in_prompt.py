"""What people do without a knowledge base in the attention, timed beside it: the base model with triples in its prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation import environment
from kblam_engine.evaluation.assembly import StoredTriples
from kblam_engine.evaluation.baselines import Corpus, PromptOptions, build_baseline, prompt_with_statements
from kblam_engine.evaluation.interface import AnswerLike, EvaluatedModel
from kblam_engine.evaluation.metrics import contains, percentile
from kblam_engine.evaluation.questions import Question
from kblam_engine.evaluation.updates import search_of
from kblam_engine.freed_memory import give_back_freed
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KBSnapshot

WAYS = ("in-context", "dense")
"""As many triples as a prompt holds, and the nearest to the question; found as the model's own are, by `--index`."""
_PEAK_QUESTIONS = 2

Select = Callable[[str], Sequence[Triple]]


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """How much goes into a prompt."""

    top_k: int = 5
    """Triples of "dense"."""
    context_tokens: int = 2_048
    """Tokens of "in-context", answer included."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("top_k", "context_tokens"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class InPrompt:
    """One way to choose the triples of a prompt, and how long its answers may be."""

    name: str
    select: Select
    max_new_tokens: int

    def ask(self, model: EvaluatedModel, text: str) -> Prompted:
        """Ask the base model with the chosen triples in its prompt; choosing them is part of the first token's time."""
        start = time.perf_counter()
        chosen = self.select(text)
        messages = prompt_with_statements([{"role": "user", "content": text}], [triple.statement for triple in chosen])
        selected_ms = 1000 * (time.perf_counter() - start)
        answer = model.generate_text(messages, self.max_new_tokens)
        return Prompted(answer, len(chosen), selected_ms + answer.ttft_ms)

    def peak_rss_mb(self, model: EvaluatedModel, questions: Sequence[str]) -> float | None:
        """Return the peak of resident memory over some answers, the open knowledge base included."""
        give_back_freed()
        environment.reset_peak_rss()
        for text in questions[:_PEAK_QUESTIONS]:
            self.ask(model, text)
        return environment.peak_rss_mb()


@dataclass(frozen=True, slots=True)
class Prompted:
    """An answer with triples in the prompt."""

    answer: AnswerLike
    n_triples: int
    ttft_ms: float


@dataclass(frozen=True, slots=True)
class InPromptResult:
    """One of `WAYS` over the questions of a run, medians; ratios are of the base model's own time for the same question."""

    name: str
    n_in_prompt: float | None
    """Triples in the prompt."""
    prompt_tokens: float | None
    ttft_ms: float | None
    """To the first token; retrieval included."""
    ttft_ratio: float | None
    per_token_ms: float | None
    per_token_ratio: float | None
    exact: float | None
    """Share of answers that hold the value asked for."""
    peak_rss_mb: float | None
    """Of the whole process over two answers in this way alone."""


def ways_of(
    names: Sequence[str],
    model: EvaluatedModel,
    snapshot: KBSnapshot,
    questions: Sequence[str],
    limits: PromptLimits,
    *,
    max_new_tokens: int,
    seed: int,
) -> list[InPrompt]:
    """Return ways to put triples of a snapshot into prompts.

    Args:
        names: some of `WAYS`.
        model: whose encoder and index "dense" searches by.
        snapshot: of the knowledge base.
        questions: what may be asked: the longest says how many triples fit into the prompt of "in-context".
        limits: see there.
        max_new_tokens: longest answer.
        seed: which triples "in-context" takes.

    Raises:
        ConfigurationError: an unknown name.
    """
    found = []
    for name in names:
        if name == "in-context":
            select = _in_context(model, snapshot, questions, limits, max_new_tokens, seed)
        elif name == "dense":
            select = _dense(model, snapshot, limits.top_k)
        else:
            raise ConfigurationError(f"expected {' or '.join(WAYS)}, got {name!r}")
        found.append(InPrompt(name, select, max_new_tokens))
    return found


def summarise(
    name: str, asked: Sequence[Prompted], base: Sequence[AnswerLike], values: Sequence[str], peak: float | None
) -> InPromptResult:
    """Summarise the answers to some questions beside the base model's own, question by question."""
    both = list(zip(asked, base, strict=True))
    steady = [(own.answer, b) for own, b in both if min(own.answer.usage.completion_tokens, b.usage.completion_tokens) > 1]
    return InPromptResult(
        name=name,
        n_in_prompt=percentile((own.n_triples for own in asked), 50),
        prompt_tokens=percentile((own.answer.usage.prompt_tokens for own in asked), 50),
        ttft_ms=percentile((own.ttft_ms for own in asked), 50),
        ttft_ratio=percentile((own.ttft_ms / b.ttft_ms for own, b in both if b.ttft_ms > 0), 50),
        per_token_ms=percentile((own.ms_per_token for own, _ in steady), 50),
        per_token_ratio=percentile((own.ms_per_token / b.ms_per_token for own, b in steady if b.ms_per_token > 0), 50),
        exact=exact_share([own.answer for own in asked], values),
        peak_rss_mb=peak,
    )


def exact_share(answers: Sequence[AnswerLike], values: Sequence[str]) -> float:
    """Return the share of answers that hold their value."""
    return sum(contains(answer.text, value) for answer, value in zip(answers, values, strict=True)) / len(answers)


def _dense(model: EvaluatedModel, snapshot: KBSnapshot, top_k: int) -> Select:
    search = search_of(model, snapshot)

    def select(text: str) -> Sequence[Triple]:
        query = np.asarray(model.encoder.encode([text]), np.float32)
        at = search.search(query, top_k).at[0]
        return snapshot.triples(at[at >= 0])

    return select


def _in_context(
    model: EvaluatedModel, snapshot: KBSnapshot, questions: Sequence[str], limits: PromptLimits, max_new_tokens: int, seed: int
) -> Select:
    triples = StoredTriples(snapshot)
    corpus = Corpus(triples, snapshot.key_embeddings, model.encoder)  # its embeddings are not looked at
    asked = [Question(({"role": "user", "content": text},)) for text in questions]
    options = PromptOptions(context_tokens=limits.context_tokens, max_new_tokens=max_new_tokens, seed=seed)
    baseline = build_baseline("in-context", model, corpus, asked, options)
    chosen = [triples[at] for at in baseline.select(asked[0])]
    return lambda text: chosen
