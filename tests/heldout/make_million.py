"""Write a knowledge base of about a million real triples that holds the three held-out ones.

    python tests/heldout/make_million.py OUT.jsonl
    kblam kb import OUT.jsonl --kb million.kb

None of it is from a source that the recipe trains on. The held-out triples come first, then the rest of their sources,
then the data sets that docs/datasets.md calls free (whose packages it names). A triple whose name and property were
there already is left out, so that every held-out question keeps its one answer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from make_distractors import FOLDER, SOURCES, distractors

from kblam_engine.datasets import iter_triples
from kblam_engine.evaluation.metrics import key_of
from kblam_engine.triple_files import read_jsonl, write_jsonl
from kblam_engine.triples import Triple

FREE = ("debian", "foldoc", "gene_ontology", "geonames", "iso_codes", "openngc")


def everything() -> Iterator[Triple]:
    """Yield the triples of all sources, those of the questions first."""
    for source in SOURCES:
        yield from read_jsonl(FOLDER / f"{source}.kb.jsonl")
    for source in SOURCES:
        yield from distractors(source)
    for source in FREE:
        yield from iter_triples(source)


def distinct(triples: Iterator[Triple]) -> Iterator[Triple]:
    """Yield the first triple of each name and property."""
    seen: set[tuple[str, str]] = set()
    for triple in triples:
        key = key_of(triple.name, triple.property)
        if key not in seen:
            seen.add(key)
            yield triple


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    print(f"{write_jsonl(arguments.out, distinct(everything())):,} triples")


if __name__ == "__main__":
    main()
