"""What a knowledge base costs in time: the same prompts with and without one, pair by pair in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation import environment
from kblam_engine.evaluation.embedding_cache import CachedEncoder
from kblam_engine.evaluation.in_prompt import (
    WAYS,
    InPromptResult,
    PromptLimits,
    exact_share,
    summarise,
    ways_of,
)
from kblam_engine.evaluation.interface import AnswerLike, EvaluatedModel
from kblam_engine.evaluation.latency_results import LatencyResult
from kblam_engine.evaluation.metrics import key_of, percentile
from kblam_engine.evaluation.synthetic_kb import REAL_UP_TO, InventingEncoder, fill, fresh_questions
from kblam_engine.evaluation.updates import NO_UPDATES, Updates, measure_updates, ready_search, sampled
from kblam_engine.freed_memory import give_back_freed
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase

FORMAT = "kblam-bench/1"
METHOD = (
    "Each pair asks one question, never asked before in this run, of the base model alone and of the model "
    "with the knowledge base, in alternating order, after a warm-up. Ratios are medians of paired ratios. "
    "Time to first token holds everything: encoding the question, retrieval, prefill. An index that is wanted is there "
    "before the first question. Memory is resident anonymous memory of this process (Linux) after the answers, beyond "
    "what it was after three answers of the model alone; mapped files are not in it, and only the first knowledge base of a "
    "run has it. With triples in the prompt the same questions are asked again, each beside the base model. Changes come "
    "last; a knowledge base that was given is changed in a copy."
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
    n_changes: int = 5
    """Triples that are added and changed to measure what an update costs; 0: none, and no copy is made."""
    against: tuple[str, ...] = ()
    """Ways to put triples into the prompt that are measured beside (`in_prompt.WAYS`)."""
    limits: PromptLimits = PromptLimits()
    """How much goes into such a prompt."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("n_pairs", 1), ("max_new_tokens", 2), ("real_up_to", 1), ("n_changes", 0)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        unknown = set(self.against) - set(WAYS)
        if unknown:
            raise ConfigurationError(f"against: expected {' or '.join(WAYS)}, got {', '.join(sorted(unknown))}")


@dataclass(frozen=True, slots=True)
class _Subject:
    """A knowledge base to measure, closed until the model alone has been."""

    folder: Path
    encoder: Any
    askable: list[Triple] | None = None
    """What is asked about; None: a sample of its triples."""
    n_synthetic: int = 0
    build_s: float | None = None
    given: bool = False
    """Not to be written to."""


@dataclass(frozen=True, slots=True)
class _Memory:
    """Resident anonymous bytes, without and with the knowledge base."""

    base: int | None
    kb: int | None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the questions of one knowledge base took."""

    pairs: list[_Pair]
    retrieval: list[float]
    peak: float | None
    gpu_peak: float | None


@dataclass(frozen=True, slots=True)
class _Pair:
    """One question, what it asks about, and both answers."""

    text: str
    asked: Triple
    base: AnswerLike
    kb: AnswerLike


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
    results: list[LatencyResult] = []
    for size in sizes:
        encoder = InventingEncoder(real)
        with TemporaryDirectory(prefix="kblam-bench-") as folder:
            path = Path(folder) / "bench.kb"
            with KnowledgeBase.open(path, encoder=encoder) as kb:
                start = time.perf_counter()
                built = partial(_built, told, size)
                askable, n_synthetic = fill(kb, encoder, size, options.seed, options.real_up_to, built)
                build_s = time.perf_counter() - start
            # Opened again, so that what filling it has left in memory is not measured.
            subject = _Subject(path, model.encoder, askable, n_synthetic, build_s)
            results.append(_measured(model, subject, options, told, first=not results))
    return results


def bench_folders(
    model: EvaluatedModel,
    folders: Sequence[Path],
    options: BenchOptions | None = None,
    *,
    progress: Progress | None = None,
) -> list[LatencyResult]:
    """Measure knowledge bases as they are, with questions about triples of their own.

    Their triples stay as they are: changes are made in a copy in the temporary folder. An index that the model wants
    and that is not there is built in the folder, as the model does for any answer.

    Raises:
        ConfigurationError: no folder, or one without triples enough for the questions.
        KBLaMError: there is no knowledge base.
    """
    if not folders:
        raise ConfigurationError("expected the folder of a knowledge base, got none")
    told = progress or (lambda what, done, total: None)
    options = options or BenchOptions()
    return [
        _measured(model, _Subject(folder, model.encoder, given=True), options, told, first=not number)
        for number, folder in enumerate(folders)
    ]


def _measured(
    model: EvaluatedModel, subject: _Subject, options: BenchOptions, told: Progress, *, first: bool
) -> LatencyResult:
    """Time pairs of answers, without and with the knowledge base, then triples in the prompt, then updates.

    Memory is told of the first knowledge base of a process alone, see `LatencyResult.anonymous_mb_base`.
    """
    from kblam_engine.knowledge_base import KnowledgeBase

    _warm_base(model, options)
    base = environment.anonymous_bytes() if first else None
    with KnowledgeBase.open(subject.folder, encoder=subject.encoder, create=False) as kb:
        begun = time.perf_counter()
        told(f"preparing {len(kb):,} triples", 0, 1)
        search = ready_search(model, kb.snapshot())
        index_s = time.perf_counter() - begun
        told(f"preparing {len(kb):,} triples", 1, 1)
        # As many for each answer, each retrieval and the warm-up, and some to spare: a key may occur twice.
        askable = subject.askable or sampled(kb.snapshot(), 4 * (options.n_pairs + _WARM_UP), options.seed)
        asked = _ask(model, kb, askable, options, told)
        memory = _Memory(base, environment.anonymous_bytes() if first else None)
        in_prompt = _ask_in_prompt(model, kb.snapshot(), asked.pairs, options, told)
        updates = measure_updates(model, kb, options.n_changes, copy=subject.given) if options.n_changes else NO_UPDATES
        return _summarise(len(kb), subject, asked, memory, in_prompt, updates, search, index_s, options)


def _warm_base(model: EvaluatedModel, options: BenchOptions) -> None:
    """Have the model alone answer, so that what it keeps is not taken for memory of the knowledge base."""
    for number in range(_WARM_UP):
        text = f"What is the number {number} on this list of names?"
        model.encoder.encode([text])
        model.generate_text([{"role": "user", "content": text}], options.max_new_tokens)


def _ask(
    model: EvaluatedModel, kb: KnowledgeBase, askable: list[Triple], options: BenchOptions, told: Progress
) -> _Asked:
    """Answer pairs of questions about the `askable` triples, then retrieve for others."""
    questions = fresh_questions(askable, options.seed)
    for text, triple in _take(questions, _WARM_UP, len(askable)):
        _ask_pair(model, kb, text, triple, options.max_new_tokens, kb_first=True)
        model.retrieve(text, kb, 10)
    give_back_freed()  # what the warm-up has left
    environment.reset_peak_rss()
    environment.reset_gpu_peak()
    what = f"asking {len(kb):,} triples"
    pairs: list[_Pair] = []
    retrieval: list[float] = []
    for text, triple in _take(questions, options.n_pairs, len(askable)):
        told(what, len(pairs), options.n_pairs)
        pairs.append(_ask_pair(model, kb, text, triple, options.max_new_tokens, kb_first=len(pairs) % 2 == 0))
    peak, gpu_peak = environment.peak_rss_mb(), environment.gpu_peak_mb()
    for text, _ in _take(questions, options.n_pairs, len(askable)):
        start = time.perf_counter()
        model.retrieve(text, kb, 10)
        retrieval.append((time.perf_counter() - start) * 1000)
    told(what, options.n_pairs, options.n_pairs)
    return _Asked(pairs, retrieval, peak, gpu_peak)


def _ask_in_prompt(
    model: EvaluatedModel, snapshot: KBSnapshot, pairs: list[_Pair], options: BenchOptions, told: Progress
) -> tuple[InPromptResult, ...]:
    """Ask the questions of all pairs again with triples in the prompt, each beside the base model in alternating order."""
    found = []
    texts, values = [pair.text for pair in pairs], [pair.asked.value for pair in pairs]
    for name in options.against:
        (way,) = ways_of(
            [name], model, snapshot, texts, options.limits, max_new_tokens=options.max_new_tokens, seed=options.seed
        )
        what, asked, base = f"{name}, {len(snapshot):,} triples", [], []
        way.ask(model, texts[0])  # what the first prompt of this length allocates
        for number, text in enumerate(texts):
            told(what, number, len(texts))
            if number % 2:
                base.append(_ask_base(model, text, options.max_new_tokens))
            asked.append(way.ask(model, text))
            if not number % 2:
                base.append(_ask_base(model, text, options.max_new_tokens))
        told(what, len(texts), len(texts))
        found.append(summarise(name, asked, base, values, way.peak_rss_mb(model, texts)))
    return tuple(found)


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
        return _Pair(text, triple, _ask_base(model, text, n_tokens), with_kb)
    base = _ask_base(model, text, n_tokens)
    return _Pair(text, triple, base, model.answer(messages, kb, max_new_tokens=n_tokens))


def _ask_base(model: EvaluatedModel, text: str, n_tokens: int) -> AnswerLike:
    answer: AnswerLike = model.generate_text([{"role": "user", "content": text}], n_tokens)
    return answer


def _summarise(
    n_triples: int,
    subject: _Subject,
    asked: _Asked,
    memory: _Memory,
    in_prompt: tuple[InPromptResult, ...],
    updates: Updates,
    search: str,
    index_s: float,
    options: BenchOptions,
) -> LatencyResult:
    pairs = asked.pairs
    # An answer of a single token has no time per token.
    steady = [p for p in pairs if min(p.base.usage.completion_tokens, p.kb.usage.completion_tokens) > 1]
    first = [p.kb.ttft_ms / p.base.ttft_ms for p in pairs if p.base.ttft_ms > 0]
    each = [p.kb.ms_per_token / p.base.ms_per_token for p in steady if p.base.ms_per_token > 0]
    return LatencyResult(
        n_triples=n_triples,
        embeddings="synthetic" if subject.n_synthetic else "real",
        n_synthetic_embeddings=subject.n_synthetic,
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
        retrieval_ms=percentile(asked.retrieval, 50),
        prompt_tokens=percentile((p.base.usage.prompt_tokens for p in pairs), 50),
        completion_tokens_base=percentile((p.base.usage.completion_tokens for p in pairs), 50),
        completion_tokens_kb=percentile((p.kb.usage.completion_tokens for p in pairs), 50),
        exact_base=exact_share([p.base for p in pairs], [p.asked.value for p in pairs]),
        exact_kb=exact_share([p.kb for p in pairs], [p.asked.value for p in pairs]),
        attended_top1=sum(_first_is_asked(p) for p in pairs) / len(pairs),
        peak_rss_mb=asked.peak,
        anonymous_mb_base=_mib(memory.base),
        anonymous_mb_kb=_mib(memory.kb),
        anonymous_bytes_per_triple=(
            None if memory.base is None or memory.kb is None else (memory.kb - memory.base) / n_triples
        ),
        update_ms=updates.visible_ms,
        update_encoding_ms=updates.encoding_ms,
        update_retrieval_ms=updates.retrieval_ms,
        update_found=updates.found,
        build_s=subject.build_s,
        index_s=index_s,
        search=search,
        kb=str(subject.folder) if subject.given else None,
        gpu_peak_mb=asked.gpu_peak,
        in_prompt=in_prompt,
    )


def _mib(n_bytes: int | None) -> float | None:
    return None if n_bytes is None else n_bytes / 1024**2


def _first_is_asked(pair: _Pair) -> bool:
    if not pair.kb.attended:
        return False
    first = pair.kb.attended[0].triple
    return key_of(first.name, first.property) == key_of(pair.asked.name, pair.asked.property)


def _spread(values: list[float]) -> tuple[float | None, float | None]:
    return percentile(values, _SPREAD[0]), percentile(values, _SPREAD[1])
