"""From runs of `kblam eval` and `kblam bench` to the Markdown of `kblam report`: text only, nothing is drawn.

`overview` and `by_kind` are also the tables of docs/results.md.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from kblam_engine.evaluation.bench_tables import bench_tables
from kblam_engine.evaluation.comparisons import differences, grid_differences, grid_refusals, refusals_by_kind
from kblam_engine.evaluation.copied_runs import counterfactuals
from kblam_engine.evaluation.grid import Summary
from kblam_engine.evaluation.layers import layer_tables
from kblam_engine.evaluation.markdown import NOTHING, escaped, header, number, row, with_interval
from kblam_engine.evaluation.results import Metrics
from kblam_engine.evaluation.runner import SYSTEM
from kblam_engine.evaluation.runs import (
    BenchRun,
    Estimate,
    EvaluationRun,
    GridRun,
    estimate,
    series_of,
)

REPORT = "report.md"
_SHARES = {
    "exact": "exact",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "bertscore": "BERTScore",
    "judge_score": "judge, 0 to 5",
    "retrieval_top1": "top-1",
    "retrieval_top5": "top-5",
    "refusal_precision": "refusal precision",
    "refusal_recall": "refusal recall",
    "refusal_f1": "refusal F1",
    "over_refusal": "over-refusal",
}
_ANSWERS = ("exact", "token_f1", "rouge_l", "bertscore", "judge_score", "retrieval_top1", "retrieval_top5")
_REFUSALS = ("refusal_precision", "refusal_recall", "over_refusal", "refusal_f1")
_BY_KIND = ("retrieval_top1", "retrieval_top5", "refusal_recall", "over_refusal")
# Top-level parts of a file that have their own place in the report, or none.
_PLACED = frozenset(
    "format created command seed versions hardware commit n_triples n_from_kb n_distractors method results fingerprint "
    "growth_exponents questions_digest "
    "n_skipped_distractors options warnings definitions system baselines answers".split()
)
_PLOTS = {
    "accuracy": "Exact answers and retrieval against the size of the KB; bars are 95 % intervals.",
    "refusal": "Refusal recall against over-refusal; the larger the marker, the larger the KB.",
    "systems": "The system beside its baselines; bars are 95 % intervals.",
    "cost": "Times as multiples of the base model's, and peak memory, against the size of the KB; "
    "bars are quartiles.",
    "grid-ablations": "The system and its ablations against the size of the KB: means over the seeds; bands are 95 % intervals.",
    "grid": "Each system against the size of the KB: means over the seeds; bands are 95 % intervals.",
    "grid-cost": "Times and peak memory against the size of the KB: means over the seeds; bands are 95 % intervals.",
    "attention": "Attention of answers to triples; framed is what holds the answer.",
}
# In the tables of a grid, with their digits.
_OF_A_GRID = {
    **{key: (label, 2) for key, label in _SHARES.items()},
    "ttft_ms_p50": ("time to first token, ms", 0),
    "ms_per_token_p50": ("time per token, ms", 1),
    "peak_rss_mb": ("peak memory, MiB", 0),
}


def build_report(
    evaluations: Sequence[EvaluationRun],
    benches: Sequence[BenchRun],
    grids: Sequence[GridRun],
    plots: Mapping[str, str],
) -> str:
    """Return the report as Markdown.

    Args:
        evaluations: runs of `kblam eval`.
        benches: runs of `kblam bench`.
        grids: runs of `kblam eval --sizes`.
        plots: what was drawn, for example "accuracy", and the file it is in.
    """
    pictures = {name: ["", f"![{_PLOTS[name]}]({file})"] for name, file in plots.items()}
    lines = ["# Report"]
    if grids:
        lines += ["", "## Sizes and seeds", *(line for grid in grids for line in grid_tables(grid))]
        lines += [line for name in ("grid", "grid-ablations", "grid-cost") for line in pictures.get(name, [])]
    if evaluations:
        lines += ["", "## Runs", "", *overview(evaluations), *pictures.get("accuracy", [])]
        lines += _section("Several runs with the same settings", repeated(evaluations))
        lines += ["", "## Answers", "", *_shares(evaluations, _ANSWERS), *pictures.get("systems", [])]
        lines += ["", "## Refusals", "", *_shares(evaluations, _REFUSALS), *pictures.get("refusal", [])]
        lines += ["", "## By kind of question", "", *by_kind(evaluations)]
        lines += _section("Refusals by kind of question", refusals_by_kind(evaluations))
        lines += _section("The system minus its baselines", differences(evaluations))
        lines += ["", "## Time and memory of the answers", "", *_costs(evaluations)]
    if benches:
        lines += ["", "## Time and memory against the size of the KB", "", *bench_tables(benches)]
        lines += pictures.get("cost", [])
    lines += _section("Retrieval by KB layer", layer_tables(evaluations, grids))
    lines += _section("Counterfactual copies", counterfactuals(evaluations, grids))
    lines += _section("Attention", pictures.get("attention", [])[1:])
    runs: list[EvaluationRun | BenchRun | GridRun] = [*grids, *evaluations, *benches]
    lines += _section("What the columns mean", _definitions(runs))
    lines += ["", "## Settings and commands"]
    for run in runs:
        lines += ["", f"### {escaped(run.name)}", "", *_settings(run)]
    return "\n".join(lines) + "\n"


def overview(runs: Sequence[EvaluationRun]) -> list[str]:
    """Return a table with a line for each run, and a column for the exact answers of each baseline."""
    names = _baselines(runs)
    shown = ("token_f1", "retrieval_top1", "retrieval_top5", "refusal_recall", "over_refusal")
    lines = header(
        "run", "triples", "n", "exact", *(f"{name} exact" for name in names), *(_SHARES[key] for key in shown)
    )
    for run in runs:
        found = run.system.overall
        theirs = [number(_of(run.baselines, name, "exact")) for name in names]
        rest = [number(getattr(found, key)) for key in shown]
        lines.append(row(run.name, f"{run.n_triples:,}", found.n, number(found.exact), *theirs, *rest))
    return lines


def by_kind(runs: Sequence[EvaluationRun]) -> list[str]:
    """Return a table with a line for each kind of question of each run."""
    names = _baselines(runs)
    lines = header("run", "kind", "n", "exact", *names, *(_SHARES[key] for key in _BY_KIND))
    for run in runs:
        for kind, found in run.system.kinds.items():
            theirs = [number(_of(run.baselines, name, "exact", kind)) for name in names]
            rest = [number(getattr(found, key)) for key in _BY_KIND]
            lines.append(row(run.name, kind, found.n, number(found.exact), *theirs, *rest))
    return lines


def repeated(runs: Sequence[EvaluationRun]) -> list[str]:
    """Return a table of means over runs that differ in the seed or the commit only; empty without any."""
    found_any = {key for key in _SHARES for run in runs if getattr(run.system.overall, key) is not None}
    measures = [key for key in _SHARES if key in found_any - {"refusal_precision", "refusal_f1"}]
    lines: list[str] = []
    copies: list[str] = []
    for series in series_of(runs):
        copies += series.copies
        for size, same in series.by_size.items():
            if len(same) < 2:
                continue
            found = [run.system.overall for run in same]
            seeds = ", ".join(dict.fromkeys(_known(run.data.get("seed")) for run in same))
            commits = ", ".join(dict.fromkeys(_known(run.data.get("commit")) for run in same))
            means = [with_interval(estimate(found, key)) for key in measures]
            lines.append(row(series.title, f"{size:,}", len(same), seeds, commits, *means))
    left_out = [f"Left out, each a file of a run that is there already: {escaped(', '.join(copies))}."] if copies else []
    if not lines:
        return left_out
    heading = header("questions", "triples", "runs", "seeds", "commits", *(_SHARES[key] for key in measures))
    caption = (
        "Means over the runs, with the 95 % interval of the mean (Student's t). The questions are the same, so it "
        "holds what the seed changes and not the choice of questions."
    )
    return [caption, "", *heading, *lines, *(["", *left_out] if left_out else [])]


def _shares(runs: Sequence[EvaluationRun], measures: Sequence[str]) -> list[str]:
    every = [found.overall for run in runs for found in run.systems.values()]
    told = ("rouge_l", "bertscore", "judge_score")  # where nobody asked for them, they have no column
    measures = [key for key in measures if key not in told or any(getattr(one, key) is not None for one in every)]
    lines = header("run", "triples", "system", "n", *(_SHARES[key] for key in measures))
    for run in runs:
        for name, found in run.systems.items():
            cells = [with_interval(estimate([found.overall], key)) for key in measures]
            lines.append(row(run.name, f"{run.n_triples:,}", name, found.overall.n, *cells))
    return [*lines, "", "In brackets: 95 % intervals (Wilson), where a share has one."]


def _costs(runs: Sequence[EvaluationRun]) -> list[str]:
    lines = header(
        "run", "triples", "system", "first token, ms", "per token, ms", "peak memory, MiB", "given"
    )
    for run in runs:
        for name, found in run.systems.items():
            all_of = found.overall
            times = number(all_of.ttft_ms_p50, 0), number(all_of.ms_per_token_p50, 1)
            given = "; ".join(f"{key} {_known(value)}" for key, value in found.info.items() if name != SYSTEM)
            cells = (*times, number(all_of.peak_rss_mb, 0), given)
            lines.append(row(run.name, f"{run.n_triples:,}", name, *cells))
    return lines


def grid_tables(run: GridRun) -> list[str]:
    """Return a grid's tables: each measure of all systems, then the exact answers and refusals by kind."""
    seeds = list(dict.fromkeys(seed for at in run.sizes for seed in at.seeds))
    lines = ["", f"### {escaped(run.title)}: {escaped(run.name)}", ""]
    lines.append(
        f"Seeds {', '.join(map(str, seeds))}; {run.sizes[0].systems[SYSTEM].overall.n:,} answers a size. "
        + ("Means over the seeds, in brackets their 95 % intervals (Student's t)." if len(seeds) > 1 else "")
    )
    for measure, (label, digits) in _OF_A_GRID.items():
        rows = []
        for name in run.systems:
            found = [at.systems[name].overall if name in at.systems else None for at in run.sizes]
            rows += _over_sizes([name], found, measure, digits)
        if rows:
            lines += ["", *header(label, *(f"{at.size:,}" for at in run.sizes)), *rows]
    rows = []
    for kind in dict.fromkeys(kind for at in run.sizes for kind in at.systems[SYSTEM].kinds):
        for name in run.systems:
            found = [at.systems[name].kinds.get(kind) if name in at.systems else None for at in run.sizes]
            for measure in ("exact", "refusal_recall"):
                rows += _over_sizes([kind, name, _SHARES[measure]], found, measure, 2)
            for measure in ("over_refusal", "refusal_f1"):
                of_kind = [grid_refusals(at.systems[name].kinds, kind, measure) if name in at.systems else None for at in run.sizes]
                if any(of_kind):
                    rows.append(row(kind, name, _SHARES[measure], *map(with_interval, of_kind)))
    lines += grid_differences(run)
    return [*lines, "", *header("kind", "system", "", *(f"{at.size:,}" for at in run.sizes)), *rows]


def _over_sizes(
    first: Sequence[str], found: Sequence[Summary | None], measure: str, digits: int
) -> list[str]:
    """Return a line of a grid's table, or none where no size has the measure."""
    spreads = [one.measures.get(measure) if one else None for one in found]
    if not any(spreads):
        return []
    cells = [with_interval(Estimate(at.mean, at.low, at.high) if at else None, digits) for at in spreads]
    return [row(*first, *cells)]


def _settings(run: EvaluationRun | BenchRun | GridRun) -> list[str]:
    """Return the command, and what is known of model, data, machine and versions."""
    data = run.data
    about = {key: value for key, value in data.items() if key not in _PLACED}
    about.update(
        {**_mapping(data, "options"), **({} if isinstance(run, GridRun) else {"seed": data.get("seed")})}
    )
    if isinstance(run, EvaluationRun):
        parts = (("n_from_kb", "of the KB"), ("n_distractors", "distractors"))
        filled = [f"{data[key]:,} {what}" for key, what in parts if isinstance(data.get(key), int)]
        about["triples"] = f"{run.n_triples:,}" + (f" ({', '.join(filled)})" if filled else "")
    facts: dict[str, Mapping[str, Any]] = {
        "settings": about,
        "machine": _mapping(data, "hardware"),
        "versions": _mapping(data, "versions"),
        "measured": {key: data.get(key) for key in ("created", "commit") if key in data},
    }
    told = [f"- {heading}: {_pairs(found)}" for heading, found in facts.items() if found]
    warnings = data["warnings"] if isinstance(data.get("warnings"), list) else []
    return [
        "```",
        _command(data),
        "```",
        "",
        *told,
        *(f"- warning: {escaped(str(text))}" for text in warnings),
    ]


def _pairs(found: Mapping[str, Any]) -> str:
    return escaped("; ".join(f"{key} {_known(value)}" for key, value in found.items()))


def _command(data: Mapping[str, Any]) -> str:
    command = data.get("command")
    if not isinstance(command, list) or not command:
        return "# the file does not say which command made it"
    program, *rest = (" ".join(str(part).split("\n")) for part in command)
    # `python -m kblam_engine` is the same program under another name.
    return shlex.join(["kblam" if program == "__main__.py" else program, *rest])


def _definitions(runs: Sequence[EvaluationRun | BenchRun | GridRun]) -> list[str]:
    """Return what the files say about their numbers, each thing once."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, text in _mapping(run.data, "definitions").items():
            found.setdefault(key, {})[str(text)] = None
        if isinstance(run.data.get("method"), str):
            found.setdefault("kblam bench", {})[run.data["method"]] = None
    return [f"- {_SHARES.get(key, escaped(key))}: {escaped(' / '.join(texts))}" for key, texts in found.items()]


def _section(heading: str, lines: list[str]) -> list[str]:
    return ["", f"## {heading}", "", *lines] if lines else []


def _baselines(runs: Sequence[EvaluationRun]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.baselines))


def _of(baselines: Mapping[str, Any], name: str, measure: str, kind: str | None = None) -> float | None:
    if name not in baselines:
        return None
    found: Metrics | None = baselines[name].kinds.get(kind) if kind else baselines[name].overall
    value: float | None = getattr(found, measure, None)
    return value


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = data.get(key)
    return found if isinstance(found, dict) else {}


def _known(value: object) -> str:
    return NOTHING if value is None else str(value)
