"""How many threads torch is given beside what other programs do: where they keep the cores busy, fewer are faster.

A product shared by two threads is done when both are. A thread that has to wait for its core keeps the other waiting, and
that one waits busily: with one other program a core, tokens take ten times as long (docs/decisions.md).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

STATISTICS = Path("/proc/stat")
"""Processor times since the start of the machine, a line a core (Linux)."""
_IDLE = (3, 4)  # idle, waiting for a disk
_LEAST_SECONDS = 0.2  # processor times are told in hundredths of a second
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def usable_cores() -> set[int]:
    """Return the numbers of the cores that this process may use."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


class OtherPrograms:
    """Measures, from when it is made, how many of this process's cores other programs keep busy."""

    def __init__(self) -> None:
        """Begin to measure."""
        self._begun, self._own, self._busy = time.perf_counter(), time.process_time(), _busy_seconds()

    @property
    def seconds(self) -> float:
        """How long it has been measured."""
        return time.perf_counter() - self._begun

    def cores(self) -> float:
        """Return the cores that others have kept busy on average; 0 where the system does not tell."""
        busy = _busy_seconds()
        if self._busy is None or busy is None:
            return 0.0
        own = time.process_time() - self._own
        return max(0.0, (busy - self._busy - own) / max(self.seconds, 1e-3))


def threads_beside(others: float, cores: int) -> int:
    """Return how many threads are fastest: one for each core that is free more often than not, at least one.

    Args:
        others: cores that other programs keep busy.
        cores: that this process may use.
    """
    return max(1, int(cores - others + 0.5))


class BusyCores:
    """Gives torch as many threads as other programs leave cores; what they do is measured beside something that takes long.

    OMP_NUM_THREADS, where it is set, decides instead.
    """

    def __init__(self) -> None:
        """Begin to measure."""
        self._most: int | None = None
        self.watch()

    def watch(self) -> None:
        """Begin to measure anew."""
        self._others = OtherPrograms()

    def adjust(self) -> str | None:
        """Set torch's threads, never above what it had at first; return what to tell a user where that changes them.

        Where less than .2 s have passed, nothing is changed.
        """
        import torch

        if "OMP_NUM_THREADS" in os.environ or self._others.seconds < _LEAST_SECONDS:
            return None
        before = torch.get_num_threads()
        most = self._most = self._most or before
        others, cores = self._others.cores(), len(usable_cores())
        threads = min(most, threads_beside(others, cores))
        if threads == before:
            return None
        torch.set_num_threads(threads)
        otherwise = f" (otherwise {most}: OMP_NUM_THREADS={most})" if threads < most else " again"
        return f"other programs keep {others:.1f} of {cores} cores busy: computing with {threads}{otherwise}"


def _busy_seconds() -> float | None:
    """Return the seconds that the usable cores have worked since the start of the machine, None where nothing tells."""
    try:
        lines = STATISTICS.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    wanted = {f"cpu{number}" for number in usable_cores()}
    busy = 0
    for line in lines:
        name, *ticks = line.split()
        if name in wanted:
            # The first eight; what guests take is part of the user's time already.
            busy += sum(int(tick) for at, tick in enumerate(ticks[:8]) if at not in _IDLE)
    return busy / _TICKS
