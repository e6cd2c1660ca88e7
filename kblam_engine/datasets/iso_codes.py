"""ISO codes: some 14,000 languages, scripts, currencies, countries and their subdivisions.

Read from the JSON files inside the package `pycountry`. What several things are called is written with the
kind behind it, a subdivision with its country: "Limburg (Province, Belgium)".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from kblam_engine.datasets._files import clean, package_file
from kblam_engine.triples import Triple

LICENCE = "LGPL 2.1 or later (Debian's iso-codes), LGPL 2.1 (the package)"
PROVENANCE = "ISO 639, 3166, 4217 and 15924, JSON files of the Python package pycountry, 26.2.16"
INSTALL = "pip install --no-deps pycountry==26.2.16"

# file, kind behind a name that is not unique, key -> property
_FILES: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "iso3166-1",
        "country",
        {
            "alpha_2": "ISO 3166-1 alpha-2 code",
            "alpha_3": "ISO 3166-1 alpha-3 code",
            "numeric": "ISO 3166-1 numeric code",
            "official_name": "official name",
            "common_name": "common name",
        },
    ),
    (
        "iso639-3",
        "language",
        {
            "alpha_3": "ISO 639-3 code",
            "alpha_2": "ISO 639-1 code",
            "bibliographic": "bibliographic language code",
            "type": "vitality",
            "scope": "scope of the language code",
            "inverted_name": "name in an index",
        },
    ),
    ("iso4217", "currency", {"alpha_3": "ISO 4217 code", "numeric": "ISO 4217 number"}),
    ("iso15924", "script", {"alpha_4": "ISO 15924 code", "numeric": "ISO 15924 number"}),
    ("iso639-5", "language family", {"alpha_3": "ISO 639-5 code"}),
    (
        "iso3166-3",
        "former country",
        {
            "alpha_4": "ISO 3166-3 code",
            "withdrawal_date": "date of withdrawal of the country code",
            "comment": "fate of the country",
        },
    ),
    (
        "iso3166-2",
        "",
        {
            "code": "ISO 3166-2 code",
            "type": "type of subdivision",
            "country": "country",
            "parent": "part of",
        },
    ),
)
_LANGUAGE_TYPES = {
    "A": "ancient",
    "C": "constructed",
    "E": "extinct",
    "H": "historical",
    "L": "living",
    "S": "special code",
}
# Nearly all others are single languages, which says nothing.
_LANGUAGE_SCOPES = {"M": "macrolanguage", "S": "special code"}


def triples() -> Iterator[Triple]:
    """Yield the triples of all codes, standard by standard; raises MissingDependencyError without pycountry."""
    tables = {file: _load(file) for file, _, _ in _FILES}
    _spell_out(tables)
    count = Counter(clean(record["name"]).casefold() for table in tables.values() for record in table)
    seen: set[str] = set()
    for file, kind, properties in _FILES:
        for record in tables[file]:
            name = clean(record["name"])
            if count[name.casefold()] > 1:
                name = f"{name} ({kind or '{type}, {country}'.format(**record)})"
            if name.casefold() in seen:
                name = f"{name}, {record.get('code') or record.get('alpha_3')}"
            seen.add(name.casefold())
            for key, property_name in properties.items():
                if value := clean(record.get(key, "")):
                    yield Triple(name, property_name, value)


def _load(file: str) -> list[dict[str, Any]]:
    path = package_file("pycountry", f"pycountry/databases/{file}.json", install=INSTALL)
    tables: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
    return next(iter(tables.values()))


def _spell_out(tables: dict[str, list[dict[str, Any]]]) -> None:
    """Replace the letters that stand for types, and the codes that stand for countries and regions."""
    countries = {c["alpha_2"]: c.get("common_name", c["name"]) for c in tables["iso3166-1"]}
    regions = {region["code"]: region["name"] for region in tables["iso3166-2"]}
    for region in tables["iso3166-2"]:
        prefix = region["code"].partition("-")[0]
        region["country"] = countries.get(prefix, prefix)
        parent = region.get("parent", "")
        # Some write the whole code of the parent, some the part behind the hyphen.
        region["parent"] = regions.get(parent) or regions.get(f"{prefix}-{parent}", "")
    for language in tables["iso639-3"]:
        language["type"] = _LANGUAGE_TYPES.get(language["type"], "")
        language["scope"] = _LANGUAGE_SCOPES.get(language["scope"], "")
