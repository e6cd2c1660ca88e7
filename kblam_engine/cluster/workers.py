"""Who does the work of a build: this process, or whoever else can `map`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers(Protocol):
    """Processes that see the same files as this one."""

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield the result of every task, as they are done; what a task raises is raised here.

        A task may be done more than once, where a worker dies in the middle: its effect has to be the same.
        """


class Here:
    """One task after the other, in this process."""

    def map(self, function: Callable[[Any], Result], tasks: Iterable[Any]) -> Iterator[Result]:
        """Yield the results in order."""
        return map(function, tasks)
