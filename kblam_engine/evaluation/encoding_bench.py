"""What the sentence encoder costs: keys and values of triples by the thousand, and one question at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.latency import Progress
from kblam_engine.evaluation.metrics import percentile
from kblam_engine.evaluation.synthetic_kb import fresh_questions, invented_triples
from kblam_engine.sentence_encoder import SentenceEncoder

METHOD = (
    "Keys and values of invented triples, in batches as an import encodes them, and questions about them one by one "
    "(the median). Processor times are of all threads together: what a busy machine adds is hardly in them."
)
_BATCH = 500
_N_QUESTIONS = 40


@dataclass(frozen=True, slots=True)
class EncodingResult:
    """What an encoder costs."""

    encoder: str
    embed_dim: int
    n_texts: int
    """Two a triple: its key and its value."""
    texts_per_s: float
    texts_per_cpu_s: float
    """By a second of one processor."""
    question_ms: float
    question_cpu_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {name: round(v, 3) if isinstance(v, float) else v for name, v in asdict(self).items()}


def bench_encoding(
    encoder: SentenceEncoder, n_triples: int = 2_000, seed: int = 0, progress: Progress = lambda *_: None
) -> EncodingResult:
    """Encode the keys and values of `n_triples` triples, then questions.

    Raises:
        ConfigurationError: there is no triple to encode.
    """
    if n_triples < 1:
        raise ConfigurationError(f"triples: expected at least 1, got {n_triples}")
    triples = list(islice(invented_triples(seed), n_triples))
    texts = [text for triple in triples for text in (triple.key_text, triple.value)]
    encoder.encode(["a first text, because the first one is slower"])
    wall = cpu = 0.0
    for start in range(0, len(texts), _BATCH):
        taken = _seconds(encoder.encode, texts[start : start + _BATCH])
        wall, cpu = wall + taken[0], cpu + taken[1]
        progress("encoding", min(start + _BATCH, len(texts)), len(texts))
    asked = [_seconds(encoder.encode, [text]) for text, _ in islice(fresh_questions(triples, seed), _N_QUESTIONS)]
    return EncodingResult(
        encoder=encoder.name,
        embed_dim=encoder.embed_dim,
        n_texts=len(texts),
        texts_per_s=len(texts) / wall,
        texts_per_cpu_s=len(texts) / cpu,
        question_ms=1e3 * (percentile((of_wall for of_wall, _ in asked), 50) or 0.0),
        question_cpu_ms=1e3 * (percentile((of_cpu for _, of_cpu in asked), 50) or 0.0),
    )


def _seconds(encode: Callable[[Sequence[str]], object], texts: Sequence[str]) -> tuple[float, float]:
    """Return what encoding took of the clock and of the processor."""
    begun, cpu = time.perf_counter(), time.process_time()
    encode(texts)
    return time.perf_counter() - begun, time.process_time() - cpu
