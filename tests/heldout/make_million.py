"""Write a knowledge base of about a million real triples that holds the three held-out ones.

    python tests/heldout/make_million.py OUT.jsonl
    kblam kb import OUT.jsonl --kb million.kb

None of it is from a source that the recipe trains on. The held-out triples come first, then the rest of their sources,
then the data sets that docs/datasets.md calls free (whose packages it names). A triple whose name and property were
there already is left out, so that every held-out question keeps its one answer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from make_distractors import FOLDER, FREE, SOURCES, distractors

from kblam_engine.datasets import iter_triples
from kblam_engine.evaluation.assembly import assemble
from kblam_engine.triple_files import read_jsonl, write_jsonl
from kblam_engine.triples import Triple


def million(held: Iterable[Triple], others: Iterable[Triple]) -> Sequence[Triple]:
    """Return the held-out triples, and of the others the first of each name and property that these do not have."""
    return assemble(held, (), others).triples


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    held = chain.from_iterable(read_jsonl(FOLDER / f"{source}.kb.jsonl") for source in SOURCES)
    others = chain(*map(distractors, SOURCES), *map(iter_triples, FREE))
    print(f"{write_jsonl(arguments.out, million(held, others)):,} triples")


if __name__ == "__main__":
    main()
