"""The plot of `kblam bench search`: time and recall by the number of keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kblam_engine.evaluation.drawing import RUN_LOOKS, legend_below, new_panels, save
from kblam_engine.evaluation.search_bench import SearchResult


def draw_search(results: Sequence[SearchResult], target: Path) -> None:
    """Write a PNG: milliseconds of a query, its time over that of scoring every key, and recall."""
    figure, panels = new_panels(3, legend_rows=1)
    titles = ("processor time of a query, ms", "the same, × scoring every key", "recall of the best 16")
    for axes, title, part in zip(panels, titles, ("query_cpu_ms", "cpu_ratio", "recall"), strict=True):
        for place, kind in enumerate(dict.fromkeys(result.kind for result in results)):
            own = [result for result in results if result.kind == kind]
            colour, marker = RUN_LOOKS[place % len(RUN_LOOKS)]
            sizes, values = [r.n_keys for r in own], [getattr(r, part) for r in own]
            axes.plot(sizes, values, color=colour, marker=marker, label=kind)
        axes.set_xscale("log")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("keys", fontsize=9)
        axes.grid(color="#dddddd", linewidth=0.6)
    for axes in panels[:2]:
        axes.set_yscale("log")
    panels[2].set_ylim(0.8, 1.01)
    legend_below(figure, panels)
    save(figure, target)
