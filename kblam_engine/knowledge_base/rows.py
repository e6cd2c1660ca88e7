"""A choice of rows of a larger array, gathered when they are asked for."""

from __future__ import annotations

import sys
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

Embeddings = NDArray[np.float16]


class SelectedRows:
    """The rows of `array` at `positions`; reads like an array of them, but holds no copy.

    Indexing by a number, a slice or an array of positions returns a new array of those rows alone.

    Attributes:
        array: [n_rows, embed_dim], what is chosen from.
        positions: int64 [n], the rows of it.
    """

    ndim = 2

    def __init__(self, array: Embeddings, positions: NDArray[np.int64]) -> None:
        self.array = array
        self.positions = positions
        self.shape = (len(positions), array.shape[1])
        self.dtype = array.dtype

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: Any) -> Embeddings:
        if isinstance(index, tuple):
            rows: Embeddings = np.asarray(self)[index]
        else:
            rows = self.array[self.positions[index]]
        return rows

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        gathered = self.copy()
        return gathered if dtype is None else gathered.astype(dtype, copy=False)

    def copy(self) -> Embeddings:
        """Return all of them as an array."""
        return self.array[self.positions]

    def astype(self, dtype: DTypeLike) -> NDArray[Any]:
        """Return all of them as an array of another type."""
        return self.copy().astype(dtype)

    def chosen(self, positions: NDArray[np.int64]) -> Embeddings:
        """Return a choice of these rows."""
        return selected(self.array, self.positions[positions])


def round_into(target: Embeddings, rows: NDArray[Any]) -> None:
    """Write rows of finite numbers into 16-bit floats, each the nearest one.

    By torch where an encoder has loaded it: the same bits in a thirtieth of the time.
    """
    if "torch" not in sys.modules or rows.dtype != np.float32 or not rows.flags.writeable:
        target[:] = rows
        return
    import torch  # waits where another thread is about to load it

    torch.from_numpy(target).copy_(torch.from_numpy(rows))


def selected(array: Embeddings, positions: NDArray[np.int64]) -> Embeddings:
    """Return the rows at positions without a copy: a slice where they are 0..n-1, else a `SelectedRows`.

    It is typed as the array that it stands for: readers index blocks of it and take `numpy.asarray` of it.
    """
    n = len(positions)
    if not n or (positions[0] == 0 and positions[-1] == n - 1 and np.array_equal(positions, np.arange(n))):
        return array[:n]
    if isinstance(array, SelectedRows):
        return array.chosen(positions)
    return cast(Embeddings, SelectedRows(array, positions))
