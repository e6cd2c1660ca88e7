"""Telling a person at a terminal what takes its time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHOWN_AFTER = 1.0
"""Seconds before which nothing is shown: most changes are over by then."""


@contextmanager
def after_a_while(show: Callable[[], object]) -> Iterator[None]:
    """Call `show` if the body is not over by then, from a thread of its own: the body may be busy for long."""
    begin = threading.Timer(SHOWN_AFTER, show)
    begin.daemon = True
    begin.start()
    try:
        yield
    finally:
        begin.cancel()
        begin.join()


@contextmanager
def spinner(what: str, shown: bool) -> Iterator[None]:
    """Show on stderr, where it is a terminal, what is being done, once it has taken a while."""
    if not shown:
        yield
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    status = console.status(what)
    try:
        with after_a_while(status.start):
            yield
    finally:
        status.stop()
