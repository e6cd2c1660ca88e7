"""Which index searches which knowledge base: chosen, opened, followed through changes, rebuilt in the background."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from kblam_engine.errors import ConfigurationError, KBLaMError, KnowledgeBaseUnreachableError
from kblam_engine.knowledge_base import KBSnapshot
from kblam_engine.search.background import Background
from kblam_engine.search.exact import scan
from kblam_engine.search.following import FEW_LEFT, FollowedIndex
from kblam_engine.search.interface import INDEX_KINDS, KeyIndex
from kblam_engine.search.recall import K
from kblam_engine.search.snapshot_search import ShownSlots, SnapshotSearch

WANTED = ("auto", *INDEX_KINDS)
EXACT_SHARE = 0.25
"""Of the prompt's prefill: what scoring every key may cost before "auto" takes an index."""
MOST_FOLDERS = 64
"""Knowledge bases whose indexes are kept open at once."""
_STEPS = 3
"""After which an index is as fit as it gets: built, measured on what is left, built again."""
_TIMED_KEYS = 16_384

logger = logging.getLogger(__name__)


@runtime_checkable
class IndexSource(Protocol):
    """Where an application gets its indexes from; `search.remote.RemoteIndex` is one."""

    def of(self, snapshot: KBSnapshot) -> KeyIndex | None:
        """Return the index of a snapshot's keys; None where every key is to be scored.

        Asked once for every snapshot of a knowledge base, from many threads. The index holds slots 0..n_slots - 1 of
        this knowledge base and generation: what came later is scored key by key, what is removed is passed over. It is
        kept as long as the snapshot is in use, so it should not hold the snapshot.

        Raises:
            KBLaMError: the index cannot be used. It is told as a warning, and every key is scored.
        """


@dataclass
class _Known:
    """What is kept of a snapshot as long as others use it; nothing in here holds it.

    Attributes:
        slots: what searches know of it.
        index: the one of the source, if there is one.
        is_asked: whether the source was asked for it.
    """

    slots: ShownSlots = field(default_factory=ShownSlots)
    index: KeyIndex | None = None
    is_asked: bool = False


class Indexes:
    """Hands out the search of a snapshot's keys; share one among threads."""

    def __init__(
        self,
        wanted: str | IndexSource = "auto",
        prefill_s: Callable[[], float] | None = None,
        *,
        background: bool = True,
        every_key: IndexSource | None = None,
    ) -> None:
        """Choose how keys are searched.

        Args:
            wanted: "exact", "tree", "ann", or "auto": every key is scored while that costs less than a quarter of the
                prompt's prefill, then whatever index there is serves, if it was measured to be faster and to find nearly
                as much. Or a source of indexes of the application's own.
            prefill_s: seconds of a short prompt's prefill, asked for once; None: "auto" never takes an index. 0: no time
                is short enough, and it takes the one that is there however it was measured.
            background: build an index that is wanted and not there, and build again one that has fallen behind, in
                a thread, while every key is scored.
            every_key: what scores every key for "exact" and "auto" faster than a scan of main memory: `device.DeviceKeys`.
                Where it has no room for the keys of a knowledge base, this is searched as without it.

        Raises:
            ConfigurationError: another word, or another object.
        """
        own = wanted if isinstance(wanted, IndexSource) else None
        if own is None and wanted not in WANTED:
            raise ConfigurationError(
                f"index: expected one of {', '.join(WANTED)}, or an object with the method of(snapshot), got {wanted!r}"
            )
        self.wanted = "own" if own is not None else str(wanted)
        """What was asked for; "own" for a source of the application's own."""
        self._source = every_key if self.wanted in ("auto", "exact") else own
        self.background = background
        self._prefill_s = prefill_s
        self._budget_s: float | None = None
        self._key_s: float | None = None
        self._cost_lock = threading.Lock()
        self._work = Background()
        self._folders: OrderedDict[Path, FollowedIndex] = OrderedDict()
        self._known: weakref.WeakKeyDictionary[KBSnapshot, _Known] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def of(self, snapshot: KBSnapshot) -> SnapshotSearch:
        """Return the search of a snapshot's keys, by an index if that is wanted and there."""
        with self._lock:
            known = self._known.get(snapshot)
            if known is None:
                known = self._known[snapshot] = _Known()
        index = None if self._source is None else self._sourced(self._source, snapshot, known)
        if index is None and self.wanted != "own":
            index = self._index_of(snapshot)
        return SnapshotSearch(snapshot, index, known.slots)

    def ready(self, snapshot: KBSnapshot) -> SnapshotSearch:
        """Return the search of a snapshot's keys after any index that is missing or behind has been built."""
        for _ in range(_STEPS):
            self.of(snapshot)
            self.wait()
        return self.of(snapshot)

    def wait(self) -> None:
        """Wait for what is being done in the background."""
        self._work.wait()

    def _sourced(self, source: IndexSource, snapshot: KBSnapshot, known: _Known) -> KeyIndex | None:
        """Return the source's index, asked for once and outside the lock: it may be far away."""
        with self._lock:
            if known.is_asked:
                return known.index
        index = None
        if not _is_small_view(snapshot):
            try:
                index = source.of(snapshot)
            except KnowledgeBaseUnreachableError:  # keys that are elsewhere may be more than can be scored here
                raise
            except KBLaMError as error:
                logger.warning("every key is scored: %s", error)
        with self._lock:
            if not known.is_asked:
                known.is_asked, known.index = True, index
            return known.index

    def _index_of(self, snapshot: KBSnapshot) -> KeyIndex | None:
        """Return the index of a snapshot's folder; None where every key is to be scored."""
        folder = snapshot.folder
        if self.wanted == "exact" or folder is None or _is_small_view(snapshot):
            return None
        if self.wanted == "auto" and self._exact_is_cheap(snapshot):
            return None
        return self._followed(folder).of(snapshot, follow=self.background)

    def _followed(self, folder: Path) -> FollowedIndex:
        """Return what follows the index of a folder; others are forgotten that are gone, or were not asked for lately."""
        with self._lock:
            found = self._folders.pop(folder, None)
            if found is None:
                choosy = self.wanted == "auto" and self._budget_s != 0
                found = FollowedIndex(folder, self.wanted, self._work, choosy=choosy)
                for path, other in list(self._folders.items()):
                    if not other.is_busy and (len(self._folders) >= MOST_FOLDERS or not path.is_dir()):
                        del self._folders[path]
            self._folders[folder] = found
            return found

    def _exact_is_cheap(self, snapshot: KBSnapshot) -> bool:
        if self._prefill_s is None:
            return True
        with self._cost_lock:  # one measures, the others wait; nobody else does
            if self._budget_s is None or self._key_s is None:
                self._budget_s = EXACT_SHARE * self._prefill_s()
                self._key_s = seconds_per_key(snapshot)
        return len(snapshot) * self._key_s <= self._budget_s


def seconds_per_key(snapshot: KBSnapshot) -> float:
    """Measure what scoring a key costs here and now, from some thousands of the snapshot's own."""
    keys = snapshot.key_embeddings[:_TIMED_KEYS]
    query = np.zeros((1, snapshot.embed_dim), np.float32)
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        scan(keys, query, K)
        times.append(time.perf_counter() - begun)
    return min(times) / max(1, len(keys))


def _is_small_view(snapshot: KBSnapshot) -> bool:
    return snapshot.moved() is None and len(snapshot) < FEW_LEFT * snapshot.n_slots
