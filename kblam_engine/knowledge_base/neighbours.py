"""Chains of triples: from a name to what its values name, and back to the names that have it as a value."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kblam_engine.errors import ConfigurationError
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base.reader import KBReader

__all__ = ["Neighbour", "neighbours_of"]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A step of a chain of triples.

    >>> from kblam_engine import KnowledgeBase
    >>> kb = KnowledgeBase.open(":memory:", encoder="hashing")
    >>> _ = kb.add([Triple("Orca 2", "maker", "Acme"), Triple("Acme", "founder", "Lena")])
    >>> [(step.hops, step.triple.property, step.name) for step in kb.neighbours("Orca 2", hops=2)]
    [(1, 'maker', 'Acme'), (2, 'founder', 'Lena')]

    Attributes:
        name: what the step leads to.
        triple: the triple that leads there.
        outgoing: whether the step goes from the triple's name to its value; else it goes back.
        hops: number of the step in its chain, from 1.
    """

    name: str
    triple: Triple
    outgoing: bool
    hops: int


def neighbours_of(kb: KBReader, name: str, hops: int, incoming: bool) -> list[Neighbour]:
    """Return what a name is linked to, the nearest first; see ``KnowledgeBase.neighbours``."""
    if not isinstance(hops, int) or isinstance(hops, bool) or hops < 1:
        raise ConfigurationError(f"hops: expected 1 or more, got {hops!r}")
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError(f"name: expected a text, got {name!r}")
    found: list[Neighbour] = []
    used: set[Triple] = set()
    reached, frontier = {name.strip()}, [name.strip()]
    for hop in range(1, hops + 1):
        following = []
        by_value: dict[str, list[Triple]] = defaultdict(list)
        for triple in kb.with_values(frontier) if incoming else ():
            by_value[triple.value].append(triple)
        for start in frontier:
            for step in _steps(kb.get_all(start), by_value.get(start, ()), hop):
                if step.triple not in used:
                    used.add(step.triple)
                    found.append(step)
                    if step.name not in reached:
                        reached.add(step.name)
                        following.append(step.name)
        frontier = following
    return found


def _steps(outgoing: Iterable[Triple], incoming: Iterable[Triple], hop: int) -> list[Neighbour]:
    there = [Neighbour(triple.value, triple, True, hop) for triple in outgoing]
    return there + [Neighbour(triple.name, triple, False, hop) for triple in incoming]
