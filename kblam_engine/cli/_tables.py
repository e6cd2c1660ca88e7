"""Tables on a terminal of any width: no date is broken, and no word of common length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kblam_engine.cli._printing import clean, new_console, styled

if TYPE_CHECKING:
    from rich.console import Console

_NUMBERS = {"score", "added", "removed", "triples", "id"}
_BORDERS = 3
"""Columns of the terminal that a column of a table takes besides its text: a line, and a space on either side."""
_WORD = 12
"""Characters of a word that is never broken; longer ones, as a URL, are where there is no room."""
_LONG_WORD = 24
"""Characters of a word that is kept whole before other columns get what they need for whole cells."""
_DATE = re.compile(r"\(?\d{4}-\d\d.*")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; where it has no room for the words of all columns, one row below the other with their titles."""
    from rich.table import Table

    console = new_console()
    room = console.width - _BORDERS * len(columns) - 1
    widths = column_widths([[title, *cells] for title, *cells in zip(columns, *rows, strict=True)], room)
    if widths is None:
        _print_below(console, columns, rows)
        return
    table = Table(show_header=any(columns), header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        # fold: a URL, or a language without spaces, goes on in the next line and is not cut
        table.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold", width=width)
    for row in rows:
        table.add_row(*map(styled, row))
    console.print(table)


def column_widths(columns: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Return how wide each column is, as wide as its cells where all have room; None where not even their words have.

    What is left is given to those that need least of it: first for whole words, then for whole cells.
    """
    from rich.cells import cell_len

    cells = [[clean(cell).expandtabs() for cell in column] for column in columns]
    words = [[word for cell in column for word in cell.split()] or [" "] for column in cells]
    widths = [max(cell_len(w) if _DATE.fullmatch(w) else min(cell_len(w), _WORD) for w in column) for column in words]
    if sum(widths) > room:
        return None
    longest_words = [min(max(map(cell_len, column)), _LONG_WORD) for column in words]
    longest_lines = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in cells]
    for wanted in (longest_words, longest_lines):
        for place in sorted(range(len(widths)), key=lambda place: wanted[place] - widths[place]):
            widths[place] += max(0, min(wanted[place] - widths[place], room - sum(widths)))
    return widths


def _print_below(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as lines of a title and a cell each, those that are empty left out."""
    from rich.table import Table

    for row in rows:
        lines = Table.grid(padding=(0, 2))
        lines.add_column(style="bold", no_wrap=True)
        lines.add_column(overflow="fold")
        for title, cell in zip(columns, row, strict=True):
            if cell:
                lines.add_row(title, styled(cell))
        console.print(lines)
        console.print()
