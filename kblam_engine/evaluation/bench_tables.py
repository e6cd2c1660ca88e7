"""The part of the report that is about `kblam bench scale`: time and memory by the size of the knowledge base."""

from __future__ import annotations

from collections.abc import Sequence

from kblam_engine.evaluation.in_prompt import InPromptResult
from kblam_engine.evaluation.latency_results import LatencyResult, growth_exponents
from kblam_engine.evaluation.markdown import escaped, header, number, row, with_interval
from kblam_engine.evaluation.runner import SYSTEM
from kblam_engine.evaluation.runs import BenchRun, with_quartiles


def bench_tables(benches: Sequence[BenchRun]) -> list[str]:
    """Return time and memory by size, how they grow, and the same with triples in the prompt where that was measured."""
    lines = header(
        "run", "triples", "pairs", "first token, ms", "times the base model", "per token, ms", "times the base model",
        "retrieval, ms", "peak memory, MiB", "top-1", "build, s",
    )  # fmt: skip
    synthetic = False
    beside: list[str] = []
    for run in benches:
        for at in run.results:
            synthetic |= bool(at.n_synthetic_embeddings)
            lines.append(
                row(
                    run.name,
                    f"{at.n_triples:,}{' †' if at.n_synthetic_embeddings else ''}",
                    number(at.n_pairs, 0),
                    f"{number(at.ttft_ms_base, 0)} → {number(at.ttft_ms_kb, 0)}",
                    with_interval(with_quartiles(at.ttft_ratio, at.ttft_ratio_p25_p75)),
                    f"{number(at.per_token_ms_base, 1)} → {number(at.per_token_ms_kb, 1)}",
                    with_interval(with_quartiles(at.per_token_ratio, at.per_token_ratio_p25_p75)),
                    number(at.retrieval_ms, 1),
                    number(at.peak_rss_mb, 0),
                    number(at.attended_top1),
                    number(at.build_s, 1),
                )
            )
            beside += _in_prompt(run.name, at)
    lines += [
        "",
        "Base model alone → with the KB; ratios are medians of paired ratios, in brackets their quartiles.",
    ]
    for run in benches:
        grown = ", ".join(f"{part} {exponent:.2f}" for part, exponent in growth_exponents(run.results).items())
        if grown:
            lines += ["", f"{escaped(run.name)}, powers of the number of triples that fit what was measured: {grown}."]
    if beside:
        lines += [
            "",
            "The same questions with triples in the prompt; exact: share of answers that hold the value asked for.",
            "",
            *header(
                "run", "triples", "system", "in the prompt", "prompt tokens", "first token, ms", "times the base model",
                "per token, ms", "times the base model", "exact", "peak memory, MiB",
            ),
            *beside,
        ]  # fmt: skip
    if synthetic:
        lines.append(
            "† Some key embeddings are random unit vectors: what real triples would have found may take another time."
        )
    return lines


def _in_prompt(name: str, at: LatencyResult) -> list[str]:
    """Return the rows of a size that was measured with triples in the prompt besides: this system first."""
    if not at.in_prompt:
        return []
    systems: list[tuple[str, float | None, float | None, LatencyResult | InPromptResult]] = [
        (SYSTEM, at.ttft_ms_kb, at.per_token_ms_kb, at),
        *((way.name, way.ttft_ms, way.per_token_ms, way) for way in at.in_prompt),
    ]
    return [
        row(
            name,
            f"{at.n_triples:,}",
            system,
            number(own.n_in_prompt if isinstance(own, InPromptResult) else None, 0),
            number(own.prompt_tokens, 0),
            number(first, 0),
            number(own.ttft_ratio),
            number(each, 1),
            number(own.per_token_ratio),
            number(own.exact if isinstance(own, InPromptResult) else own.exact_kb),
            number(own.peak_rss_mb, 0),
        )
        for system, first, each, own in systems
    ]
