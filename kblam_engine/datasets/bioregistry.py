"""Registers of identifiers in the life sciences: description, pattern and example of about 2,900.

Read from the JSON file inside the package `bioregistry`. Names and addresses of contact people are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kblam_engine.datasets._files import clean, package_file, shorten
from kblam_engine.triples import Triple

LICENCE = "CC0 1.0 (the registry), MIT (the package)"
PROVENANCE = "JSON file of the Python package bioregistry, 0.15.6"
INSTALL = "pip install --no-deps bioregistry==0.15.6"

# The registry's own word first, then the registers it gathers from.
_SOURCES = (
    "",
    "miriam",
    "n2t",
    "obofoundry",
    "ols",
    "bioportal",
    "prefixcommons",
    "wikidata",
    "fairsharing",
    "bartoc",
)
_PROPERTIES = (
    ("description", "description"),
    ("example identifier", "example"),
    ("identifier pattern", "pattern"),
    ("licence", "license"),
    ("subject area", "domain"),
    ("keywords", "keywords"),
    ("version", "version"),
)


def triples() -> Iterator[Triple]:
    """Yield the triples of all registers; raises MissingDependencyError without bioregistry."""
    path = package_file("bioregistry", "bioregistry/data/bioregistry.json", install=INSTALL)
    with path.open(encoding="utf-8") as file:
        registry: dict[str, dict[str, Any]] = json.load(file)
    seen: set[str] = set()
    for prefix, record in registry.items():
        name = _first(record, "name") or prefix
        if name.casefold() in seen:
            name = f"{name} ({prefix})"
        seen.add(name.casefold())
        yield Triple(name, "prefix", prefix)
        for property_name, key in _PROPERTIES:
            if value := shorten(_first(record, key)):
                yield Triple(name, property_name, value)


def _first(record: dict[str, Any], key: str) -> str:
    for source in _SOURCES:
        part = record.get(source, {}) if source else record
        value = part.get(key) if isinstance(part, dict) else None
        if isinstance(value, list):
            value = ", ".join(str(item) for item in value)
        if isinstance(value, str) and (text := clean(value)):
            return text
    return ""
