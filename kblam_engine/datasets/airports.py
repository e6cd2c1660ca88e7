"""Airports of the world: city, region, country, codes, elevation and position of about 28,000.

Read from the CSV file inside the package `airportsdata`. Several airports of one name get the city or the
code behind the name, so that a name means one airport.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator

from kblam_engine.datasets._files import clean, package_file
from kblam_engine.triples import Triple

LICENCE = "MIT (the package airportsdata and its data)"
PROVENANCE = "CSV file of the Python package airportsdata"
INSTALL = "pip install --no-deps airportsdata"

_PROPERTIES = (
    ("IATA code", "iata", ""),
    ("ICAO code", "icao", ""),
    ("city", "city", ""),
    ("region", "subd", ""),
    ("country code", "country", ""),
    ("elevation", "elevation", "ft"),
    ("latitude", "lat", "degrees"),
    ("longitude", "lon", "degrees"),
    ("time zone", "tz", ""),
)


def triples() -> Iterator[Triple]:
    """Yield the triples of all airports; raises MissingDependencyError without airportsdata."""
    path = package_file("airportsdata", "airportsdata/airports.csv", install=INSTALL)
    with path.open(encoding="utf-8", newline="") as file:
        airports = [row for row in csv.DictReader(file) if clean(row["name"])]
    n_of_name = Counter(clean(row["name"]) for row in airports)
    n_of_place = Counter((clean(row["name"]), clean(row["city"])) for row in airports)
    for row in airports:
        name, city = clean(row["name"]), clean(row["city"])
        if n_of_name[name] > 1:
            unique = city and n_of_place[name, city] == 1
            name = f"{name} ({city if unique else row['icao'] or row['lid']})"
        for property_name, column, unit in _PROPERTIES:
            if value := clean(row[column]):
                yield Triple(name, property_name, f"{value} {unit}".rstrip())
