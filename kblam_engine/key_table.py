"""What retrieval reads of a knowledge base, and what it asks of one with many keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kblam_engine.products import Floats
from kblam_engine.search.interface import Found
from kblam_engine.triples import Triple


class KeyTable(Protocol):
    """What retrieval reads of a KB; ``KBSnapshot`` is one."""

    @property
    def key_embeddings(self) -> NDArray[np.floating]:
        """[n_triples, embed_dim]."""

    @property
    def name_index(self) -> NDArray[np.int32]:
        """[n_triples]."""

    @property
    def property_index(self) -> NDArray[np.int32]:
        """[n_triples]."""

    @property
    def properties(self) -> Sequence[str]:
        """The distinct properties."""

    @property
    def property_embeddings(self) -> Floats:
        """[n_properties, embed_dim]."""

    def value_embeddings(self) -> NDArray[np.floating]:
        """[n_triples, embed_dim]."""

    def positions_of_name(self, name_idx: int) -> NDArray[np.int64]:
        """Positions of the triples of one name."""

    def names_with_word(self, word: str, at_most: int) -> NDArray[np.int64] | Sequence[int]:
        """Names that have a word, or the words of "2025-03" in a row; none if more than ``at_most`` have it."""

    def triples(self, positions: Iterable[int]) -> list[Triple]:
        """The triples at positions."""

    def __len__(self) -> int:
        """Number of triples."""


@runtime_checkable
class KeySearch(Protocol):
    """What retrieval asks of the keys of a large KB; ``SnapshotSearch`` is one.

    A table that is one itself is searched whatever its size: its keys lie elsewhere.
    """

    def search(self, queries: Floats, k: int) -> Found:
        """Return the positions of the k best keys for each of the queries [n_queries, embed_dim]."""
