"""Products of numpy matrices, computed on torch's threads.

numpy brings a BLAS with threads of its own. After a product these wait for the next one, busily, on the cores that
torch needs for the model: with two threads an answer's first token came 1.7 times as late as the base model's
instead of 1.2 times (docs/decisions.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_BLOCK = 2048


def product(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    """Return ``a @ b`` in float32."""
    found: Floats = (_tensor(a) @ _tensor(b)).numpy()
    return found


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    array = np.asarray(array, np.float32)
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # torch warns of read-only memory


def highest(scores: Floats, n: int) -> NDArray[np.int64]:
    """Return where the n highest of each row's scores are, in no order, or all where there are no more.

    Args:
        scores: [..., n_scores].
        n: how many.
    """
    if n >= scores.shape[-1]:
        return np.broadcast_to(np.arange(scores.shape[-1]), scores.shape)
    found: NDArray[np.int64] = torch.topk(_tensor(scores), n, sorted=False).indices.numpy()
    return found


def product_of_rows(
    rows: NDArray[np.float16] | NDArray[np.int8], columns: Floats, chosen: NDArray[np.signedinteger[Any]] | None = None
) -> Floats:
    """Return ``rows @ columns`` in float32, [n_rows, n], for any number of rows of 16 or 8 bits, mapped ones too.

    The rows are widened a block at a time into one buffer that stays in the processor's cache: in one run half the time
    of blocks of 16,384, and a seventh of that with a new array for each. 16-bit products were no faster on a processor
    with AVX2, and with them the scores would be rounded. The columns come first in the product, and the result is turned
    round: of two to eight columns that takes a quarter of the time (docs/decisions.md).

    Args:
        rows: [n_rows, embed_dim].
        columns: [embed_dim, n].
        chosen: the numbers of the rows to take; None: all.
    """
    n_rows, embed_dim = len(rows) if chosen is None else len(chosen), rows.shape[1]
    left = _tensor(columns).T.contiguous()
    buffer = torch.empty(min(_BLOCK, n_rows), embed_dim)
    found = torch.empty(len(left), n_rows)
    for start in range(0, n_rows, _BLOCK):
        within = slice(start, start + _BLOCK)
        # take(): two thirds of the time of rows[chosen]
        block = torch.from_numpy(rows[within] if chosen is None else rows.take(chosen[within], 0))
        torch.mm(left, buffer[: len(block)].copy_(block).T, out=found[:, start : start + len(block)])
    scores: Floats = found.T.numpy()
    return scores
