"""Names brought together: one spelling for each thing, and lists of names that may be the same thing.

Names and properties are normalised (Unicode NFC, spaces); values are never touched: a date or number stays as it is written.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import combinations
from typing import TYPE_CHECKING

from kblam_engine.errors import ConfigurationError, TripleError
from kblam_engine.sources.values import ALIAS_PROPERTIES
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KnowledgeBase

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
    aims = {_key(alias): _key(name) for alias, name in (aliases or {}).items()}
    for alias, name in (aliases or {}).items():
        if not _key(name) or not _key(alias):
            raise ConfigurationError(f"aliases: expected names, got {alias!r} and {name!r}")
        if aims.get(_key(name), _key(name)) != _key(name):
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


def read_aliases(triples: Iterable[Triple], *, properties: Iterable[str] = ALIAS_PROPERTIES) -> dict[str, str]:
    """Return what triples such as (Acme Robotics, also known as, Acme) say as alias → name.

    Several aliases in one value are separated by semicolons. An alias of two names is none.
    """
    wanted = {_key(prop) for prop in properties}
    owners: dict[str, set[str]] = defaultdict(set)
    for triple in triples:
        if _key(triple.property) in wanted:
            for alias in re.split(r"\s*;\s*", triple.value):
                owners[normal(alias)].add(triple.name)
    return {alias: names.pop() for alias, names in owners.items() if alias and len(names) == 1 and alias not in names}


def aliases_in(kb: KnowledgeBase) -> dict[str, str]:
    """Return the aliases that the triples of a knowledge base, or of a view, name: alias → name."""
    wanted = {_key(prop) for prop in ALIAS_PROPERTIES}
    properties = [prop for prop in kb.snapshot().properties if _key(prop) in wanted]
    return read_aliases((kb.triple(i) for prop in properties for i in kb.ids(property=prop)), properties=properties)


def new_aliases(triples: Iterable[Triple], known: Iterable[str]) -> dict[str, str]:
    """Return the aliases that triples name, without those that are known names of something: these keep their triples."""
    found = read_aliases(triples)
    kept = {_key(name) for name in known} if found else set()
    return {alias: name for alias, name in found.items() if _key(alias) not in kept}


def settled(sure: Mapping[str, str], *others: Mapping[str, str]) -> dict[str, str]:
    """Return aliases of several origins as one mapping for `reconcile`, the surest origin first.

    Of the others those are left out that contradict a surer one, or would lead from an alias to an alias: triples often
    call each of two names the alias of the other.
    """
    found = dict(sure)
    aliases, names = {_key(alias) for alias in sure}, {_key(name) for name in sure.values()}
    for alias, name in ((alias, name) for other in others for alias, name in other.items()):
        key, aim = _key(alias), _key(name)
        if key == aim or key in aliases or key in names or aim in aliases:
            continue
        found[alias] = name
        aliases.add(key)
        names.add(aim)
    return found


def stored_spellings(stored: Iterable[str], typed: Iterable[str]) -> list[str]:
    """Return names as they are stored where they were typed in another Unicode form or with other spaces.

    Two that were typed alike become two stored names that look alike, if there are such; what is not stored stays as it is.
    """
    wanted = [name.strip() for name in typed]
    alike: dict[str, list[str]] = {normal(name): [] for name in wanted}
    for name in stored:
        if (form := normal(name)) in alike:
            alike[form].append(name)
    found: list[str] = []
    for name in wanted:
        form = normal(name)
        candidates = [other for other in (name, form, *alike[form]) if other in alike[form] and other not in found]
        found.append(candidates[0] if candidates else name)
    return found


def near_duplicates(
    names: Iterable[str], *, threshold: float = 0.85, aliases: Mapping[str, str] | None = None
) -> list[NearDuplicate]:
    """Return pairs of names that may mean one thing, the likeliest first; names with other numbers never do.

    Compared are names that share a word or half of their letters with at most 40 others, or are initials of one
    another.

    Args:
        names: of a knowledge base, each once or more often.
        threshold: 0 to 1, how alike two spellings are.
        aliases: other names → the name; pairs of which both are among the names.

    Raises:
        ConfigurationError: the threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise ConfigurationError(f"threshold: expected above 0 and at most 1, got {threshold}")
    words = {name: _folded_words(name) for name in dict.fromkeys(names)}
    best: dict[tuple[str, str], NearDuplicate | None] = {}
    for alias, name in (aliases or {}).items():
        if alias in words and name in words and alias != name:
            best[name, alias] = best[alias, name] = NearDuplicate(name, alias, 1.0, "alias")
    for (kind, _), group in _groups(words).items():
        if kind != "same" and len(group) > _COMMON:
            continue
        for name, other in combinations(group, 2):
            if (name, other) not in best:
                best[name, other] = _compared(name, other, words[name], words[other], threshold)
    found = {pair for pair in best.values() if pair is not None and pair.score >= threshold}
    return sorted(found, key=lambda pair: (-pair.score, pair.name, pair.other))


def duplicates_in(kb: KnowledgeBase, *, threshold: float = 0.85) -> list[NearDuplicate]:
    """Return the names of a knowledge base, or of a view, that may mean one thing; what its triples say are aliases count.

    Raises:
        ConfigurationError: the threshold is not above 0 and at most 1.
    """
    return near_duplicates(kb.snapshot().names, threshold=threshold, aliases=aliases_in(kb))


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


def _groups(words: Mapping[str, list[str]]) -> dict[tuple[str, str], list[str]]:
    """Return names that share something, by what it is."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, parts in words.items():
        text = " ".join(parts)
        groups["same", text].append(name)
        for word in set(parts):
            groups["word", word].append(name)
            groups["start", word[:4]].append(name) if len(word) > 4 else None
        if len(parts) > 2:
            groups["word", "".join(word[0] for word in parts)].append(name)
        # One letter too many, too few or another leaves the first or the last half as it was.
        for length in (len(text), len(text) - 1):
            if length > 4:
                groups["head", f"{length} {text[: length // 2]}"].append(name)
                groups["tail", f"{length} {text[-(length // 2) :]}"].append(name)
    return groups


def _compared(
    name: str, other: str, words: list[str], others: list[str], threshold: float
) -> NearDuplicate | None:
    if _numbers(words) != _numbers(others):
        return None
    if words == others:
        return NearDuplicate(name, other, 1.0, f"same but for {_difference(name, other)}")
    for short, long in ((words, others), (others, words)):
        if len(long) > 2 and short == ["".join(word[0] for word in long)]:
            return NearDuplicate(name, other, 0.9, "initials")
        if len(words) > 1 and sorted(words) == sorted(others):
            return NearDuplicate(name, other, 0.95, "same words in another order")
        if 2 <= len(short) < len(long) and long[: len(short)] == short:
            return NearDuplicate(name, other, 0.86, "one is the beginning of the other")
    matcher = SequenceMatcher(None, " ".join(words), " ".join(others), autojunk=False)
    if matcher.real_quick_ratio() < threshold or matcher.quick_ratio() < threshold:  # not above, and soon known
        return None
    return NearDuplicate(name, other, round(matcher.ratio(), 3), "alike in spelling")


_DIFFERENCES: dict[str, Callable[[str], str]] = {
    "case": str.casefold,
    "accents": lambda text: _unaccented(text),
    "punctuation": lambda text: " ".join(_WORD.findall(text)),
    '"the" or legal form': lambda text: " ".join(_bare(text.split())),
}


def _difference(name: str, other: str) -> str:
    """Return what two names with the same words do not share."""

    def alike(skipped: str) -> bool:
        texts = [normal(unicodedata.normalize("NFKC", text)) for text in (name, other)]
        for what, taken_away in _DIFFERENCES.items():
            if what != skipped:
                texts = [taken_away(text) for text in texts]
        return texts[0] == texts[1]

    return ", ".join(what for what in _DIFFERENCES if not alike(what)) or "Unicode form or spaces"


def _numbers(words: list[str]) -> list[str]:
    return [word for word in words if any(char.isdigit() for char in word)]


def _folded_words(name: str) -> list[str]:
    plain = _unaccented(name).casefold()
    return _bare(_WORD.findall(plain)) or [plain.strip()]


def _bare(words: list[str]) -> list[str]:
    if len(words) > 1 and words[0].casefold() == "the":
        words = words[1:]
    while len(words) > 1 and words[-1].casefold() in _LEGAL:
        words = words[:-1]
    return words


def _unaccented(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _key(name: str) -> str:
    if not isinstance(name, str):
        raise TripleError("name", f"expected text, got {type(name).__name__}")
    return normal(unicodedata.normalize("NFKC", name)).casefold()
