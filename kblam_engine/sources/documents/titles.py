"""Titles that say what kind of document they stand above: "Orca 2 User Guide" is about the Orca 2."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from kblam_engine.sources.documents.document import one_line
from kblam_engine.sources.documents.headings import says_no_thing

_GUIDES = (
    r"(?:(?:user|owner|operator|buyer|visitor|tourist|traveller|traveler)(?:['’]?s['’]?)?|quick(?:[ -]?start)?|getting[ -]started|"
    r"start|set-?up|installation|product|reference|service|maintenance|care|safety|travel|city|technical|programming)"
)
# What is written about one thing. A catalogue or a range is about several, and "Guide" alone is part of names: "Michelin Guide".
_PAPERS = (
    rf"(?:{_GUIDES} (?:and {_GUIDES} )?guide|(?:(?:{_GUIDES}|instruction|operating|operation|repair|training|staff|employee|and|&) )*manual|"
    r"(?:operating|user|safety) instructions|instructions for use|(?:(?:technical|product|safety|spec|specification) )?data ?sheet|"
    r"(?:spec|specs|specification|specifications|product|fact) ?sheet|(?:technical |product |full )?(?:specifications|specs)|"
    r"(?:technical|product) specification|technical data|(?:staff|employee|company|team) handbook|product (?:page|information|"
    r"description|profile)|company profile|readme|faq|frequently asked questions)"
)
# These are part of names as well ("Penguin Handbook"), so the document has to say the name without them.
_LOOSE = r"(?:guide|handbook|overview|documentation|profile|information|instructions|wiki)"
_EDITION = (
    r"(?:[ ,:–—-]*(?:\([^)]*\)|\bv(?:ersion)?[ .]?\d[\w.]*|\brev(?:ision)?\b[. ]*\w{1,4}|\b(?:19|20)\d\d|\b\d{1,2}(?:st|nd|rd|th) edition))*"
)
_BEHIND = re.compile(rf"(?:(?:the|your|our|my) )?(?P<name>.+?)(?: ?[:|,–—]| -)? (?:(?P<sure>{_PAPERS})|(?P<loose>{_LOOSE})){_EDITION}", re.IGNORECASE)
_BEFORE = re.compile(
    rf"(?:(?:an? |the )?(?:{_PAPERS}|overview|(?P<loose>guide|instructions))(?: (?:for|on|of|to)(?: (?:the|your))? | ?[:|–—] ?| - )|"
    rf"(?:about|welcome to) (?:the )?(?!an? ))(?P<name>\S.*?){_EDITION}",
    re.IGNORECASE,
)
_ALONE = re.compile(rf"(?:(?:the|our|my) )?(?:{_PAPERS}|(?:owner['’]s|user|product|city|travel) (?:manual|{_LOOSE})){_EDITION}", re.IGNORECASE)
_OF_PARTS = re.compile(r"(?:instructions|information|overview|faq|questions|data)\W*\Z", re.IGNORECASE)
_POINTING = frozenset("this these our my your it".split())


class Title(NamedTuple):
    """What a heading says that a document, or a part of it, is about."""

    name: str
    is_paper: bool
    """Whether it says that all below is about one thing: a manual, a data sheet."""


def read_title(heading: str, *, is_said: Callable[[str], bool] = lambda name: False, above: str = "") -> Title:
    """Return what a heading is about: "Orca 2" of "Orca 2 User Guide", "About the Orca 2" and "User guide: Orca 2 (2024)".

    Args:
        heading: of a section that is about a thing.
        is_said: whether the rest of the document says a name by itself.
        above: the thing below which it stands, empty if none. Below another thing only what is known as a name is taken out
            of it: "EU Specifications" are not about the EU.
    """
    heading = one_line(heading)
    if _ALONE.fullmatch(heading):
        return Title(heading, True)
    for pattern in (_BEFORE, _BEHIND):
        match = pattern.fullmatch(heading)
        if match is None:
            continue
        name, is_loose = match["name"].strip(" :|,–—-"), match.groupdict().get("loose") is not None
        if says_no_thing(name) or name.split()[0].casefold() in _POINTING or (above and _OF_PARTS.search(heading)):
            continue
        if not (is_loose or above) or (above and _is_kin(name, above)) or is_said(name):
            return Title(name, not is_loose)
    return Title(heading, False)


def _is_kin(name: str, above: str) -> bool:
    """Say whether a name has a number, or begins as what is above it does: "Heron XL" below "Heron Product Range"."""
    return any(char.isdigit() for char in name) or name.split()[0] == above.split()[0]
