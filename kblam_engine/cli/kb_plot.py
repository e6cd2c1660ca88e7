"""`kblam kb stats --plot`: how a knowledge base grew and what most of it is about, as a picture."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kblam_engine.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from kblam_engine.evaluation.drawing import Axes
    from kblam_engine.knowledge_base import KBStats

_LONGEST = 28
# Fonts with letters that matplotlib's own has not, in the order in which they are looked for; most systems have one of them.
_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR",
    "Source Han Sans", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "IPAGothic", "TakaoGothic",
    "Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Arial Unicode MS", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic",
    "Noto Sans", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Symbols 2", "Noto Emoji", "Nirmala UI", "Segoe UI Symbol",
)  # fmt: skip
_MISSING = re.compile(r"Glyph (\d+) ")
_MOST_NAMED = 10


def plot_stats(found: KBStats, target: Path) -> str:
    """Draw the growth by revision beside the names, properties and sources with the most triples; write it as PNG.

    Where there is no growth, as of a part, it is left out. Returns the letters, ten at most, that no installed font has,
    for which there are boxes.

    Raises:
        BadParameter: the file is not called .png.
        ConfigurationError: there is nothing to draw.
        MissingDependencyError: matplotlib is not installed.
    """
    check_target(target)
    if not found.growth and not found.n_triples:
        raise ConfigurationError("--plot: expected a knowledge base, or a part, with triples in it, got an empty one")
    try:
        from kblam_engine.evaluation.drawing import BLUE, new_panels, plain, save
    except MissingDependencyError:
        raise MissingDependencyError('--plot needs the package matplotlib: pip install "kblam-engine[report]"') from None

    kinds = (("names", found.names), ("properties", found.properties), ("sources", found.sources))
    counted = [(title, counts) for title, counts in kinds if counts]
    figure, panels = new_panels(bool(found.growth) + len(counted), legend_rows=0, beside=2, width=4.2)
    if found.growth:
        growth, *panels = panels
        numbers = [step.number for step in found.growth]
        growth.plot(numbers, [step.n_triples for step in found.growth], color=BLUE, marker="o", markersize=4)
        growth.set_title("growth", loc="left", fontsize=10)
        growth.set_xlabel("revision")
        growth.set_ylabel("triples")
        growth.set_ylim(bottom=0)
        _whole_numbers(growth)
        if len(numbers) == 1:
            growth.set_xticks(numbers)
    for axes, (title, counts) in zip(panels, counted, strict=True):
        labels = [plain(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…") for text, _ in counts]
        places = list(range(len(counts)))[::-1]  # the most triples on top
        axes.barh(places, [n for _, n in counts], color=BLUE)
        _whole_numbers(axes)
        axes.set_yticks(places, labels, fontsize=8)
        for label in axes.get_yticklabels():
            if not label.get_text().isascii():
                label.set_fontfamily([*label.get_fontfamily(), *_FONTS])
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("triples")
    boxes = _letters_without_font(lambda: save(figure, target))
    return " ".join(boxes[:_MOST_NAMED]) + (" …" if len(boxes) > _MOST_NAMED else "")


def _letters_without_font(draw: Callable[[], None]) -> list[str]:
    """Draw without a word on stderr, where matplotlib has a line for each missing letter and font; return these letters."""
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            draw()
    finally:
        log.setLevel(level)
    found = (_MISSING.match(str(warning.message)) for warning in caught)
    return list(dict.fromkeys(chr(int(glyph[1])) for glyph in found if glyph))


def check_target(target: Path) -> None:
    """Check the name of a picture before anything is counted for it.

    Raises:
        BadParameter: it does not end in .png.
    """
    if target.suffix.lower() != ".png":
        raise typer.BadParameter(f"expected a file NAME.png, got {target}", param_hint="--plot")


def _whole_numbers(axes: Axes) -> None:
    """Let there be no half triples, and no revision 2.5."""
    axes.locator_params(integer=True)
