"""FOLDOC, the Free On-line Dictionary of Computing: about 12,000 terms.

Read from Debian's package `dict-foldoc`, which apt downloads once into the user's cache; nothing is installed.
A term with several meanings has its field behind the name, or else a number: "AES (security)". Left out:
addresses of people and web pages, references to the literature, tables and program text.
"""

from __future__ import annotations

import gzip
import re
import string
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kblam_engine.datasets._apt import DebianPackage, damaged, package_folder
from kblam_engine.datasets._files import clean, shorten
from kblam_engine.triples import Triple

LICENCE = "GFDL 1.1 or later, (c) 1993 Denis Howe"
PROVENANCE = "The Free On-line Dictionary of Computing of 2023-01-19, Debian package dict-foldoc, 20230119-1"
PACKAGE = DebianPackage(
    name="dict-foldoc",
    folder="usr/share/dictd",
    probe="foldoc.index",
    cached="foldoc-20230119",
    file="dict-foldoc_20230119-1_all.deb",
    sha256="745cbedb55c2da609cc88ee0284e9d11a67a11ae3709daf7bad0e895ac3294c3",
    others=("foldoc.dict.dz",),
)
INSTALL = PACKAGE.install

_DIGITS = {c: i for i, c in enumerate(string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/")}
_MAX_BYTES = 100_000_000
_MAX_RELATED = 6
_SENSE = re.compile(r"^\s*(\d)\.\s+", re.MULTILINE)
_FIELD = re.compile(r"<([a-z][^<>]*)>\s*")
_LINK = re.compile(r"\{([^{}]*)\}")
_WEB_LINK = re.compile(r"\{[^{}]*\(\s*(?:https?|ftp|news|gopher)://[^{}]*\}\.?")
_SEE = re.compile(
    r"(?:See also|See|Compare(?: with)?)[:,]?\s+((?:\{[^{}]+\}(?:,? (?:and|or) |, ?|;\s*)?)+)\.?$"
)
_OPPOSITE = re.compile(r"Opposite:?\s+\{([^{}]+)\}")
_REDIRECT = re.compile(r"(?:<[^<>]*>\s*)?\{([^{}]+)\}\.?$")
_ASIDE = re.compile(r"\(([^()]*)\)[.,]?\s+(?=[A-Z0-9\"{])")
_ORIGIN = re.compile(r"(?:From|After|Named|Originally|By analogy|Possibly from|Probably from|Coined)\b")
_PRONUNCIATION = re.compile(r"/([^/\s][^/]{0,40})/\s+")
_NO_PROSE = re.compile(r"^\d|---|===|\|")
_DATE = re.compile(r"\((\d{4}-\d\d-\d\d)\)$")
_ACRONYM = re.compile(r"[A-Z][A-Z0-9/&.+-]{1,9}$")
_CONTACT = re.compile(
    r"[\w.+-]+@[\w-]+\.\w|\bE-mail\b|\bTelephone\b|\bUsenet newsgroup|^\[|\bISBN\b|^Address\b"
)


def triples() -> Iterator[Triple]:
    """Yield the triples of all terms, in alphabetical order.

    Raises:
        MissingDependencyError: The package is neither installed nor to be had from apt; the message says how to.
        DatasetError: The package has the wrong checksum, or its files are not those of a dictionary.
    """
    yield from _read(package_folder(PACKAGE))


def _read(folder: Path) -> Iterator[Triple]:
    seen: set[str] = set()
    for text in _articles(folder):
        head, _, body = text.partition("\n\n")
        headwords = [word for line in head.splitlines() if (word := clean(line))]
        if not headwords or not body.strip():
            continue
        for name, sense in _senses(headwords[0], body):
            if name.casefold() in seen:
                continue
            seen.add(name.casefold())
            found: dict[str, str] = {}
            for property_name, value in (*_headwords(headwords), *_sense(sense)):
                if value and value.casefold() != name.casefold():
                    found.setdefault(property_name, value)
            yield from (Triple(name, property_name, value) for property_name, value in found.items())


def _articles(folder: Path) -> Iterator[str]:
    """Yield the articles of a dictionary as dictfmt(1) writes it, each once, in the order of the index."""
    try:
        with gzip.open(folder / "foldoc.dict.dz") as file:
            data = file.read(_MAX_BYTES)
        index = (folder / "foldoc.index").read_text(encoding="utf-8")
        places = [(line[:2] == "00", *map(_number, line.split("\t")[1:3])) for line in index.splitlines()]
        _check_whole([(offset, length) for _, offset, length in places], len(data))
    except (OSError, EOFError, zlib.error, ValueError, KeyError) as error:
        raise damaged(PACKAGE, folder, f"expected foldoc.index and foldoc.dict.dz, got: {error}") from error
    for offset, length in dict.fromkeys((offset, length) for about, offset, length in places if not about):
        yield data[offset : offset + length].decode("utf-8", errors="replace")


def _check_whole(places: list[tuple[int, int]], size: int) -> None:
    """Check that the articles of an index fill a text of this size without a gap; those about the dictionary count."""
    end = 0
    for offset, length in sorted(places):
        if offset > end:
            break
        end = max(end, offset + length)
    if end != size:
        raise ValueError(f"articles for {end} of {size} bytes")


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS[digit]
    return value


def _senses(name: str, body: str) -> Iterator[tuple[str, str]]:
    parts = _SENSE.split(body)
    if parts[0].strip() or len(parts) < 5 or parts[1::2] != [str(i + 1) for i in range(len(parts) // 2)]:
        yield name, body
        return
    senses = parts[2::2]
    fields = [m[1] if (m := _FIELD.match(sense)) else "" for sense in senses]
    count = Counter(fields)
    for number, (field, sense) in enumerate(zip(fields, senses, strict=True), start=1):
        yield f"{name} ({field if field and count[field] == 1 else number})", sense


def _headwords(headwords: list[str]) -> Iterator[tuple[str, str]]:
    name, *others = headwords
    short = [word for word in others if _ACRONYM.match(word) and not _ACRONYM.match(name)]
    yield "abbreviation", ", ".join(short)
    yield "other names", ", ".join(word for word in others if word not in short)


def _sense(text: str) -> Iterator[tuple[str, str]]:
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]
    if paragraphs and (field := _FIELD.match(paragraphs[0])):
        yield "field", field[1]
    if paragraphs and (redirect := _REDIRECT.match(paragraphs[0])):
        yield "meaning", clean(redirect[1])
        paragraphs = paragraphs[1:]
    prose: list[str] = []
    if paragraphs:
        aside, paragraphs[0] = _asides(_FIELD.sub("", paragraphs[0], count=1))
        yield from aside.items()
    for paragraph in paragraphs:
        if see := _SEE.search(paragraph):
            terms = list(dict.fromkeys(clean(term) for term in _LINK.findall(see[1])))
            yield "related terms", ", ".join(terms) if len(terms) <= _MAX_RELATED else ""
            paragraph = paragraph[: see.start()].strip()
        if opposite := _OPPOSITE.search(paragraph):
            yield "opposite", clean(opposite[1])
            continue
        if date := _DATE.match(paragraph):
            yield "date of the article", date[1]
        elif not _CONTACT.search(paragraph) and (value := _prose(paragraph)):
            prose.append(value)
    if prose:
        yield "definition", prose[0]
    if len(prose) > 1:
        yield "details", prose[1]


def _asides(paragraph: str) -> tuple[dict[str, str], str]:
    """Split pronunciation and parentheses off the front: "/fu:/ (FU) A unit." -> {...}, "A unit."."""
    found: dict[str, str] = {}
    text = re.sub(r"^1\.\s+", "", paragraph)
    if spoken := _PRONUNCIATION.match(text):
        found["pronunciation"] = clean(spoken[1])
        text = text[spoken.end() :]
    if aside := _ASIDE.match(text):
        words = clean(_LINK.sub(r"\1", aside[1])).rstrip(".")
        if _ACRONYM.match(words):
            found["abbreviation"] = words
        elif _ORIGIN.match(words):
            found["origin"] = words
        text = text[aside.end() :]
    return found, text


def _prose(paragraph: str) -> str:
    """Return a paragraph without links and addresses; "" for what is no prose."""
    text = shorten(clean(re.sub(r"[{}]", "", _LINK.sub(r"\1", _WEB_LINK.sub("", paragraph)))))
    return text if len(text.split()) > 2 and text[-1:] in ".!?)\"'" and not _NO_PROSE.search(text) else ""
