"""The keys in an index of faiss: inverted lists of 4-bit codes, mapped from disk. The only module that imports faiss.

Codes of 4 bits are looked up in the processor's registers, several at once (faiss calls it fast scan); what they find
is scored again by the keys themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import KnowledgeBaseError, MissingDependencyError
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.products import Floats
from kblam_engine.search.exact import scan, score_some
from kblam_engine.search.files import IndexRecord, checked_file, checksum
from kblam_engine.search.interface import Found, Mask, stacked, top_of
from kblam_engine.search.recall import GOAL, K, recall_of, sample_queries
from kblam_engine.search.tree_growth import Progress

_FILE = "keys.faiss"
_CHUNK = 65_536
_PER_LIST = 40
"""Keys a list that its centre is found from."""
_ITERATIONS = 6
_PROBES = tuple(round(8 * 2 ** (step / 2)) for step in range(17))
_RESCORED = 16
"""Keys that are scored again for each that is asked for ..."""
_LEAST_RESCORED = 512
"""... but so many for few of them. They lie on as many pages of the disk: more of them find more, and wait longer."""
_ID_BYTES = 8
_CODES = 16
"""Different codes of 4 bits; as many keys are the least to train them."""


class FaissIndex:
    """A `KeyIndex` of faiss; scores are those of the keys.

    The normaliser is over the keys that were scored again, because faiss tells no other scores: a lower bound.
    """

    kind: ClassVar[str] = "ann"

    def __init__(self, index: Any, segment: Embeddings, n_probes: int) -> None:
        """Keep an index, the keys that are in it, [n_slots or more, embed_dim], and how many lists a search looks into."""
        self._index, self._segment, self.n_probes = index, segment, n_probes

    @property
    def n_slots(self) -> int:
        """How many slots are in here."""
        return int(self._index.ntotal)

    def search(self, queries: Floats, k: int, alive: Mask | None = None) -> Found:
        """Return the best keys of the nearest lists; see `KeyIndex.search`."""
        n_candidates = max(_RESCORED * k, _LEAST_RESCORED)
        if n_candidates >= self.n_slots:
            return scan(self._segment[: self.n_slots], queries, k, alive)
        faiss = _faiss()
        if alive is None or alive[: self.n_slots].all():
            selector = faiss.IDSelectorRange(0, self.n_slots)  # not what fills up the lists (`_mappable`)
        else:
            selector = faiss.IDSelectorBitmap(np.packbits(alive[: self.n_slots], bitorder="little"))
        parameters = faiss.SearchParametersIVF(nprobe=self.n_probes, sel=selector)
        _, at = self._index.search(np.ascontiguousarray(queries, np.float32), n_candidates, params=parameters)
        return stacked([self._best(query, np.sort(near[near >= 0]), k) for query, near in zip(queries, at, strict=True)])

    def _best(self, query: Floats, candidates: NDArray[np.int64], k: int) -> Found:
        return top_of(score_some(self._segment, query, candidates)[:, None], k, candidates)


def write_faiss(
    draft: Path, segment: Embeddings, seed: int, progress: Progress
) -> tuple[FaissIndex, dict[str, Any]]:
    """Build an index of all keys, [n_slots, embed_dim], in an empty folder; return it and what opening it needs.

    Raises:
        KnowledgeBaseError: its file cannot be written.
        MissingDependencyError: faiss is not installed.
    """
    faiss = _faiss()
    n_keys, embed_dim = segment.shape
    n_lists = max(1, min(round(2 * n_keys**0.5), n_keys // 40))
    n_codes = embed_dim // 2 if embed_dim % 2 == 0 else embed_dim  # a code for two numbers of a key
    quantizer = faiss.IndexFlatIP(embed_dim)
    index = faiss.IndexIVFPQFastScan(quantizer, embed_dim, n_lists, n_codes, 4, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.seed, index.cp.spherical = _ITERATIONS, seed, True
    index.pq.cp.seed = seed
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # else it talks to stderr
    chosen = np.sort(np.random.default_rng(seed).permutation(n_keys)[: _PER_LIST * n_lists])
    progress("training faiss", 0, n_keys)
    index.train(np.asarray(segment[np.resize(chosen, max(len(chosen), _CODES))], np.float32))
    for start in range(0, n_keys, _CHUNK):
        index.add(np.asarray(segment[start : start + _CHUNK], np.float32))
        progress("adding keys", min(start + _CHUNK, n_keys), n_keys)
    lists = _mappable(index)
    index.replace_invlists(lists, False)
    mapped = _written(index, draft / _FILE)
    del index, lists
    found = FaissIndex(mapped, segment, 1)
    queries = sample_queries(segment, seed=seed)
    truth = scan(segment, queries, K)
    for n_probes in _PROBES:
        found.n_probes = min(n_probes, n_lists)
        if found.n_probes == n_lists or recall_of(found.search(queries, K), truth) >= GOAL:
            break
    head = _head_bytes(mapped, draft / _FILE)
    options = {"n_probes": found.n_probes, "n_lists": n_lists}
    return found, {**options, "head_bytes": head, "head_check": checksum(draft / _FILE, head)}


def open_faiss(folder: Path, record: IndexRecord, segment: Embeddings) -> FaissIndex:
    """Open the index in a knowledge base's folder, if it is one of this segment's first keys.

    Its lists are mapped and not read. Everything before them is compared with what was written, before faiss reads it:
    faiss believes its files.

    Raises:
        KnowledgeBaseError: its file is missing or has been cut.
        MissingDependencyError: faiss is not installed.
        ValueError: it is no such index; or whatever faiss raises (`files.reading`).
    """
    path = checked_file(folder, record, _FILE, contents=False)
    head, expected, n_probes = (record.options[name] for name in ("head_bytes", "head_check", "n_probes"))
    if type(head) is not int or head < 1 or checksum(path, head) != expected:
        raise ValueError(f"{_FILE}: expected the beginning as it was written, got another")
    index = _mapped(path)
    got = (index.ntotal, index.d, index.quantizer.ntotal, index.quantizer.d)
    if got != (record.n_slots, segment.shape[1], index.nlist, segment.shape[1]):
        raise ValueError(f"{_FILE}: expected {record.n_slots} keys of {segment.shape[1]} numbers, got another index")
    _check_lists(index, path)
    if type(n_probes) is not int or not 1 <= n_probes <= index.nlist:
        raise ValueError(f"n_probes: expected 1 to {index.nlist} lists, got {str(n_probes)[:40]}")
    return FaissIndex(index, segment, n_probes)


def _mappable(index: Any) -> Any:
    """Return the lists of an index as faiss can map them.

    It maps lists that are one array each, not the blocks of 32 that fast scan reads; but those of a list lie side by
    side, so they are such an array, of keys up to a whole block. The ids that fill it up are -1.
    """
    faiss = _faiss()
    blocks = faiss.downcast_InvertedLists(index.invlists)
    lists = faiss.ArrayInvertedLists(index.nlist, index.code_size)
    for number in range(index.nlist):
        size = blocks.list_size(number)
        n_blocks = -(-size // blocks.n_per_block)
        if n_blocks:
            ids = np.full(n_blocks * blocks.n_per_block, -1, np.int64)
            ids[:size] = faiss.rev_swig_ptr(blocks.get_ids(number), size)
            codes = faiss.rev_swig_ptr(blocks.get_codes(number), n_blocks * blocks.block_size)
            lists.add_entries(number, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    return lists


def _written(index: Any, path: Path) -> Any:
    """Write an index and return it mapped."""
    try:
        _faiss().write_index(index, str(path))
        mapped = _mapped(path)
        _check_lists(mapped, path)  # faiss does not always see that the last bytes could not be written
        return mapped
    except (RuntimeError, ValueError) as error:  # faiss has no error of its own for a full disk
        raise KnowledgeBaseError(
            f"{path.parent.parent}: expected room for an index of {index.ntotal:,} keys, got {error}; "
            "free some of the disk and build it again"
        ) from error


def _mapped(path: Path) -> Any:
    """Return the index of fast scan in a file, its lists mapped."""
    faiss = _faiss()
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    lists = faiss.downcast_InvertedLists(index.invlists) if isinstance(index, faiss.IndexIVFPQFastScan) else None
    if not isinstance(lists, faiss.OnDiskInvertedLists):
        raise ValueError(f"{path.name}: expected mapped lists of 4-bit codes, got another index of faiss")
    # Else every search starts 32 threads that touch its lists first: 8 ms for 3 where they are in memory.
    lists.prefetch_nthread = 0
    return index


def _check_lists(index: Any, path: Path) -> None:
    """Refuse lists that do not lie in their file, in whole blocks: a search would read beyond it, which ends the process.

    Raises:
        ValueError: they do not.
    """
    lists = _faiss().downcast_InvertedLists(index.invlists)
    entry, total = lists.code_size + _ID_BYTES, path.stat().st_size
    n_entries = 0
    for number in range(lists.nlist):
        size, offset = lists.list_size(number), lists.lists.at(number).offset
        if size % index.bbs or size and offset + size * entry > total:
            raise ValueError(f"{path.name}: expected lists that lie in the file, got one that does not")
        n_entries += size
    if lists.nlist != index.nlist or lists.code_size != index.code_size or n_entries < index.ntotal:
        raise ValueError(f"{path.name}: expected {index.nlist} lists of {index.ntotal} keys, got others")


def _head_bytes(index: Any, path: Path) -> int:
    """Return how many bytes of the file lie before the lists."""
    lists = _faiss().downcast_InvertedLists(index.invlists)
    offsets = [lists.lists.at(number).offset for number in range(lists.nlist) if lists.list_size(number)]
    return int(min(offsets, default=path.stat().st_size))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingDependencyError(
            'an index of the kind "ann" needs faiss: pip install "kblam-engine[ann]"'
        ) from None
    return faiss
