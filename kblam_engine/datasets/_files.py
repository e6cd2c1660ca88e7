"""Find data files inside installed packages without importing them, and clean the text found there.

Every source reads the plain data file (SQLite, XML, JSON, CSV) that a package ships. The package's own
code is never run: its import may be slow, may need packages that are not installed, or may reach for the
network.
"""

from __future__ import annotations

import html
import importlib.metadata
import re
from pathlib import Path

from kblam_engine.errors import KBLaMError, MissingDependencyError

_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_SPACE = re.compile(r"\s+")
_URL = re.compile(r"(?:\b[a-z][a-z0-9+.-]*://|\bwww\.)[^\s<>\"]*", re.IGNORECASE)
_BARE_BRACKETS = re.compile(r"\(\s*(?:see|via|at|from)?\s*[:,;.]?\s*\)|\[\s*\]|<\s*>")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")


class DatasetError(KBLaMError):
    """Report a data file that is there but cannot be read as this version of the source expects."""


def package_file(distribution: str, relative: str, *, install: str) -> Path:
    """Return the path of a data file that an installed distribution ships.

    Args:
        distribution: Name of the distribution as pip knows it.
        relative: Path of the file below the site-packages folder, with forward slashes.
        install: The command that installs the distribution, named in the error.

    Raises:
        MissingDependencyError: The distribution is not installed.
        DatasetError: It is installed, but without that file.
    """
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise MissingDependencyError(
            f"This data set is read from the package {distribution}, which is not installed. Run: {install}"
        ) from None
    path = Path(str(found.locate_file(relative)))
    if not path.exists():
        raise DatasetError(
            f"Expected {relative} in {distribution} {found.version}, but it is not there. "
            f"Install the version this source was written for: {install}"
        )
    return path


def clean(text: str, *, markup: bool = True) -> str:
    """Return `text` as one line without HTML tags, entities, URLs and repeated spaces.

    With `markup=False` tags and entities are kept: the text is already decoded, and "<script>" is content.
    """
    # A tag becomes a space: "<p>one</p><p>two</p>" must not read "onetwo". Entities come after the tags,
    # and tags once more after the entities, because some sources escape their markup.
    if markup:
        text = _TAG.sub(" ", html.unescape(_TAG.sub(" ", text)))
    text = _BARE_BRACKETS.sub(" ", _URL.sub(" ", text))
    text = _SPACE.sub(" ", text).strip()
    return re.sub(r"\s+([,;.])(?=\s|$)", r"\1", text)


def shorten(text: str, max_words: int = 60) -> str:
    """Cut `text` at the last whole sentence (or else clause, or else word) within `max_words` words."""
    if len(text.split()) <= max_words:
        return text
    for parts, joint in ((_SENTENCE_END.split(text), " "), (text.split("; "), "; ")):
        kept: list[str] = []
        n_words = 0
        for part in parts:
            n_words += len(part.split())
            if n_words > max_words:
                break
            kept.append(part)
        if kept:
            return joint.join(kept).rstrip(" ;,")
    return " ".join(text.split()[:max_words]).rstrip(" ;,")


def lower_first(text: str) -> str:
    """Lower the first letter of a phrase, but leave acronyms such as GDP as they are."""
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] in {" ", ""} else text
