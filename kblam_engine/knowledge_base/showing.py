"""Telling a person at a terminal what takes its time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

SHOWN_AFTER = 1.0
"""Seconds before which nothing is shown: most changes are over by then."""


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
    begin = threading.Timer(SHOWN_AFTER, status.start)
    begin.daemon = True
    begin.start()
    try:
        yield
    finally:
        begin.cancel()
        begin.join()
        status.stop()
