"""Numbers of all shards together, and of each alone.

Positions and names count on from shard to shard, so that they are those of one knowledge base with the triples of the
shards one after the other. Ids have the shard in their remainder, and are the same for every opening.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Counted:
    """Things counted on from shard to shard.

    Attributes:
        starts: int64 [n_shards + 1], the first number of each shard, and how many there are in all.
    """

    starts: Numbers

    @classmethod
    def of(cls, sizes: Sequence[int]) -> Counted:
        """Count what each shard has."""
        return cls(np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(sizes, np.int64))]))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def by_shard(self, numbers: Numbers) -> Iterator[tuple[int, Numbers, Numbers]]:
        """Yield each shard that some numbers are of: the shard, where these are among the numbers, and its own numbers.

        Raises:
            IndexError: a number is not in 0..n - 1.
        """
        if not len(numbers):
            return
        if numbers.min() < 0 or numbers.max() >= len(self):
            raise IndexError(f"expected 0..{len(self) - 1}, got {numbers.min()}..{numbers.max()}")
        shards = np.searchsorted(self.starts, numbers, side="right") - 1
        for shard in np.unique(shards).tolist():
            at = np.flatnonzero(shards == shard)
            yield shard, at, numbers[at] - self.starts[shard]

    def of_shard(self, shard: int, own: Numbers) -> Numbers:
        """Return a shard's own numbers as those of all."""
        numbers: Numbers = np.asarray(own, np.int64) + self.starts[shard]
        return numbers
