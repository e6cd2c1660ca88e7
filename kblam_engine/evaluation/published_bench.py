"""This system beside KBLaM and HiKVP as published: the same base model, questions and run, question by question."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from kblam_engine.calls import Call
from kblam_engine.decoding import DecodingOptions, decode
from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation import environment
from kblam_engine.evaluation.embedding_cache import CachedEncoder
from kblam_engine.evaluation.latency import BenchOptions, Progress
from kblam_engine.evaluation.metrics import percentile
from kblam_engine.evaluation.published import PublishedAdapter, PublishedState, bytes_of, project
from kblam_engine.evaluation.published_hikvp import HierarchicalState, build_hierarchy
from kblam_engine.evaluation.synthetic_kb import InventingEncoder, fill, fresh_questions
from kblam_engine.freed_memory import give_back_freed
from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase
from kblam_engine.retrieval import KEPT_KEYS

if TYPE_CHECKING:
    from kblam_engine.decoding import DecodedStep
    from kblam_engine.engine import KBLaM
    from kblam_engine.kb_state import KBState

FORMAT = "kblam-published-bench/1"
METHOD = (
    "Every question, never asked before in this run, is put to each system, in an order that moves on by one each time. "
    "Ratios are medians of paired ratios. Times are given of the clock and of the processor (all threads together). Time "
    "to first token holds everything: encoding the question and retrieval where a system does that, and prefill. The "
    "published forms have random weights and write on to the last token asked for. Peak memory is resident memory beyond "
    "what the process had before the system's knowledge base was opened or projected, one after the other: a later one may "
    "use what an earlier one has left, so compare the bytes of arrays instead."
)
PUBLISHED = ("kblam", "hikvp")
"""What is measured beside the base model alone ("base") and this system ("ours")."""
_WARM_UP = 2
_PEAK_QUESTIONS = 2

Ask = Callable[[str], "Iterator[DecodedStep]"]


@dataclass(frozen=True, slots=True)
class Timing:
    """One answer: milliseconds of the clock and of the processor."""

    first: float
    first_cpu: float
    each: float | None
    """For each token after the first; None where there is none."""
    each_cpu: float | None


@dataclass(frozen=True, slots=True)
class Memory:
    """What a knowledge base takes in one system.

    Attributes:
        resident: bytes of arrays in memory.
        mapped: bytes of arrays that are mapped from disk.
        fixed: bytes that do not grow with the KB: adapters and query heads.
        peak_mb: see `METHOD`; None where the system does not tell.
    """

    resident: int = 0
    mapped: int = 0
    fixed: int = 0
    peak_mb: float | None = None


@dataclass(frozen=True, slots=True)
class SystemResult:
    """One system at one size; times in milliseconds, medians."""

    system: str
    n_triples: int
    n_questions: int
    ttft_ms: float | None
    ttft_cpu_ms: float | None
    per_token_ms: float | None
    per_token_cpu_ms: float | None
    ttft_over_base: float | None
    per_token_over_base: float | None
    ttft_over_ours: float | None
    """Of processor times, as the three beside it; of those of the clock where the model is on a GPU."""
    per_token_over_ours: float | None
    ttft_over_ours_clock: float | None
    per_token_over_ours_clock: float | None
    resident_bytes_per_triple: float
    mapped_bytes_per_triple: float
    fixed_bytes: int
    bytes_over_ours: float | None
    """Of resident and mapped bytes together."""
    peak_mb: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(self).items()}


def bench_published(
    engine: KBLaM,
    n_triples: int,
    options: BenchOptions | None = None,
    *,
    systems: Sequence[str] = PUBLISHED,
    embedding_cache: Path | None = None,
    progress: Progress = lambda *_: None,
) -> list[SystemResult]:
    """Measure the base model, this system and the published ones over the same invented triples.

    Args:
        engine: the model.
        n_triples: size of the KB; the published forms keep all of it in memory, tens of kilobytes a triple.
        options: number of questions ("pairs"), tokens, seed, real embeddings.
        systems: some of `PUBLISHED`.
        embedding_cache: a folder in which real embeddings are kept.
        progress: called with what is being done, steps done, steps in all.

    Raises:
        ConfigurationError: an unknown system, or too few triples to ask about.
    """
    options = options or BenchOptions()
    if not set(systems) <= set(PUBLISHED):
        raise ConfigurationError(f"system: expected {' or '.join(PUBLISHED)}, got {', '.join(systems)}")
    if n_triples < 1:
        raise ConfigurationError(f"triples: expected at least 1, got {n_triples}")
    encoder = InventingEncoder(CachedEncoder(engine.encoder, embedding_cache) if embedding_cache else engine.encoder)
    with (
        TemporaryDirectory(prefix="kblam-bench-") as folder,
        KnowledgeBase.open(Path(folder) / "bench.kb", encoder=encoder) as kb,
    ):
        askable, _ = fill(kb, encoder, n_triples, options.seed, options.real_up_to)
        questions = [text for text, _ in fresh_questions(askable, options.seed)]
        needed = _WARM_UP + options.n_pairs + _PEAK_QUESTIONS
        if len(questions) < needed:
            raise ConfigurationError(f"{len(askable)} triples are too few for {needed} questions")
        return _Bench(engine, kb, options, systems, progress).results(questions)


class _Bench:
    def __init__(
        self, engine: KBLaM, kb: KnowledgeBase, options: BenchOptions, systems: Sequence[str], progress: Progress
    ) -> None:
        self.engine, self.options, self.progress = engine, options, progress
        self.kb, self.systems = kb, systems
        self._adapter = PublishedAdapter.random(engine.injection, engine.encoder.embed_dim, options.seed)

    def results(self, questions: list[str]) -> list[SystemResult]:
        peaks, questions = questions[:_PEAK_QUESTIONS], questions[_PEAK_QUESTIONS:]
        timed(lambda text: self._steps(text, None), peaks[0])  # what the first forward of a process allocates
        memory = {"base": Memory(), "ours": self._memory_of_ours(peaks)}
        keys, values = self.snapshot.key_embeddings, self.snapshot.value_embeddings()
        # Copies, because torch wants arrays that it may write to.
        device = self.engine.lm.device
        self._embeddings = torch.tensor(keys[:], device=device), torch.tensor(values[:], device=device)
        for system in self.systems:
            self.progress(f"{system}: memory", 0, 1)
            memory[system] = self._memory_of(system, peaks)
        asked = {
            "base": lambda text: self._steps(text, None),
            "ours": lambda text: self._steps(text, self.kb),
            **{system: self._published(system)[0] for system in self.systems},
        }
        times = self._times(asked, questions)
        return [self._result(system, times, memory) for system in asked]

    def _times(self, asked: dict[str, Ask], questions: list[str]) -> dict[str, list[Timing]]:
        times: dict[str, list[Timing]] = {system: [] for system in asked}
        names, total = list(asked), self.options.n_pairs
        for number, text in enumerate(questions[: _WARM_UP + total]):
            self.progress(f"asking {len(self.snapshot):,} triples", max(0, number - _WARM_UP), total)
            at = number % len(names)
            for system in (*names[at:], *names[:at]):
                found = timed(asked[system], text)
                if number >= _WARM_UP:
                    times[system].append(found)
        self.progress(f"asking {len(self.snapshot):,} triples", total, total)
        return times

    def _steps(self, text: str, kb: KnowledgeBase | None) -> Iterator[DecodedStep]:
        return Call(self.engine, [text], kb, None, {"max_new_tokens": self.options.max_new_tokens}).steps()

    def _published(self, system: str) -> tuple[Ask, int]:
        """Project the KB for a published system; return what asks it, and the bytes that it keeps."""
        state: KBState
        if system == "kblam":
            projected = project(self._adapter, *self._embeddings)
            state, n_bytes = PublishedState(self._adapter, projected), projected.n_bytes
        else:
            tree = build_hierarchy(self._adapter, *self._embeddings, seed=self.options.seed)
            state, n_bytes = HierarchicalState(self._adapter, tree), tree.n_bytes
        engine, limits = self.engine, DecodingOptions(max_new_tokens=self.options.max_new_tokens)

        def ask(text: str) -> Iterator[DecodedStep]:
            prompt = engine.prompt_ids([{"role": "user", "content": text}])
            return decode(
                engine.lm,
                engine.tokenizer,
                [prompt],
                limits,
                end_ids=frozenset(),
                scope=lambda rows: engine.injection.use(state),
            )

        return ask, n_bytes

    def _memory_of(self, system: str, questions: list[str]) -> Memory:
        with _peak() as peak:
            ask, n_bytes = self._published(system)
            for text in questions:
                timed(ask, text)
        return Memory(n_bytes, 0, self._adapter.n_bytes, peak.mb)

    def _memory_of_ours(self, questions: list[str]) -> Memory:
        with _peak() as peak:
            self.snapshot = self.kb.snapshot()
            for text in questions:
                timed(lambda text: self._steps(text, self.kb), text)
        return Memory(*arrays_of(self.snapshot), bytes_of(list(self.engine.adapter.parameters())), peak.mb)

    def _result(self, system: str, times: dict[str, list[Timing]], memory: dict[str, Memory]) -> SystemResult:
        own, n = times[system], len(self.snapshot)
        takes, ours = memory[system], memory["ours"]
        # The processor's time does not hold what a GPU does.
        first, each = ("first_cpu", "each_cpu") if self.engine.lm.device.type == "cpu" else ("first", "each")

        def over(other: str, part: str) -> float | None:
            pairs = [(getattr(a, part), getattr(b, part)) for a, b in zip(own, times[other], strict=True)]
            return percentile((a / b for a, b in pairs if a is not None and b), 50)

        def median(part: str) -> float | None:
            return percentile((value for t in own if (value := getattr(t, part)) is not None), 50)

        return SystemResult(
            system=system,
            n_triples=n,
            n_questions=len(own),
            ttft_ms=median("first"),
            ttft_cpu_ms=median("first_cpu"),
            per_token_ms=median("each"),
            per_token_cpu_ms=median("each_cpu"),
            ttft_over_base=over("base", first),
            per_token_over_base=over("base", each),
            ttft_over_ours=over("ours", first),
            per_token_over_ours=over("ours", each),
            ttft_over_ours_clock=over("ours", "first"),
            per_token_over_ours_clock=over("ours", "each"),
            resident_bytes_per_triple=takes.resident / n,
            mapped_bytes_per_triple=takes.mapped / n,
            fixed_bytes=takes.fixed,
            bytes_over_ours=(takes.resident + takes.mapped) / (ours.resident + ours.mapped),
            peak_mb=takes.peak_mb,
        )


def timed(ask: Ask, text: str) -> Timing:
    """Ask a question to the end of its answer."""
    begun, begun_cpu = time.perf_counter(), time.process_time()
    first = last = first_cpu = last_cpu = 0.0
    n = -1
    for _ in ask(text):
        last, last_cpu, n = time.perf_counter(), time.process_time(), n + 1
        if n == 0:
            first, first_cpu = last, last_cpu
    # The step that only says that an answer has ended wrote its end token: a forward like any other.
    return Timing(
        first=1e3 * (first - begun),
        first_cpu=1e3 * (first_cpu - begun_cpu),
        each=1e3 * (last - first) / n if n > 0 else None,
        each_cpu=1e3 * (last_cpu - first_cpu) / n if n > 0 else None,
    )


def arrays_of(snapshot: KBSnapshot) -> tuple[int, int]:
    """Return the bytes that this system has in memory and mapped of a KB, counted on its arrays.

    In memory are what names, properties and ids are looked up by, and, of a KB that is not larger than `KEPT_KEYS`, the keys in
    32 bits. Both embeddings are mapped, in 16 bits.
    """
    # By slot: ids of triples, names and properties; by name: its slots; by id: the place of the value's embedding.
    resident = len(snapshot) * (8 + 4 + 4 + 4 + 4) + 8 * snapshot.n_names + snapshot.property_embeddings.nbytes
    keys = snapshot.key_embeddings
    if len(keys) <= KEPT_KEYS:
        resident += 4 * keys.shape[0] * keys.shape[1]
    mapped = sum(2 * rows.shape[0] * rows.shape[1] for rows in (keys, snapshot.value_embeddings()))
    return resident, mapped


@dataclass
class _Peak:
    mb: float | None = None


@contextmanager
def _peak() -> Iterator[_Peak]:
    """Tell the peak of resident memory inside the block beyond what it was before."""
    # What an earlier system has freed may still be held by the allocator, and would be used again unseen.
    give_back_freed()
    environment.reset_peak_rss()
    before, found = environment.peak_rss_mb(), _Peak()
    yield found
    after = environment.peak_rss_mb()
    if before is not None and after is not None:
        found.mb = round(after - before, 1)
