"""Work beside the answers, in threads that a program can end under."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable


class Stopped(Exception):
    """The program is ending, or what is being done has become useless: leave it."""


class Background:
    """One thread at most for each key.

    The threads that compute are no daemons: a program that ends freezes those wherever they are, and one that is frozen
    in torch or faiss aborts the process. So a program waits for them at its end, and they ask `go_on` as often as they
    can.
    """

    def __init__(self) -> None:
        """Start nothing."""
        self._threads: dict[Hashable, threading.Thread] = {}
        self._lock = threading.Lock()

    def start(self, key: Hashable, work: Callable[[], None], *, daemon: bool = False) -> bool:
        """Start work, unless there is some under this key, or the program is ending; say whether it was started.

        Args:
            key: of what this is about.
            work: what is done.
            daemon: the program does not wait for it at its end: it calls neither torch nor faiss, and writes nothing.
        """
        with self._lock:
            if key in self._threads or _is_ending():
                return False
            # Told, because a thread takes after the one that starts it, and an application may ask from daemons.
            thread = threading.Thread(target=self._run, args=(key, work), name="kblam-index", daemon=daemon)
            self._threads[key] = thread
            try:
                thread.start()
            except RuntimeError:  # no more threads are to be had, and answers do without
                del self._threads[key]
                return False
        return True

    def has(self, key: Hashable) -> bool:
        """Say whether there is work under this key."""
        return key in self._threads

    def wait(self) -> None:
        """Wait for all work there is."""
        while True:
            with self._lock:
                threads = list(self._threads.values())
            if not threads:
                return
            for thread in threads:
                thread.join()

    def _run(self, key: Hashable, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            pass
        finally:
            with self._lock:
                del self._threads[key]


def go_on() -> None:
    """Return while the program runs.

    Raises:
        Stopped: it is ending.
    """
    if _is_ending():
        raise Stopped


def _is_ending() -> bool:
    """Say whether the program is ending, which then waits for all threads that are no daemons.

    `atexit` would tell too late: its functions are called after that. The main thread counts as finished before it,
    in every CPython from 3.11 to 3.13, and to ask for that needs no private name.
    """
    return not threading.main_thread().is_alive()
