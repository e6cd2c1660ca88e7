"""Names that a run leaves out of its training data: where they are read, and when two are the same."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kblam_engine.triple_files import read_triples


def folded(name: str) -> str:
    """Return a name without the case and the spacing that people write it in."""
    return " ".join(name.split()).casefold()


def folded_names(names: Iterable[str]) -> frozenset[str]:
    """Return the names that `folded` ones are compared with."""
    return frozenset(map(folded, names))


def names_in(path: Path) -> frozenset[str]:
    """Return the names in the folder of a knowledge base, or in a file of triples.

    Raises:
        ImportFileError: it is a file of another kind, or a damaged one.
        KnowledgeBaseError: the knowledge base cannot be read.
        OSError: the file cannot be opened.
    """
    if (path / "kb.sqlite").exists():
        from kblam_engine.knowledge_base import KnowledgeBase

        with KnowledgeBase.open(path, create=False, read_only=True) as kb:
            return frozenset(triple.name for triple in kb)
    return frozenset(triple.name for triple in read_triples(path))
