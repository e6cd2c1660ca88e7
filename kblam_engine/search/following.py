"""The index of one knowledge base through its changes: opened, grown, measured, and built again when it is needed."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from kblam_engine.errors import KBLaMError, KnowledgeBaseLockedError
from kblam_engine.knowledge_base import KBSnapshot
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.knowledge_base.store import segment_file
from kblam_engine.search.background import Background, Stopped, go_on
from kblam_engine.search.build import BuiltKind, build_index, fits, open_index
from kblam_engine.search.exact import scan
from kblam_engine.search.files import RECORD, IndexRecord, contents_problem, read_record
from kblam_engine.search.interface import KeyIndex
from kblam_engine.search.recall import GOAL, K, recall_of, sample_queries
from kblam_engine.search.snapshot_search import shown_slots
from kblam_engine.search.tree import KeyTree
from kblam_engine.search.tree_growth import with_slots

TAIL = 16_384
"""Slots added since an index was built that are scored key by key; more join the tree, in the background."""
REBUILD_SHARE = 0.25
"""Of all slots added since an index was built: more, and it is built again."""
REMOVED_SHARE = 0.1
"""Of all slots removed since an index was built or last measured: more, and it is measured on what is left."""
LOST_RECALL = 0.02
"""An index that has grown or lost keys and finds so much less than when it was built is built again."""
FAR_BELOW = 0.035
"""The goal of a build: an index that finds so much less is not worth its time."""
FEW_LEFT = 0.5
"""Of all slots: where fewer are shown, most of what an index finds is not among them, unless a measurement says otherwise."""
N_MEASURED = 50
"""Queries."""
FAILED_S = 600.0
"""After a build that failed, unless something has changed that it may have failed by ..."""
BUSY_S = 5.0
"""... and after one that another process was in the way of."""

logger = logging.getLogger(__name__)

_Fit = Literal["opens it", "is served", "foreign"]


@dataclass
class _Opened:
    """What lies in the folder.

    Attributes:
        stamp: of the record, None where there is none.
        record: None where there is none to be used.
        index: None before it is asked for, and where it cannot be opened.
        fit: what the record is to each snapshot.
        n_removed_then: slots that were removed when it was built, as far as that was seen.
        n_removed: slots that were removed when its recall was last measured, or when it was built.
        recall: as it was last measured; None: as the record says.
        unfit: it cannot be opened.
    """

    stamp: object
    record: IndexRecord | None = None
    index: KeyIndex | None = None
    fit: weakref.WeakKeyDictionary[KBSnapshot, _Fit] = field(default_factory=weakref.WeakKeyDictionary)
    n_removed_then: int | None = 0
    n_removed: int = 0
    recall: float | None = None
    unfit: bool = False

    @property
    def has_fallen(self) -> bool:
        """Whether it finds less than when it was built."""
        return self.record is not None and self.recall is not None and self.recall < self.record.recall - LOST_RECALL


class FollowedIndex:
    """Hands out the index of one folder and keeps it fit for its knowledge base; share it among threads."""

    def __init__(self, folder: Path, wanted: str, background: Background, *, choosy: bool) -> None:
        """Open nothing yet.

        Args:
            folder: of the knowledge base.
            wanted: "tree", "ann", or "auto" for either.
            background: where the work is done.
            choosy: hand out no index that is not worth its time (`is_worth_it`).
        """
        self.folder, self._wanted, self._choosy = folder, wanted, choosy
        self._background = background
        self._opened: _Opened | None = None
        self._newest: weakref.ref[KBSnapshot] | None = None
        self._rests: tuple[object, float] = (None, 0.0)
        self._lock = threading.RLock()

    @property
    def is_busy(self) -> bool:
        """Whether something is being done in the background."""
        return self._background.has(self)

    def of(self, snapshot: KBSnapshot, *, follow: bool) -> KeyIndex | None:
        """Return the index for a snapshot; None: every key is to be scored.

        Args:
            snapshot: of this knowledge base.
            follow: start in the background what makes the index fit for it.
        """
        with self._lock:
            opened, n_removed = self._current(), _n_removed(snapshot)
            index = self._index_of(snapshot, opened)
            if opened.n_removed_then is None and n_removed is not None:
                opened.n_removed_then = opened.n_removed = n_removed
            if follow and self._is_newest_asked(snapshot):
                self._follow(snapshot, opened, index, n_removed)
            return index if index is not None and self._is_taken(snapshot, opened, n_removed) else None

    def _is_newest_asked(self, snapshot: KBSnapshot) -> bool:
        """Say whether no snapshot of a later revision is in use: an earlier one has lost what is not removed."""
        newest = None if self._newest is None else self._newest()
        if newest is not None and newest.revision > snapshot.revision:
            return False
        self._newest = weakref.ref(snapshot)
        return True

    def _current(self) -> _Opened:
        """Return what lies in the folder now, read again where the record has been replaced."""
        stamp, before = _stamp(self.folder / RECORD), self._opened
        if before is not None and before.stamp == stamp:
            return before
        opened = self._opened = _Opened(stamp, n_removed_then=0 if before is None else None)
        try:
            record = read_record(self.folder)
        except KBLaMError as error:
            logger.warning("every key is scored: %s", error)
            return opened
        if record is None or self._wanted not in ("auto", record.kind):
            return opened
        opened.record = record
        if not self._accepts(record):
            logger.warning("%s: every key is scored, for the index %s", self.folder, "; it ".join(shortcomings(record)))
        return opened

    def _index_of(self, snapshot: KBSnapshot, opened: _Opened) -> KeyIndex | None:
        """Return the index if it is of this snapshot's slots, opened by the first snapshot that has all of them.

        A snapshot that is older than the index is served by one that is open, and neither opens it nor is it a reason
        to score every key for newer ones.
        """
        if opened.record is None or opened.unfit or not self._accepts(opened.record):
            return None
        fit = self._fit(snapshot, opened, opened.record)
        if fit == "foreign":
            return None
        if opened.index is not None or fit == "is served":
            return opened.index
        try:
            found = open_index(snapshot)
        except KBLaMError as error:
            logger.warning("every key is scored: %s", error)
            opened.unfit = True
            return None
        if found is not None:
            record, opened.index = found
            opened.record = record  # perhaps another by now: then the next search sees its stamp, and opens it again
            # Only reads, so a program may end under it: it waits for no daemon.
            self._background.start((self, "contents"), lambda: self._check(opened, record), daemon=True)
        return opened.index

    def _check(self, opened: _Opened, record: IndexRecord) -> None:
        """Read the large files, of which opening compares the length alone, and drop an index that is damaged."""
        problem = contents_problem(self.folder, record)
        if problem is not None:
            with self._lock:
                opened.index, opened.unfit = None, True
            logger.warning("every key is scored: %s", problem)

    def _accepts(self, record: IndexRecord) -> bool:
        return not self._choosy or is_worth_it(record)

    def _fit(self, snapshot: KBSnapshot, opened: _Opened, record: IndexRecord) -> _Fit:
        found = opened.fit.get(snapshot)
        if found is None:
            found = opened.fit[snapshot] = fit_of(record, snapshot)
        return found

    def _is_taken(self, snapshot: KBSnapshot, opened: _Opened, n_removed: int | None) -> bool:
        """Say whether an index that could serve a snapshot is used for it."""
        if opened.record is not None and opened.recall is not None and not self._accepts(replace(opened.record, recall=opened.recall)):
            return False
        if n_removed is None or len(snapshot) >= FEW_LEFT * snapshot.n_slots:
            return True
        measured = opened.recall is not None and n_removed - opened.n_removed < REMOVED_SHARE * snapshot.n_slots
        return measured and not opened.has_fallen

    def _follow(self, snapshot: KBSnapshot, opened: _Opened, index: KeyIndex | None, n_removed: int | None) -> None:
        """Start in the background what keeps the index fit for its knowledge base."""
        record = opened.record
        few_left = n_removed is not None and len(snapshot) < FEW_LEFT * snapshot.n_slots
        if record is None or opened.unfit or self._fit(snapshot, opened, record) == "foreign":
            self._start(snapshot, opened, lambda: self._build(snapshot))
        elif snapshot.n_slots - record.n_slots > REBUILD_SHARE * snapshot.n_slots:
            self._start(snapshot, opened, lambda: self._build(snapshot))
        elif index is None:  # not worth its time, or replaced a moment ago
            return
        elif isinstance(index, KeyTree) and snapshot.n_slots - index.n_slots > TAIL:
            self._start(snapshot, opened, lambda: self._grow(snapshot, opened, index))
        elif n_removed is not None and (
            n_removed - opened.n_removed >= REMOVED_SHARE * snapshot.n_slots or (few_left and opened.recall is None)
        ):
            self._start(snapshot, opened, lambda: self._measure(snapshot, opened, index))

    def _start(self, snapshot: KBSnapshot, opened: _Opened, work: Callable[[], None]) -> None:
        state = opened.stamp, snapshot.generation
        rests, until = self._rests
        if (rests == state and time.monotonic() < until) or not os.access(self.folder, os.W_OK) or not _is_newest(snapshot):
            return

        def run() -> None:
            try:
                work()
            except Stopped:
                raise
            except (KnowledgeBaseLockedError, FileNotFoundError):  # another builds, or a compaction was faster
                self._rests = state, time.monotonic() + BUSY_S
            except Exception as error:  # a thread has nobody to tell; answers go on by scoring every key
                logger.warning("%s: no index could be built: %s", self.folder, error)
                self._rests = state, time.monotonic() + FAILED_S

        self._background.start(self, run)

    def _build(self, snapshot: KBSnapshot) -> None:
        def progress(*_: object) -> None:
            go_on()
            if not _is_newest(snapshot):  # what is being built would be of no use
                raise Stopped

        kind: BuiltKind = "ann" if self._wanted == "ann" else "tree"
        record = build_index(snapshot, kind, progress=progress)
        logger.info("%s: built a %s in %.0f s, recall %.3f", self.folder, kind, record.build_s, record.recall)

    def _build_instead(self, snapshot: KBSnapshot, opened: _Opened) -> None:
        """Build an index again, unless another process has while this one was measured."""
        if _stamp(self.folder / RECORD) == opened.stamp:
            self._build(snapshot)

    def _grow(self, snapshot: KBSnapshot, opened: _Opened, index: KeyTree) -> None:
        """Let a tree take in what was added since, and build it again where that has made it worse."""
        segment = snapshot.key_segment()
        grown = with_slots(index, segment, len(segment))
        go_on()
        recall = shown_recall(grown, snapshot, segment)
        with self._lock:
            opened.recall, opened.n_removed = recall, _n_removed(snapshot) or opened.n_removed
            if not opened.has_fallen:
                opened.index = grown
        if opened.has_fallen:
            self._build_instead(snapshot, opened)

    def _measure(self, snapshot: KBSnapshot, opened: _Opened, index: KeyIndex) -> None:
        """Measure what an index finds of the keys that are left, and build it again where that is less than it was."""
        recall, n_removed = shown_recall(index, snapshot, snapshot.key_segment()), _n_removed(snapshot) or 0
        with self._lock:
            opened.recall, opened.n_removed = recall, n_removed
        if not opened.has_fallen:
            return
        # Where it was built with these keys gone already, another would find no more.
        if n_removed - (opened.n_removed_then or 0) >= REMOVED_SHARE * snapshot.n_slots:
            self._build_instead(snapshot, opened)
        else:
            logger.warning(
                "%s: the index finds %.3f of the best keys, because many triples were removed; kblam kb compact drops them",
                self.folder,
                recall,
            )


def shown_recall(index: KeyIndex, snapshot: KBSnapshot, segment: Embeddings) -> float:
    """Return what share an index finds of the best keys that are in it and not removed; a view does not tell which are."""
    keys = segment[: index.n_slots]
    alive = None if snapshot.moved() is None else shown_slots(snapshot)[: len(keys)]
    queries = sample_queries(snapshot.key_embeddings, N_MEASURED)  # near what is left: nothing else can be answered
    return recall_of(index.search(queries, K, alive), scan(keys, queries, K, alive))


def is_worth_it(record: IndexRecord) -> bool:
    """Say whether searching by an index is faster than scoring every key and finds nearly as much."""
    return record.time_ratio < 1 and record.recall >= GOAL - FAR_BELOW


def shortcomings(record: IndexRecord) -> list[str]:
    """Return what is to be said against an index, each the end of a sentence about it; nothing where it does well."""
    found = []
    if record.recall < GOAL - LOST_RECALL / 2:  # it was measured on other queries than it was made for
        found.append(f"finds {record.recall:.1%} of the best {record.recall_k}, below the goal of {GOAL:.1%}")
    if record.time_ratio >= 1:
        found.append(f"is no faster than scoring every key: {record.time_ratio:.1%} of the time")
    return found


def fit_of(record: IndexRecord, snapshot: KBSnapshot) -> _Fit:
    """Say whether an index holds slots of a snapshot's knowledge base, as it is since its last compaction.

    Returns:
        "is served" where a snapshot cannot open it but is served by it while it is open: it is older than some of its
        slots, or a compaction has replaced its segment. "foreign" where it holds others' slots.
    """
    if (record.kb_id, record.generation) != (snapshot.kb_id, snapshot.generation):
        return "foreign"
    n_written = _n_written(snapshot)
    if not n_written or snapshot.n_slots < record.n_slots <= n_written:
        return "is served"
    try:
        return "opens it" if fits(record, snapshot) else "foreign"
    except FileNotFoundError:  # a compaction has replaced it just now
        return "is served"
    except KBLaMError:  # it is damaged: whoever reads it is told
        return "foreign"


def _n_removed(snapshot: KBSnapshot) -> int | None:
    """Return how many slots of a knowledge base are removed; None for a view, which says nothing about that."""
    return None if snapshot.moved() is None else snapshot.n_slots - len(snapshot)


def _n_written(snapshot: KBSnapshot) -> int:
    """Return how many keys at most lie in the segment of a snapshot now; 0 where a compaction has replaced it."""
    assert snapshot.folder is not None
    try:
        size = (snapshot.folder / segment_file("keys", snapshot.generation)).stat().st_size
    except OSError:
        return 0
    return size // (2 * snapshot.embed_dim)


def _is_newest(snapshot: KBSnapshot) -> bool:
    """Say whether a snapshot's slots are still those of its knowledge base."""
    return _n_written(snapshot) > 0


def _stamp(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
