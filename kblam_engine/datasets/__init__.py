"""Real data as triples: converters for data sets that ordinary packages ship.

The project ships the converters and never the data. Each module holds `LICENCE`, `PROVENANCE`, `INSTALL`
and `triples()`, and reads its package's data file without importing the package. `docs/datasets.md` lists
them with their sizes and what each is used for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from kblam_engine.errors import ConfigurationError
from kblam_engine.triples import Triple

__all__ = ["DATASETS", "DatasetInfo", "info", "iter_triples", "load"]

DATASETS: tuple[str, ...] = (
    "airports",
    "bioregistry",
    "cwe",
    "debian",
    "edam",
    "elements",
    "factbook",
    "foldoc",
    "gene_ontology",
    "geonames",
    "iso_codes",
    "openngc",
    "vital",
    "wordnet",
)
"""The names that `load` accepts."""


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What a person should know before using a data set."""

    name: str
    summary: str
    licence: str
    provenance: str
    install: str


def load(name: str) -> list[Triple]:
    """Return all triples of a data set.

    Raises:
        ConfigurationError: There is no data set of that name.
        MissingDependencyError: The package that holds the data is not installed; the message says how to.
    """
    return list(iter_triples(name))


def iter_triples(name: str) -> Iterator[Triple]:
    """Yield the triples of a data set one by one; raises as `load` does."""
    triples: Iterator[Triple] = _module(name).triples()
    return triples


def info(name: str) -> DatasetInfo:
    """Return licence, provenance and install command of a data set, which need not be installed."""
    module = _module(name)
    summary = (module.__doc__ or "").strip().splitlines()[0]
    return DatasetInfo(name, summary, module.LICENCE, module.PROVENANCE, module.INSTALL)


def _module(name: str) -> ModuleType:
    if name not in DATASETS:
        raise ConfigurationError(f"Expected a data set out of {', '.join(DATASETS)}; got {name!r}.")
    return importlib.import_module(f"{__name__}.{name}")
