"""Write the distractors of a held-out set: the rest of its source, for `kblam eval --distractors`.

    python tests/heldout/make_distractors.py elements OUT.jsonl
    python tests/heldout/make_distractors.py cwe OUT.jsonl
    python tests/heldout/make_distractors.py edam OUT.jsonl

Left out: the triples of the held-out KB, and free text about its names (a definition, description or
background), which could answer a question as well as the triple that the question names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kblam_engine.datasets import load
from kblam_engine.triple_files import read_jsonl, write_jsonl
from kblam_engine.triples import Triple

FOLDER = Path(__file__).parent
SOURCES = ("elements", "cwe", "edam")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", choices=SOURCES)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    write_jsonl(arguments.out, distractors(arguments.source))


if __name__ == "__main__":
    main()
