"""One revision of a knowledge base, as arrays: what attention and retrieval read."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kblam_engine.knowledge_base.contents import context_text, digest_text, hash_of, metadata_text
from kblam_engine.knowledge_base.numbering import Numbering, Places
from kblam_engine.knowledge_base.rows import Embeddings, column, selected
from kblam_engine.knowledge_base.schema import Meta
from kblam_engine.knowledge_base.slots import Moved, SlotTable
from kblam_engine.knowledge_base.store import Store
from kblam_engine.knowledge_base.values import ValueEmbeddings
from kblam_engine.knowledge_base.vocabulary import Vocabulary
from kblam_engine.knowledge_base.words import matching_names, names_with, query_of, split
from kblam_engine.triples import Triple


class KBSnapshot:
    """An immutable view of a knowledge base at one revision; share it between threads, write to none of its arrays.

    A triple's place in the arrays is its *position*, 0 to n_triples - 1. Its `id` is for ever: the same id has the
    same content in every later snapshot that contains it, so what is computed from a triple alone can be kept by
    (`kb_id`, id).

    Arrays over all triples read like numpy's, but only what is asked for is looked up: a snapshot after a change is
    ready as soon as one without. `numpy.asarray` makes a whole one.
    """

    def __init__(
        self,
        store: Store,
        meta: Meta,
        table: SlotTable,
        vocabularies: tuple[Vocabulary, Vocabulary],
        encoder: tuple[str, int],
        values: ValueEmbeddings,
        uid: str,
    ) -> None:
        self.revision = meta.revision
        self.kb_id = meta.kb_id
        """Same for every revision of one knowledge base, and in every process."""
        self.uid = uid
        """Unique per opened knowledge base and revision: a key for caches."""
        self.encoder_fingerprint, self.embed_dim = encoder
        self._store = store
        self._vocabularies = vocabularies
        self._values = values
        self._digest = meta.digest
        self._table = table
        self._moved = moved = table.moved()
        self._numbered_names, self._numbered_properties = table.names, table.properties
        self.ids = column(moved.n, np.int64, lambda at: table.ids(moved.slots_of(at)))
        """`[n_triples]` int64."""
        self._name_ids = column(moved.n, np.int32, lambda at: table.name_ids(moved.slots_of(at)))
        self._property_ids = column(moved.n, np.int32, lambda at: table.property_ids(moved.slots_of(at)))
        self._meta = meta
        # Mapped now: a compaction may delete the file at any time, but not what is mapped. A damaged one is
        # reported to whoever reads it.
        self._keys: Embeddings | Exception = np.zeros((0, self.embed_dim), np.float16)
        if moved.n:
            try:
                self._keys = store.segment("keys", meta).moved(*moved, meta.n_slots)
            except FileNotFoundError:
                raise
            except Exception as error:
                self._keys = error

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"KBSnapshot({self._store.label!r}, revision={self.revision}, n_triples={len(self)})"

    @cached_property
    def fingerprint(self) -> str:
        """Same for the same set of triples, whatever their order or history."""
        if self._digest:
            return self._digest
        total = 0
        for start in range(0, len(self), 4096):
            for triple in self.triples(range(start, min(start + 4096, len(self)))):
                texts = triple.name, triple.property, triple.value
                total += hash_of(*texts, metadata_text(triple), context_text(triple))
        return digest_text(total)

    @property
    def key_embeddings(self) -> Embeddings:
        """`[n_triples, embed_dim]` float16, unit rows: f("the property of name"). Memory-mapped where it can be.

        Where many triples have moved, or a view chooses some, it is a `SelectedRows`, which reads like an array.
        """
        if isinstance(self._keys, Exception):
            raise self._keys
        return self._keys

    @property
    def folder(self) -> Path | None:
        """The knowledge base's directory, None in memory."""
        return self._store.path

    @property
    def generation(self) -> int:
        """Number of the key segment, which a compaction replaces: slots mean something within one only."""
        return self._meta.generation

    @property
    def n_slots(self) -> int:
        """Rows of the key segment, those of removed triples too."""
        return self._meta.n_slots

    def slots(self) -> NDArray[np.int64]:
        """Return the row of the key segment of every position, `[n_triples]`; a new array."""
        slots = np.arange(len(self))
        slots[self._moved.positions] = self._moved.slots
        return slots

    def moved(self) -> Moved | None:
        """Return the few positions whose row of the key segment has another number; None for a choice of triples."""
        return self._moved

    def key_segment(self) -> Embeddings:
        """Return the key embedding of every slot, `[n_slots, embed_dim]` float16; a row never changes.

        Raises:
            FileNotFoundError: a compaction has replaced the segment.
        """
        return self._store.segment("keys", self._meta).first(self.n_slots)

    @cached_property
    def name_index(self) -> NDArray[np.int32]:
        """`[n_triples]` int32: position -> index into `names`."""
        return _numbered(self._numbered_names, self._name_ids)

    @cached_property
    def property_index(self) -> NDArray[np.int32]:
        """`[n_triples]` int32: position -> index into `properties`."""
        return _numbered(self._numbered_properties, self._property_ids)

    @property
    def n_names(self) -> int:
        """Number of distinct names."""
        return len(self._numbered_names)

    @cached_property
    def names(self) -> list[str]:
        """The distinct names, read from disk on first use."""
        return self._vocabularies[0].texts(self._numbered_names.all())

    @cached_property
    def properties(self) -> list[str]:
        """The distinct properties."""
        return self._vocabularies[1].texts(self._numbered_properties.all())

    @cached_property
    def property_embeddings(self) -> NDArray[np.float32]:
        """`[n_properties, embed_dim]` float32, unit rows: f(property)."""
        return self._vocabularies[1].embeddings(self._numbered_properties.all(), self.embed_dim)

    def value_embeddings(self) -> Embeddings:
        """Return f(value), `[n_triples, embed_dim]` float16; embedded on first use and kept on disk."""
        return self._value_embeddings

    def positions_of_name(self, name_idx: int) -> NDArray[np.int64]:
        """Return the positions of the triples with the name `names[name_idx]`, ascending.

        Raises:
            IndexError: there is no such name.
        """
        if not 0 <= name_idx < self.n_names:
            raise IndexError(f"expected a name index in 0..{self.n_names - 1}, got {name_idx}")
        return self._positions_of(int(self._numbered_names.ids(np.array([name_idx]))[0]))

    def positions_with_words(self, words: str | Iterable[str], limit: int = 64) -> NDArray[np.int64]:
        """Return the positions of triples whose name has every one of the words, the shortest names first.

        Case and accents do not count. "2025-03" is the phrase "2025 03", `word*` is whatever begins so.

        Raises:
            ConfigurationError: there is no word among them, or `limit` is below 1.
        """
        query = query_of(split(words) if isinstance(words, str) else words)
        with self._store.connection() as connection:
            name_ids = matching_names(connection, query, max(limit, 1))
        found: list[NDArray[np.int64]] = []
        n_found = 0
        for name_id in name_ids:
            positions = self._positions_of(name_id)
            found.append(positions)
            n_found += len(positions)
            if n_found >= limit:
                break
        return np.concatenate([np.zeros(0, np.int64), *found])[:limit]

    def names_with_word(self, word: str, at_most: int) -> NDArray[np.int64]:
        """Return the indices into `names` of those that have a word; none if more than `at_most` have it.

        Case and accents do not count. "2025-03" is the phrase "2025 03".
        """
        with self._store.connection() as connection:
            ids = np.array(names_with(connection, query_of([word]), at_most), np.int64)
        return self._numbered_names.numbers(ids[self._numbered_names.used(ids)])

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

    def chosen(self, mask: NDArray[np.bool_], name: str) -> KBSnapshot:
        """Return the triples where `mask` `[n_triples]` is true, as a snapshot that shares these arrays."""
        return _ChosenSnapshot(self, np.flatnonzero(mask), f"{self.uid}-{name}")

    def _positions_of(self, name_id: int) -> NDArray[np.int64]:
        return np.sort(self._moved.positions_of(self._table.slots_of_name(name_id)))

    @cached_property
    def _value_embeddings(self) -> Embeddings:
        return self._values.of(self.ids, self.revision, self._table.ids_after)


class _ChosenSnapshot(KBSnapshot):
    """Some of the triples of a snapshot."""

    def __init__(self, whole: KBSnapshot, positions: NDArray[np.int64], uid: str) -> None:
        self._whole = whole  # in use as long as this is: a compaction spares what it shows
        self.revision, self.kb_id, self.uid = whole.revision, whole.kb_id, uid
        self.encoder_fingerprint, self.embed_dim = whole.encoder_fingerprint, whole.embed_dim
        self._store, self._vocabularies, self._values = whole._store, whole._vocabularies, whole._values
        self._digest = whole._digest if len(positions) == len(whole) else ""
        self._name_ids, self._property_ids = whole._name_ids[positions], whole._property_ids[positions]
        self._numbered_names, self._numbered_properties = Numbering.of(self._name_ids), Numbering.of(self._property_ids)
        self._places = Places(self._name_ids)
        self.ids = whole.ids[positions]
        for each in (self.ids, self._name_ids, self._property_ids):
            each.flags.writeable = False
        self._meta, self._chosen = whole._meta, positions
        keys = whole._keys
        self._keys = keys if isinstance(keys, Exception) else selected(keys, positions)

    def slots(self) -> NDArray[np.int64]:
        """Return the row of the key segment of every position."""
        return self._whole.slots()[self._chosen]

    def moved(self) -> Moved | None:
        """Return None: these have an order of their own."""
        return None

    def _positions_of(self, name_id: int) -> NDArray[np.int64]:
        return self._places.of(name_id)

    @cached_property
    def _value_embeddings(self) -> Embeddings:
        return self._values.of(self.ids)


def _numbered(numbering: Numbering, ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the numbers of ids, one a position; no snapshot is kept alive by it."""
    return column(len(ids), np.int32, lambda at: numbering.numbers(ids[at]))
