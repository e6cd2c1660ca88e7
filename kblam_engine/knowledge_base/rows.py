"""Arrays that are not there as a whole: what is asked for is looked up or gathered."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

Embeddings = NDArray[np.float16]
_IN_ONE_THREAD = 32_768
"""Numbers that torch converts without asking its other threads for help."""


class LazyRows:
    """Reads like an array of numbers or of rows, but looks up only those that are asked for.

    Indexing by a number, a slice, a mask or an array of positions returns a new array of those alone; all of it is
    made by `numpy.asarray`, every time.

    Attributes:
        shape, ndim, dtype: as of an array.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.shape, self.ndim, self.dtype = shape, len(shape), np.dtype(dtype)

    def at(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """Return what is at positions, all in 0..n-1."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        if isinstance(index, tuple):
            rows = self[index[0]]
            found: NDArray[Any] = rows[(slice(None), *index[1:]) if rows.ndim == self.ndim else index[1:]]
            return found
        n = len(self)
        if isinstance(index, int | np.integer):
            row: NDArray[Any] = self.at(np.array([range(n)[index]], np.int64))[0]
            return row
        if isinstance(index, slice):
            return self.at(np.arange(*index.indices(n), dtype=np.int64))
        chosen = np.asarray(index)
        if chosen.dtype == bool:
            chosen = np.flatnonzero(chosen)
        if not len(chosen):
            return np.zeros((0, *self.shape[1:]), self.dtype)
        if chosen.min() < -n or chosen.max() >= n:
            raise IndexError(f"expected positions in 0..{n - 1}, got {chosen.min()}..{chosen.max()}")
        return self.at(np.where(chosen < 0, chosen + n, chosen).astype(np.int64, copy=False))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self.copy()
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def copy(self) -> NDArray[Any]:
        """Return all of it as an array."""
        return self.at(np.arange(len(self)))

    def astype(self, dtype: DTypeLike) -> NDArray[Any]:
        """Return all of it as an array of another type."""
        return self.copy().astype(dtype)

    def tolist(self) -> list[Any]:
        """Return all of it as a list."""
        return list(self.copy().tolist())

    def tobytes(self) -> bytes:
        """Return all of it as bytes."""
        return self.copy().tobytes()


class SelectedRows(LazyRows):
    """The rows of `array` at `positions`.

    Attributes:
        array: [n_rows, embed_dim], what is chosen from.
        positions: int64 [n], the rows of it; may be lazy itself.
    """

    def __init__(self, array: Embeddings, positions: NDArray[np.int64]) -> None:
        super().__init__((len(positions), array.shape[1]), array.dtype)
        self.array, self.positions = array, positions

    def at(self, positions: NDArray[np.int64]) -> Embeddings:
        """Return the rows at positions."""
        return self.array[self.positions[positions]]

    def chosen(self, positions: NDArray[np.int64]) -> Embeddings:
        """Return a choice of these rows."""
        return selected(self.array, self.positions[positions])


class Column(LazyRows):
    """Whole numbers, one a position, from a function of positions."""

    def __init__(self, n: int, dtype: DTypeLike, look_up: Callable[[NDArray[np.int64]], NDArray[Any]]) -> None:
        super().__init__((n,), dtype)
        self._look_up = look_up

    def at(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """Return the numbers at positions."""
        return self._look_up(positions).astype(self.dtype, copy=False)


def column(n: int, dtype: DTypeLike, look_up: Callable[[NDArray[np.int64]], NDArray[Any]]) -> NDArray[Any]:
    """Return a `Column`, typed as the array that it stands for."""
    return cast(NDArray[Any], Column(n, dtype, look_up))


def round_into(target: Embeddings, rows: NDArray[Any]) -> None:
    """Write rows of finite numbers into 16-bit floats, each the nearest one.

    By torch where an encoder has loaded it: the same bits in a thirtieth of the time. A few rows at a time, which it
    does in this thread: its others wait for work busily, so that on a busy machine each call of them all takes
    milliseconds (docs/decisions.md).
    """
    if "torch" not in sys.modules or rows.dtype != np.float32 or not rows.flags.writeable:
        target[:] = rows
        return
    import torch  # waits where another thread is about to load it

    rounded, exact = torch.from_numpy(target), torch.from_numpy(rows)
    step = max(1, _IN_ONE_THREAD // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        rounded[start : start + step].copy_(exact[start : start + step])


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
