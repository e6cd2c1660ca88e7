"""What a knowledge base costs in time: the same prompts with and without one, pair by pair in one run."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation import environment
from kblam_engine.evaluation.embedding_cache import CachedEncoder
from kblam_engine.evaluation.interface import AnswerLike, EvaluatedModel
from kblam_engine.evaluation.metrics import key_of, percentile
from kblam_engine.evaluation.synthetic_kb import REAL_UP_TO, InventingEncoder, fill, fresh_questions
from kblam_engine.triples import Triple

FORMAT = "kblam-bench/1"
METHOD = (
    "Each pair asks one question, never asked before in this run, of the base model alone and of the model "
    "with the knowledge base, in alternating order, after a warm-up. Ratios are medians of paired ratios. "
    "Time to first token holds everything: encoding the question, retrieval, prefill."
)
_WARM_UP = 3
_SPREAD = (25, 75)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done, and steps in all."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """How a latency measurement is made."""

    n_pairs: int = 20
    max_new_tokens: int = 32
    """Tokens asked of both sides; an answer may end earlier, so times per token are per token really made."""
    seed: int = 0
    real_up_to: int = REAL_UP_TO
    """Triples embedded by the sentence encoder; the rest get random unit vectors."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("n_pairs", 1), ("max_new_tokens", 2), ("real_up_to", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}: expected at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class LatencyResult:
    """Medians over pairs, times in milliseconds; None where nothing could be measured."""

    n_triples: int
    embeddings: str
    """ "real", or "synthetic" when some are random unit vectors."""
    n_synthetic_embeddings: int
    n_pairs: int
    max_new_tokens: int
    ttft_ratio: float | None
    """Time to first token with the KB over without."""
    ttft_ratio_p25_p75: tuple[float | None, float | None]
    per_token_ratio: float | None
    per_token_ratio_p25_p75: tuple[float | None, float | None]
    ttft_ms_base: float | None
    ttft_ms_kb: float | None
    ttft_ms_kb_p95: float | None
    per_token_ms_base: float | None
    per_token_ms_kb: float | None
    retrieval_ms: float | None
    """One `retrieve` of ten triples on its own: encoding the question, and the prompt where its hidden state is asked."""
    prompt_tokens: float | None
    completion_tokens_base: float | None
    completion_tokens_kb: float | None
    attended_top1: float | None
    """Share of questions whose first attended triple is the one asked about: shows that the KB was in use."""
    peak_rss_mb: float | None
    """Of the whole process while answering."""
    build_s: float
    """Seconds to fill the knowledge base; sentence encoding included where it is not found on disk."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, rounded."""
        return {key: _rounded(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class _Pair:
    base: AnswerLike
    kb: AnswerLike
    asked: Triple


def bench(
    model: EvaluatedModel,
    sizes: Sequence[int],
    options: BenchOptions | None = None,
    *,
    embedding_cache: Path | None = None,
    progress: Progress | None = None,
) -> list[LatencyResult]:
    """Measure one knowledge base of invented triples for each size, on disk, built and dropped one by one.

    Raises:
        ConfigurationError: a size below 1.
    """
    from kblam_engine.knowledge_base import KnowledgeBase

    options = options or BenchOptions()
    if not sizes or min(sizes) < 1:
        raise ConfigurationError(f"triples: expected sizes of at least 1, got {list(sizes)}")
    told = progress or (lambda what, done, total: None)
    real = CachedEncoder(model.encoder, embedding_cache) if embedding_cache else model.encoder
    results = []
    for size in sizes:
        encoder = InventingEncoder(real)
        with TemporaryDirectory(prefix="kblam-bench-") as folder:
            with KnowledgeBase.open(Path(folder) / "bench.kb", encoder=encoder) as kb:
                start = time.perf_counter()
                built = partial(_built, told, size)
                askable, n_synthetic = fill(kb, encoder, size, options.seed, options.real_up_to, built)
                build_s = time.perf_counter() - start
                results.append(measure(model, kb, askable, n_synthetic, build_s, options, told))
    return results


def measure(
    model: EvaluatedModel,
    kb: Any,
    askable: list[Triple],
    n_synthetic: int,
    build_s: float,
    options: BenchOptions,
    told: Progress,
) -> LatencyResult:
    """Time pairs of answers, without and with `kb`, to questions about the `askable` triples."""
    questions = fresh_questions(askable, options.seed)
    for text, triple in _take(questions, _WARM_UP, len(askable)):
        _ask_pair(model, kb, text, triple, options.max_new_tokens, kb_first=True)
        model.retrieve(text, kb, 10)
    gc.collect()
    environment.reset_peak_rss()
    what = f"asking {len(kb):,} triples"
    pairs: list[_Pair] = []
    retrieval: list[float] = []
    for text, triple in _take(questions, options.n_pairs, len(askable)):
        told(what, len(pairs), options.n_pairs)
        pairs.append(_ask_pair(model, kb, text, triple, options.max_new_tokens, kb_first=len(pairs) % 2 == 0))
    peak = environment.peak_rss_mb()
    for text, _ in _take(questions, options.n_pairs, len(askable)):
        start = time.perf_counter()
        model.retrieve(text, kb, 10)
        retrieval.append((time.perf_counter() - start) * 1000)
    told(what, options.n_pairs, options.n_pairs)
    return _summarise(len(kb), n_synthetic, build_s, pairs, retrieval, peak, options)


def _built(told: Progress, size: int, n_done: int) -> None:
    told(f"building {size:,} triples", n_done, size)


def _take(questions: Iterator[tuple[str, Triple]], n: int, n_askable: int) -> Iterator[tuple[str, Triple]]:
    """Yield the next `n` questions."""
    for _ in range(n):
        pair = next(questions, None)
        if pair is None:
            raise ConfigurationError(
                f"{n_askable} triples are too few for this many questions without repeating one; "
                "ask for fewer pairs or more triples"
            )
        yield pair


def _ask_pair(
    model: EvaluatedModel, kb: Any, text: str, triple: Triple, n_tokens: int, *, kb_first: bool
) -> _Pair:
    messages = [{"role": "user", "content": text}]
    if kb_first:
        with_kb = model.answer(messages, kb, max_new_tokens=n_tokens)
        return _Pair(model.generate_text(messages, n_tokens), with_kb, triple)
    base = model.generate_text(messages, n_tokens)
    return _Pair(base, model.answer(messages, kb, max_new_tokens=n_tokens), triple)


def _summarise(
    n_triples: int,
    n_synthetic: int,
    build_s: float,
    pairs: list[_Pair],
    retrieval: list[float],
    peak: float | None,
    options: BenchOptions,
) -> LatencyResult:
    # An answer of a single token has no time per token.
    steady = [p for p in pairs if min(p.base.usage.completion_tokens, p.kb.usage.completion_tokens) > 1]
    first = [p.kb.ttft_ms / p.base.ttft_ms for p in pairs if p.base.ttft_ms > 0]
    each = [p.kb.ms_per_token / p.base.ms_per_token for p in steady if p.base.ms_per_token > 0]
    return LatencyResult(
        n_triples=n_triples,
        embeddings="synthetic" if n_synthetic else "real",
        n_synthetic_embeddings=n_synthetic,
        n_pairs=len(pairs),
        max_new_tokens=options.max_new_tokens,
        ttft_ratio=percentile(first, 50),
        ttft_ratio_p25_p75=_spread(first),
        per_token_ratio=percentile(each, 50),
        per_token_ratio_p25_p75=_spread(each),
        ttft_ms_base=percentile((p.base.ttft_ms for p in pairs), 50),
        ttft_ms_kb=percentile((p.kb.ttft_ms for p in pairs), 50),
        ttft_ms_kb_p95=percentile((p.kb.ttft_ms for p in pairs), 95),
        per_token_ms_base=percentile((p.base.ms_per_token for p in steady), 50),
        per_token_ms_kb=percentile((p.kb.ms_per_token for p in steady), 50),
        retrieval_ms=percentile(retrieval, 50),
        prompt_tokens=percentile((p.base.usage.prompt_tokens for p in pairs), 50),
        completion_tokens_base=percentile((p.base.usage.completion_tokens for p in pairs), 50),
        completion_tokens_kb=percentile((p.kb.usage.completion_tokens for p in pairs), 50),
        attended_top1=sum(_first_is_asked(p) for p in pairs) / len(pairs),
        peak_rss_mb=peak,
        build_s=build_s,
    )


def _first_is_asked(pair: _Pair) -> bool:
    if not pair.kb.attended:
        return False
    first = pair.kb.attended[0].triple
    return key_of(first.name, first.property) == key_of(pair.asked.name, pair.asked.property)


def _spread(values: list[float]) -> tuple[float | None, float | None]:
    return percentile(values, _SPREAD[0]), percentile(values, _SPREAD[1])


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    return [_rounded(item) for item in value] if isinstance(value, tuple) else value
