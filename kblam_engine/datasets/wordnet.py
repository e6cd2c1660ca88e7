"""WordNet 3.0: definitions, synonyms and relations of about 148,000 English words and phrases.

Read from Debian's package `wordnet-base`, which apt downloads once into the user's cache; nothing is installed
and no rights are needed. A word with one meaning is named as it is, "accordion"; with several by part of speech
and, where that has several, number: "bank (noun, 2)".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kblam_engine.datasets._apt import DebianPackage, damaged, package_folder
from kblam_engine.datasets._files import clean
from kblam_engine.triples import Triple

LICENCE = "WordNet 3.0 licence (permissive, (c) 2006 Princeton University)"
PROVENANCE = "WordNet 3.0, Debian package wordnet-base, 1:3.0-37"
_FILES = ("noun", "verb", "adj", "adv")
PACKAGE = DebianPackage(
    name="wordnet-base",
    folder="usr/share/wordnet",
    probe="data.noun",
    cached="wordnet-3.0",
    file="wordnet-base_1%3a3.0-37_all.deb",
    sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    others=(*(f"data.{file}" for file in _FILES[1:]), *(f"index.{file}" for file in _FILES)),
)
INSTALL = PACKAGE.install

_PARTS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
# Pointer symbols of wndb(5WN) -> property of the word that carries the pointer.
_RELATIONS = {
    "@": "broader term",
    "@i": "instance of",
    "#p": "part of",
    "#m": "member of",
    "#s": "substance in",
    "%p": "parts",
    "%m": "members",
    "%s": "substances in it",
    "!": "opposite",
    "&": "similar words",
    "*": "what it entails",
    ">": "what it causes",
    ";c": "field of use",
    ";r": "region of use",
    ";u": "kind of usage",
}
_MAX_RELATED = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Synset:
    words: tuple[str, ...]
    gloss: str
    pointers: tuple[
        tuple[str, str, int], ...
    ]  # symbol, key of the target, 1-based word this is about (0: all)


def triples() -> Iterator[Triple]:
    """Yield the triples of all words, nouns first.

    Raises:
        MissingDependencyError: WordNet is neither installed nor to be had from apt; the message says what to do.
        DatasetError: The downloaded package has the wrong checksum, or its files are not WordNet's or not whole.
    """
    folder = data_folder()
    synsets = dict(entry for file in _FILES for entry in _entries(folder, f"data.{file}", _read))
    senses = _senses(folder)
    _check_whole(folder, synsets, senses)
    for key, synset in synsets.items():
        for position, word in enumerate(synset.words, start=1):
            name = _name(word, key, senses)
            for property_name, value in _synset(synset, position, synsets):
                yield Triple(name, property_name, value)


def data_folder() -> Path:
    """Return the folder that holds data.noun and its siblings, downloading the package if need be."""
    return package_folder(PACKAGE)


def _entries(folder: Path, file: str, read: Callable[[str], T]) -> Iterator[T]:
    """Read every line of a file but the licence's."""
    number = 0
    try:
        *lines, cut = (folder / file).read_text(encoding="utf-8").split("\n")
        if cut:
            raise ValueError("its last line is cut off")
        for number, line in enumerate(lines, start=1):
            if not line.startswith(" "):
                yield read(line)
    except (OSError, ValueError, LookupError) as error:
        raise damaged(PACKAGE, folder, f"{file}, line {number}: {error}" if number else f"{file}: {error}") from error


def _check_whole(folder: Path, synsets: dict[str, _Synset], senses: dict[str, dict[str, list[str]]]) -> None:
    """Check that every meaning in the indexes is there, and every word of a meaning in an index."""
    for word, parts in senses.items():
        if lost := [key for keys in parts.values() for key in keys if key not in synsets]:
            raise damaged(PACKAGE, folder, f"{word!r} has the meaning {lost[0]} in an index, which no data file has")
    for key, synset in synsets.items():
        if unknown := [word for word in synset.words if word.lower() not in senses]:
            raise damaged(PACKAGE, folder, f"the meaning {key} has the word {unknown[0]!r}, which no index has")


def _read(line: str) -> tuple[str, _Synset]:
    """Read one line of a data file, laid out as wndb(5WN) says; keys are part of speech + offset."""
    data, bar, gloss = line.partition("|")
    parts = data.split()
    if not bar or parts[2] not in _PARTS:
        raise ValueError(f"expected a meaning, got {line[:40]!r}")
    n_words = int(parts[3], 16)
    # Adjectives carry a syntactic marker: "galore(ip)".
    words = tuple(re.sub(r"\((?:a|p|ip)\)$", "", w).replace("_", " ") for w in parts[4 : 4 + 2 * n_words : 2])
    at = 4 + 2 * n_words
    pointers = []
    for i in range(at + 1, at + 1 + 4 * int(parts[at]), 4):
        symbol, offset, part, source = parts[i : i + 4]
        pointers.append((symbol, _key(part, offset), int(source[:2], 16)))
    return _key(parts[2], parts[0]), _Synset(words, gloss.strip(), tuple(pointers))


def _key(part: str, offset: str) -> str:
    return f"{'a' if part == 's' else part}{offset}"


def _senses(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Return word in lower case -> part of speech -> keys of its meanings, commonest first."""
    senses: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for file in _FILES:
        for word, part, keys in _entries(folder, f"index.{file}", _read_index):
            senses[word][part] = keys
    return senses


def _read_index(line: str) -> tuple[str, str, list[str]]:
    """Read one line of an index: the word, its part of speech, and the keys of its meanings."""
    word, part, *rest = line.split()
    offsets = rest[-int(rest[0]) :]
    return word.replace("_", " "), part, [_key(part, offset) for offset in offsets]


def _name(word: str, key: str, senses: dict[str, dict[str, list[str]]]) -> str:
    of_word = senses.get(word.lower(), {})
    if sum(len(keys) for keys in of_word.values()) <= 1:
        return word
    keys = of_word.get(key[0], [])
    part = _PARTS[key[0]]
    if len(keys) <= 1 or key not in keys:
        return f"{word} ({part})"
    return f"{word} ({part}, {keys.index(key) + 1})"


def _synset(synset: _Synset, position: int, synsets: dict[str, _Synset]) -> Iterator[tuple[str, str]]:
    definition, *examples = [
        part.strip(" ;") for part in re.split(r"[;:]?\s*(?=\")", synset.gloss, maxsplit=1)
    ]
    if definition := clean(definition):
        yield "definition", definition
    if examples and (quoted := re.match(r"\"([^\"]+)\"?", examples[0])) and (example := clean(quoted[1])):
        yield "example sentence", example
    if others := [w for i, w in enumerate(synset.words, start=1) if i != position]:
        yield "synonyms", ", ".join(others)
    related: dict[str, list[str]] = defaultdict(list)
    for symbol, target, source in synset.pointers:
        if (relation := _RELATIONS.get(symbol)) and source in {0, position} and target in synsets:
            words = related[relation]
            if len(words) < _MAX_RELATED and (word := synsets[target].words[0]) not in words:
                words.append(word)
    for relation, words in related.items():
        yield relation, ", ".join(words)
