"""The plots of `kblam report`: which runs and grids are shown, in which figure, and how."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from kblam_engine.evaluation.baselines import ABLATIONS, BASELINES, SIZED
from kblam_engine.evaluation.drawing import (
    BLACK,
    BLUE,
    DPI,
    GREY,
    RUN_LOOKS,
    SKY,
    Axes,
    Figure,
    bars_of,
    draw_line,
    filling_of,
    legend_below,
    look_of,
    new_panels,
    numbers_on_y,
    outer_labels,
    plain,
    save,
    shares_on,
    shift_of,
    sizes_on_x,
    style_of,
    wrapped,
)
from kblam_engine.evaluation.grid_plots import grid_figures
from kblam_engine.evaluation.runner import SYSTEM
from kblam_engine.evaluation.runs import (
    BenchRun,
    Estimate,
    EvaluationRun,
    GridRun,
    Series,
    estimate,
    series_of,
    with_quartiles,
)

_MEASURES = (
    (f"{SYSTEM}: exact answers", "exact", BLUE, "o", "-"),
    (f"{SYSTEM}: retrieval top-1", "retrieval_top1", SKY, "^", "-."),
    (f"{SYSTEM}: retrieval top-5", "retrieval_top5", BLACK, "v", ":"),
)
_MANY_TIMES = 5


def draw(
    evaluations: Sequence[EvaluationRun], benches: Sequence[BenchRun], grids: Sequence[GridRun], folder: Path
) -> dict[str, str]:
    """Write a PNG into `folder` for each plot there is something to show in; return their names and files.

    A plot of an earlier report in the same folder that has nothing to show now is removed.
    """
    files = {}
    for name, figure in figures(evaluations, benches, grids).items():
        target = folder / f"{name}.png"
        if figure is None:
            target.unlink(missing_ok=True)
            continue
        save(figure, target)
        files[name] = target.name
    return files


def figures(
    evaluations: Sequence[EvaluationRun], benches: Sequence[BenchRun], grids: Sequence[GridRun] = ()
) -> dict[str, Figure | None]:
    """Return the plots by name; None where there is nothing to show."""
    series = series_of(evaluations)
    return {
        "accuracy": _accuracy(series),
        "systems": _bars(evaluations),
        "refusal": _refusal(series),
        "cost": _cost(benches),
        **grid_figures(grids, evaluations),
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
    figure, panels = new_panels(len(shown), legend_rows=2)
    for axes, one in zip(panels, shown, strict=True):
        sizes = list(one.by_size)
        lines = [(label, SYSTEM, *rest) for label, *rest in _MEASURES]
        for name in _in_prompt(_names(_all(one)))[1:]:
            lines.append((f"{name}: exact answers", name, "exact", *look_of(name), style_of(name) if name in SIZED else "--"))
        for place, (label, system, measure, colour, marker, style) in enumerate(lines):
            points = _points(one, system, measure)
            draw_line(axes, points, label, colour, marker, style, shift_of(sizes, place, len(lines)))
        sizes_on_x(axes, sizes)
        shares_on(axes, "y")
        axes.set_title(wrapped(one.title), fontsize=10)
    outer_labels(panels, "triples in the knowledge base", "share of questions")
    legend_below(figure, panels)
    return figure


def _refusal(series: Sequence[Series]) -> Figure | None:
    """Refusal recall against over-refusal, one panel a series; the larger the KB, the larger the marker."""
    found = {id(one): {name: _trade_off(one, name) for name in _in_prompt(_names(_all(one)))} for one in series}
    shown = [one for one in series if any(found[id(one)].values())]
    if not shown:
        return None
    points = [point for one in shown for of_system in found[id(one)].values() for point in of_system]
    sizes = sorted({size for size, _, _ in points})
    right = max(0.4, math.ceil(5 * max(x.high or x.value for _, x, _ in points)) / 5)
    figure, panels = new_panels(len(shown), legend_rows=2, height=3.1)
    for axes, one in zip(panels, shown, strict=True):
        for name, of_system in found[id(one)].items():
            if of_system:
                _trade_off_line(axes, of_system, name, sizes)
        shares_on(axes, "x", right=right + 0.03)
        shares_on(axes, "y")
        axes.set_title(wrapped(one.title), fontsize=10)
    for size in sizes:
        label = f"{size:,} triples"
        panels[0].plot([], [], "o", color="#bbbbbb", markersize=_marker_size(size, sizes), label=label)
    outer_labels(panels, "over-refusal (lower is better)", "refusal recall (higher is better)")
    legend_below(figure, panels)
    return figure


def _trade_off_line(
    axes: Axes, found: Sequence[tuple[int, Estimate, Estimate]], name: str, sizes: Sequence[int]
) -> None:
    colour, marker = look_of(name)
    xs, ys = [x for _, x, _ in found], [y for _, _, y in found]
    if name == SYSTEM:  # those of the baselines are in the tables; all of them would cover each other
        axes.errorbar(
            [x.value for x in xs], [y.value for y in ys], bars_of(ys), bars_of(xs),
            fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.45,
        )  # fmt: skip
    axes.plot([x.value for x in xs], [y.value for y in ys], color=colour, linewidth=0.8, clip_on=False)
    axes.plot([], [], marker, color=colour, markersize=7, label=plain(name), fillstyle=filling_of(name))
    for size, x, y in reversed(found):  # the small ones last, so that none is covered
        axes.plot(
            x.value, y.value, marker, color=colour, markersize=_marker_size(size, sizes),
            markeredgecolor="white" if name == SYSTEM else colour, markeredgewidth=0.6, clip_on=False, zorder=3,
            fillstyle=filling_of(name),
        )  # fmt: skip


def _marker_size(size: int, sizes: Sequence[int]) -> float:
    if len(sizes) == 1:
        return 7.0
    return 4.5 + 6.5 * sizes.index(size) / (len(sizes) - 1)


def _bars(runs: Sequence[EvaluationRun]) -> Figure | None:
    """Exact answers and token F1 of the system beside its baselines, a group of bars for each run.

    Every bar has its name: more systems than colours can stand here.
    """
    shown = [run for run in runs if run.baselines and run.system.overall.token_f1 is not None]
    if not shown:
        return None
    n_bars = sum(len(run.systems) for run in shown)
    height = 0.9 + 0.2 * n_bars + 0.32 * len(shown)
    figure = Figure(figsize=(9, height), layout="constrained", dpi=DPI)
    panels = list(figure.subplots(1, 2, sharey=True))
    labels = {"exact": "exact answers, share of answerable questions", "token_f1": "token F1"}
    for axes, (measure, label) in zip(panels, labels.items(), strict=True):
        place, named = 0.0, {}
        for run in shown:
            if axes is panels[0]:
                title = plain(f"{run.name}, {run.n_triples:,} triples")
                axes.text(0.006, place - 0.95, title, va="center", fontsize=8, weight="bold")
            for name in _names([run]):
                named[place] = plain(name)
                at = estimate([run.systems[name].overall], measure)
                if at is not None:
                    _bar(axes, place, at, name)
                place += 1
            place += 1.4
        axes.set_yticks(list(named), list(named.values()))
        axes.set_ylim(place - 1.7, -1.5)
        shares_on(axes, "x", right=1.12)
        axes.tick_params(axis="y", labelsize=7.5, length=0)
        axes.set_xlabel(label, fontsize=9)
    return figure


def _cost(benches: Sequence[BenchRun]) -> Figure | None:
    """Times against the base model's and peak memory against the size of the KB."""
    shown = [run for run in benches if run.results]
    if not shown:
        return None
    figure = Figure(figsize=(10, 3.6), layout="constrained", dpi=DPI)
    panels = list(figure.subplots(1, 3))
    sizes = sorted({at.n_triples for run in shown for at in run.results})
    for place, run in enumerate(shown):
        colour, marker = RUN_LOOKS[place % len(RUN_LOOKS)]
        style = ("-", "--", ":")[place // len(RUN_LOOKS) % 3]
        _draw_in_prompt(panels, run, f" ({run.name})" if len(shown) > 1 else "", style)
        shift = shift_of(sizes, place, len(shown))
        measured = sorted(run.results, key=lambda at: at.n_triples)
        first = [(at.n_triples, with_quartiles(at.ttft_ratio, at.ttft_ratio_p25_p75)) for at in measured]
        each = [
            (at.n_triples, with_quartiles(at.per_token_ratio, at.per_token_ratio_p25_p75)) for at in measured
        ]
        memory = [(at.n_triples, with_quartiles(at.peak_rss_mb, (None, None))) for at in measured]
        for axes, points in zip(panels, (first, each, memory), strict=True):
            known = [(size, at) for size, at in points if at is not None]
            draw_line(axes, known, run.name, colour, marker, style, shift)
    labels = ("time to first token, × base model", "time per token, × base model", "peak memory, MiB")
    for axes, label in zip(panels, labels, strict=True):
        sizes_on_x(axes, sizes)
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("triples in the knowledge base", fontsize=9)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    for axes in panels[:2]:
        axes.axhline(1, color=GREY, linewidth=1, linestyle="--", label="base model alone")
        highest = axes.get_ylim()[1]
        if highest > _MANY_TIMES:  # a long prompt takes many times as long: on a straight scale the others are one line
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, 1.04 * highest)
    numbers_on_y(panels[2])
    legend_below(figure, panels)
    return figure


def _draw_in_prompt(panels: Sequence[Axes], run: BenchRun, suffix: str, style: str) -> None:
    """Draw what the same questions took with triples in the prompt."""
    for name in dict.fromkeys(way.name for at in run.results for way in at.in_prompt):
        colour, marker = look_of(name)
        ways = [(at.n_triples, way) for at in run.results for way in at.in_prompt if way.name == name]
        for axes, part in zip(panels, ("ttft_ratio", "per_token_ratio", "peak_rss_mb"), strict=True):
            known = [(size, Estimate(value, None, None)) for size, way in ways if (value := getattr(way, part)) is not None]
            draw_line(axes, known, f"{name}, in the prompt{suffix}", colour, marker, style, 1.0)


def _bar(axes: Axes, place: float, at: Estimate, name: str) -> None:
    colour, _ = look_of(name)
    axes.barh(place, at.value, height=0.86, color=colour)
    end = at.value
    if at.low is not None and at.high is not None:
        axes.errorbar(
            at.value, place, xerr=bars_of([at]), fmt="none", ecolor="#222222", elinewidth=0.9, capsize=2
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


def _names(runs: Iterable[EvaluationRun]) -> list[str]:
    """Return the systems of some runs: the system first, the baselines in their usual order."""
    found = dict.fromkeys(name for run in runs for name in run.systems)
    order = [SYSTEM, *BASELINES, *SIZED, *ABLATIONS]
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))


def _in_prompt(names: Iterable[str]) -> list[str]:
    """Return the names without ablations, which have the colours of baselines."""
    return [name for name in names if name not in ABLATIONS]


def _all(one: Series) -> list[EvaluationRun]:
    return [run for runs in one.by_size.values() for run in runs]
