"""Which headings below a thing name a part of what is said of it ("Charging" below "Orca 2") and no other thing ("Orca 2 Pro").

By their words alone if these are usual for sections. Other common words by their form ("Descaling"), or, where the title says that
all of the document is about one thing, by being written small in its text. Against that stand a number, a name written large inside
a sentence, and being one of several about which the same is said.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from kblam_engine.sources.documents.document import Block, Document, one_line
from kblam_engine.sources.documents.headings import is_general, is_topic, is_verbal
from kblam_engine.sources.documents.titles import Title, read_title

Path = tuple[str, ...]
_ABSTRACT = re.compile(r"[a-z]{3,}(?:ation|ition|ution|ction|ption|ssion|ment|ance|ence|ility|ivity|ness)")
# Nouns of such a form that things are called.
_CONCRETE = frozenset(
    """ambulance apartment appliance association audience basement cement compartment conference corporation department document
    element equipment establishment fence federation foundation government implement institution instrument monument nation ointment
    ordinance organisation organization parliament pavement pigment plantation regiment residence science section settlement station
    substance supplement tournament university""".split()
)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SMALL = frozenset("a an and at by for from in of on or the to with".split())
_MAX_WORDS = 3
"""Words of a heading that can stand before a property: "sick leave certificate"."""
_STEM = 5
"""Letters by which "charge", "charger" and "charging" are alike."""
_LEADING = re.compile(r"\d+(?:\.\d+)*[.)]?\s+")


class Sections(NamedTuple):
    """What the headings of a document stand for, by their paths; a path is a heading with those above it."""

    titles: Mapping[Path, Title]
    """Of things: what each is about."""
    parts: Mapping[Path, bool]
    """Of parts of what is said of the thing above: whether that is sure."""

    def thing(self, section: Path) -> Path:
        """Return the path of the innermost thing of a section; empty where it has none."""
        return next((section[:end] for end in range(len(section), 0, -1) if section[:end] in self.titles), ())

    def part(self, section: Path) -> tuple[str, bool]:
        """Return the innermost part that a section is below its thing, empty where it is none, and whether all parts are sure."""
        ends = [end for end in range(len(section), len(self.thing(section)), -1) if section[:end] in self.parts]
        return (section[ends[0] - 1] if ends else ""), all(self.parts[section[:end]] for end in ends)


def sections_of(
    document: Document,
    blocks: Sequence[tuple[Block, Path]],
    kinds: frozenset[str],
    keys_of: Callable[[Document, Block], set[str]],
) -> Sections:
    """Tell the things of a document from the parts of what is said of them.

    Args:
        document: the document.
        blocks: its blocks with the headings they stand under.
        kinds: headings, casefolded, that name kinds of sections whatever they stand below.
        keys_of: the keys of a block that holds keys and values, casefolded.
    """
    every = list(dict.fromkeys(section for block, section in blocks if block.kind == "heading"))
    paths = [path for path in every if path[-1].casefold() not in kinds]
    text, beside = _Text(document), _beside(every, paths, _keys_of_paths(document, blocks, keys_of))
    titles: dict[Path, Title] = {}
    parts: dict[Path, bool] = {}
    for path in paths:
        thing = Sections(titles, parts).thing(path)
        above = titles[thing] if thing else _title_of(document, path)
        sure = None if above is None else _is_part(path[-1], above, text, beside[path])
        if sure or (sure is not None and thing):
            parts[path] = sure
        else:
            says = partial(text.says, heading=path[-1])
            titles[path] = read_title(path[-1], is_said=says, above=titles[thing].name if thing else "")
    return Sections(titles, parts)


def property_in(part: str, prop: str) -> str:
    """Return a property together with the part it is said of: "time" below "Charging" is "charging time".

    A property that has a word of the heading already stays as it is.
    """
    words = part_as_property(part).split()
    if not words or not _stems(prop).isdisjoint(_stems(part)):
        return prop
    if len(words) > _MAX_WORDS or not _SMALL.isdisjoint(words) or (len(words) > 1 and is_verbal(part) and not is_topic(part)):
        return f"{prop} ({' '.join(words)})"
    return f"{' '.join([*words[:-1], _singular(words[-1])])} {prop}"


def _keys_of_paths(
    document: Document, blocks: Sequence[tuple[Block, Path]], keys_of: Callable[[Document, Block], set[str]]
) -> dict[Path, set[str]]:
    keys: dict[Path, set[str]] = {}
    for block, section in blocks:
        keys.setdefault(section, set()).update(keys_of(document, block))
    return keys


class _Beside(NamedTuple):
    """What stands beside a heading, below the same one."""

    n_keys: int
    """Keys below it."""
    n_shared: int
    """Of these, keys that stand below others beside it, too."""
    has_parts: bool
    """Whether there are headings whose words name no thing."""


class _Text:
    """The text of a document, for how it writes a word."""

    def __init__(self, document: Document) -> None:
        self._body = "\n".join(document.text_of(block) for block in document.blocks if block.kind != "heading")
        self._all = document.text
        self._small = {word for word in _WORD.findall(self._body) if word[0].islower()}

    def says(self, name: str, heading: str) -> bool:
        """Say whether a name that is written large stands anywhere but in a heading."""
        if name.islower() or self._all.count(name) <= self._all.count(heading):
            return False
        return _whole(name).search(self._all.replace(heading, "")) is not None

    def names(self, heading: str) -> bool:
        """Say whether a heading stands inside a sentence written large."""
        return heading in self._body and re.search(rf"(?<=[a-z,;] ){_whole(heading).pattern}", self._body) is not None

    def writes_small(self, heading: str) -> bool:
        """Say whether all words of a heading are written small somewhere."""
        words = [word.casefold() for word in _WORD.findall(heading)]
        return bool(words) and all(word in self._small or word in _SMALL for word in words)


def _whole(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(words)}(?!\w)")


def _beside(every: Sequence[Path], paths: Sequence[Path], keys: Mapping[Path, set[str]]) -> dict[Path, _Beside]:
    """Return what stands beside each of some headings; counted once for all below one heading, as there may be thousands."""
    n_below: dict[Path, Counter[str]] = {}
    parts = Counter(path[:-1] for path in every if is_general(path[-1]) or is_topic(path[-1]))
    for path in paths:
        n_below.setdefault(path[:-1], Counter()).update(keys.get(path, ()))
    found = {}
    for path in paths:
        own, n = keys.get(path, set()), n_below[path[:-1]]
        found[path] = _Beside(len(own), sum(n[key] > 1 for key in own), parts[path[:-1]] > is_topic(path[-1]))
    return found


def _title_of(document: Document, path: Path) -> Title | None:
    """Return the document's title for a heading below no other, unless that is the title itself."""
    title = one_line(document.title)
    return read_title(title) if title and title != path[-1] else None


def _is_part(heading: str, above: Title, text: _Text, beside: _Beside) -> bool | None:
    """Say whether a heading names a part of what is said of the thing above it, and whether that is sure; None if it names a thing."""
    plain = _LEADING.sub("", heading)
    is_one = above.is_paper or _has_number(above.name)
    if is_topic(plain):
        # Of what is said alike, each is a thing: the departments of a company have a head and a phone.
        return None if not is_one and 2 * beside.n_shared > beside.n_keys else True
    is_act, is_noun = is_verbal(plain), _is_abstract(plain)
    if not (is_act or is_noun or above.is_paper) or any(char.isdigit() for char in plain) or text.names(plain):
        return None
    if is_one and is_act:
        return True
    if beside.n_shared:
        return None
    if is_act or is_noun:
        is_likely = is_one or beside.has_parts or text.writes_small(plain)
        return is_one if is_likely else None
    return False if text.writes_small(plain) else None


def _has_number(name: str) -> bool:
    """Say whether a name ends like that of a model ("Orca 2"), and not with a year."""
    return any(char.isdigit() for char in name.split()[-1]) and len(name.split()) > 1 and not re.search(r"\b(?:19|20)\d\d\b", name)


def _is_abstract(heading: str) -> bool:
    """Say whether a heading is one that nothing is called: "Absorption", "Water absorption"."""
    *first, last = heading.split()
    word = last.casefold()
    return _ABSTRACT.fullmatch(word) is not None and word not in _CONCRETE and (not first or last.islower())


def part_as_property(part: str) -> str:
    """Return the heading of a part as a property: "Remote Work" is "remote work", "CHARGING" is "charging", "GDP" stays."""
    words = _LEADING.sub("", part).replace("&", "and").strip(" :").split()
    if any(word.isupper() and len(word) > _STEM for word in words):
        words = [word.lower() for word in words]
    return " ".join(word.lower() if word[1:].islower() else word for word in words)


def _stems(text: str) -> set[str]:
    return {word[:_STEM] for word in _WORD.findall(text.casefold()) if word not in _SMALL}


def _singular(word: str) -> str:
    """Return "holiday" of "holidays", as it stands before another noun: "holiday allowance"; "working hours" stay hours."""
    stays = word in ("hours", "sales") or not word.islower() or len(word) < 5 or word.endswith(("ss", "us", "is", "ics", "news"))
    if stays or not word.endswith("s"):
        return word
    return f"{word[:-3]}y" if word.endswith("ies") else word[:-1]
