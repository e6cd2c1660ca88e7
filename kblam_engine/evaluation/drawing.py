"""Parts of figures that all plots share; the only module that imports matplotlib.

Figures are made as objects and rendered with Agg: no window, no state shared between calls. Colours are those of
Okabe and Ito, which people with colour-blindness can tell apart; markers and line styles say the same.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kblam_engine.errors import MissingDependencyError
from kblam_engine.evaluation.runner import SYSTEM
from kblam_engine.evaluation.runs import Estimate

try:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
except ImportError as error:
    raise MissingDependencyError(
        'plots need the package matplotlib: pip install "kblam-engine[report]" (or leave them out: --no-plots)'
    ) from error

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.typing import FillStyleType

__all__ = ["Axes", "Figure"]

DPI = 150
GREY = "#6b6b6b"
BLUE, SKY, BLACK = "#0072B2", "#56B4E9", "#000000"
_ORANGE, _VERMILLION, _GREEN, _PURPLE, _YELLOW = "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#B8A800"
# System or baseline: colour, marker. Names nobody knows yet take what is left.
_SYSTEM_LOOKS = {
    SYSTEM: (BLUE, "o"),
    "zero-shot": (GREY, "X"),
    "in-context": (_PURPLE, "v"),
    "bm25": (_VERMILLION, "s"),
    "dense": (_ORANGE, "D"),
    "oracle": (_GREEN, "P"),
    # Ablations: in figures of their own.
    "encoder-gates": (_ORANGE, "D"),
    "oracle-gates": (_GREEN, "P"),
    "native-tokens": (_PURPLE, "v"),
    "native-tokens-all": (_PURPLE, "^"),
    "sentence-tokens": (_VERMILLION, "s"),
    "sentence-tokens-all": (_VERMILLION, "X"),
}
_STYLES = {"-1": ":", "-5": "-.", "-10": "--", "-all": "--"}  # of one family, by the ends of their names
_OTHERS = ((_YELLOW, "<"), (SKY, ">"), (BLACK, "h"))
RUN_LOOKS = tuple(zip((BLUE, _VERMILLION, _GREEN, _PURPLE, _ORANGE, SKY, BLACK), "osD^vPX", strict=True))


def save(figure: Figure, target: Path) -> None:
    """Write a figure as PNG."""
    FigureCanvasAgg(figure)  # the figure keeps it
    figure.savefig(target, format="png", dpi=DPI)


def new_panels(
    n: int, *, legend_rows: int, height: float = 2.8, width: float = 3.3, beside: int = 3
) -> tuple[Figure, list[Axes]]:
    """Return a figure with `n` panels, at most `beside` of them beside each other; sizes in inches."""
    columns = min(n, beside)
    rows = math.ceil(n / columns)
    size = (max(width * columns, 5.5) + 0.4, height * rows + 0.5 + 0.25 * legend_rows)
    figure = Figure(figsize=size, layout="constrained", dpi=DPI)
    grid = figure.subplots(rows, columns, squeeze=False)
    panels: list[Axes] = list(grid.flat)
    for unused in panels[n:]:
        unused.remove()
    return figure, panels[:n]


def draw_line(
    axes: Axes,
    points: Sequence[tuple[int, Estimate]],
    label: str,
    colour: str,
    marker: str,
    style: str,
    shift: float,
) -> None:
    """Draw values against sizes, with bars for their intervals; all sizes times `shift`."""
    if not points:
        return
    found = [at for _, at in points]
    axes.errorbar(
        [size * shift for size, _ in points],
        [at.value for at in found],
        bars_of(found),
        label=plain(label),
        color=colour,
        marker=marker,
        markersize=5,
        linestyle=style,
        linewidth=1.5,
        elinewidth=0.9,
        capsize=2,
        clip_on=False,
    )


def draw_band(
    axes: Axes,
    points: Sequence[tuple[int, Estimate]],
    label: str,
    colour: str,
    marker: str,
    style: str,
    shift: float,
    above: int,
) -> None:
    """Draw values against sizes times `shift`, with a band for their intervals; of one size, a bar.

    Of lines that lie on each other, the one with the largest `above` is seen.
    """
    if len(points) < 2:
        draw_line(axes, points, label, colour, marker, style, shift)
        return
    sizes, found = [size * shift for size, _ in points], [at for _, at in points]
    low = [at.value if at.low is None else at.low for at in found]
    high = [at.value if at.high is None else at.high for at in found]
    axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(
        sizes,
        [at.value for at in found],
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=1.5,
        linestyle=style,
        label=plain(label),
        clip_on=False,
        zorder=2 + above,
    )


def draw_heat(
    axes: Axes, weights: Sequence[Sequence[float]], lines: Sequence[str], columns: Sequence[str]
) -> None:
    """Draw weights of 0 to 1 `[n_lines, n_columns]` as colours, with a scale beside."""
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(lines)), [plain(text) for text in lines], fontsize=7)
    axes.set_xticks(range(len(columns)), [plain(text) for text in columns], fontsize=7, rotation=90)
    figure = axes.get_figure(root=True)
    if figure is not None:
        figure.colorbar(image, ax=axes, fraction=0.025, pad=0.01, aspect=40).ax.tick_params(labelsize=7)


def frame(axes: Axes, line: int, column: int) -> None:
    """Draw a frame around one field of a heat map."""
    axes.add_patch(
        Rectangle((column - 0.5, line - 0.5), 1, 1, fill=False, edgecolor=_VERMILLION, linewidth=1.1)
    )


def numbers_on_y(axes: Axes, *, logarithmic: bool = False) -> None:
    """Make the y axis one of numbers from 0 on, or where they differ a lot, a logarithmic one."""
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, 1.04 * axes.get_ylim()[1])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(labelsize=8)


def bars_of(found: Sequence[Estimate]) -> list[list[float]]:
    """Return how far the intervals reach below and above; no number where none is known."""
    below = [math.nan if at.low is None else max(0.0, at.value - at.low) for at in found]
    return [below, [math.nan if at.high is None else max(0.0, at.high - at.value) for at in found]]


def sizes_on_x(axes: Axes, sizes: Sequence[int]) -> None:
    """Make the x axis one of sizes: logarithmic, with their own numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(spread_out(sizes)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_size(value)))
    axes.set_xlim(min(sizes) / 1.8, max(sizes) * 1.8)
    axes.tick_params(labelsize=8)


def short_size(size: float) -> str:
    """Return a number of triples as the label of an axis: 500, 1,000, 10k, 2M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if size >= max(unit, 1e4):
            return f"{size / unit:,.3g}{letter}"
    return f"{size:,.0f}"


def spread_out(sizes: Sequence[int]) -> list[int]:
    """Return the sizes that have room for a label, from the smallest on."""
    room = max(math.log(max(sizes) / min(sizes)) / 6, 0.2)
    kept: list[int] = []
    for size in sizes:
        if not kept or math.log(size / kept[-1]) >= room:
            kept.append(size)
    return kept


def shift_of(sizes: Sequence[int], place: int, n: int) -> float:
    """Return the factor that moves one of `n` lines aside, or the bars at one size would hide each other."""
    gaps = [math.log(larger / smaller) for smaller, larger in zip(sizes, sizes[1:], strict=False)]
    step = min(0.4 * min(gaps, default=1.0) / n, 0.018 * (math.log(max(sizes) / min(sizes)) + 1.2))
    return math.exp((place - (n - 1) / 2) * step)


def shares_on(axes: Axes, which: str, right: float = 1.03) -> None:
    """Make an axis ("x" or "y") one of shares, 0 to 1."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1]))
    (axes.set_xlim if which == "x" else axes.set_ylim)(0 if right > 1.1 else -0.03, right)
    axes.grid(axis="both" if which == "y" else "x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def outer_labels(panels: Sequence[Axes], x: str, y: str, columns: int = 3) -> None:
    """Label the x axis of every panel, and the y axis of the first in each line."""
    for place, axes in enumerate(panels):
        axes.set_xlabel(x, fontsize=9)
        if place % columns == 0:
            axes.set_ylabel(y, fontsize=9)


def legend_below(figure: Figure, panels: Sequence[Axes]) -> None:
    """Put one legend for all panels under them, each name once."""
    found: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found.update(zip(labels, handles, strict=True))
    widest = 0.75 + 0.065 * max(map(len, found))  # inches: the handle, and letters of 8 points
    columns = max(1, min(len(found), int(figure.get_figwidth() / widest)))
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        frameon=False,
        handlelength=2.8,  # a dashed line is seen to be one on both sides of its marker
    )


def look_of(name: str) -> tuple[str, str]:
    """Return colour and marker of a system; the same in every plot."""
    family, _, k = name.rpartition("-")
    known = _SYSTEM_LOOKS.get(name) or (_SYSTEM_LOOKS.get(family) if k.isdigit() else None)
    return known or _OTHERS[sum(name.encode()) % len(_OTHERS)]


def style_of(name: str) -> str:
    """Return the style of a system's line, which tells those of one family apart: "dense-1", "dense-5", "dense-10"."""
    return next((style for end, style in _STYLES.items() if name.endswith(end)), "-")


def filling_of(name: str) -> FillStyleType:
    """Return how a system's marker is filled, which tells the same where there is no line."""
    fillings: dict[str, FillStyleType] = {":": "none", "-.": "bottom", "--": "left"}
    return fillings.get(style_of(name), "full")


def wrapped(text: str) -> str:
    """Return a title, on as many lines as it takes."""
    return plain("\n".join(textwrap.wrap(text, 46)))


def plain(text: str) -> str:
    """Return text that matplotlib shows as it is: no formulas, and no leading underscore, which hides a label."""
    return text.replace("$", r"\$").lstrip("_") or text
