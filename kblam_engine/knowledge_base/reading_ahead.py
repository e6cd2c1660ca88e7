"""Asking the system for parts of a mapped file before they are read, all at once."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kblam_engine.knowledge_base.rows import SelectedRows

_BRIDGED = 32_768
"""Bytes between two parts that are asked for as well: a disk reads them sooner than it is asked again."""
_CAN_ASK = hasattr(mmap, "MADV_WILLNEED")  # not everywhere


def read_ahead(rows: NDArray[Any], positions: NDArray[np.signedinteger[Any]]) -> None:
    """Ask for rows at positions; does nothing where they are in memory.

    Read one after the other, each would wait for the disk by itself.
    """
    if isinstance(rows, SelectedRows):
        rows, positions = rows.array, rows.positions[positions]
    read_ahead_ranges(rows, positions, positions + 1)


def read_ahead_ranges(
    rows: NDArray[Any], begins: NDArray[np.signedinteger[Any]], ends: NDArray[np.signedinteger[Any]]
) -> None:
    """Ask for rows begins[i] to ends[i] of an array; as for `read_ahead`."""
    mapping = _mapping_of(rows)
    if mapping is None or not len(begins):
        return
    first = _address(rows) - _address(np.frombuffer(mapping, np.uint8, 1))
    page, stride = mmap.ALLOCATIONGRANULARITY, rows.strides[0]
    starts = (first + stride * begins.astype(np.int64)) // page * page
    stops = first + stride * ends.astype(np.int64)
    order = np.argsort(starts, kind="stable")
    starts, stops = starts[order], np.maximum.accumulate(stops[order])
    apart = np.flatnonzero(starts[1:] > stops[:-1] + _BRIDGED)
    for start, stop in zip(starts[np.append(0, apart + 1)].tolist(), stops[np.append(apart, -1)].tolist(), strict=True):
        mapping.madvise(mmap.MADV_WILLNEED, start, stop - start)


def _mapping_of(rows: Any) -> mmap.mmap | None:
    """Return the mapping that an array looks into, None where it is memory of this process."""
    owner = rows if _CAN_ASK else None
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    return owner


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
