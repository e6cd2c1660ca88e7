"""Which headings name a kind of section ("Technical data") and not a thing ("Orca 2"), and how deep they stand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from kblam_engine.sources.documents.document import Block, one_line

# What sections of a page about one thing are called; a heading of these words alone names no thing.
_KINDS = frozenset(
    """about abstract accessories accessory address addresses appearance appendix attributes background battery body
    capabilities care certification certifications characteristics cleaning communication compatibility compliance
    components conclusion conclusions conditions configuration connection connections connectivity construction contact
    contacts contents control controls cost costs data datasheet delivery description design detail details dimension
    dimensions discussion display documentation economics education electronics energy engine environment equipment
    examples fact facts faq features figures finance finances form functions geography glance handling hardware history
    identification identity info infobox information inputs installation interface interfaces introduction items keys
    limitations links locations maintenance management manufacturing market material materials measurements mechanics
    metadata method methods mobility navigation notes operation operations options order ordering origin outputs overview
    packaging parameters part parts people performance person personnel politics ports power preface price prices pricing
    production profile properties property purpose questions ratings reception references remarks repair requirements
    resources results safety scope security sensors service services setup shape shipping size sizes software sources
    specification specifications specs standards statistics storage structure summary supply support system table
    taxonomy terms timeline training transport troubleshooting usage use uses values variants versions warranty weight
    weights""".split()
)
# Words that say more of such a section, and are none of their own.
_QUALIFIERS = frozenset(
    """a additional all an and at basic brief by common company current detailed electrical environmental essential
    external financial for frequently asked from further general important in internal its key legal life main mechanical
    more my new of on operating or other our physical product quick related see short some special technical the this to
    us useful versus vs with your""".split()
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_ALSO = frozenset(("see also", "at a glance"))
_TOPIC, _KIND = 2, 3  # the levels of headings that do not say theirs
_TITLE = 1


def is_general(heading: str) -> bool:
    """Say whether a heading names a kind of section and not a thing, by its words.

    What stands in brackets, and numbers, do not count: "Specifications (EU)", "Key figures 2024".
    """
    plain = re.sub(r"\([^)]*\)", " ", heading).casefold()
    if plain.strip(" .:") in _ALSO:
        return True
    words = _WORD.findall(plain)
    return any(word in _KINDS for word in words) and all(word in _KINDS or word in _QUALIFIERS for word in words)


def kinds_of(headings: Sequence[str]) -> frozenset[str]:
    """Return the headings of a document, casefolded, that name kinds of sections.

    They do by their words, or because they stand below several things: "Gizmos" below "Orca 2" and below "Narwhal".

    Args:
        headings: all of the document, in its order.
    """
    folded = [one_line(heading).casefold() for heading in headings]
    general = {heading for heading in folded if is_general(heading)}
    again = {heading for heading, n in Counter(folded).items() if n > 1}
    below: dict[str, list[str]] = {}
    thing = ""
    for heading in folded:
        if heading in again:
            below.setdefault(heading, []).append(thing)
        elif heading not in general:
            thing = heading
    several = {heading for heading, things in below.items() if all(things) and len(set(things)) == len(things)}
    return frozenset(general | several)


def with_levels(blocks: Sequence[Block], text: str, *, has_title: bool = False) -> list[Block]:
    """Return blocks of a text whose headings of level 0, which do not say theirs, have one.

    Args:
        blocks: of the whole document.
        text: of the document.
        has_title: whether the document says its title elsewhere. If not, the first heading is the title of all that follows,
            unless it names a kind of section.
    """
    kinds = kinds_of([text[block.start : block.end] for block in blocks if block.kind == "heading"])
    done: list[Block] = []
    seen = has_title
    for block in blocks:
        if block.kind == "heading":
            if not block.level:
                is_kind = one_line(text[block.start : block.end]).casefold() in kinds
                block = replace(block, level=_KIND if is_kind else _TOPIC if seen else _TITLE)
            seen = True
        done.append(block)
    return done
