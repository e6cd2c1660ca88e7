"""One revision of a knowledge base, as arrays: what attention and retrieval read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kblam_engine.knowledge_base.schema import Meta
from kblam_engine.knowledge_base.segments import Embeddings
from kblam_engine.knowledge_base.slots import SlotTable, dense_index
from kblam_engine.knowledge_base.store import Store
from kblam_engine.knowledge_base.vocabulary import Vocabulary
from kblam_engine.triples import Triple

_Scalar = TypeVar("_Scalar", bound=np.generic)


class KBSnapshot:
    """An immutable view of a knowledge base at one revision; share it between threads, write to none of its arrays.

    A triple's place in the arrays is its *position*, 0 to n_triples - 1. Its `id` is for ever: the same id has the
    same content in every later snapshot that contains it, so what is computed from a triple alone can be kept by
    (`kb_id`, id).
    """

    def __init__(
        self,
        store: Store,
        meta: Meta,
        table: SlotTable,
        vocabularies: tuple[Vocabulary, Vocabulary],
        encoder: tuple[str, int],
        embed_values: Callable[[NDArray[np.int64]], Embeddings],
        uid: str,
    ) -> None:
        self.revision = meta.revision
        self.kb_id = meta.kb_id
        """Same for every revision of one knowledge base, and in every process."""
        self.uid = uid
        """Unique per opened knowledge base and revision: a key for caches."""
        self.fingerprint = meta.digest
        """Same for the same set of triples, whatever their order or history."""
        self.encoder_fingerprint, self.embed_dim = encoder
        self._store = store
        self._names, self._properties = vocabularies
        self._embed_values = embed_values
        self._n_slots = meta.n_slots
        self._slots = table.order()
        self._name_ids = table.name_ids[self._slots]
        self._property_ids = table.property_ids[self._slots]
        self.ids: NDArray[np.int64] = _frozen(table.ids[self._slots])
        """`[n_triples]` int64."""

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"KBSnapshot({self._store.label!r}, revision={self.revision}, n_triples={len(self)})"

    @cached_property
    def key_embeddings(self) -> Embeddings:
        """`[n_triples, embed_dim]` float16, unit rows: f("the property of name"). Memory-mapped where it can be."""
        return self._store.segment("keys", self.embed_dim).rows(self._slots, self._n_slots)

    @cached_property
    def name_index(self) -> NDArray[np.int32]:
        """`[n_triples]` int32: position -> index into `names`."""
        return _frozen(self._dense_names[0])

    @cached_property
    def property_index(self) -> NDArray[np.int32]:
        """`[n_triples]` int32: position -> index into `properties`."""
        return _frozen(self._dense_properties[0])

    @cached_property
    def names(self) -> list[str]:
        """The distinct names, read from disk on first use."""
        return self._names.texts(self._dense_names[1])

    @cached_property
    def properties(self) -> list[str]:
        """The distinct properties."""
        return self._properties.texts(self._dense_properties[1])

    @cached_property
    def property_embeddings(self) -> NDArray[np.float32]:
        """`[n_properties, embed_dim]` float32, unit rows: f(property)."""
        return self._properties.embeddings(self._dense_properties[1], self.embed_dim)

    def value_embeddings(self) -> Embeddings:
        """Return f(value), `[n_triples, embed_dim]` float16; embedded on first use and kept on disk."""
        return self._value_embeddings

    def positions_of_name(self, name_idx: int) -> NDArray[np.int64]:
        """Return the positions of the triples with the name `names[name_idx]`, ascending.

        Raises:
            IndexError: there is no such name.
        """
        by_name, starts = self._by_name
        if not 0 <= name_idx < len(starts) - 1:
            raise IndexError(f"expected a name index in 0..{len(starts) - 2}, got {name_idx}")
        return by_name[starts[name_idx] : starts[name_idx + 1]]

    def triple(self, position: int) -> Triple:
        """Return the triple at a position."""
        return self.triples([position])[0]

    def triples(self, positions: Iterable[int] | NDArray[np.integer]) -> list[Triple]:
        """Return the triples at positions, in this order; they are read from disk.

        Raises:
            IndexError: a position is not in 0..n_triples - 1.
        """
        chosen = np.fromiter(positions, np.int64)
        if len(chosen) and not (0 <= chosen.min() and chosen.max() < len(self)):
            raise IndexError(f"expected positions in 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        return self._store.triples(self.ids[chosen].tolist())

    @cached_property
    def _dense_names(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        return dense_index(self._name_ids)

    @cached_property
    def _dense_properties(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        return dense_index(self._property_ids)

    @cached_property
    def _by_name(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions sorted by name, and where each name starts."""
        index = self.name_index
        starts = np.zeros(len(self._dense_names[1]) + 1, np.int64)
        np.cumsum(np.bincount(index, minlength=len(starts) - 1), out=starts[1:])
        return _frozen(np.argsort(index, kind="stable")), starts

    @cached_property
    def _value_embeddings(self) -> Embeddings:
        return self._embed_values(self.ids)


def _frozen(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    array.flags.writeable = False
    return array
