"""The keys in an index of faiss: inverted lists of 8-bit keys, mapped from disk. The only module that imports faiss."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kblam_engine.errors import MissingDependencyError
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.products import Floats
from kblam_engine.search.exact import scan
from kblam_engine.search.files import IndexRecord, checked_file
from kblam_engine.search.interface import Found, Mask, log_sum_exp
from kblam_engine.search.recall import GOAL, K, recall_of, sample_queries
from kblam_engine.search.tree_growth import Progress

_FILE = "keys.faiss"
_CHUNK = 65_536
_PER_LIST = 40
"""Keys a list that its centre is found from."""
_ITERATIONS = 6
_PROBES = (8, 16, 32, 64, 128, 256, 512, 1024)


class FaissIndex:
    """A `KeyIndex` of faiss.

    The normaliser is over the keys found, because faiss tells no other scores: a lower bound.
    """

    kind: ClassVar[str] = "ann"

    def __init__(self, index: Any, n_probes: int) -> None:
        """Keep an index and how many lists a search looks into."""
        self._index, self.n_probes = index, n_probes

    @property
    def n_slots(self) -> int:
        """How many slots are in here."""
        return int(self._index.ntotal)

    def search(self, queries: Floats, k: int, alive: Mask | None = None) -> Found:
        """Return the best keys of the nearest lists; see `KeyIndex.search`."""
        faiss = _faiss()
        parameters = faiss.SearchParametersIVF(nprobe=self.n_probes)
        if alive is not None and not alive[: self.n_slots].all():
            bits = np.packbits(alive[: self.n_slots], bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
            parameters = faiss.SearchParametersIVF(nprobe=self.n_probes, sel=selector)
        scores, at = self._index.search(np.ascontiguousarray(queries, np.float32), k, params=parameters)
        scores = np.where(at < 0, -np.inf, scores).astype(np.float32)
        return Found(at.astype(np.int64), scores, log_sum_exp(scores))


def write_faiss(
    draft: Path, segment: Embeddings, seed: int, progress: Progress
) -> tuple[FaissIndex, dict[str, Any]]:
    """Build an index of all keys, [n_slots, embed_dim], in an empty folder; return it and what opening it needs."""
    faiss = _faiss()
    n_keys, embed_dim = segment.shape
    n_lists = max(1, min(round(4 * n_keys**0.5), n_keys // 40))
    quantizer = faiss.IndexFlatIP(embed_dim)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, embed_dim, n_lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.niter, index.cp.seed, index.cp.spherical = _ITERATIONS, seed, True
    chosen = np.sort(np.random.default_rng(seed).permutation(n_keys)[: _PER_LIST * n_lists])
    progress("training faiss", 0, n_keys)
    index.train(np.asarray(segment[chosen], np.float32))
    for start in range(0, n_keys, _CHUNK):
        index.add(np.asarray(segment[start : start + _CHUNK], np.float32))
        progress("adding keys", min(start + _CHUNK, n_keys), n_keys)
    faiss.write_index(index, str(draft / _FILE))
    del index
    found = FaissIndex(_mapped(draft / _FILE), 1)
    queries = sample_queries(segment, seed=seed)
    truth = scan(segment, queries, K)
    for n_probes in _PROBES:
        found.n_probes = min(n_probes, n_lists)
        if recall_of(found.search(queries, K), truth) >= GOAL:
            break
    return found, {"n_probes": found.n_probes, "n_lists": n_lists}


def open_faiss(folder: Path, record: IndexRecord) -> FaissIndex:
    """Open the index in a knowledge base's folder; its lists are mapped and not read.

    Raises:
        KnowledgeBaseError: its file is missing or has been cut.
        MissingDependencyError: faiss is not installed.
    """
    path = checked_file(folder, record, _FILE, contents=False)
    return FaissIndex(_mapped(path), int(record.options["n_probes"]))


def _mapped(path: Path) -> Any:
    faiss = _faiss()
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingDependencyError(
            'an index of the kind "ann" needs faiss: pip install "kblam-engine[ann]"'
        ) from None
    return faiss
