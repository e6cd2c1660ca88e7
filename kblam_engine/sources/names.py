"""Names brought together: one spelling for each thing, and lists of names that may be the same thing.

Names and properties are normalised (Unicode NFC, spaces); values are never touched: a date or number stays as it is written.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import combinations

from kblam_engine.errors import ConfigurationError, TripleError
from kblam_engine.triples import Triple

_LEGAL = frozenset(
    "inc incorporated ltd limited llc corp corporation co company plc gmbh ag kg se sa sas bv nv oy ab as spa srl pty"
    .split()
)  # fmt: skip
_WORD = re.compile(r"\w+")
_COMMON = 40
"""A word that more names share says nothing about two of them."""


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two names that may mean one thing; `score` is 0 to 1, `reason` says what they share."""

    name: str
    other: str
    score: float
    reason: str


def normal(name: str) -> str:
    """Return a name in Unicode NFC with single spaces."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def folded(name: str) -> str:
    """Return a name as it is compared: without case, accents, punctuation, "the" and legal forms such as "GmbH"."""
    return " ".join(_folded_words(name))


def reconcile(
    triples: Iterable[Triple], *, aliases: Mapping[str, str] | None = None, known: Iterable[str] = ()
) -> Iterator[Triple]:
    """Yield triples with one spelling of each name: the alias's, else the known one, else the one that came first.

    Spellings that differ in case, Unicode form or spaces are the same; what was written is kept in the metadata as
    `written`. More distant ones are for `near_duplicates` and a person.

    Args:
        triples: a source, for example.
        aliases: other names → the name, in any case.
        known: names whose spelling wins, those of a knowledge base for example.

    Raises:
        ConfigurationError: an alias leads to another alias, or to nothing.
    """
    chosen = {_key(name): normal(name) for name in known}
    for alias, name in (aliases or {}).items():
        if not _key(name) or not _key(alias):
            raise ConfigurationError(f"aliases: expected names, got {alias!r} and {name!r}")
        if any(_key(name) == _key(other) != _key(aim) for other, aim in (aliases or {}).items()):
            raise ConfigurationError(f"aliases: {alias!r} is called {name!r}, which is an alias itself")
        chosen[_key(alias)] = normal(name)
    properties: dict[str, str] = {}
    for triple in triples:
        name = chosen.setdefault(_key(triple.name), normal(triple.name))
        prop = properties.setdefault(_key(triple.property), normal(triple.property))
        if (name, prop) == (triple.name, triple.property):
            yield triple
            continue
        metadata = dict(triple.metadata)
        if name != triple.name:
            metadata.setdefault("written", triple.name)
        yield replace(triple, name=name, property=prop, metadata=metadata)


def read_aliases(triples: Iterable[Triple], *, properties: Iterable[str] = ("also known as", "alias")) -> dict[str, str]:
    """Return what triples such as (Acme Robotics, also known as, Acme) say as alias → name.

    An alias of two names is none.
    """
    wanted = {_key(prop) for prop in properties}
    owners: dict[str, set[str]] = defaultdict(set)
    for triple in triples:
        if _key(triple.property) in wanted:
            for alias in re.split(r"\s*;\s*", triple.value):
                owners[normal(alias)].add(triple.name)
    return {alias: names.pop() for alias, names in owners.items() if alias and len(names) == 1 and alias not in names}


def near_duplicates(names: Iterable[str], *, threshold: float = 0.85) -> list[NearDuplicate]:
    """Return pairs of names that may mean one thing, the likeliest first; names with other numbers never do.

    Compared are names that share a word which not more than 40 names have, or are initials of one another.

    Args:
        names: of a knowledge base, each once or more often.
        threshold: 0 to 1, how alike two spellings are.

    Raises:
        ConfigurationError: the threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise ConfigurationError(f"threshold: expected above 0 and at most 1, got {threshold}")
    words = {name: _folded_words(name) for name in dict.fromkeys(names)}
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, parts in words.items():
        groups["same", " ".join(parts)].append(name)
        for word in set(parts):
            groups["word", word].append(name)
            groups["start", word[:4]].append(name) if len(word) > 4 else None
        if len(parts) > 2:
            groups["word", "".join(word[0] for word in parts)].append(name)
    best: dict[tuple[str, str], NearDuplicate] = {}
    for (kind, _), group in groups.items():
        if kind != "same" and len(group) > _COMMON:
            continue
        for name, other in combinations(group, 2):
            if (name, other) not in best:
                found = _compared(name, other, words[name], words[other])
                if found is not None and found.score >= threshold:
                    best[name, other] = found
    return sorted(best.values(), key=lambda pair: (-pair.score, pair.name, pair.other))


def merge_map(pairs: Iterable[NearDuplicate], counts: Mapping[str, int] | None = None) -> dict[str, str]:
    """Return pairs a person agreed to as alias → name for `reconcile`; the name with more triples is kept."""
    counts = counts or Counter()
    groups: dict[str, set[str]] = {}
    for pair in pairs:
        together = groups.get(pair.name, {pair.name}) | groups.get(pair.other, {pair.other})
        groups.update(dict.fromkeys(together, together))
    aliases = {}
    for name, together in groups.items():
        kept = max(sorted(together), key=lambda candidate: (counts.get(candidate, 0), len(candidate)))
        if name != kept:
            aliases[name] = kept
    return aliases


def _compared(name: str, other: str, words: list[str], others: list[str]) -> NearDuplicate | None:
    if _numbers(words) != _numbers(others):
        return None
    if words == others:
        return NearDuplicate(name, other, 1.0, "same but for case, accents, punctuation or legal form")
    for short, long in ((words, others), (others, words)):
        if len(long) > 2 and short == ["".join(word[0] for word in long)]:
            return NearDuplicate(name, other, 0.9, "initials")
        if len(words) > 1 and sorted(words) == sorted(others):
            return NearDuplicate(name, other, 0.95, "same words in another order")
        if 2 <= len(short) < len(long) and long[: len(short)] == short:
            return NearDuplicate(name, other, 0.86, "one is the beginning of the other")
    score = SequenceMatcher(None, " ".join(words), " ".join(others), autojunk=False).ratio()
    return NearDuplicate(name, other, round(score, 3), "alike in spelling")


def _numbers(words: list[str]) -> list[str]:
    return [word for word in words if any(char.isdigit() for char in word)]


def _folded_words(name: str) -> list[str]:
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    words: list[str] = _WORD.findall(plain.casefold())
    if len(words) > 1 and words[0] == "the":
        words = words[1:]
    while len(words) > 1 and words[-1] in _LEGAL:
        words = words[:-1]
    return words or [plain.casefold().strip()]


def _key(name: str) -> str:
    if not isinstance(name, str):
        raise TripleError("name", f"expected text, got {type(name).__name__}")
    return normal(unicodedata.normalize("NFKC", name)).casefold()
