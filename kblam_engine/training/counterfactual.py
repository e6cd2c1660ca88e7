"""Counterfactual copies: the triples of a KB with their values exchanged, so that memory answers wrongly.

A base model has read much of what a public KB says. Asked over a copy in which Paris is no longer the capital of
France, whoever answers "Paris" has answered from memory, and whoever reads the KB says what the copy says.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from random import Random

from kblam_engine.triples import Triple

_TRIES = 50
"""Partners tried at random before all of them are looked through."""
_MAX_SEARCHED = 2_000_000
"""Partners looked through in vain; then what finds no partner borrows."""


@dataclass(frozen=True)
class Counterfactual:
    """A copy of triples with other values, in the same order and with the same metadata.

    Attributes:
        triples: the copy; names and properties are those of the original.
        kept: positions whose value had to stay, because every value of the property is true of that name.
        borrowed: positions whose value is another triple's as well. A permutation alone cannot change all of them
            where one value makes up more than half of a property.
    """

    triples: tuple[Triple, ...]
    kept: tuple[int, ...]
    borrowed: tuple[int, ...]


def counterfactual(random: Random, triples: Iterable[Triple]) -> Counterfactual:
    """Return a copy in which the values are permuted inside each property.

    No triple gets a value that is true of its name and property, up to case and spacing; not even another of several.

    Args:
        random: source of the draws; the same seed and order of triples give the same copy.
        triples: the original.
    """
    originals = list(triples)
    true_of: dict[tuple[str, str], set[str]] = defaultdict(set)
    by_property: dict[str, list[int]] = defaultdict(list)
    for at, triple in enumerate(originals):
        true_of[_folded(triple.name), triple.property].add(_folded(triple.value))
        by_property[triple.property].append(at)
    values = [triple.value for triple in originals]
    kept: list[int] = []
    borrowed: list[int] = []
    for prop, positions in by_property.items():
        banned = {at: true_of[_folded(originals[at].name), prop] for at in positions}
        group = _Group(random, {at: originals[at].value for at in positions}, banned)
        values_now = group.exchanged()
        for at, value in values_now.items():
            values[at] = value
        kept += group.kept
        borrowed += group.borrowed
    copy = tuple(replace(triple, value=value) for triple, value in zip(originals, values, strict=True))
    return Counterfactual(copy, tuple(sorted(kept)), tuple(sorted(borrowed)))


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


class _Group:
    """The triples of one property, by position: their values, and the values that each may not have."""

    def __init__(self, random: Random, values: dict[int, str], banned: dict[int, set[str]]) -> None:
        self.kept: list[int] = []
        self.borrowed: list[int] = []
        self._random = random
        self._values = values
        self._banned = banned
        self._all = list(values.values())
        self._admissible: dict[int, list[str]] = {}
        self._searches = _MAX_SEARCHED
        self._folded = {value: _folded(value) for value in values.values()}

    def exchanged(self) -> dict[int, str]:
        """Return the new values."""
        distinct = set(self._folded.values())
        shared = {id(banned): banned for banned in self._banned.values()}  # one set for all of a name's values
        full = {key for key, banned in shared.items() if len(banned) == len(distinct)}
        self.kept = [at for at in self._values if id(self._banned[at]) in full]
        fixed = set(self.kept)
        free = [at for at in self._values if at not in fixed]
        surplus = set(self._surplus(free))
        moving = [at for at in free if at not in surplus]
        now = {at: self._values[at] for at in self.kept} | self._rotated(moving)
        self._mix(moving, now)
        stuck = [at for at in moving if not self._fits(at, now[at]) and not self._swapped(at, moving, now)]
        for at in (*sorted(surplus), *stuck):
            now[at] = self._borrow(at)
            self.borrowed.append(at)
        return now

    def _fits(self, at: int, value: str) -> bool:
        return self._folded[value] not in self._banned[at]

    def _surplus(self, free: list[int]) -> list[int]:
        """Return those of the commonest value that find no partner with another value."""
        if not free:
            return []
        counts = Counter(self._folded[self._values[at]] for at in free)
        value, count = counts.most_common(1)[0]
        n_extra = max(0, 2 * count - len(free))
        return self._random.sample([at for at in free if self._folded[self._values[at]] == value], n_extra)

    def _rotated(self, moving: list[int]) -> dict[int, str]:
        """Return the values moved on by the size of the largest class of equal ones: nobody keeps an equal one."""
        classes: dict[str, list[int]] = defaultdict(list)
        for at in moving:
            classes[self._folded[self._values[at]]].append(at)
        order = list(classes.values())
        self._random.shuffle(order)
        for members in order:
            self._random.shuffle(members)
        sequence = [at for members in order for at in members]
        shift = max((len(members) for members in order), default=0)
        return {at: self._values[sequence[(i + shift) % len(sequence)]] for i, at in enumerate(sequence)}

    def _mix(self, moving: list[int], now: dict[int, str]) -> None:
        """Exchange at random what may be exchanged: after the rotation equal values still go together."""
        for at in moving:
            other = self._random.choice(moving)
            if self._fits(at, now[other]) and self._fits(other, now[at]):
                now[at], now[other] = now[other], now[at]

    def _swapped(self, at: int, moving: list[int], now: dict[int, str]) -> bool:
        """Exchange a value that is true of its name with one of another triple; return whether that was possible."""
        tried = (self._random.choice(moving) for _ in range(_TRIES))
        for other in chain(tried, moving if self._searches > 0 else ()):
            if self._fits(at, now[other]) and self._fits(other, now[at]):
                now[at], now[other] = now[other], now[at]
                return True
        self._searches -= len(moving)
        return False

    def _borrow(self, at: int) -> str:
        for value in (self._random.choice(self._all) for _ in range(_TRIES)):
            if self._fits(at, value):
                return value
        same_name = id(self._banned[at])
        if same_name not in self._admissible:
            self._admissible[same_name] = [value for value in self._all if self._fits(at, value)]
        return self._random.choice(self._admissible[same_name])
