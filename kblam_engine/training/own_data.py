"""Triples and graphs of the user's own as training data: any file that sources read, or a knowledge base (KG2KV)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.training.config import TrainConfig
from kblam_engine.training.kg2kv import GraphKnowledge, kg2kv
from kblam_engine.training.left_out import folded, folded_names
from kblam_engine.training.relation_table import RelationNouns
from kblam_engine.training.relations import RelationNamer
from kblam_engine.training.worlds import World
from kblam_engine.triples import Triple


def read_own(path: str | Path) -> GraphKnowledge:
    """Read a file or folder as knowledge to ask about.

    A graph (GraphML, GEXF, GML, node-link JSON, an edge list) is read in both directions, its relations named as nouns. A
    knowledge base, or anything else that ``kblam kb import`` reads, has properties already: they stay as they are, and
    triples are asked forwards only.

    Args:
        path: of the data.

    Raises:
        ImportFileError: no source reads it, or it is damaged.
        MissingDependencyError: a source needs a package that is not installed.
        ConfigurationError: nothing in it can be asked about.
    """
    path = Path(path)
    graph = _graph(path)
    if graph is not None:
        found = kg2kv(graph)
    else:
        triples = list(_triples(path))
        found = kg2kv(triples, masked=("tail",), namer=_Properties())
    if not found.samples:
        account = ", ".join(found.summary().splitlines())
        raise ConfigurationError(f"{path}: expected triples to ask about, got none; {account}")
    return found


def own_worlds(config: TrainConfig, random: Random) -> Iterator[World]:
    """Yield ``config.n_data_worlds`` worlds of every file in ``config.data``, without what the run leaves out.

    Raises:
        ImportFileError: no source reads a file, or it is damaged.
        ConfigurationError: in a file no name has two properties, which follow-up questions need.
    """
    left_out = folded_names(config.exclude_names)
    for path in config.data:
        found = read_own(path)
        kept = tuple(
            s
            for s in found.samples
            if folded(s.name) not in left_out and s.property.casefold() not in config.exclude_properties
        )
        if not kept:
            raise ConfigurationError(f"{path}: everything in it is left out of training")
        found = replace(found, samples=kept)
        for _ in range(config.n_data_worlds):
            yield found.world(random, config.n_source_entities)


def digest_of(paths: Sequence[str]) -> str:
    """Return a digest of the files' contents: a run with other data is another run.

    Of a knowledge base its triples count, in their order, which decides what is drawn. Its files do not: some of them come
    and go as it is opened and closed, or stay behind where a process was killed.

    Raises:
        OSError: one of them cannot be read.
        KnowledgeBaseError: one of them is a knowledge base that cannot be opened.
    """
    digest = hashlib.sha256()
    for path in map(Path, paths):
        if _is_knowledge_base(path):
            digest.update(path.name.encode() + b"\0")
            for triple in _triples(path):
                digest.update(json.dumps([triple.name, triple.property, triple.value]).encode() + b"\n")
            continue
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(file.relative_to(path.parent).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


class _Properties(RelationNamer):
    """Leaves relations as they are: the properties of triples are nouns."""

    def __call__(self, label: str) -> RelationNouns:
        return RelationNouns(label, label, source="given")


def _graph(path: Path) -> Any:
    """Return the graph that a file holds; None where it holds something else."""
    from kblam_engine.sources.graph_files import is_graph_file, read_graph

    return read_graph(path) if path.is_file() and is_graph_file(path) else None


def _is_knowledge_base(path: Path) -> bool:
    return (path / "kb.sqlite").exists()


def _triples(path: Path) -> Iterator[Triple]:
    from kblam_engine.knowledge_base import KnowledgeBase
    from kblam_engine.sources.registry import open_source

    if _is_knowledge_base(path):
        with KnowledgeBase.open(path, create=False, read_only=True) as kb:
            yield from kb
        return
    yield from open_source(path)
