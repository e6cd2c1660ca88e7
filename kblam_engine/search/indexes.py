"""Which index searches which knowledge base: chosen, opened, followed through changes, rebuilt in the background."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from kblam_engine.errors import ConfigurationError, KBLaMError
from kblam_engine.knowledge_base import KBSnapshot
from kblam_engine.search.build import BuiltKind, build_index, open_index
from kblam_engine.search.exact import scan
from kblam_engine.search.files import RECORD, IndexRecord
from kblam_engine.search.interface import INDEX_KINDS, KeyIndex
from kblam_engine.search.recall import K, recall_of, sample_queries
from kblam_engine.search.snapshot_search import SnapshotSearch
from kblam_engine.search.tree import KeyTree
from kblam_engine.search.tree_growth import with_slots

WANTED = ("auto", *INDEX_KINDS)
EXACT_SHARE = 0.25
"""Of the prompt's prefill: what scoring every key may cost before "auto" takes an index."""
TAIL = 16_384
"""Slots added since an index was built that are scored key by key; more join the tree, in the background."""
REBUILD_SHARE = 0.25
"""Of all slots added since an index was built: more, and it is built again."""
LOST_RECALL = 0.02
"""A tree that has grown and finds so much less than when it was built is built again."""
_SEEN_SHARE = 0.5
"""Of the slots of an index: a view that shows less is scored key by key, for most of what the index finds is not in it."""
_TIMED_KEYS = 16_384

logger = logging.getLogger(__name__)


@runtime_checkable
class IndexSource(Protocol):
    """Where an application gets its indexes from; `search.remote.RemoteIndex` is one."""

    def of(self, snapshot: KBSnapshot) -> KeyIndex | None:
        """Return the index of a snapshot's keys; None where every key is to be scored.

        Asked once for every snapshot of a knowledge base, from many threads. The index holds slots 0..n_slots - 1 of
        this knowledge base and generation: what came later is scored key by key, what is removed is passed over.

        Raises:
            KBLaMError: the index cannot be used. It is told as a warning, and every key is scored.
        """


@dataclass
class _Opened:
    """The index of one folder, None where there is none to be used."""

    stamp: object
    record: IndexRecord | None = None
    index: KeyIndex | None = None


class Indexes:
    """Hands out the search of a snapshot's keys; share one among threads."""

    def __init__(
        self,
        wanted: str | IndexSource = "auto",
        prefill_s: Callable[[], float] | None = None,
        *,
        background: bool = True,
    ) -> None:
        """Choose how keys are searched.

        Args:
            wanted: "exact", "tree", "ann", or "auto": every key is scored while that costs less than a quarter of the
                prompt's prefill, then whatever index there is serves. Or a source of indexes of the application's own.
            prefill_s: seconds of a short prompt's prefill, asked for once; None: "auto" never takes an index.
            background: build an index that is wanted and not there, and build again one that has fallen behind, in
                a thread, while every key is scored.

        Raises:
            ConfigurationError: another word, or another object.
        """
        self._source = wanted if isinstance(wanted, IndexSource) else None
        if self._source is None and wanted not in WANTED:
            raise ConfigurationError(
                f"index: expected one of {', '.join(WANTED)}, or an object with the method of(snapshot), got {wanted!r}"
            )
        self.wanted = "own" if self._source is not None else str(wanted)
        """What was asked for; "own" for a source of the application's own."""
        self.background = background
        self._prefill_s = prefill_s
        self._budget_s: float | None = None
        self._key_s: float | None = None
        self._opened: dict[Path, _Opened] = {}
        self._searches: weakref.WeakKeyDictionary[KBSnapshot, SnapshotSearch] = weakref.WeakKeyDictionary()
        self._work: dict[Path, threading.Thread] = {}
        self._failed: set[Path] = set()
        self._lock = threading.RLock()

    def of(self, snapshot: KBSnapshot) -> SnapshotSearch:
        """Return the search of a snapshot's keys, by an index if that is wanted and there."""
        if self._source is not None:
            return self._sourced(self._source, snapshot)
        with self._lock:
            opened = self._index_of(snapshot)
            index = None if opened is None else opened.index
            search = self._searches.get(snapshot)
            if search is None or search.index is not index:
                search = self._searches[snapshot] = SnapshotSearch(snapshot, index)
            if opened is not None:
                self._follow(snapshot, opened, search.n_unindexed)
            return search

    def ready(self, snapshot: KBSnapshot) -> SnapshotSearch:
        """Return the search of a snapshot's keys after any index that is missing or behind has been built."""
        self.of(snapshot)
        self.wait()
        return self.of(snapshot)

    def wait(self) -> None:
        """Wait for what is being done in the background."""
        while self._work:
            for thread in list(self._work.values()):
                thread.join()

    def _sourced(self, source: IndexSource, snapshot: KBSnapshot) -> SnapshotSearch:
        """Return the search by the application's index, which is asked for outside the lock: it may be far away."""
        with self._lock:
            search = self._searches.get(snapshot)
        if search is not None:
            return search
        index = None
        if not _is_small_view(snapshot):
            try:
                index = source.of(snapshot)
            except KBLaMError as error:
                logger.warning("every key is scored: %s", error)
        with self._lock:
            return self._searches.setdefault(snapshot, SnapshotSearch(snapshot, index))

    def _index_of(self, snapshot: KBSnapshot) -> _Opened | None:
        """Return what is known about the index of a snapshot's folder; None where every key is to be scored."""
        folder = snapshot.folder
        if self.wanted == "exact" or folder is None or _is_small_view(snapshot):
            return None
        if self.wanted == "auto" and self._exact_is_cheap(snapshot):
            return None
        stamp = (snapshot.generation, _stamp(folder / RECORD))
        opened = self._opened.get(folder)
        if opened is None or opened.stamp != stamp:
            opened = self._opened[folder] = _Opened(stamp)
            try:
                found = open_index(snapshot)
            except KBLaMError as error:
                logger.warning("every key is scored: %s", error)
                found = None
            if found is not None and self.wanted in ("auto", found[0].kind):
                opened.record, opened.index = found
        return opened

    def _exact_is_cheap(self, snapshot: KBSnapshot) -> bool:
        if self._prefill_s is None:
            return True
        if self._budget_s is None or self._key_s is None:
            self._budget_s = EXACT_SHARE * self._prefill_s()
            self._key_s = seconds_per_key(snapshot)
        return len(snapshot) * self._key_s <= self._budget_s

    def _follow(self, snapshot: KBSnapshot, opened: _Opened, n_unindexed: int) -> None:
        """Start in the background what keeps the index fit for its knowledge base."""
        if opened.index is None or opened.record is None:
            self._start(snapshot, lambda: self._build(snapshot))
        elif snapshot.n_slots - opened.record.n_slots > REBUILD_SHARE * snapshot.n_slots:
            self._start(snapshot, lambda: self._build(snapshot))
        elif n_unindexed > TAIL and isinstance(opened.index, KeyTree):
            self._start(snapshot, lambda: self._grow(snapshot, opened))

    def _start(self, snapshot: KBSnapshot, work: Callable[[], None]) -> None:
        folder = snapshot.folder
        assert folder is not None
        if not self.background or folder in self._work or folder in self._failed or not os.access(folder, os.W_OK):
            return

        def run() -> None:
            try:
                work()
            except Exception as error:  # a thread has nobody to tell; answers go on by scoring every key
                logger.warning("%s: no index could be built: %s", folder, error)
                self._failed.add(folder)
            finally:
                del self._work[folder]

        self._work[folder] = thread = threading.Thread(target=run, name="kblam-index", daemon=True)
        thread.start()

    def _build(self, snapshot: KBSnapshot) -> None:
        kind: BuiltKind = "ann" if self.wanted == "ann" else "tree"
        record = build_index(snapshot, kind)
        logger.info("%s: built a %s in %.0f s, recall %.3f", snapshot.folder, kind, record.build_s, record.recall)

    def _grow(self, snapshot: KBSnapshot, opened: _Opened) -> None:
        """Let a tree take in what was added since, and build it again where that has made it worse."""
        assert isinstance(opened.index, KeyTree) and opened.record is not None
        segment = snapshot.key_segment()
        grown = with_slots(opened.index, segment, len(segment))
        queries = sample_queries(segment, 50)
        recall = recall_of(grown.search(queries, K), scan(segment, queries, K))
        if recall < opened.record.recall - LOST_RECALL:
            self._build(snapshot)
        else:
            with self._lock:
                opened.index = grown


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
    return len(snapshot) < _SEEN_SHARE * snapshot.n_slots


def _stamp(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
