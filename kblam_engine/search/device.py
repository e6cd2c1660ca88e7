"""Scoring every key on a GPU, from a copy of the keys that stays in its memory.

A key takes the 768 bytes there that it takes on disk (384 dimensions of 16 bits). A search reads them all at the speed
of the GPU's memory, some two orders of magnitude above that of the main memory of a computer, so that for a knowledge
base that fits no index is needed.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base import KBSnapshot
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.products import Floats
from kblam_engine.search.interface import Found, Mask, merged, nothing
from kblam_engine.search.snapshot_search import some_slots

CHUNK = 65_536
"""Keys that are widened to 32 bits at once: 100 MB of 384 dimensions beside the keys themselves."""
FREE_SHARE = 0.25
"""Of the GPU's free memory: what keys may take. The rest is for answers."""
TAIL = 16_384
"""Slots added since that are scored on the CPU; more are copied."""
MOST_KBS = 8
"""Knowledge bases whose keys are kept."""
_COMPARED = 16

logger = logging.getLogger(__name__)


class DeviceIndex:
    """The keys of the first slots on a device; a `KeyIndex` that scores every one."""

    kind = "exact"

    def __init__(self, chunks: tuple[Tensor, ...], device: torch.device) -> None:
        """Keep the keys.

        Args:
            chunks: float16, each [some, embed_dim], in the order of the slots.
            device: where they are.
        """
        self.n_slots = sum(map(len, chunks))
        self._chunks, self._device = chunks, device

    @property
    def n_bytes(self) -> int:
        """What the keys take there."""
        return sum(chunk.nbytes for chunk in self._chunks)

    def search(self, queries: Floats, k: int, alive: Mask | None = None) -> Found:
        """Return the best of the keys that are alive; see `KeyIndex.search`."""
        columns = torch.tensor(queries.T, dtype=torch.float32, device=self._device)
        shown = None if alive is None or alive[: self.n_slots].all() else torch.tensor(alive, device=self._device)
        best: list[tuple[Tensor, Tensor, Tensor]] = []
        start = 0
        for chunk in self._chunks:
            # In 32 bits, as on the CPU: scores of 16 would be rounded to a thousandth, and the best mistaken.
            scores = (chunk.float() @ columns).T
            counts = torch.isfinite(scores)
            if shown is not None:
                counts &= shown[start : start + len(chunk)]
            scores = torch.where(counts, scores, -torch.inf)
            highest = scores.topk(min(k, len(chunk)))
            best.append((highest.indices + start, highest.values, scores.logsumexp(1)))
            start += len(chunk)
        # Asked for all at once at the end: until then the GPU computes without waiting for the CPU.
        parts = [_found(*(part.cpu().numpy() for part in one)) for one in best]
        return merged([nothing(len(queries), k), *parts], k)

    def rows(self, slots: NDArray[np.int64]) -> Embeddings:
        """Return the keys of some slots, [n, embed_dim]."""
        ends = np.cumsum([len(chunk) for chunk in self._chunks])
        which = np.searchsorted(ends, slots, "right")
        found = [self._chunks[at][slot - ends[at]] for at, slot in zip(which.tolist(), slots.tolist(), strict=True)]
        rows: Embeddings = torch.stack(found).cpu().numpy()
        return rows

    def with_slots(self, segment: Embeddings) -> DeviceIndex:
        """Return an index of all slots of a segment that begins with these; what is there already is shared.

        Raises:
            torch.OutOfMemoryError: they do not fit.
        """
        starts = range(self.n_slots, len(segment), CHUNK)
        added = (torch.tensor(segment[start : start + CHUNK], device=self._device) for start in starts)
        return DeviceIndex((*self._chunks, *added), self._device)


def _found(at: np.ndarray, scores: Floats, log_normaliser: Floats) -> Found:
    return Found(np.where(np.isneginf(scores), -1, at), scores, log_normaliser)


class DeviceKeys:
    """An `IndexSource`: copies the keys of knowledge bases to a device, those used longest ago making room."""

    def __init__(self, device: torch.device | str, max_bytes: int | None = None) -> None:
        """Copy nothing yet.

        Args:
            device: where keys go.
            max_bytes: what all of them may take there; None: a quarter of what is free whenever keys are to be copied (CUDA).

        Raises:
            ConfigurationError: another device than a CUDA GPU without a number of bytes.
        """
        self.device, self._max_bytes = torch.device(device), max_bytes
        if max_bytes is None and self.device.type != "cuda":
            raise ConfigurationError(f"max_bytes: expected a number for the device {device}, got None; give it")
        self._kept: OrderedDict[tuple[str, int], DeviceIndex] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, snapshot: KBSnapshot) -> DeviceIndex | None:
        """Return the keys of a snapshot's knowledge base on the device; None where they do not fit."""
        try:
            segment = snapshot.key_segment()
        except FileNotFoundError:  # a compaction has replaced them; the snapshot still shows them by position
            return None
        if not len(segment):
            return None
        with self._lock:
            origin = snapshot.kb_id, snapshot.generation
            index: DeviceIndex | None = self._kept.pop(origin, None)
            if index is not None and not _is_of(index, segment):
                index = None
            if index is None or len(segment) - index.n_slots > TAIL:
                index = self._with_slots(DeviceIndex((), self.device) if index is None else index, segment)
            if index is not None:
                self._kept[origin] = index
                while len(self._kept) > MOST_KBS:
                    self._kept.popitem(last=False)
            return index

    def _with_slots(self, index: DeviceIndex, segment: Embeddings) -> DeviceIndex | None:
        """Copy what an index has not; None where that does not fit even with no other there."""
        missing = segment.nbytes - index.n_bytes
        while self._kept and missing > self._room(index):
            self._kept.popitem(last=False)
        try:
            return index.with_slots(segment) if missing <= self._room(index) else None
        except torch.OutOfMemoryError as error:
            logger.warning("keys stay in main memory: %s", error)
            return None

    def _room(self, own: DeviceIndex) -> int:
        """Return how many bytes more the keys may take, beside the kept ones and the one that grows."""
        if self._max_bytes is not None:
            return self._max_bytes - sum(index.n_bytes for index in (own, *self._kept.values()))
        free, _ = torch.cuda.mem_get_info(self.device)
        # What torch has reserved and does not use is free for it as well.
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(FREE_SHARE * (free + unused))


def _is_of(index: DeviceIndex, segment: Embeddings) -> bool:
    """Say whether an index has the keys of a segment, by some of those that both have: a copy may have other ones."""
    slots = some_slots(min(index.n_slots, len(segment)), _COMPARED)
    return np.array_equal(index.rows(slots), segment[slots])
