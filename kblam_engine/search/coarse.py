"""Keys in a quarter of their bytes, to choose those that are worth reading whole.

Sentence embeddings use their dimensions unevenly. So a key is told, nearly, by its coordinates along the principal
directions of all keys, each rounded to 8 bits. What is lost is the rest of the key and the rounding: the best keys
keep about their places, and a search reads those of the first places exactly, from the knowledge base.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kblam_engine.products import Floats, product

KEPT = 0.93
"""Share of the keys' squared length that the directions have to hold. On a million real keys that is half of 384, and
.994 of the best 16 are among the 128 with the highest coarse scores."""
_MULTIPLE = 16
_HIGHEST = 127


@dataclass(frozen=True, slots=True)
class Coarse:
    """Principal directions of keys.

    Attributes:
        directions: float32 [embed_dim, n_directions], orthonormal columns.
        steps: float32 [n_directions], what 1 means in each place of a code.
    """

    directions: Floats
    steps: Floats

    @classmethod
    def of(cls, sample: NDArray[np.floating]) -> Coarse:
        """Find the directions of a sample of keys, [n, embed_dim]."""
        rows = torch.from_numpy(finite(np.array(sample, np.float32)))
        squares, vectors = torch.linalg.eigh(rows.T @ rows)
        held = torch.cumsum(squares.flip(0).clamp(min=0), 0)
        needed = int((held < KEPT * held[-1]).sum()) + 1
        n_directions = min(rows.shape[1], -(-needed // _MULTIPLE) * _MULTIPLE)
        directions = vectors.flip(1)[:, :n_directions].contiguous()
        largest = (rows @ directions).abs().amax(0).clamp(min=1e-6)
        return cls(directions.numpy(), (largest / _HIGHEST).numpy())

    def project(self, rows: NDArray[np.floating]) -> Floats:
        """Return the coordinates of rows [n, embed_dim], [n, n_directions]; zeros for a row that holds a NaN or inf."""
        return finite(product(rows, self.directions))

    def codes(self, projected: Floats) -> NDArray[np.int8]:
        """Return projected keys [n, n_directions], rounded."""
        rounded: NDArray[np.int8] = np.clip(np.rint(projected / self.steps), -_HIGHEST, _HIGHEST).astype(np.int8)
        return rounded

    def decoded(self, codes: NDArray[np.int8]) -> Floats:
        """Return the projected keys that codes stand for, to half a step."""
        rows: Floats = codes * self.steps
        return rows

    def against_codes(self, projected: Floats) -> Floats:
        """Return what the product with codes is taken of, for a projected query [n_directions]."""
        scaled: Floats = projected * self.steps
        return scaled

    @property
    def n_directions(self) -> int:
        """Bytes of a code."""
        return len(self.steps)


def finite(rows: Floats) -> Floats:
    """Return rows [n, d], zeros for each that holds a NaN or inf: one damaged key must not spoil every mean."""
    damaged = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(damaged):
        rows = rows.copy()
        rows[damaged] = 0
    return rows
