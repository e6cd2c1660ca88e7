"""Keys of real triples, embedded once and kept on disk, or those of a knowledge base: what searches are measured on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kblam_engine import datasets
from kblam_engine.errors import MissingDependencyError
from kblam_engine.evaluation.latency import Progress
from kblam_engine.models.registry import sha256_of
from kblam_engine.triple_files import read_triples, write_triples
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KnowledgeBase

_BATCH = 8192
_MIXED = 0.6
"""How far a synthetic key is from one real key towards another."""


@dataclass(frozen=True)
class RealKeys:
    """Keys in a random order of their names, all of a name together.

    Attributes:
        triples: the first ones.
        keys: float16 [n, embed_dim], mapped.
    """

    triples: list[Triple]
    keys: NDArray[np.float16]


def keys_of_datasets(
    n: int, n_triples: int, encoder: Any, cache: Path, progress: Progress = lambda *_: None
) -> RealKeys:
    """Return `n` keys of the installed data sets (or all there are), embedded in `cache`, and the first triples."""
    listed = cache / "triples.jsonl"
    triples = first_triples(n, listed)
    keys = embedded(triples, encoder, _keys_file(cache, encoder, listed), progress)
    return RealKeys(triples[:n_triples], keys)


def _keys_file(cache: Path, encoder: Any, listed: Path) -> Path:
    """Return where the keys of a list of triples are kept, and remove this encoder's keys of any other list.

    The list's digest is in the name: one that was written anew, longer or over other data sets, may have other triples
    in the same places. Fewer of the same list are its beginning.
    """
    prefix = f"keys-{encoder.fingerprint.replace(':', '-')}"
    path = cache / f"{prefix}-{sha256_of(listed)[:12]}.f16"
    for other in (cache / f"{prefix}.f16", *cache.glob(f"{prefix}-*.f16")):
        if other != path:
            other.unlink(missing_ok=True)
    return path


def keys_of_kb(
    kb: KnowledgeBase, n: int, n_triples: int, path: Path, seed: int, progress: Progress = lambda *_: None
) -> RealKeys:
    """Return `n` keys of a knowledge base (or all there are), copied into a new file, and the first triples."""
    snapshot = kb.snapshot()
    n = min(n, len(snapshot))
    rank = np.random.default_rng(seed).permutation(snapshot.n_names)
    order = np.argsort(rank[snapshot.name_index], kind="stable")[:n]
    keys = np.memmap(path, "<f2", "w+", shape=(n, snapshot.embed_dim))
    for start in range(0, n, _BATCH):
        keys[start : start + _BATCH] = snapshot.key_embeddings[order[start : start + _BATCH]]
        progress("copying keys", min(start + _BATCH, n), n)
    return RealKeys(snapshot.triples(order[:n_triples]), keys)


def real_triples() -> Iterator[Triple]:
    """Yield the triples of every data set that is installed, all of a name together, the names in a random order.

    The order is the same in every run over the same data, so any number of them from the start is a fair sample.
    """
    by_name: dict[tuple[str, str], list[Triple]] = {}
    for dataset in datasets.DATASETS:
        try:
            for triple in datasets.iter_triples(dataset):
                by_name.setdefault((dataset, triple.name), []).append(triple)
        except MissingDependencyError:
            continue
    names = sorted(by_name)
    Random(0).shuffle(names)
    for name in names:
        yield from by_name[name]


def first_triples(n: int, path: Path) -> list[Triple]:
    """Return the first `n` real triples (or all there are), kept in a file: reading every data set takes a minute."""
    if not path.exists() or len(known := list(islice(read_triples(path), n))) < n:
        known = list(islice(real_triples(), n))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_triples(path, known)
    return known


def embedded(triples: list[Triple], encoder: Any, path: Path, progress: Progress) -> NDArray[np.float16]:
    """Return the key embeddings of triples, mapped; those that an interrupted run has left in `path` are kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row_bytes = 2 * encoder.embed_dim
    done = path.stat().st_size // row_bytes if path.exists() else 0
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(done * row_bytes)
        file.seek(0, os.SEEK_END)
        while done < len(triples):
            batch = [triple.key_text for triple in triples[done : done + _BATCH]]
            file.write(encoder.encode(batch).astype("<f2").tobytes())
            done += len(batch)
            progress("encoding keys", done, len(triples))
    shape = len(triples), encoder.embed_dim
    return np.memmap(path, "<f2", "c", shape=shape) if triples else np.zeros(shape, np.float16)


def extended(real: NDArray[np.float16], n_keys: int, path: Path, seed: int, progress: Progress) -> NDArray[np.float16]:
    """Return `n_keys` keys in a new file: the real ones, then synthetic ones, each on the way between two of them."""
    generator = np.random.default_rng(seed)
    keys = np.memmap(path, "<f2", "w+", shape=(n_keys, real.shape[1]))
    keys[: len(real)] = real[:n_keys]
    for start in range(len(real), n_keys, _BATCH):
        n = min(_BATCH, n_keys - start)
        first, second = (real[generator.integers(len(real), size=n)].astype(np.float32) for _ in range(2))
        rows = first + _MIXED * second
        keys[start : start + n] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        progress("making synthetic keys", start + n, n_keys)
    return keys
