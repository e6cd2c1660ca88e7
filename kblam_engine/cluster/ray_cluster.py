"""Workers and shards on Ray: the only module that imports it (the extra `cluster`).

Ray pickles what goes from process to process, so whoever may reach a cluster's ports may run code there: keep it in a
network of your own, with Ray's token. Files are never pickles.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from platform import node
from typing import Any

from kblam_engine.cluster.manifest import ShardRecord
from kblam_engine.cluster.shard import Shard, asked
from kblam_engine.cluster.shards import Ask
from kblam_engine.errors import ConfigurationError, KBLaMError, KnowledgeBaseError, MissingDependencyError

LOCAL = "local"
RETRIES = 3
"""How often a task or question is tried again after its process died, and a shard's process started again in a row."""
TIMEOUT = 120.0
"""Seconds that a shard may take to answer, its restart included."""
_PAUSE = 1.0


def connect(address: str = LOCAL, n_cpus: int | None = None) -> Any:
    """Return Ray, connected to a cluster; one that this process is connected to already is used as it is.

    Args:
        address: "local" starts one on this machine, which ends with this process; "auto" finds a running one; else
            "host:port" of its head.
        n_cpus: cores of a local one; default all.

    Raises:
        MissingDependencyError: Ray is not installed.
        KnowledgeBaseError: there is no cluster at the address.
    """
    # Nothing is reported to Ray's makers by a cluster that is started here, unless somebody wants it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise MissingDependencyError(
            'spreading a knowledge base over processes and machines needs Ray: pip install "kblam-engine[cluster]"'
        ) from None
    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "warning"}
    if address == LOCAL:
        options |= {"num_cpus": n_cpus, "include_dashboard": False}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise KnowledgeBaseError(f"{address}: expected a Ray cluster, got {_first_line(error)}") from error
    return ray


@contextmanager
def connected(address: str = LOCAL, n_cpus: int | None = None) -> Iterator[Any]:
    """Provide Ray for a while, as `connect`; afterwards this process lets go of a cluster that it was not connected to before."""
    before = sys.modules.get("ray")
    was_connected = before is not None and before.is_initialized()
    ray = connect(address, n_cpus)
    try:
        yield ray
    finally:
        if not was_connected:
            ray.shutdown()


class RayWorkers:
    """Tasks on the cores of a cluster; a task whose process or machine dies is done again elsewhere."""

    def __init__(self, ray: Any, n: int | None = None) -> None:
        """Take Ray, and how many tasks run at a time; default as many as the cluster has cores.

        Raises:
            ConfigurationError: there are not so many cores.
        """
        n_cpus = int(ray.cluster_resources().get("CPU", 0))
        if n is not None and not 1 <= n <= n_cpus:
            raise ConfigurationError(f"workers: expected 1 to {n_cpus}, the cores of the cluster, got {n}")
        self._ray, self.n = ray, n or max(1, n_cpus)

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        """Yield the result of every task, as they are done."""
        remote = self._ray.remote(num_cpus=1, max_retries=RETRIES)(_done)
        left = iter(tasks)
        running = [remote.remote(function, task) for task in islice(left, self.n)]
        try:
            while running:
                (done,), running = self._ray.wait(running, num_returns=1)
                running += [remote.remote(function, task) for task in islice(left, 1)]
                yield _got(self._ray, done, None)
        finally:
            for task in running:
                self._ray.cancel(task)


class RayShards:
    """Shards in processes of their own, spread over the machines of a cluster.

    A shard's process maps its files and keeps nothing else, so that one that dies is started again, on any machine that
    sees the files, and what was asked is asked again.
    """

    def __init__(self, ray: Any, folder: str, records: Sequence[ShardRecord], index: str) -> None:
        """Start a process for each shard; they take no core of their own, because most of the time they wait."""
        self._ray = ray
        actor = ray.remote(
            num_cpus=0, max_restarts=-1, max_task_retries=RETRIES, max_concurrency=4, scheduling_strategy="SPREAD"
        )(_ShardProcess)
        self._actors = [actor.remote(folder, record, index) for record in records]
        self._places = [f"{folder}/{record.folder}" for record in records]
        self._machines: dict[int, str] = {}

    def ask(self, questions: Mapping[int, Ask]) -> dict[int, Any]:
        """Ask some shards at the same time; all of them together have `TIMEOUT` seconds.

        Raises:
            KnowledgeBaseError: a shard cannot be read or does not answer in time, or they have been closed.
        """
        deadline = time.monotonic() + TIMEOUT
        sent = {at: self._send(at, ask) for at, ask in questions.items()}
        return {at: self._answer(at, questions[at], answer, deadline) for at, answer in sent.items()}

    def processes(self) -> list[int]:
        """Return the process id of every shard, on its machine."""
        return [int(pid) for pid in self._ray.get([actor.process.remote() for actor in self._actors], timeout=TIMEOUT)]

    def _send(self, at: int, ask: Ask) -> Any:
        if not self._actors:
            raise KnowledgeBaseError("these shards have been closed; open them again")
        return self._actors[at].ask.remote(ask.question, ask.arguments)

    def _answer(self, at: int, ask: Ask, sent: Any, deadline: float) -> Any:
        """Wait for an answer; of a process that cannot be reached, ask again until it is back or time is up.

        Ray's own retries are over in seconds; that a machine is gone it takes half a minute to find out.
        """
        while True:
            left = max(deadline - time.monotonic(), 0.0)
            try:
                self._machines[at], said = _got(self._ray, sent, left)
            except _UnreachableError as error:
                if not left:
                    raise self._told(at, error) from error
                time.sleep(min(_PAUSE, left))
                sent = self._send(at, ask)
            except _NoAnswerError as error:
                raise self._told(at, error) from error
            else:
                return said

    def _told(self, at: int, error: KnowledgeBaseError) -> KnowledgeBaseError:
        """Return an error that says which shard it is of, and the machine that this was on when it last answered."""
        machine = f" on {self._machines[at]}" if at in self._machines else ""
        return KnowledgeBaseError(f"{self._places[at]}{machine}: {error}")

    def close(self) -> None:
        """End the processes."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []


class _NoAnswerError(KnowledgeBaseError):
    """A process does not answer."""


class _UnreachableError(_NoAnswerError):
    """A process does not answer now, but may come back."""


class _ShardProcess:
    """What runs in a shard's process."""

    def __init__(self, folder: str, record: ShardRecord, index: str) -> None:
        try:
            self._shard: Shard | KBLaMError = Shard(folder, record, index)
        except (KBLaMError, OSError) as error:
            self._shard = _portable(error)  # told to whoever asks; a process that fails to start has only a traceback

    def ask(self, question: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
        """Return the name of the machine, and what the shard says."""
        if isinstance(self._shard, KBLaMError):
            raise self._shard
        try:
            return node(), asked(self._shard, question, arguments)
        except (KBLaMError, OSError) as error:
            raise _portable(error) from None

    def process(self) -> int:
        return os.getpid()


def _done(function: Callable[[Any], Any], task: Any) -> Any:
    try:
        return function(task)
    except (KBLaMError, OSError) as error:
        raise _portable(error) from None


def _portable(error: Exception) -> KBLaMError:
    """Return an error that survives the way between processes: one with nothing but its message."""
    message = str(error)
    if isinstance(error, ConfigurationError | MissingDependencyError | ModuleNotFoundError) and error.args == (message,):
        return type(error)(message)  # type: ignore[return-value]
    return KnowledgeBaseError(message)


def _got(ray: Any, reference: Any, timeout: float | None) -> Any:
    """Return the result of a task.

    Raises:
        KBLaMError: what the task raised, or that its process died too often or does not answer.
    """
    try:
        return ray.get(reference, timeout=timeout)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, KBLaMError) else error from None
    except ray.exceptions.GetTimeoutError:
        raise _NoAnswerError(
            f"expected an answer within {TIMEOUT:g} s, got none; see that its machine is up and not too busy (ray status), then ask again"
        ) from None
    except ray.exceptions.ActorUnavailableError as error:
        raise _UnreachableError(
            f"its process cannot be reached ({_first_line(error)}); see that its machine is up (ray status), then ask again"
        ) from error
    except ray.exceptions.RayError as error:
        raise _NoAnswerError(f"a process of the cluster died and could not be replaced: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
