"""`kblam kb stats --plot`: how a knowledge base grew and what most of it is about, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kblam_engine.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from kblam_engine.evaluation.drawing import Axes
    from kblam_engine.knowledge_base import KBStats

_LONGEST = 28


def plot_stats(found: KBStats, target: Path) -> None:
    """Draw the growth by revision beside the names, properties and sources with the most triples; write it as PNG.

    Raises:
        ConfigurationError: the file is not called .png, or there is nothing to draw.
        MissingDependencyError: matplotlib is not installed.
    """
    check_target(target)
    if not found.growth:
        raise ConfigurationError("expected a knowledge base with revisions to plot, got an empty one")
    try:
        from kblam_engine.evaluation.drawing import BLUE, new_panels, plain, save
    except MissingDependencyError:
        raise MissingDependencyError('--plot needs the package matplotlib: pip install "kblam-engine[report]"') from None

    kinds = (("names", found.names), ("properties", found.properties), ("sources", found.sources))
    counted = [(title, counts) for title, counts in kinds if counts]
    figure, panels = new_panels(1 + len(counted), legend_rows=0, beside=2, width=4.2)
    growth = panels[0]
    numbers = [step.number for step in found.growth]
    growth.plot(numbers, [step.n_triples for step in found.growth], color=BLUE, marker="o", markersize=4)
    growth.set_title("growth", loc="left", fontsize=10)
    growth.set_xlabel("revision")
    growth.set_ylabel("triples")
    growth.set_ylim(bottom=0)
    _whole_numbers(growth)
    for axes, (title, counts) in zip(panels[1:], counted, strict=True):
        labels = [plain(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…") for text, _ in counts]
        places = list(range(len(counts)))[::-1]  # the most triples on top
        axes.barh(places, [n for _, n in counts], color=BLUE)
        _whole_numbers(axes)
        axes.set_yticks(places, labels, fontsize=8)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("triples")
    save(figure, target)


def check_target(target: Path) -> None:
    """Check the name of a picture before anything is counted for it.

    Raises:
        ConfigurationError: it does not end in .png.
    """
    if target.suffix.lower() != ".png":
        raise ConfigurationError(f"--plot: expected a file NAME.png, got {target}")


def _whole_numbers(axes: Axes) -> None:
    """Let there be no half triples, and no revision 2.5."""
    axes.locator_params(integer=True)
