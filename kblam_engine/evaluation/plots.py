"""Draw runs of `kblam eval` and `kblam bench`; the only module that imports matplotlib.

Figures are made as objects and rendered with Agg: no window, no state shared between calls. Colours are those of
Okabe and Ito, which people with colour-blindness can tell apart; markers and line styles say the same.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kblam_engine.errors import MissingDependencyError
from kblam_engine.evaluation.baselines import BASELINES
from kblam_engine.evaluation.runner import SYSTEM
from kblam_engine.evaluation.runs import (
    BenchRun,
    Estimate,
    EvaluationRun,
    Series,
    estimate,
    series_of,
    with_quartiles,
)

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
except ImportError as error:
    raise MissingDependencyError(
        'plots need the package matplotlib: pip install "kblam-engine[report]" (or leave them out: --no-plots)'
    ) from error

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_DPI = 150
_GREY = "#6b6b6b"
_BLUE, _SKY, _BLACK = "#0072B2", "#56B4E9", "#000000"
_ORANGE, _VERMILLION, _GREEN, _PURPLE, _YELLOW = "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#B8A800"
# System or baseline: colour, marker. Names nobody knows yet take what is left.
_SYSTEMS = {
    SYSTEM: (_BLUE, "o"),
    "zero-shot": (_GREY, "X"),
    "in-context": (_PURPLE, "v"),
    "bm25": (_VERMILLION, "s"),
    "dense": (_ORANGE, "D"),
    "oracle": (_GREEN, "P"),
}
_OTHERS = ((_YELLOW, "<"), (_SKY, ">"), (_BLACK, "h"))
_RUNS = tuple(zip((_BLUE, _VERMILLION, _GREEN, _PURPLE, _ORANGE, _SKY, _BLACK), "osD^vPX", strict=True))
_MEASURES = (
    (f"{SYSTEM}: exact answers", "exact", _BLUE, "o", "-"),
    (f"{SYSTEM}: retrieval top-1", "retrieval_top1", _SKY, "^", "-."),
    (f"{SYSTEM}: retrieval top-5", "retrieval_top5", _BLACK, "v", ":"),
)


def draw(evaluations: Sequence[EvaluationRun], benches: Sequence[BenchRun], folder: Path) -> dict[str, str]:
    """Write a PNG into `folder` for each plot there is something to show in; return their names and files.

    A plot of an earlier report in the same folder that has nothing to show now is removed.
    """
    files = {}
    for name, figure in figures(evaluations, benches).items():
        target = folder / f"{name}.png"
        if figure is None:
            target.unlink(missing_ok=True)
            continue
        FigureCanvasAgg(figure)  # the figure keeps it
        figure.savefig(target, format="png", dpi=_DPI)
        files[name] = target.name
    return files


def figures(evaluations: Sequence[EvaluationRun], benches: Sequence[BenchRun]) -> dict[str, Figure | None]:
    """Return the plots by name; None where there is nothing to show."""
    series = series_of(evaluations)
    return {
        "accuracy": _accuracy(series),
        "systems": _bars(evaluations),
        "refusal": _refusal(series),
        "cost": _cost(benches),
    }


def _accuracy(series: Sequence[Series]) -> Figure | None:
    """Exact answers and retrieval against the size of the KB, one panel a series of several sizes."""
    shown = [
        one
        for one in series
        if len(one.by_size) > 1 and any(_points(one, SYSTEM, measure) for _, measure, *_ in _MEASURES)
    ]
    if not shown:
        return None
    figure, panels = _panels(len(shown), legend_rows=2)
    for axes, one in zip(panels, shown, strict=True):
        sizes = list(one.by_size)
        lines = [(label, SYSTEM, *rest) for label, *rest in _MEASURES]
        for name in _names(_all(one))[1:]:
            lines.append((f"{name}: exact answers", name, "exact", *_look(name), "--"))
        for place, (label, system, measure, colour, marker, style) in enumerate(lines):
            points = _points(one, system, measure)
            _line(axes, points, label, colour, marker, style, _shift(sizes, place, len(lines)))
        _sizes_on_x(axes, sizes)
        _shares_on(axes, "y")
        axes.set_title(_title(one.title), fontsize=10)
    _outer_labels(panels, "triples in the knowledge base", "share of questions")
    _legend_below(figure, panels)
    return figure


def _refusal(series: Sequence[Series]) -> Figure | None:
    """Refusal recall against over-refusal, one panel a series; the larger the KB, the larger the marker."""
    found = {id(one): {name: _trade_off(one, name) for name in _names(_all(one))} for one in series}
    shown = [one for one in series if any(found[id(one)].values())]
    if not shown:
        return None
    points = [point for one in shown for of_system in found[id(one)].values() for point in of_system]
    sizes = sorted({size for size, _, _ in points})
    right = max(0.4, math.ceil(5 * max(x.high or x.value for _, x, _ in points)) / 5)
    figure, panels = _panels(len(shown), legend_rows=2, height=3.1)
    for axes, one in zip(panels, shown, strict=True):
        for name, of_system in found[id(one)].items():
            if of_system:
                _trade_off_line(axes, of_system, name, sizes)
        _shares_on(axes, "x", right=right + 0.03)
        _shares_on(axes, "y")
        axes.set_title(_title(one.title), fontsize=10)
    for size in sizes:
        label = f"{size:,} triples"
        panels[0].plot([], [], "o", color="#bbbbbb", markersize=_marker_size(size, sizes), label=label)
    _outer_labels(panels, "over-refusal (lower is better)", "refusal recall (higher is better)")
    _legend_below(figure, panels)
    return figure


def _trade_off_line(
    axes: Axes, found: Sequence[tuple[int, Estimate, Estimate]], name: str, sizes: Sequence[int]
) -> None:
    colour, marker = _look(name)
    xs, ys = [x for _, x, _ in found], [y for _, _, y in found]
    if name == SYSTEM:  # those of the baselines are in the tables; all of them would cover each other
        axes.errorbar(
            [x.value for x in xs], [y.value for y in ys], _bars_of(ys), _bars_of(xs),
            fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.45,
        )  # fmt: skip
    axes.plot([x.value for x in xs], [y.value for y in ys], color=colour, linewidth=0.8, clip_on=False)
    axes.plot([], [], marker, color=colour, markersize=7, label=_plain(name))
    for size, x, y in reversed(found):  # the small ones last, so that none is covered
        axes.plot(
            x.value, y.value, marker, color=colour, markersize=_marker_size(size, sizes),
            markeredgecolor="white", markeredgewidth=0.6 if name == SYSTEM else 0, clip_on=False, zorder=3,
        )  # fmt: skip


def _marker_size(size: int, sizes: Sequence[int]) -> float:
    if len(sizes) == 1:
        return 7.0
    return 4.5 + 6.5 * sizes.index(size) / (len(sizes) - 1)


def _bars(runs: Sequence[EvaluationRun]) -> Figure | None:
    """Exact answers and token F1 of the system beside its baselines, a group of bars for each run."""
    shown = [run for run in runs if run.baselines and run.system.overall.token_f1 is not None]
    if not shown:
        return None
    n_bars = sum(len(run.systems) for run in shown)
    height = 1.3 + 0.2 * n_bars + 0.16 * len(shown)
    figure = Figure(figsize=(9, height), layout="constrained", dpi=_DPI)
    panels = list(figure.subplots(1, 2, sharey=True))
    labels = {"exact": "exact answers, share of answerable questions", "token_f1": "token F1"}
    for axes, (measure, label) in zip(panels, labels.items(), strict=True):
        place, ticks = 0.0, []
        for run in shown:
            ticks.append(place + (len(run.systems) - 1) / 2)
            for name in _names([run]):
                at = estimate([run.systems[name].overall], measure)
                if at is not None:
                    _bar(axes, place, at, name)
                place += 1
            place += 0.8
        names = [_plain(f"{run.name}\n{run.n_triples:,} triples") for run in shown]
        axes.set_yticks(ticks, names, fontsize=8)
        axes.set_ylim(place - 1.1, -0.7)
        _shares_on(axes, "x", right=1.12)
        axes.set_xlabel(label, fontsize=9)
    _legend_below(figure, panels)
    return figure


def _cost(benches: Sequence[BenchRun]) -> Figure | None:
    """Times against the base model's and peak memory against the size of the KB."""
    shown = [run for run in benches if run.results]
    if not shown:
        return None
    figure = Figure(figsize=(10, 3.6), layout="constrained", dpi=_DPI)
    panels = list(figure.subplots(1, 3))
    sizes = sorted({at.n_triples for run in shown for at in run.results})
    for place, run in enumerate(shown):
        colour, marker = _RUNS[place % len(_RUNS)]
        style = ("-", "--", ":")[place // len(_RUNS) % 3]
        shift = _shift(sizes, place, len(shown))
        measured = sorted(run.results, key=lambda at: at.n_triples)
        first = [(at.n_triples, with_quartiles(at.ttft_ratio, at.ttft_ratio_p25_p75)) for at in measured]
        each = [(at.n_triples, with_quartiles(at.per_token_ratio, at.per_token_ratio_p25_p75)) for at in measured]
        memory = [(at.n_triples, with_quartiles(at.peak_rss_mb, (None, None))) for at in measured]
        for axes, points in zip(panels, (first, each, memory), strict=True):
            known = [(size, at) for size, at in points if at is not None]
            _line(axes, known, run.name, colour, marker, style, shift)
    labels = ("time to first token, × base model", "time per token, × base model", "peak memory, MiB")
    for axes, label in zip(panels, labels, strict=True):
        _sizes_on_x(axes, sizes)
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("triples in the knowledge base", fontsize=9)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    for axes in panels[:2]:
        axes.axhline(1, color=_GREY, linewidth=1, linestyle="--", label="base model alone")
    for axes in panels:
        axes.set_ylim(0, 1.04 * axes.get_ylim()[1])
    panels[2].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _legend_below(figure, panels)
    return figure


def _panels(n: int, *, legend_rows: int, height: float = 2.8) -> tuple[Figure, list[Axes]]:
    """Return a figure with `n` panels, at most three beside each other."""
    columns = min(n, 3)
    rows = math.ceil(n / columns)
    size = (max(3.3 * columns, 5.5) + 0.4, height * rows + 0.5 + 0.25 * legend_rows)
    figure = Figure(figsize=size, layout="constrained", dpi=_DPI)
    grid = figure.subplots(rows, columns, squeeze=False)
    panels: list[Axes] = list(grid.flat)
    for unused in panels[n:]:
        unused.remove()
    return figure, panels[:n]


def _line(
    axes: Axes,
    points: Sequence[tuple[int, Estimate]],
    label: str,
    colour: str,
    marker: str,
    style: str,
    shift: float,
) -> None:
    if not points:
        return
    found = [at for _, at in points]
    axes.errorbar(
        [size * shift for size, _ in points],
        [at.value for at in found],
        _bars_of(found),
        label=_plain(label),
        color=colour,
        marker=marker,
        markersize=5,
        linestyle=style,
        linewidth=1.5,
        elinewidth=0.9,
        capsize=2,
        clip_on=False,
    )


def _bar(axes: Axes, place: float, at: Estimate, name: str) -> None:
    colour, _ = _look(name)
    axes.barh(place, at.value, height=0.86, color=colour, label=_plain(name))
    end = at.value
    if at.low is not None and at.high is not None:
        axes.errorbar(
            at.value, place, xerr=_bars_of([at]), fmt="none", ecolor="#222222", elinewidth=0.9, capsize=2
        )
        end = at.high
    axes.text(end + 0.015, place, f"{at.value:.2f}", va="center", fontsize=7.5)


def _trade_off(one: Series, name: str) -> list[tuple[int, Estimate, Estimate]]:
    """Return (size, over-refusal, refusal recall) of a system, where both were measured."""
    recall = dict(_points(one, name, "refusal_recall"))
    return [(size, over, recall[size]) for size, over in _points(one, name, "over_refusal") if size in recall]


def _points(one: Series, name: str, measure: str) -> list[tuple[int, Estimate]]:
    points = []
    for size, runs in one.by_size.items():
        at = estimate([run.systems[name].overall for run in runs if name in run.systems], measure)
        if at is not None:
            points.append((size, at))
    return points


def _bars_of(found: Sequence[Estimate]) -> list[list[float]]:
    """Return how far the intervals reach below and above; no number where none is known."""
    below = [math.nan if at.low is None else max(0.0, at.value - at.low) for at in found]
    return [below, [math.nan if at.high is None else max(0.0, at.high - at.value) for at in found]]


def _sizes_on_x(axes: Axes, sizes: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_spread_out(sizes)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(min(sizes) / 1.8, max(sizes) * 1.8)
    axes.tick_params(labelsize=8)


def _spread_out(sizes: Sequence[int]) -> list[int]:
    """Return the sizes that have room for a label, from the smallest on."""
    room = max(math.log(max(sizes) / min(sizes)) / 6, 0.2)
    kept: list[int] = []
    for size in sizes:
        if not kept or math.log(size / kept[-1]) >= room:
            kept.append(size)
    return kept


def _shift(sizes: Sequence[int], place: int, n: int) -> float:
    """Return the factor that moves one of `n` lines aside, or the bars at one size would hide each other."""
    gaps = [math.log(larger / smaller) for smaller, larger in zip(sizes, sizes[1:], strict=False)]
    step = min(0.4 * min(gaps, default=1.0) / n, 0.018 * (math.log(max(sizes) / min(sizes)) + 1.2))
    return math.exp((place - (n - 1) / 2) * step)


def _shares_on(axes: Axes, which: str, right: float = 1.03) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1]))
    (axes.set_xlim if which == "x" else axes.set_ylim)(0 if right > 1.1 else -0.03, right)
    axes.grid(axis="both" if which == "y" else "x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def _outer_labels(panels: Sequence[Axes], x: str, y: str) -> None:
    for place, axes in enumerate(panels):
        axes.set_xlabel(x, fontsize=9)
        if place % 3 == 0:
            axes.set_ylabel(y, fontsize=9)


def _legend_below(figure: Figure, panels: Sequence[Axes]) -> None:
    """Put one legend for all panels under them, each name once."""
    found: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found.update(zip(labels, handles, strict=True))
    widest = 0.65 + 0.065 * max(map(len, found))  # inches: the handle, and letters of 8 points
    columns = max(1, min(len(found), int(figure.get_figwidth() / widest)))
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        frameon=False,
    )


def _look(name: str) -> tuple[str, str]:
    """Return colour and marker of a system; the same in every plot."""
    known = _SYSTEMS.get(name)
    return known or _OTHERS[sum(name.encode()) % len(_OTHERS)]


def _names(runs: Iterable[EvaluationRun]) -> list[str]:
    """Return the systems of some runs: the system first, the baselines in their usual order."""
    found = dict.fromkeys(name for run in runs for name in run.systems)
    order = [SYSTEM, *BASELINES]
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))


def _all(one: Series) -> list[EvaluationRun]:
    return [run for runs in one.by_size.values() for run in runs]


def _title(text: str) -> str:
    return _plain("\n".join(textwrap.wrap(text, 46)))


def _plain(text: str) -> str:
    """Return text that matplotlib shows as it is: no formulas, and no leading underscore, which hides a label."""
    return text.replace("$", r"\$").lstrip("_") or text
