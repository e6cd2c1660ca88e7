"""Pools: small in-memory KBs cut out of a world, with embeddings computed once per world."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from random import Random

import numpy as np
from numpy.typing import NDArray

from kblam_engine.products import Floats
from kblam_engine.sentence_encoder import SentenceEncoder
from kblam_engine.training.samples import Sample
from kblam_engine.training.worlds import World
from kblam_engine.triples import Triple
from kblam_engine.wording import spans_of, words

TINY = 5
"""Pools of a smaller size hold parts of entities."""
ALIKE_SHARE = 0.7
"""Of those about questions without an answer, how many hold what the question is closest to."""
NEAR_SHARE = 0.5
"""Of the pools, how many are filled with what stands next to the asked entity: namesakes, things of the same set."""


class EncodedWorld:
    """A world with the embeddings of its keys and properties."""

    def __init__(self, world: World, encoder: SentenceEncoder) -> None:
        """Encode every key and every distinct property."""
        self.world = world
        triples = [k.triple for k in world.known]
        self.keys = encoder.encode([t.key_text for t in triples])
        self.values = encoder.encode([t.value for t in triples])
        self.properties = sorted({t.property for t in triples})
        self.property_embeddings = encoder.encode(self.properties)
        number = {p: i for i, p in enumerate(self.properties)}
        self.property_index = np.array([number[t.property] for t in triples], np.int32)
        self.name_index = np.array([k.entity for k in world.known], np.int32)

    @cached_property
    def names_by_word(self) -> dict[str, frozenset[int]]:
        """Return the entities whose names have each word."""
        found: dict[str, set[int]] = {}
        for known in self.world.known:
            for word in words(known.triple.name):
                found.setdefault(word, set()).add(known.entity)
        return {word: frozenset(entities) for word, entities in found.items()}

    def has_in_a_row(self, entity: int, phrase: Sequence[str]) -> bool:
        """Say whether an entity's name has the words of a phrase in a row."""
        name = self.world.known[self.world.entities[entity][0]].triple.name
        return bool(spans_of(phrase, words(name)))


class Pool:
    """Some triples of an encoded world as a KB (a ``KeyTable``)."""

    def __init__(self, encoded: EncodedWorld, members: Sequence[int]) -> None:
        """Keep the members: positions in the world."""
        self.members = np.array(members, np.int64)
        self._encoded = encoded
        self.key_embeddings = encoded.keys[self.members]
        self.name_index = encoded.name_index[self.members]
        used, self.property_index = _dense(encoded.property_index[self.members])
        self.property_embeddings: Floats = encoded.property_embeddings[used]
        self.properties = [encoded.properties[i] for i in used]

    def value_embeddings(self) -> Floats:
        """Return the members' value embeddings."""
        return self._encoded.values[self.members]

    def __len__(self) -> int:
        """Return the number of triples."""
        return len(self.members)

    @cached_property
    def _by_name(self) -> dict[int, NDArray[np.int64]]:
        return {int(n): np.flatnonzero(self.name_index == n) for n in np.unique(self.name_index)}

    def positions_of_name(self, name_idx: int) -> NDArray[np.int64]:
        """Return the positions of one name's triples."""
        return self._by_name[name_idx]

    def names_with_word(self, word: str, at_most: int) -> list[int]:
        """Return the names that have a word, or its parts in a row; none if more than ``at_most`` have it."""
        parts = words(word)
        by_word = self._encoded.names_by_word
        holding = frozenset.intersection(*(by_word.get(part, frozenset()) for part in parts)) if parts else ()
        found = [name for name in sorted(holding) if name in self._by_name]
        if len(parts) > 1:
            found = [name for name in found if self._encoded.has_in_a_row(name, parts)]
        return found if len(found) <= at_most else []

    def triples(self, positions: Iterable[int]) -> list[Triple]:
        """Return the triples at positions."""
        return [self._encoded.world.known[self.members[p]].triple for p in positions]

    def positions_of(self, members: Iterable[int]) -> list[int]:
        """Return where world positions are in this pool."""
        where = {int(m): i for i, m in enumerate(self.members)}
        return [where[m] for m in members]


def _dense(index: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    used, dense = np.unique(index, return_inverse=True)
    return used, dense.astype(np.int32)


def draw_pool(random: Random, encoded: EncodedWorld, sample: Sample, size: int) -> Pool:
    """Return a KB of about ``size`` triples in which ``sample`` makes sense.

    It holds the supports, most of their siblings, and whole entities besides; never the hidden triples.
    """
    world = encoded.world
    asked = [world.known[p].entity for p in (*sample.supports, *sample.hidden)] or list(sample.entities)
    members = set(sample.supports)
    for entity in sample.entities:
        members.update(world.entities[entity])
    for support in (*sample.supports, *sample.hidden):
        members |= {p for p in world.entities[world.known[support].entity] if random.random() < 0.85}
    members -= set(sample.hidden)
    entities = list(range(len(world.entities)))
    random.shuffle(entities)
    if asked and random.random() < NEAR_SHARE:
        entities.sort(key=lambda entity: abs(entity - asked[0]))
    for entity in entities:
        if len(members) >= size:
            break
        members |= set(world.entities[entity]) - set(sample.hidden)
    spare = sorted(members - set(sample.supports))
    if size < TINY:  # what people try first holds a triple or two
        random.shuffle(spare)
        if sample.alike and random.random() < ALIKE_SHARE:
            spare = list(dict.fromkeys((*sample.alike, *spare)))
        spare = spare[: max(size - len(sample.supports), 0 if sample.supports else 1)]
    return Pool(encoded, sorted({*sample.supports, *spare}))
