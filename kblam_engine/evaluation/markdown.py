"""Tables of a report in Markdown: cells, lines, numbers with intervals."""

from __future__ import annotations

import re

from kblam_engine.evaluation.runs import Estimate

NOTHING = "–"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number as it stands in a table."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def with_interval(found: Estimate | None, digits: int = 2) -> str:
    """Return a number with its interval in brackets, where it has one."""
    if found is None:
        return NOTHING
    if found.low is None or found.high is None:
        return number(found.value, digits)
    return f"{number(found.value, digits)} [{number(found.low, digits)}, {number(found.high, digits)}]"


def row(*cells: object) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(escaped(str(cell)) for cell in cells)} |"


def header(*cells: str) -> list[str]:
    """Return the first two lines of a Markdown table."""
    return [row(*cells), "|" + "---|" * len(cells)]


def escaped(text: str) -> str:
    """Return text on one line, with what Markdown would read as something else escaped."""
    return re.sub(r"[\\|<>`*]", r"\\\g<0>", " ".join(text.split()))
