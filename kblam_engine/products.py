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


def product(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    """Return ``a @ b`` in float32."""
    found: Floats = (_tensor(a) @ _tensor(b)).numpy()
    return found


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    array = np.asarray(array, np.float32)
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # torch warns of read-only memory
