"""What `kblam bench scale` finds at one size, and how it grows from size to size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kblam_engine.evaluation.in_prompt import InPromptResult
from kblam_engine.evaluation.metrics import growth_exponent


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
    exact_base: float | None
    """Share of answers that hold the value asked for; answers are cut at `max_new_tokens`."""
    exact_kb: float | None
    attended_top1: float | None
    """Share of questions whose first attended triple is the one asked about: shows that the KB was in use."""
    peak_rss_mb: float | None
    """Of the whole process while answering."""
    anonymous_mb_base: float | None
    """Resident anonymous memory with the model alone, in MiB; None where the system does not tell it, and for every
    knowledge base of a run but the first: what that has left in memory would be counted for or against the next."""
    anonymous_mb_kb: float | None
    """The same after the answers from the KB."""
    anonymous_bytes_per_triple: float | None
    """Their difference over the number of triples. Of a small KB it is mostly what answering takes once."""
    update_ms: float | None
    """From `set` of one triple until the search of keys found it in the new revision, encoding included."""
    update_encoding_ms: float | None
    """Of that, the sentence encoder: key and value of one triple."""
    update_retrieval_ms: float | None
    """The first `retrieve` after a change; more than `retrieval_ms` where something is kept for each revision."""
    update_found: float | None
    """Share of the triples just added that this `retrieve` returned."""
    build_s: float | None
    """Seconds to fill the knowledge base; sentence encoding included where it is not found on disk. None: it was given."""
    index_s: float | None
    """Seconds until the search was there: an index opened, and built where it was wanted and missing."""
    search: str
    """How keys were searched: "exact", "tree", "ann" or "remote"."""
    kb: str | None
    """The folder, of a knowledge base that was given."""
    gpu_peak_mb: float | None
    """Peak of torch's memory on the GPU while answering, the model's included; None where it is on none."""
    in_prompt: tuple[InPromptResult, ...] = ()
    """The same questions with triples in the prompt, where that was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, rounded."""
        return {key: rounded(value) for key, value in asdict(self).items()}


def growth_exponents(results: Sequence[LatencyResult]) -> dict[str, float]:
    """Fit value = a * n_triples ** b over the sizes of a run; return b for what grew, of two sizes or more.

    Times to the first token hold the base model's, which does not grow: of small knowledge bases they hide the rest.
    """
    parts: dict[str, Callable[[LatencyResult], float | None]] = {
        "first token": lambda r: r.ttft_ms_kb,
        "a token": lambda r: r.per_token_ms_kb,
        "retrieval": lambda r: r.retrieval_ms,
        "peak memory": lambda r: r.peak_rss_mb,
        "build": lambda r: r.build_s,
        "update": lambda r: r.update_ms,
    }
    found = {}
    for name, part in parts.items():
        known = [(r.n_triples, value) for r in results if (value := part(r))]
        if len({n for n, _ in known}) > 1:
            found[name] = growth_exponent(*zip(*known, strict=True))
    return found


def rounded(value: Any) -> Any:
    """Return a value with its floating-point numbers rounded for JSON."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, tuple | list) else value
