"""The Gene Ontology: about 43,000 terms for what gene products do, in which processes, and where in the cell.

Read from the SQLite file of Debian's package `r-bioc-go.db`, which apt downloads once into the user's cache;
nothing is installed, R is not needed. Left out: obsolete terms, and lists too long to be given whole.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from kblam_engine.datasets._apt import DebianPackage, damaged, package_folder
from kblam_engine.datasets._files import clean, shorten
from kblam_engine.triples import Triple

LICENCE = "CC BY 4.0 (the Gene Ontology), Artistic-2.0 (the package)"
PROVENANCE = "Gene Ontology of 2022-07-01, SQLite database of the Debian package r-bioc-go.db, 3.16.0-1"
PACKAGE = DebianPackage(
    name="r-bioc-go.db",
    folder="usr/lib/R/site-library/GO.db/extdata",
    probe="GO.sqlite",
    cached="gene-ontology-3.16.0",
    file="r-bioc-go.db_3.16.0-1_all.deb",
    sha256="6cf9c43b97212811ecb7ad0d7cde12e76f984ab7494a59c02455239a9dd3243d",
)
INSTALL = PACKAGE.install

_ASPECTS = {"BP": "biological process", "MF": "molecular function", "CC": "cellular component"}
_RELATIONS = {
    "isa": "broader term",
    "part of": "part of",
    "regulates": "regulated process",
    "positively regulates": "promoted process",
    "negatively regulates": "suppressed process",
}
_MAX_LISTED = 5


def triples() -> Iterator[Triple]:
    """Yield the triples of all terms, in the order of their identifiers.

    Raises:
        MissingDependencyError: The package is neither installed nor to be had from apt; the message says how to.
        DatasetError: The package has the wrong checksum, or its database does not have the expected tables.
    """
    yield from _read(package_folder(PACKAGE) / PACKAGE.probe)


def _read(path: Path) -> Iterator[Triple]:
    try:
        # immutable: the folder may be read-only, where SQLite could not even create its lock file.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
            yield from _terms(db)
    except (sqlite3.Error, TypeError) as error:  # a text that is missing is None
        raise damaged(PACKAGE, path.parent, f"Expected the tables of GO.db 3.16 in {path.name}; got: {error}") from error


def _terms(db: sqlite3.Connection) -> Iterator[Triple]:
    terms = db.execute(
        "SELECT _id, go_id, term, ontology, definition FROM go_term "
        "WHERE ontology IN ('BP', 'MF', 'CC') ORDER BY go_id"
    ).fetchall()
    names = {identifier: clean(term, markup=False) for identifier, _, term, _, _ in terms}
    lists = _lists(db, names)
    seen: set[str] = set()
    for identifier, go_id, _, aspect, definition in terms:
        name = names[identifier]
        if name.casefold() in seen:
            name = f"{name} ({_ASPECTS[aspect]})"
        seen.add(name.casefold())
        yield Triple(name, "GO identifier", go_id)
        yield Triple(name, "aspect", _ASPECTS[aspect])
        if text := shorten(clean(definition or "", markup=False)):
            yield Triple(name, "definition", text)
        for property_name, values in lists[identifier].items():
            if len(values) <= _MAX_LISTED:
                # Chemical names are full of commas.
                yield Triple(name, property_name, "; ".join(values))


def _lists(db: sqlite3.Connection, names: dict[int, str]) -> dict[int, dict[str, list[str]]]:
    """Return term -> property -> values: its relations, then its synonyms."""
    lists: dict[int, dict[str, list[str]]] = defaultdict(dict)
    for table in ("go_bp_parents", "go_mf_parents", "go_cc_parents"):
        for identifier, parent, relation in db.execute(
            f"SELECT _id, _parent_id, relationship_type FROM {table} ORDER BY _id, _parent_id"
        ):
            if relation in _RELATIONS and parent in names and identifier in names:
                lists[identifier].setdefault(_RELATIONS[relation], []).append(names[parent])
    for identifier, synonym in db.execute(
        "SELECT DISTINCT _id, synonym FROM go_synonym WHERE like_go_id = 0 ORDER BY _id, synonym"
    ):
        if identifier in names and (text := clean(synonym, markup=False)):
            synonyms = lists[identifier].setdefault("synonyms", [])
            if text not in synonyms:
                synonyms.append(text)
    return lists
