"""Write the distractors of a held-out set: the rest of its source, for `kblam eval --distractors`.

    python tests/heldout/make_distractors.py elements OUT.jsonl
    python tests/heldout/make_distractors.py cwe OUT.jsonl
    python tests/heldout/make_distractors.py edam OUT.jsonl
    python tests/heldout/make_distractors.py edam OUT.jsonl --fill 110000     # and so many in all, from other sources

Left out: the triples of the held-out KB, and free text about its names (a definition, description or
background), which could answer a question as well as the triple that the question names. `--fill` adds a sample (the same one for every
set, as far as it goes) of the data sets that docs/datasets.md calls free, whose packages it names; no recipe trains on them.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from kblam_engine.datasets import iter_triples, load
from kblam_engine.triple_files import read_jsonl, write_jsonl
from kblam_engine.triples import Triple

FOLDER = Path(__file__).parent
SOURCES = ("elements", "cwe", "edam")
FREE = ("debian", "foldoc", "gene_ontology", "geonames", "iso_codes", "openngc")
FREE_TEXT = {"definition", "description", "extended description", "background"}


def distractors(source: str) -> list[Triple]:
    """Return the triples of a source that are not in its held-out KB and do not compete with it."""
    kb = list(read_jsonl(FOLDER / f"{source}.kb.jsonl"))
    taken = {(t.name, t.property) for t in kb}
    names = {t.name for t in kb}
    return [
        t
        for t in load(source)
        if (t.name, t.property) not in taken and not (t.name in names and t.property in FREE_TEXT)
    ]


def filled(own: list[Triple], n: int) -> list[Triple]:
    """Return a source's triples, and after them as many of the free data sets as make `n`."""
    others = [t for name in FREE for t in iter_triples(name)]
    if len(own) + len(others) < n:
        raise SystemExit(f"--fill: expected at most {len(own) + len(others):,}, which is all there is, got {n:,}")
    random.Random(0).shuffle(others)
    return own + others[: max(0, n - len(own))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", choices=SOURCES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fill", type=int, metavar="N", help="write N triples, the rest of them from other sources")
    arguments = parser.parse_args()
    own = distractors(arguments.source)
    write_jsonl(arguments.out, own if arguments.fill is None else filled(own, arguments.fill))


if __name__ == "__main__":
    main()
