"""Files of shards on their way: several at a time, counted, and checked while they are written."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kblam_engine.cluster.build import Progress
from kblam_engine.cluster.transfer_store import Store
from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.models.registry import sha256_of

AT_ONCE = 8
"""Files that are on their way at a time: one alone seldom fills the line."""
_MB = 1_000_000
_Task = TypeVar("_Task")


class _StoppedError(Exception):
    """Another task has failed, or nobody waits for this one any more."""


class Count:
    """Bytes that have been moved, told in megabytes; safe to use from several threads.

    Attributes:
        done: so far.
        is_stopped: whatever moves bytes ends with the next of them.
    """

    def __init__(self, what: str, total: int, progress: Progress) -> None:
        self.done, self.is_stopped = 0, False
        self._what, self._total, self._progress = what, total, progress
        self._lock = threading.Lock()
        self.add(0)

    def add(self, n: int) -> None:
        """Count `n` more."""
        if self.is_stopped:
            raise _StoppedError
        with self._lock:
            self.done += n
            self._tell(min(self.done, self._total) // _MB)

    def finish(self) -> None:
        """Tell that all is there."""
        self._tell(-(-self._total // _MB))

    def _tell(self, n: int) -> None:
        if self._total:
            self._progress(self._what, n, -(-self._total // _MB))


@dataclass(frozen=True, slots=True)
class Fetch:
    """A file to get.

    Attributes:
        name: of it at the store.
        digest: its SHA-256.
        at_most: bytes that it may have.
        target: where it goes.
    """

    name: str
    digest: str
    at_most: int
    target: Path


def side_by_side(do: Callable[[_Task], None], tasks: Sequence[_Task], count: Count) -> None:
    """Do tasks, which count what they move, `AT_ONCE` at a time; with one that fails all end."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        running = [threads.submit(do, task) for task in tasks]
        try:
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
        finally:
            count.is_stopped = True
            threads.shutdown(cancel_futures=True)
    for one in done:
        if not isinstance(one.exception(), _StoppedError):
            one.result()


def is_sound(path: Path, digest: str) -> bool:
    """Say whether a file is there and has a checksum; reads all of it."""
    return path.is_file() and not path.is_symlink() and sha256_of(path) == digest


def fetch(store: Store, wanted: Fetch, count: Count) -> None:
    """Write a file of a store to its target, or nothing there.

    Raises:
        KnowledgeBaseError: it is not what its checksum says, is not there, or the store refuses.
        OSError: it cannot be written here.
    """
    wanted.target.parent.mkdir(parents=True, exist_ok=True)
    draft = wanted.target.with_name(f".{wanted.target.name}.part")
    found, n = hashlib.sha256(), 0
    try:
        with draft.open("wb") as file:
            for block in store.blocks(wanted.name):
                n += len(block)
                if n > wanted.at_most:  # it may never end
                    break
                found.update(block)
                file.write(block)
                count.add(len(block))
            file.flush()
            os.fsync(file.fileno())
        if n > wanted.at_most or found.hexdigest() != wanted.digest:
            raise KnowledgeBaseError(
                f"{store.url}/{wanted.name}: expected the file whose checksum shards.json says, got another one, which is not "
                "used; send it again: kblam cluster push FOLDER URL --all"
            )
        os.replace(draft, wanted.target)
    finally:
        draft.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """Make a file appear at a second place as well, without a copy where the disk can do so."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
