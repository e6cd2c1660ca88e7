"""All shards as one knowledge base, for reading: what `model.answer(question, kb=...)` takes."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from kblam_engine.cluster.gathering import Gathering, column, positions_of
from kblam_engine.cluster.manifest import Manifest
from kblam_engine.cluster.numbering import Counted
from kblam_engine.cluster.shard import ShardFacts
from kblam_engine.cluster.shards import Ask, Shards
from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.knowledge_base import KBSnapshot
from kblam_engine.knowledge_base.contents import digest_text
from kblam_engine.knowledge_base.words import split
from kblam_engine.products import Floats
from kblam_engine.search.interface import Found, merged
from kblam_engine.triples import Triple

_KEPT_WORDS = 4_096


class ShardedKB(KBSnapshot):
    """A knowledge base whose triples lie in shards; immutable, and safe to ask from several threads.

    It stands for the knowledge base with the triples of shard 0, shard 1 and so on, in this order, and is searched by
    its shards: the query goes to all of them, and the best of their best are the best. Where the shards score every key,
    candidates and answers are those of that knowledge base. `open_shards` opens one; close it, or use it in a `with`.

    Positions and numbers of names count on from shard to shard; an id is its id in its shard times the number of shards,
    plus the number of the shard.
    """

    def __init__(self, folder: Path, manifest: Manifest, shards: Shards) -> None:
        """Ask every shard once for what does not grow with it: how many names, and which properties.

        Args:
            folder: of the shards.
            manifest: of the folder.
            shards: those of them that have triples, in order; there is at least one.

        Raises:
            KnowledgeBaseError: a shard cannot be read, or is not what the manifest says.
        """
        # The parts of a snapshot that has its triples at hand are not there, so its own `__init__` is not called.
        self.path, self.manifest = folder, manifest
        self.revision = 1
        self.kb_id = f"shards-{manifest.source[:16]}"
        self.uid = f"{self.kb_id}-{id(self):x}"
        self.encoder_fingerprint, self.embed_dim = manifest.encoder_fingerprint, manifest.embed_dim
        self._shards = shards
        own = [record for record in manifest.shards if record.n_triples]
        facts: dict[int, ShardFacts] = shards.ask({at: Ask("facts") for at in range(len(own))})
        for at, record in enumerate(own):
            _check_facts(folder / record.folder, facts[at], manifest)
        self._positions = Counted.of([record.n_triples for record in own])
        self._name_numbers = Counted.of([facts[at].n_names for at in range(len(own))])
        self._searches = [facts[at].search for at in range(len(own))]
        numbers: dict[str, int] = {}
        rows: list[Floats] = []
        places: list[NDArray[np.int64]] = []
        for at in range(len(own)):
            for prop, row in zip(facts[at].properties, facts[at].property_embeddings, strict=True):
                if prop not in numbers:
                    numbers[prop] = len(numbers)
                    rows.append(row)
            places.append(np.array([numbers[prop] for prop in facts[at].properties], np.int64))
        self._property_names = list(numbers)
        self._property_rows = np.stack(rows)
        self._gathering = Gathering(shards, self._positions, self._name_numbers, places, len(manifest.shards))
        self._words: dict[tuple[str, int], NDArray[np.int64]] = {}
        self._words_lock = threading.Lock()
        n, dim = len(self._positions), self.embed_dim
        self.ids = column(self._gathering, "ids", n, np.int64)
        self._columns = {
            "names": column(self._gathering, "names", n, np.int64),
            "properties": column(self._gathering, "properties", n, np.int64),
            "keys": column(self._gathering, "keys", n, np.float16, dim),
            "values": column(self._gathering, "values", n, np.float16, dim),
        }

    def __enter__(self) -> ShardedKB:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the shards."""
        self._shards.close()

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        return f"ShardedKB({str(self.path)!r}, n_shards={len(self.manifest.shards)}, n_triples={len(self)})"

    @property
    def searches(self) -> list[str]:
        """How the keys of each shard with triples are searched: exact, tree or ann."""
        return list(self._searches)

    def search(self, queries: Floats, k: int) -> Found:
        """Return the positions with the highest scores in all shards, best first; every shard looks for its own best.

        Args:
            queries: float32 [n_queries, embed_dim].
            k: how many for each.
        """
        asked = np.ascontiguousarray(queries, np.float32)
        said = self._ask_all(Ask("search", (asked, k)))
        parts = []
        for shard, found in enumerate(said):
            at = np.where(found.at < 0, -1, self._positions.of_shard(shard, found.at))
            parts.append(Found(at, found.scores, found.log_normaliser))
        return merged(parts, k)

    @cached_property
    def fingerprint(self) -> str:
        """Same for the same set of triples, however they are spread: that of one knowledge base with all of them."""
        return digest_text(sum(int(record.digest, 16) for record in self.manifest.shards))

    @property
    def key_embeddings(self) -> NDArray[np.float16]:
        """`[n_triples, embed_dim]` float16; reads like an array, and brings what is asked for."""
        return self._columns["keys"]

    @property
    def folder(self) -> None:
        """None: there is no one directory of a knowledge base; see `path`."""
        return None

    @property
    def generation(self) -> int:
        """Always the first: shards are not compacted."""
        return 1

    @property
    def n_slots(self) -> int:
        """As many as triples."""
        return len(self)

    def slots(self) -> NDArray[np.int64]:
        """Refuse: every shard has slots of its own."""
        self._refuse("slots")

    def moved(self) -> NoReturn:
        """Refuse: every shard has slots of its own."""
        self._refuse("moved")

    def key_segment(self) -> NDArray[np.float16]:
        """Refuse: every shard has its own."""
        self._refuse("key_segment")

    def chosen(self, mask: NDArray[np.bool_], name: str) -> NoReturn:
        """Refuse: there are no views of shards."""
        self._refuse("chosen")

    @property
    def name_index(self) -> NDArray[np.int32]:
        """`[n_triples]`, the number of each triple's name."""
        return self._columns["names"]

    @property
    def property_index(self) -> NDArray[np.int32]:
        """`[n_triples]`, position -> index into `properties`."""
        return self._columns["properties"]

    @property
    def n_names(self) -> int:
        """Number of distinct names."""
        return len(self._name_numbers)

    @cached_property
    def names(self) -> list[str]:
        """The distinct names, brought from all shards on first use."""
        return [name for names in self._ask_all(Ask("names")) for name in names]

    @property
    def properties(self) -> list[str]:
        """The distinct properties."""
        return self._property_names

    @property
    def property_embeddings(self) -> NDArray[np.float32]:
        """`[n_properties, embed_dim]` float32."""
        return self._property_rows

    def value_embeddings(self) -> NDArray[np.float16]:
        """Return f(value), `[n_triples, embed_dim]` float16; reads like an array, and brings what is asked for."""
        return self._columns["values"]

    def positions_of_name(self, name_idx: int) -> NDArray[np.int64]:
        """Return the positions of the triples of a name, ascending.

        Raises:
            IndexError: there is no such name.
        """
        return self._gathering.siblings(int(name_idx))

    def names_with_word(self, word: str, at_most: int) -> NDArray[np.int64]:
        """Return the names that have a word, in any shard; none if more than `at_most` have it."""
        with self._words_lock:
            known = self._words.get((word, at_most))
        if known is not None:
            return known
        said = self._ask_all(Ask("names_with_word", (word, at_most)))
        found = np.zeros(0, np.int64)
        if all(part is not None for part in said):
            parts = [self._name_numbers.of_shard(shard, part) for shard, part in enumerate(said)]
            together = np.concatenate([found, *parts])
            found = together if len(together) <= at_most else found
        with self._words_lock:
            if len(self._words) >= _KEPT_WORDS:
                self._words.clear()
            self._words[word, at_most] = found
        return found

    def positions_with_words(self, words: str | Iterable[str], limit: int = 64) -> NDArray[np.int64]:
        """Return positions of triples whose name has every one of the words, at most `limit`, shard by shard.

        Raises:
            ConfigurationError: there is no word among them, or `limit` is below 1.
        """
        wanted = split(words) if isinstance(words, str) else list(words)
        said = self._ask_all(Ask("positions_with_words", (wanted, limit)))
        parts = [self._positions.of_shard(shard, part) for shard, part in enumerate(said)]
        return np.concatenate([np.zeros(0, np.int64), *parts])[:limit]

    def triples(self, positions: Iterable[int] | NDArray[np.integer]) -> list[Triple]:
        """Return the triples at positions, in this order.

        Raises:
            IndexError: a position is not in 0..n_triples - 1.
        """
        return self._gathering.triples(positions_of(positions))

    def _ask_all(self, ask: Ask) -> list[Any]:
        """Ask every shard the same, and return what they say in their order."""
        n_shards = len(self._positions.starts) - 1
        said = self._shards.ask(dict.fromkeys(range(n_shards), ask))
        return [said[shard] for shard in range(n_shards)]

    def _refuse(self, what: str) -> NoReturn:
        raise KnowledgeBaseError(
            f"{self.path}: a knowledge base in shards has no {what}; open the folder of one shard with KnowledgeBase.open"
        )


def _check_facts(place: Path, facts: ShardFacts, manifest: Manifest) -> None:
    """Refuse a shard that was embedded by another encoder than the manifest says.

    Raises:
        KnowledgeBaseError: it was.
    """
    expected = manifest.encoder_fingerprint, manifest.embed_dim
    if (facts.encoder_fingerprint, facts.embed_dim) != expected:
        raise KnowledgeBaseError(
            f"{place}: expected embeddings of {expected[1]} numbers by the sentence encoder {expected[0]} as shards.json says, got "
            f"{facts.embed_dim} by {facts.encoder_fingerprint}; restore shards.json, or delete it and build the shards again"
        )
