"""Which headings name a kind of section ("Technical data", "Charging") and not a thing ("Orca 2"), and how deep they stand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from kblam_engine.sources.documents.document import Block, one_line

# What sections of a page about one thing are called; a heading of these words alone names no thing.
_KINDS = frozenset(
    """about abstract accessories accessory address addresses appearance appendix attributes background battery body
    capabilities care certification certifications changelog characteristics cleaning communication compatibility compliance
    components conclusion conclusions conditions configuration connection connections connectivity construction contact
    contacts contents control controls cost costs credits data datasheet delivery description design detail details dimension
    dimensions discussion display documentation economics education electronics energy engine environment equipment
    examples fact facts faq features figures finance finances form functions geography glance handling hardware history
    identification identity info infobox information ingredients inputs installation instructions interface interfaces introduction items keys
    licence license limitations links locations maintenance management manufacturing market material materials measurements mechanics
    metadata method methods mobility navigation notes nutrition operation operations options order ordering origin outputs overview
    packaging parameters part parts people performance person personnel politics ports power preface prerequisites price prices pricing
    production profile properties property purpose questions ratings reception references remarks repair requirements
    resources results roadmap safety scope security sensors service services setup shape shipping size sizes software sources
    specification specifications specs standards statistics storage structure summary supply support system table
    taxonomy terms timeline training transport troubleshooting usage use uses values variants versions warranty weight
    weights""".split()
)
# What else sections are called. Unlike those above such a word says what its keys are about, and by itself it may be a thing: the
# services of a workshop, the departments of a company. So it counts only below another thing.
_TOPICS = frozenset(
    """absence absences activities admission assembly authors authorship autonomy availability benchmark benchmarks benefits
    billing booking bookings breaks budget calibration charging cleanup climate clothing code commands commissioning commuting
    complaints conduct confidentiality consumables contributing contribution contributions contributors cooking cooling
    culture customs cuisine currency deployment descaling development disinfection dismantling disposal dress drink drinks
    drying durability eating efficiency emergencies emergency employment ethics etiquette events expenses feedback festivals filling
    filters firmware food fuel fuelling garnish governance grievances heating holiday holidays hosting hours housekeeping
    humidity hygiene input insurance joining language languages leave leaving lighting logging logistics lubrication machining migration
    milling monitoring mounting nightlife noise nutrition onboarding ordering orientation outdoors output overtime pairing parking
    pay payment payments payroll pension performance permissions preheating preparation privacy probation promotion
    promotions protection punctuality quality reimbursement recruitment recycling refunds regulations reliability removal
    replacement reporting reservations resistance returns safeguarding salaries salary scheduling serving servings sharing
    shopping sickness sightseeing signals speed spelling starting startup substitutions sustainability temperature testing
    tests tickets timetable timing tipping toppings travel travelling unboxing uninstallation unpacking updates updating
    upgrade upgrades upgrading vacation vacations variations volunteering washing water waterproofing weather wellbeing
    wifi wiring work workplace""".split()
)
# These end no names, written large as well: "Sick Leave".
_CAPITAL = frozenset("absence absences holidays hours leave work".split())
# Of the words above these too say what their keys are about: the capacity of a battery is not that of the robot.
_TELLING = frozenset(
    """battery cleaning delivery display engine maintenance packaging repair service services shipping storage support training
    warranty""".split()
)
# Words that say more of such a section, and are none of their own.
_QUALIFIERS = frozenset(
    """a additional all an and at basic brief by common company current detailed electrical environmental essential
    external financial for frequently asked from further general important in internal its key legal life main mechanical
    more my new of on operating or other our physical product quick related see short some special technical the this to
    us useful versus vs with your""".split()
)
# Nouns and names that end as "charging" does.
_NO_VERBS = frozenset(
    """anything banting beijing boeing browning building bunting ceiling chongqing clothing darling duckling dumpling during earring
    evening everything fielding fledgling fleming golding gosling harding herring irving keating liaoning lightning manning morning
    nanjing nothing offspring outing painting pickering pudding railing reading sapling seedling sibling something spalding starling
    sterling stirling viking wedding wellbeing wyoming""".split()
)
# Begins no name, so that what follows may be written large: "Getting Started".
_ACTS = frozenset(
    """adding adjusting assembling attaching changing charging checking choosing cleaning configuring connecting creating
    disconnecting emptying filling fitting getting handling inserting installing maintaining managing operating pairing preparing
    programming reinstalling removing replacing resetting securing selecting setting storing switching turning understanding
    uninstalling unpacking updating upgrading using""".split()
)
# What follows a verb; another noun makes it a thing: "Washing machine".
_AFTER_VERBS = frozenset(
    """a about again all an and around as at away back between by down for from home in into it my of off on or out over started
    the their this through to together under up with without your""".split()
)
_VERBAL = re.compile(r"(?=[a-z]*[aeiouy][a-z]*ing\Z)[a-z]{2,}(?<![^aeiou]w)ing")
_ASKS = re.compile(r"(?:how to|how do|what to|what is in|when to|where to|why|if you|before you|after|before|to) [a-z].*")
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
    words = _words(heading)
    return any(word in _KINDS for word in words) and all(word in _KINDS or word in _QUALIFIERS for word in words)


def is_topic(heading: str) -> bool:
    """Say whether a heading is one that sections below a thing have: "Charging", "Parental leave", "Food and drink".

    Of several words the last decides, if it is written small or says what is done: "Acme Insurance" may be a company.
    """
    words = _words(heading)
    if any(word in _TOPICS for word in words) and says_no_thing(heading):
        return True
    last = heading.split()[-1:]
    return len(words) > 1 and words[-1] in _TOPICS and (last[0].islower() or is_verbal(words[-1]) or words[-1] in _CAPITAL)


def says_no_thing(heading: str) -> bool:
    """Say whether a heading consists of words that name no thing, or has none."""
    known = _KINDS | _QUALIFIERS | _TOPICS
    return all(word in known or is_verbal(word) for word in _words(heading))


def is_telling(heading: str) -> bool:
    """Say whether a heading says what its keys are about: "Battery" does, and "Technical data" does not."""
    return is_topic(heading) or (len(_words(heading)) == 1 and not _TELLING.isdisjoint(_words(heading)))


def is_verbal(heading: str) -> bool:
    """Say whether a heading says what is done: "Descaling", "Getting started", "How to charge"; "Boeing" does not."""
    if _ASKS.fullmatch(heading[:1].casefold() + heading[1:]):
        return True
    first, *rest = heading.split() or [""]
    is_form = first.casefold() not in _NO_VERBS and _VERBAL.fullmatch(first.casefold()) is not None
    return is_form and (
        first.casefold() in _ACTS or not rest or (rest[0] in _AFTER_VERBS and all(word.islower() for word in rest))
    )


def _words(heading: str) -> list[str]:
    """Return the words of a heading, casefolded, without what stands in brackets."""
    return _WORD.findall(re.sub(r"\([^)]*\)", " ", heading).casefold())


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
                heading = one_line(text[block.start : block.end])
                # "Charging" belongs to the robot above it, not to the title of all robots.
                is_kind = heading.casefold() in kinds or (seen and (is_topic(heading) or is_verbal(heading)))
                block = replace(block, level=_KIND if is_kind else _TOPIC if seen else _TITLE)
            seen = True
        done.append(block)
    return done
