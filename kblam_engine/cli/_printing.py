"""Every way out of the command: texts for people, in which nothing acts on a terminal, and exact ones for programs."""

from __future__ import annotations

import errno
import logging
import os
import re
import select
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

OUTPUT_CLOSED = 141
"""The exit code of a program whose reader has gone: 128 and the number of SIGPIPE, as shells tell it of other tools."""
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What moves a cursor, rings a bell or turns the writing round; not tabs and line ends."""


def clean(text: str) -> str:
    r"""Return a text as a terminal may have it: what would act on the terminal is spelled out, as \x1b.

    Also where the output is a file or a pipe: it may be shown on a terminal later. Each character is judged alone, so the
    pieces of a stream can be cleaned one by one.
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def say(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text for people, on stdout or stderr."""
    typer.echo(clean(text), err=err, nl=nl)


def say_error(error: object) -> None:
    """Print what went wrong as one line on stderr."""
    say(f"kblam: {' '.join(str(error).split())}", err=True)


def print_exact(text: str) -> None:
    """Print a text for programs, as it is."""
    typer.echo(text)


class _Tame(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record))


def tame_warnings() -> None:
    """Clean what the package warns of by way of logging, where no handler of a program's own gets it."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Tame())


def styled(text: str, style: str = "") -> Text:
    """Return a text for a table of rich: neither control characters nor what rich takes for markup act in it."""
    from rich.text import Text

    return Text(clean(text), style)


def new_console(*, stderr: bool = False, **options: Any) -> Console:
    """Return where tables are printed; a reader that has gone ends the command as it does for other output."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))  # rich itself would exit with 1

    return Output(stderr=stderr, **options)


def reader_is_gone() -> bool:
    """Whether nobody reads stdout any more; what is still to be written is thrown away then, so that no exit tells of it."""
    if hasattr(select, "poll"):  # elsewhere a pipe that broke is taken for this one
        found = select.poll()
        found.register(sys.stdout.fileno(), 0)
        if not found.poll(0):  # errors and the end of a pipe are told without being asked for
            return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
