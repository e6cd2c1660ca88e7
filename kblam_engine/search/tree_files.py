"""A tree on disk: an .npy file for each of its arrays; the leaves are mapped, everything else is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.search.coarse import Coarse
from kblam_engine.search.files import IndexRecord, checked_file
from kblam_engine.search.tree import Beam, Centres, KeyTree
from kblam_engine.search.tree_growth import Clusters, leaves_of, tree_of

_LEAVES, _LEAF_SLOTS = "leaves.npy", "leaf_slots.npy"
_LEVELS = ("roots", "inters")
_ROOT_OF = "root_of.npy"
_COARSE = "coarse"


def write_tree(draft: Path, segment: Embeddings, clusters: Clusters) -> KeyTree:
    """Write clusters of a segment's keys and their leaves into an empty folder; return the tree."""
    for name in (_COARSE, *_LEVELS):
        parts = getattr(clusters, name)
        for part in parts.__slots__:
            np.save(draft / f"{name}_{part}.npy", getattr(parts, part))
    np.save(draft / _ROOT_OF, clusters.root_of)
    leaves = np.lib.format.open_memmap(draft / _LEAVES, "w+", np.int8, (len(segment), clusters.coarse.n_directions))
    slots = leaves_of(segment, clusters, leaves)
    leaves.flush()
    np.save(draft / _LEAF_SLOTS, slots)
    return tree_of(clusters, leaves, slots, segment, Beam())


def open_tree(folder: Path, record: IndexRecord, segment: Embeddings) -> KeyTree:
    """Open the tree in a knowledge base's folder.

    Raises:
        KnowledgeBaseError: a file is damaged. Of the two large ones, the leaves and their slots, only the length is
            checked here; `index_problems` checks all.
    """

    def read(name: str) -> Any:
        return np.load(checked_file(folder, record, name), allow_pickle=False)

    def mapped(name: str) -> Any:
        # Copy-on-write, so that torch takes the array as it is (it warns of read-only ones).
        return np.load(checked_file(folder, record, name, contents=False), mmap_mode="c", allow_pickle=False)

    def described(name: str, parts: Iterable[str]) -> Any:
        return (read(f"{name}_{part}.npy") for part in parts)

    coarse = Coarse(*described(_COARSE, Coarse.__slots__))
    roots, inters = (Centres(*described(name, Centres.__slots__)) for name in _LEVELS)
    leaves, slots = mapped(_LEAVES), mapped(_LEAF_SLOTS)
    clusters = Clusters(coarse, slots, roots, inters, read(_ROOT_OF))
    if not len(leaves) == len(slots) == record.n_slots == int(clusters.inters.sizes.sum()):
        raise KnowledgeBaseError(f"{folder / record.folder}: expected {record.n_slots} leaves, got {len(leaves)}")
    return tree_of(clusters, np.asarray(leaves), np.asarray(slots), segment, Beam(**record.options["beam"]))
