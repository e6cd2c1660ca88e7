"""The plots of a grid: answers, memory and time against the size of the knowledge base; a heat map of attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kblam_engine.evaluation.baselines import ABLATIONS, BASELINES, SIZED
from kblam_engine.evaluation.drawing import (
    Axes,
    Figure,
    draw_band,
    draw_heat,
    frame,
    legend_below,
    look_of,
    new_panels,
    numbers_on_y,
    outer_labels,
    plain,
    shares_on,
    shift_of,
    sizes_on_x,
    style_of,
    wrapped,
)
from kblam_engine.evaluation.grid import attention
from kblam_engine.evaluation.runner import SYSTEM
from kblam_engine.evaluation.runs import Estimate, EvaluationRun, GridRun

_ANSWERS = {
    "exact": "exact answers",
    "retrieval_top1": "retrieval top-1",
    "retrieval_top5": "retrieval top-5",
    "refusal_recall": "refusal recall",
    "over_refusal": "over-refusal (lower is better)",
}
_COSTS = {
    "ttft_ms_p50": "time to first token, ms",
    "ms_per_token_p50": "time per token, ms",
    "peak_rss_mb": "peak memory, MiB",
}
_X = "triples in the knowledge base"
_MUCH = 8  # times as large: a straight axis would show the smaller ones as nothing
_LETTERS = 56
_OF_A_SHIFT = 0.3


def grid_figures(grids: Sequence[GridRun], evaluations: Sequence[EvaluationRun]) -> dict[str, Figure | None]:
    """Return the plots by name; None where there is nothing to show."""
    return {
        "grid": _answers(grids, lambda name: name not in ABLATIONS),
        "grid-ablations": _answers(
            [grid for grid in grids if set(grid.systems) & set(ABLATIONS)], lambda name: name in (SYSTEM, *ABLATIONS)
        ),
        "grid-cost": _costs(grids),
        "attention": _attention(grids, evaluations),
    }


def _answers(grids: Sequence[GridRun], shows: Callable[[str], bool]) -> Figure | None:
    """A line of panels for each grid, a panel for each measure, a line for each system that `shows` takes."""
    measures = {measure: label for measure, label in _ANSWERS.items() if any(_measured(grid, measure) for grid in grids)}
    if not measures:
        return None
    n = len(measures)
    figure, panels = new_panels(len(grids) * n, legend_rows=1, height=2.5, width=2.6, beside=n)
    for place, grid in enumerate(grids):
        line = panels[place * n : (place + 1) * n]
        for axes, (measure, label) in zip(line, measures.items(), strict=True):
            _systems(axes, grid, measure, shows)
            shares_on(axes, "y")
            axes.set_title(label, fontsize=10)
        line[0].set_title(f"{wrapped(grid.title)}\n{next(iter(measures.values()))}", fontsize=10)
    outer_labels(panels, _X, "mean over seeds", n)
    legend_below(figure, panels)
    return figure


def _measured(grid: GridRun, measure: str) -> bool:
    """Tell whether any system has the measure at any size: without unanswerable questions there is no refusal recall."""
    return any(measure in found.overall.measures for at in grid.sizes for found in at.systems.values())


def _costs(grids: Sequence[GridRun]) -> Figure | None:
    """A line of panels for each grid: times and memory of the system and its baselines."""
    if not grids:
        return None
    figure, panels = new_panels(len(grids) * len(_COSTS), legend_rows=1)
    for place, grid in enumerate(grids):
        line = panels[place * len(_COSTS) : (place + 1) * len(_COSTS)]
        for axes, (measure, label) in zip(line, _COSTS.items(), strict=True):
            values = _systems(axes, grid, measure, lambda name: name not in ABLATIONS)
            numbers_on_y(axes, logarithmic=bool(values) and max(values) > _MUCH * max(min(values), 1e-9))
            axes.grid(axis="y", color="#dddddd", linewidth=0.6)
            axes.set_title(label, fontsize=10)
        line[0].set_title(f"{wrapped(grid.title)}\n{_COSTS['ttft_ms_p50']}", fontsize=10)
    outer_labels(panels, _X, "mean over seeds")
    legend_below(figure, panels)
    return figure


def _systems(axes: Axes, grid: GridRun, measure: str, shows: Callable[[str], bool]) -> list[float]:
    """Draw a measure of systems against the size; return the values."""
    values, sizes = [], [at.size for at in grid.sizes]
    names = sorted(filter(shows, grid.systems), key=[SYSTEM, *BASELINES, *SIZED, *ABLATIONS, *grid.systems].index)
    for place, name in enumerate(names):
        points = []
        for at in grid.sizes:
            found = at.systems[name].overall.measures.get(measure) if name in at.systems else None
            if found is not None:
                points.append((at.size, Estimate(found.mean, found.low, found.high)))
        if points:
            # Bands need less room between them than bars.
            shift = shift_of(sizes, place, len(names)) ** (_OF_A_SHIFT if len(points) > 1 else 1)
            draw_band(axes, points, name, *look_of(name), style_of(name), shift, len(names) - place)
            values += [point.value for _, point in points]
    sizes_on_x(axes, sizes)
    return values


def _attention(grids: Sequence[GridRun], evaluations: Sequence[EvaluationRun]) -> Figure | None:
    """Questions against triples, of the first grid's largest size or else of the first run with answers."""
    sources: list[tuple[str, list[dict[str, Any]]]] = []
    for grid in grids:
        at = grid.sizes[-1]
        sources.append((f"{grid.title}: {at.size:,} triples, seed {at.seeds[0]}", at.answers))
    for run in evaluations:
        answers = run.data.get("answers")
        title = f"{run.title}: {run.n_triples:,} triples"
        sources.append((title, answers if isinstance(answers, list) else []))
    for title, answers in sources:
        shown = attention(answers)
        if shown is None:
            continue
        size = (5.1 + 0.27 * len(shown.triples), 3.4 + 0.24 * len(shown.questions))
        figure = Figure(figsize=size, layout="constrained", dpi=150)
        axes = figure.subplots()
        questions, triples = ([_short(text) for text in found] for found in (shown.questions, shown.triples))
        draw_heat(axes, shown.weights, questions, triples)
        for line, column in shown.supports:
            frame(axes, line, column)
        told = f"{plain(title)}\nattention of answers to triples; framed: what holds the answer"
        figure.suptitle(told, fontsize=9)  # above all: a narrow map has no room for it
        return figure
    return None


def _short(text: str) -> str:
    """Return a text with its middle left out: questions differ at their ends as often as at their beginnings."""
    if len(text) <= _LETTERS:
        return text
    half = (_LETTERS - 3) // 2
    start, end = text[:half], text[-half:]
    # Whole words where there are any.
    start, end = start.rpartition(" ")[0] or start, end.partition(" ")[2] or end
    return f"{start} … {end}"
