"""EDAM, the terms of bioinformatics: about 2,360 topics, operations, kinds of data and file formats.

Read from the table inside the package `edam-ontology`. Left out: obsolete terms, and columns that hold
nothing but addresses of web pages. A label that stands for two terms is written with its kind:
"Taxonomy (topic)", "Taxonomy (data)".
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from kblam_engine.datasets._files import DatasetError, clean, package_file, shorten
from kblam_engine.triples import Triple

LICENCE = "CC BY-SA 4.0 (EDAM), MIT (the package)"
PROVENANCE = "EDAM 1.25, table of the Python package edam-ontology, 1.25.3"
INSTALL = "pip install --no-deps edam-ontology==1.25.3"

_OBO = "http://www.geneontology.org/formats/oboInOwl#"
_EDAM = "http://edamontology.org/"
_MEDIA_TYPES = "http://www.iana.org/assignments/media-types/"
_COLUMNS = (
    "Class ID",
    "Preferred Label",
    "Obsolete",
    "Parents",
    f"{_OBO}hasDefinition",
    f"{_OBO}hasExactSynonym",
)
_MAX_NARROWER = 6

_Row = dict[str, str]


def triples() -> Iterator[Triple]:
    """Yield the triples of all terms that are not obsolete, in the order of the file.

    Raises:
        MissingDependencyError: edam-ontology is not installed.
        DatasetError: Its table does not have the expected columns.
    """
    rows = _rows(package_file("edam-ontology", "edam_ontology/EDAM.tsv", install=INSTALL))
    count = Counter(clean(row["Preferred Label"]) for row in rows.values())
    names = {}
    for identifier, row in rows.items():
        label = clean(row["Preferred Label"])
        names[identifier] = f"{label} ({_kind(row)})" if count[label] > 1 else label
    narrower: dict[str, list[str]] = {}
    for identifier, row in rows.items():
        for parent in _parents(row):
            narrower.setdefault(parent, []).append(names[identifier])
    for identifier, row in rows.items():
        for property_name, value in _term(identifier, row, names, narrower.get(identifier, [])):
            if value:
                yield Triple(names[identifier], property_name, value)


def _rows(path: Path) -> dict[str, _Row]:
    """Return the rows of EDAM's own terms by identifier ("format_1930")."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise DatasetError(f"Expected the columns of EDAM 1.25 in {path}; without {', '.join(missing)}.")
        return {
            row["Class ID"].removeprefix(_EDAM): row
            for row in reader
            if row["Class ID"].startswith(_EDAM) and row["Obsolete"] != "TRUE"
        }


def _term(
    identifier: str, row: _Row, names: dict[str, str], narrower: list[str]
) -> Iterator[tuple[str, str]]:
    yield "kind", _kind(row)
    yield "definition", shorten(clean(row[f"{_OBO}hasDefinition"]))
    yield "synonyms", _listed(row, f"{_OBO}hasExactSynonym")
    yield "narrower synonyms", _listed(row, f"{_OBO}hasNarrowSynonym")
    yield "broader term", _unique(names[parent] for parent in _parents(row) if parent in names)
    # A long list would have to be cut, and would then be wrong.
    yield "narrower terms", _unique(narrower) if len(narrower) <= _MAX_NARROWER else ""
    yield "file extension", _listed(row, "File extension")
    media_types = (m for m in row.get("Media type", "").split("|") if m.startswith(_MEDIA_TYPES))
    yield "media type", _unique(m.removeprefix(_MEDIA_TYPES) for m in media_types)
    # The pattern may itself hold the bar that separates the values of other columns.
    yield "identifier pattern", clean(row.get("Regular expression", ""), markup=False)
    yield "example", _listed(row, "Example")
    yield "EDAM identifier", identifier
    yield "version of introduction", clean(row.get("Created in", ""))


def _kind(row: _Row) -> str:
    if "edam#identifiers" in row.get(f"{_OBO}inSubset", ""):
        return "identifier"
    return row["Class ID"].removeprefix(_EDAM).split("_")[0]


def _parents(row: _Row) -> list[str]:
    return [parent.removeprefix(_EDAM) for parent in row["Parents"].split("|")]


def _listed(row: _Row, column: str) -> str:
    return _unique(clean(value) for value in row.get(column, "").split("|"))


def _unique(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))
