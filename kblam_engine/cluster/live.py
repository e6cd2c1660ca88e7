"""The shards of a folder as they were built last, for whoever goes on while they are built again."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kblam_engine.cluster.manifest import FILE
from kblam_engine.cluster.opening import open_shards
from kblam_engine.cluster.sharded_kb import ShardedKB

_Mark = tuple[int, int, int]


class _Opened:
    """Shards that are open, and how many use them."""

    def __init__(self, kb: ShardedKB, mark: _Mark | None) -> None:
        self.kb, self.mark, self.users = kb, mark, 0


class LiveShards:
    """A folder of shards that is opened again once `shards.json` has been replaced; safe to use from several threads.

    Who has begun with the shards before ends with them: a build keeps their files until the build after it.
    """

    def __init__(self, folder: str | os.PathLike[str], *, address: str | None = None, index: str = "auto") -> None:
        """Open the shards; arguments and errors are those of `open_shards`."""
        self._folder, self._address, self._index = Path(folder).absolute(), address, index
        self._lock = threading.Lock()
        self._newest = self._open()

    @contextmanager
    def current(self) -> Iterator[ShardedKB]:
        """Provide the shards as they were built last; they are not closed while they are used.

        Raises:
            KnowledgeBaseError: they were built again and cannot be opened.
        """
        with self._lock:
            if _mark_of(self._folder) != self._newest.mark:
                before, self._newest = self._newest, self._open()
                _close_unused(before)
            mine = self._newest
            mine.users += 1
        try:
            yield mine.kb
        finally:
            with self._lock:
                mine.users -= 1
                if mine is not self._newest:
                    _close_unused(mine)

    def close(self) -> None:
        """Close the shards; nobody may be using them."""
        self._newest.kb.close()

    def _open(self) -> _Opened:
        # The mark first: a manifest that comes in between is opened by the next who asks.
        mark = _mark_of(self._folder)
        return _Opened(open_shards(self._folder, address=self._address, index=self._index), mark)


def _close_unused(opened: _Opened) -> None:
    if not opened.users:
        opened.kb.close()


def _mark_of(folder: Path) -> _Mark | None:
    """Return what tells one manifest from the next; None where there is none, which opening tells in words."""
    try:
        found = (folder / FILE).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
