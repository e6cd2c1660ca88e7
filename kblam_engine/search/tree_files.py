"""A tree on disk: an .npy file for each of its arrays; the leaves are mapped, everything else is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.search.coarse import Coarse
from kblam_engine.search.files import IndexRecord, checked_file
from kblam_engine.search.tree import Beam, Centres, KeyTree, Slots
from kblam_engine.search.tree_growth import Clusters, codes_of, slots_by_cluster, tree_of

_LEAVES, _LEAF_SLOTS = "leaves.npy", "leaf_slots.npy"
_LEVELS = ("roots", "inters")
_ROOT_OF = "root_of.npy"
_COARSE = "coarse"
_CHECKED_AT_ONCE = 1 << 20


def write_tree(draft: Path, segment: Embeddings, clusters: Clusters) -> KeyTree:
    """Write clusters of a segment's keys and their leaves into an empty folder; return the tree.

    Raises:
        OSError: they cannot be written.
    """
    for name in (_COARSE, *_LEVELS):
        parts = getattr(clusters, name)
        for part in parts.__slots__:
            _write_array(draft / f"{name}_{part}.npy", getattr(parts, part))
    _write_array(draft / _ROOT_OF, clusters.root_of)
    slots = slots_by_cluster(clusters)
    _write_array(draft / _LEAF_SLOTS, slots)
    shape = len(segment), clusters.coarse.n_directions
    _write(draft / _LEAVES, np.int8, shape, codes_of(segment, clusters.coarse, slots))
    return tree_of(clusters, _mapped(draft / _LEAVES), slots, segment, Beam())


def _write_array(path: Path, array: NDArray[Any]) -> None:
    _write(path, array.dtype, array.shape, [array])


def _write(path: Path, dtype: DTypeLike, shape: tuple[int, ...], blocks: Iterable[NDArray[Any]]) -> None:
    """Write an .npy file block by block.

    Not through a mapping, which ends the process where the disk is full, nor by `numpy.save`, which does not always see
    that the last bytes could not be written.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with path.open("xb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(block.tobytes())


def _mapped(path: Path) -> Any:
    # Copy-on-write, so that torch takes the array as it is (it warns of read-only ones).
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))


def open_tree(folder: Path, record: IndexRecord, segment: Embeddings) -> KeyTree:
    """Open the tree in a knowledge base's folder, if it is a tree of this segment's first keys.

    Raises:
        KnowledgeBaseError: a file is damaged. Of the leaves, which are large, only the size is compared here;
            `contents_problem` reads them.
        ValueError: they are no such tree; or whatever numpy raises (`files.reading`).
    """

    def read(name: str) -> Any:
        # Mapped first: a header that promises more than the file has takes no memory.
        return np.array(np.load(checked_file(folder, record, name), mmap_mode="r", allow_pickle=False), order="C")

    def described(name: str, parts: Iterable[str]) -> Any:
        return (read(f"{name}_{part}.npy") for part in parts)

    coarse = Coarse(*described(_COARSE, Coarse.__slots__))
    roots, inters = (Centres(*described(name, Centres.__slots__)) for name in _LEVELS)
    root_of = read(_ROOT_OF)
    leaves = _mapped(checked_file(folder, record, _LEAVES, contents=False))
    slots = _mapped(checked_file(folder, record, _LEAF_SLOTS))
    _check_coarse(coarse, segment.shape[1])
    for name, level in zip(_LEVELS, (roots, inters), strict=True):
        _check_level(name, level, coarse.n_directions, record.n_slots)
    _check_array("root_of", root_of, np.int64, inters.sizes.shape)
    _check("root_of", bool((root_of >= 0).all() and (root_of < len(roots)).all()), "numbers of roots")
    _check("inters_sizes", int(inters.sizes.sum()) == record.n_slots, f"{record.n_slots} keys in all")
    _check_array("leaves", leaves, np.int8, (record.n_slots, coarse.n_directions))
    _check_array("leaf_slots", slots, np.int32, (record.n_slots,))
    # By a mapping of its own, which goes: what is read through one counts as memory of the process.
    _check("leaf_slots", _holds_each_slot(_mapped(folder / record.folder / _LEAF_SLOTS)), "each slot once")
    clusters = Clusters(coarse, slots, roots, inters, root_of)
    return tree_of(clusters, leaves, slots, segment, _beam(record.options))


def _check_coarse(coarse: Coarse, embed_dim: int) -> None:
    _check_array("coarse_steps", coarse.steps, np.float32, (coarse.steps.size,))
    _check("coarse_steps", bool(np.isfinite(coarse.steps).all() and (coarse.steps > 0).all()), "numbers above 0")
    _check_array("coarse_directions", coarse.directions, np.float32, (embed_dim, coarse.n_directions))
    _check("coarse_directions", bool(np.isfinite(coarse.directions).all()), "finite numbers")


def _check_level(name: str, level: Centres, n_directions: int, n_slots: int) -> None:
    n = level.sizes.size
    _check_array(f"{name}_sizes", level.sizes, np.int64, (n,))
    _check(f"{name}_sizes", bool((level.sizes >= 0).all() and (level.sizes <= n_slots).all()), f"0 to {n_slots} keys each")
    _check_array(f"{name}_means", level.means, np.int8, (n, n_directions))
    _check_array(f"{name}_lengths", level.lengths, np.float32, (n,))
    _check(f"{name}_lengths", bool(np.isfinite(level.lengths).all() and (level.lengths > 0).all()), "numbers above 0")


def _check_array(name: str, array: NDArray[Any], dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape or not array.size or not array.flags.c_contiguous:
        raise ValueError(f"{name}: expected {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")


def _check(name: str, is_right: bool, expected: str) -> None:
    if not is_right:
        raise ValueError(f"{name}: expected {expected}, got others")


def _holds_each_slot(slots: Slots) -> bool:
    """Say whether slots, [n], are 0..n - 1 in some order."""
    seen = np.zeros(len(slots), np.bool_)
    for start in range(0, len(slots), _CHECKED_AT_ONCE):
        some = slots[start : start + _CHECKED_AT_ONCE]
        if some.min() < 0 or some.max() >= len(slots):
            return False
        seen[some] = True
    return bool(seen.all())


def _beam(options: dict[str, Any]) -> Beam:
    beam = Beam(**options["beam"])
    if any(type(width) is not int for width in asdict(beam).values()):
        raise ValueError(f"beam: expected whole numbers, got {beam}")
    return beam
