"""The Debian package index: purpose, size, dependencies and tags of about 45,000 software packages.

Read through `apt-cache dumpavail` from the package lists that apt keeps on this machine; nothing is downloaded
here, so the versions are those of the machine's last `apt-get update`. Debtags facets become properties:
"interface::commandline" is the user interface "commandline". Left out: maintainers and their addresses, what
has almost the same value everywhere, lists too long to be given whole, and sections of packages that are made
by the hundred from one template (see `_SKIPPED_SECTIONS`, `_CROSS`).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

from kblam_engine.datasets._apt import run
from kblam_engine.datasets._files import clean, shorten
from kblam_engine.errors import MissingDependencyError
from kblam_engine.triples import Triple

LICENCE = "the licence of each package; the descriptions belong to their packages (fetch, don't redistribute)"
PROVENANCE = "package lists of this machine's apt (Debian or a relative), debtags among them"
INSTALL = "apt-get update"

_SKIPPED_SECTIONS = {
    "debug",
    "doc",
    "golang",
    "haskell",
    "introspection",
    "kernel",
    "libdevel",
    "localization",
    "oldlibs",
    "rust",
}
_FACETS = {
    "accessibility": "accessibility aid",
    "admin": "administration task",
    "biology": "biological data",
    "culture": "culture",
    "devel": "development topic",
    "field": "academic field",
    "game": "kind of game",
    "hardware": "supported hardware",
    "implemented-in": "implementation language",
    "interface": "user interface",
    "iso15924": "writing system",
    "mail": "role in handling mail",
    "made-of": "kind of content",
    "network": "role in a network",
    "office": "office task",
    "privacy": "privacy issue",
    "protocol": "network protocol",
    "role": "role",
    "science": "scientific task",
    "scope": "scope",
    "security": "security topic",
    "sound": "sound task",
    "suite": "software suite",
    "system": "target system",
    "uitoolkit": "user interface toolkit",
    "use": "purpose",
    "web": "kind of web software",
    "works-with": "data it works with",
    "works-with-format": "supported formats",
    "x11": "role in the X Window System",
}
_RELATIONS = (
    ("required packages", "Depends"),
    ("recommended packages", "Recommends"),
    ("suggested packages", "Suggests"),
    ("enhanced packages", "Enhances"),
    ("conflicting packages", "Conflicts"),
    ("replaced packages", "Replaces"),
    ("names it also provides", "Provides"),
)
# Compilers for other machines: hundreds of packages that differ in the machine's name alone.
_CROSS = re.compile(r"-linux-gnu|-cross$|-mingw-w64")
_MAX_LISTED = 6
_NO_TAGS = {"TODO", "not-applicable", "no-known-issues"}


def triples() -> Iterator[Triple]:
    """Yield the triples of all packages, in alphabetical order.

    Raises:
        MissingDependencyError: There is no apt on this machine, or it has no package lists.
    """
    seen: set[str] = set()
    for record in _records(_dump()):
        name = record.get("Package", "")
        # A package without `Filename` is installed here and in no list.
        if not name or name in seen or "Filename" not in record:
            continue
        seen.add(name)
        skipped = record.get("Section", "").rpartition("/")[2] in _SKIPPED_SECTIONS or _CROSS.search(name)
        if not skipped:
            for property_name, value in _package(name, record):
                if value:
                    yield Triple(name, property_name, value)
    if not seen:
        raise MissingDependencyError(f"apt has no package lists on this machine. Run: {INSTALL}")


def _dump() -> str:
    if shutil.which("apt-cache") is None:
        raise MissingDependencyError(
            "This data set is read from the package lists of Debian or a relative, and apt-cache is not on this "
            f"machine. On one that has it, run: {INSTALL}"
        )
    return run(["apt-cache", "dumpavail"], remedy=INSTALL)


def _records(text: str) -> Iterator[dict[str, str]]:
    """Yield the paragraphs of deb822(5) text as field -> value, continuation lines joined."""
    for paragraph in text.split("\n\n"):
        record: dict[str, str] = {}
        field = ""
        for line in paragraph.splitlines():
            if line[:1] not in {" ", "\t"}:
                field, _, value = line.partition(":")
                record[field] = value.strip()
            # What continues a description is the long one, which few lists carry.
            elif field and field != "Description":
                record[field] = f"{record[field]} {line.strip()}"
        yield record


def _package(name: str, record: dict[str, str]) -> Iterator[tuple[str, str]]:
    yield "description", shorten(clean(record.get("Description", ""), markup=False))
    yield "version", record.get("Version", "")
    yield "section", record.get("Section", "")
    source = record.get("Source", "").partition(" ")[0]
    yield "source package", source if source != name else ""
    size = record.get("Installed-Size", "")
    yield "installed size", f"{size} KiB" if size.isdigit() else ""
    for property_name, field in _RELATIONS:
        yield property_name, _listed(_names(record.get(field, "")))
    facets: dict[str, list[str]] = {}
    for tag in record.get("Tag", "").split(","):
        facet, _, value = tag.strip().partition("::")
        if facet in _FACETS and value and value not in _NO_TAGS:
            facets.setdefault(facet, []).append(_spoken(value))
    for facet, values in facets.items():
        yield _FACETS[facet], _listed(values)


def _names(relation: str) -> list[str]:
    """Return the packages of a relation without versions: "a (>= 1) | b, c:any" -> "a or b", "c"."""
    names = re.sub(r"\s*(?:\([^)]*\)|\[[^]]*\]|<[^>]*>|:any\b)", "", relation).split(",")
    return [" or ".join(part.strip() for part in name.split("|")) for name in names if name.strip()]


def _listed(values: list[str]) -> str:
    unique = list(dict.fromkeys(values))
    return ", ".join(unique) if len(unique) <= _MAX_LISTED else ""


def _spoken(tag: str) -> str:
    """Return a debtags value as words: "lang:perl" -> "perl", "storage:cd" -> "storage (cd)"."""
    outer, _, inner = tag.removeprefix("lang:").replace("-", " ").partition(":")
    return f"{outer} ({inner})" if inner else outer
