"""One shard as those who ask see it: a knowledge base mapped from disk, and the few questions that it answers.

What goes in and out are numbers of this shard alone and plain arrays, so that it can run in another process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kblam_engine.cluster.manifest import ShardRecord, read_manifest
from kblam_engine.errors import ConfigurationError, KnowledgeBaseError
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.knowledge_base.rows import Embeddings
from kblam_engine.knowledge_base.store import DATABASE
from kblam_engine.products import Floats
from kblam_engine.search.indexes import Indexes
from kblam_engine.search.interface import Found
from kblam_engine.triples import Triple

Positions = NDArray[np.int64]
Part = Literal["ids", "names", "properties", "keys", "values"]
"""What there is of every triple, in columns."""
MOST_SIBLINGS = 256
"""Places of a name's triples that are sent along with one of them; those of a name with more only when they are asked for."""


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """What is asked of a shard once.

    Attributes:
        n_names: distinct names.
        properties: distinct properties.
        property_embeddings: float32 [n_properties, embed_dim].
        search: how its keys are searched.
        encoder_fingerprint: of the sentence encoder that embedded it.
        embed_dim: length of its embeddings.
    """

    n_names: int
    properties: list[str]
    property_embeddings: Floats
    search: str
    encoder_fingerprint: str
    embed_dim: int


@dataclass(frozen=True, slots=True)
class Rows:
    """All that there is of some triples.

    Attributes:
        ids: int64 [n], of the triples in this shard.
        names: int64 [n], numbers of their names in this shard.
        properties: int64 [n], numbers of their properties in this shard.
        keys: float16 [n, embed_dim].
        values: float16 [n, embed_dim].
        triples: the triples.
        siblings: number of each of these names that has at most `MOST_SIBLINGS` triples -> positions of all of them.
    """

    ids: NDArray[np.int64]
    names: NDArray[np.int64]
    properties: NDArray[np.int64]
    keys: Embeddings
    values: Embeddings
    triples: list[Triple]
    siblings: dict[int, Positions]


class Shard:
    """A shard that is open for reading; safe to ask from several threads.

    Raises:
        KnowledgeBaseError: what lies there is not what the manifest names, or is gone since the shards were built again.
    """

    def __init__(self, folder: str, record: ShardRecord, index: str = "auto") -> None:
        """Map a shard.

        Args:
            folder: where the shards are.
            record: of this one.
            index: "auto" uses the index that the shard has, "exact" scores every key; "tree" and "ann" as for a model.
        """
        self._folder, self._record = Path(folder), record
        if not self.is_there:
            raise self.gone()
        place = self._folder / record.folder
        self._kb = KnowledgeBase.open(place, create=False, read_only=True)
        self._snapshot = snapshot = self._kb.snapshot()
        if (snapshot.revision, snapshot.fingerprint) != (record.revision, record.digest):
            self._kb.close()
            raise KnowledgeBaseError(
                f"{place}: expected revision {record.revision} as it was built, got {snapshot.revision} or other triples; "
                "shards are for reading: change the files of triples and build again"
            )
        if len(snapshot) != record.n_triples:
            self._kb.close()
            raise KnowledgeBaseError(
                f"{place}: expected {record.n_triples:,} triples as shards.json says, got {len(snapshot):,}; build the shards again"
            )
        # Scoring every key is never called cheap here: an index that was built is meant to be used.
        self._search = Indexes(index, lambda: 0.0, background=False).of(snapshot)

    @property
    def is_there(self) -> bool:
        """Whether its files are where they were built; what is mapped of them can be read without."""
        return (self._folder / self._record.folder / DATABASE).is_file()

    def gone(self) -> KnowledgeBaseError:
        """Return the error of a shard whose files are no longer there."""
        place = self._folder / self._record.folder
        try:
            named = {record.folder for record in read_manifest(self._folder).shards}
        except KnowledgeBaseError as error:
            return error
        if self._record.folder in named:
            return KnowledgeBaseError(f"{place}: expected a shard as it was built, found none there; build the shards again")
        return KnowledgeBaseError(f"{place}: the shards were built again since they were opened, and this one is gone; open them again")

    def facts(self) -> ShardFacts:
        """Return what is asked once."""
        snapshot = self._snapshot
        return ShardFacts(
            n_names=snapshot.n_names,
            properties=list(snapshot.properties),
            property_embeddings=snapshot.property_embeddings,
            search=self._search.kind,
            encoder_fingerprint=snapshot.encoder_fingerprint,
            embed_dim=snapshot.embed_dim,
        )

    def search(self, queries: Floats, k: int) -> Found:
        """Return the positions of the k best keys for each of the queries [n_queries, embed_dim]."""
        return self._search.search(np.asarray(queries, np.float32), k)

    def rows(self, positions: Positions) -> Rows:
        """Return all there is of the triples at positions, and where the other triples of their names are."""
        snapshot = self._snapshot
        names = snapshot.name_index[positions].astype(np.int64)
        siblings = {name: snapshot.positions_of_name(name) for name in np.unique(names).tolist()}
        return Rows(
            ids=snapshot.ids[positions],
            names=names,
            properties=snapshot.property_index[positions].astype(np.int64),
            keys=np.asarray(snapshot.key_embeddings[positions]),
            values=np.asarray(snapshot.value_embeddings()[positions]),
            triples=snapshot.triples(positions),
            siblings={name: places for name, places in siblings.items() if len(places) <= MOST_SIBLINGS},
        )

    def column(self, part: Part, positions: Positions) -> NDArray[Any]:
        """Return one column at positions."""
        snapshot = self._snapshot
        columns: dict[str, Any] = {"ids": snapshot.ids, "names": snapshot.name_index, "properties": snapshot.property_index}
        if part in columns:
            return np.asarray(columns[part][positions], np.int64)
        rows = snapshot.key_embeddings if part == "keys" else snapshot.value_embeddings()
        return np.asarray(rows[positions])

    def triples(self, positions: Positions) -> list[Triple]:
        """Return the triples at positions."""
        return self._snapshot.triples(positions)

    def names(self) -> list[str]:
        """Return all names, by number."""
        return list(self._snapshot.names)

    def positions_of_name(self, name: int) -> Positions:
        """Return the positions of the triples of one name."""
        return np.array(self._snapshot.positions_of_name(name))

    def names_with_word(self, word: str, at_most: int) -> NDArray[np.int64] | None:
        """Return the numbers of the names that have a word; None if more than `at_most` have it."""
        found = self._snapshot.names_with_word(word, at_most)
        if not len(found) and len(self._snapshot.positions_with_words([word], 1)):
            return None
        return np.asarray(found, np.int64)

    def positions_with_words(self, words: list[str], limit: int) -> Positions:
        """Return the positions of triples whose name has every one of the words, at most `limit`."""
        return self._snapshot.positions_with_words(words, limit)

    def close(self) -> None:
        """Close the files."""
        self._kb.close()


QUESTIONS = frozenset(
    {"facts", "search", "rows", "column", "triples", "names", "positions_of_name", "names_with_word", "positions_with_words"}
)
"""What a shard can be asked."""


def asked(shard: Shard, question: str, arguments: tuple[Any, ...]) -> Any:
    """Put a question to a shard.

    Raises:
        ConfigurationError: it is none of `QUESTIONS`.
        KnowledgeBaseError: the shard cannot be read, or is gone since the shards were built again.
    """
    if question not in QUESTIONS:
        raise ConfigurationError(f"expected one of {', '.join(sorted(QUESTIONS))}, got {question!r}")
    try:
        return getattr(shard, question)(*arguments)
    except (KnowledgeBaseError, OSError) as error:
        if shard.is_there:
            raise
        raise shard.gone() from error
