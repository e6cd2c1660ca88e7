"""Worlds: pools of triples by entity, invented or real, that training samples ask about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from statistics import mean

from kblam_engine.training import inventions
from kblam_engine.training.lexicon import Lexicon, PropertyPhrases
from kblam_engine.triples import Triple
from kblam_engine.wording import words

TITLE_WORDS = 3.5
"""Words that the names of a kind have on average if they are titles."""

_LINKED: dict[str, frozenset[str]] = {
    "person": frozenset(("person", "employee", "artist", "scientist", "athlete", "historical figure")),
    "place": frozenset(("city", "country", "building", "hotel", "venue", "lake", "river", "mountain", "museum")),
    "short": frozenset(),
}
"""Kinds of values that may be the name of another thing, and of which kinds of things (none: of any)."""


@dataclass(frozen=True)
class Known:
    """A triple and how people ask for it.

    Attributes:
        triple: the triple.
        phrases: for its property; None: only phrasings that fit any property.
        entity: number of its entity in the world.
        called: what people call its name by who do not quote it.
    """

    triple: Triple
    phrases: PropertyPhrases | None
    entity: int
    called: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """Triples grouped by entity: ``entities[e]`` lists positions in ``known``."""

    known: tuple[Known, ...]
    entities: tuple[tuple[int, ...], ...]

    @cached_property
    def name_words(self) -> frozenset[frozenset[str]]:
        """The words of each name."""
        return frozenset(frozenset(words(k.triple.name)) for k in self.known)

    @cached_property
    def links(self) -> tuple[tuple[int, int], ...]:
        """Pairs of a position and the entity that the value there names."""
        entity_of = {k.triple.name.casefold(): k.entity for k in self.known}
        named = ((at, entity_of.get(k.triple.value.casefold(), k.entity)) for at, k in enumerate(self.known))
        return tuple((at, entity) for at, entity in named if entity != self.known[at].entity)


def invented_value(random: Random, phrases: PropertyPhrases, texts: Sequence[str]) -> str:
    """Return a value that fits the property's kind: half invented on the spot, half from the lexicon."""
    if random.random() < 0.5:
        return random.choice(phrases.values)
    kind = phrases.value_kind
    if kind == "number":
        return inventions.number(random)
    if kind == "date":
        return inventions.date(random)
    if kind in ("code", "email", "phone", "time"):
        return inventions.code(random)
    if kind == "person":
        return inventions.person(random)
    if kind == "place":
        return inventions.word(random)
    if kind in ("long", "url_free_text") and texts:
        return random.choice(texts)
    return random.choice(phrases.values)


def invented_world(
    random: Random, lexicon: Lexicon, texts: Sequence[str], n_entities: int, *, titles: bool = False
) -> World:
    """Return entities with two to eight properties each, names invented, some of them near-misses.

    Args:
        random: source of the draws.
        lexicon: properties, and names by kind of thing.
        texts: more values for properties with long values.
        n_entities: how many.
        titles: only kinds of things with long names, as in catalogues and rule books.
    """
    kinds = [k for k in sorted(lexicon.names) if len(lexicon.of_kind(k)) >= 2]
    if titles:
        kinds = [k for k in kinds if mean(len(n.split()) for n in lexicon.names[k]) >= TITLE_WORDS]
    by_kind = {k: lexicon.of_kind(k) for k in kinds}
    known: list[Known] = []
    entities: list[tuple[int, ...]] = []
    used: set[str] = set()
    last = "Orca 2"
    while len(entities) < n_entities:
        kind = random.choice(kinds)
        shape = random.random()
        if shape < 0.6:
            name = random.choice(lexicon.names[kind])
        elif shape < 0.88:
            name = inventions.identified(random) if titles else inventions.name(random)
        else:
            name = inventions.near_name(random, last, random.choice(lexicon.names[kind]) if titles else "")
        if name in used:
            continue
        used.add(name)
        last = name
        n = min(len(by_kind[kind]), random.randint(2, 8))
        positions = []
        for phrases in random.sample(by_kind[kind], n):
            positions.append(len(known))
            value = invented_value(random, phrases, texts)
            triple = Triple(name, phrases.property, value)
            known.append(Known(triple, phrases, len(entities), lexicon.called.get(name, ())))
        entities.append(tuple(positions))
    return World(tuple(known), tuple(entities))


def source_world(random: Random, triples: Sequence[Triple], n_entities: int, max_value: int = 280) -> World:
    """Return a world of real triples, grouped by name (phrasings that fit any property)."""
    by_name: dict[str, list[Triple]] = {}
    for triple in triples:
        if len(triple.value) <= max_value and len(triple.name) <= 60 and len(triple.property) <= 60:
            by_name.setdefault(triple.name, []).append(triple)
    names = sorted(by_name)
    random.shuffle(names)
    known: list[Known] = []
    entities: list[tuple[int, ...]] = []
    for name in names[:n_entities]:
        positions = []
        for triple in random.sample(by_name[name], min(8, len(by_name[name]))):
            positions.append(len(known))
            known.append(Known(triple, None, len(entities)))
        entities.append(tuple(positions))
    return World(tuple(known), tuple(entities))


def linked(random: Random, world: World, share: float = 0.3) -> World:
    """Return the world with the name of another entity as a value of some entities, for questions that need two triples.

    Only values that may be a name are exchanged: people for people, places for places, and short texts for anything.

    Args:
        random: source of the draws.
        world: an invented one; in worlds without phrases nothing is known about what values are.
        share: of the entities that have such a value, how many get a link.
    """
    targets: dict[str, list[int]] = {kind: [] for kind in _LINKED}
    for number, entity in enumerate(world.entities):
        about = [set(p.about) for at in entity if (p := world.known[at].phrases) is not None]
        for kind, kinds_of_thing in _LINKED.items():
            if about and (not kinds_of_thing or set.intersection(*about) & kinds_of_thing):
                targets[kind].append(number)
    known = list(world.known)
    for number, entity in enumerate(world.entities):
        may = [at for at in entity if (p := known[at].phrases) is not None and targets.get(p.value_kind)]
        if not may or random.random() >= share:
            continue
        at = random.choice(may)
        phrases = known[at].phrases
        target = random.choice(targets[phrases.value_kind]) if phrases else number
        if target != number:
            name = world.known[world.entities[target][0]].triple.name
            known[at] = replace(known[at], triple=replace(known[at].triple, value=name))
    return World(tuple(known), world.entities)


def scrambled(random: Random, world: World, share: float = 0.3) -> World:
    """Return the world with the words of some longer names and values in random order.

    No language model expects the next word of such a text, so nothing but copying can write it. Without
    them the LLM's own expectation now and then wins over the statement, in the middle of a long text.
    """

    def scramble(text: str, least: int) -> str:
        parts = text.split()
        if len(parts) < least or random.random() >= share:
            return text
        random.shuffle(parts)
        return " ".join(parts)

    names = {k.triple.name: scramble(k.triple.name, 4) for k in world.known}
    return World(
        tuple(
            replace(
                k, triple=replace(k.triple, name=names[k.triple.name], value=scramble(k.triple.value, 5))
            )
            for k in world.known
        ),
        world.entities,
    )
