"""What an update of a knowledge base costs the model that answers from it, and which search it uses."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.interface import EvaluatedModel
from kblam_engine.evaluation.metrics import key_of, percentile
from kblam_engine.evaluation.visible import K, copied, encoding_ms, visible_changes
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase
    from kblam_engine.products import Floats
    from kblam_engine.search.interface import Found
    from kblam_engine.search.snapshot_search import SnapshotSearch

_RETRIEVED = 10


@dataclass(frozen=True, slots=True)
class Updates:
    """Medians over some changes, in milliseconds of the clock."""

    visible_ms: float | None
    """From `set` until a search returned the triple; of adding and changing the slower one. Encoding is in it."""
    encoding_ms: float | None
    retrieval_ms: float | None
    """The first `retrieve` of the model after a change."""
    found: float | None
    """Share of added triples that this `retrieve` returned."""


NO_UPDATES = Updates(None, None, None, None)


def ready_search(model: EvaluatedModel, snapshot: KBSnapshot) -> str:
    """Wait until the model's index of a knowledge base is there, and return how its keys are searched."""
    return "exact" if _every_key_is_scored(len(snapshot)) else model.indexes.ready(snapshot).kind


def search_of(model: EvaluatedModel, snapshot: KBSnapshot) -> SnapshotSearch:
    """Return the search that the model's own answers use: every key up to 100,000 triples, then what `--index` says."""
    from kblam_engine.search.snapshot_search import SnapshotSearch

    if _every_key_is_scored(len(snapshot)):
        return SnapshotSearch(snapshot)
    found: SnapshotSearch = model.indexes.of(snapshot)
    return found


def sampled(snapshot: KBSnapshot, n_triples: int, seed: int) -> list[Triple]:
    """Return triples of a knowledge base in a random order, no name and property twice."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(snapshot), min(len(snapshot), n_triples), replace=False)
    return list({key_of(t.name, t.property): t for t in snapshot.triples(chosen)}.values())


def measure_updates(model: EvaluatedModel, kb: KnowledgeBase, n_changes: int, *, copy: bool) -> Updates:
    """Add and change triples and have the model search for them.

    Args:
        model: answers from `kb`.
        kb: on disk.
        n_changes: how many, at least 1.
        copy: leave `kb` alone and change a copy of it, index included, in the temporary folder.
    """
    from kblam_engine.knowledge_base import KnowledgeBase

    if n_changes < 1:
        raise ConfigurationError(f"n_changes: expected at least 1, got {n_changes}")
    if not copy:
        return _updates(model, kb, n_changes)
    with TemporaryDirectory(prefix="kblam-bench-") as folder:
        path = copied(kb, Path(folder) / "copy.kb")
        with KnowledgeBase.open(path, encoder=model.encoder, create=False) as own:
            return _updates(model, own, n_changes)


def _updates(model: EvaluatedModel, kb: KnowledgeBase, n_changes: int) -> Updates:
    def search(snapshot: KBSnapshot, query: Floats) -> Found:
        return search_of(model, snapshot).search(query, K)

    ready_search(model, kb.snapshot())
    times = visible_changes(kb, search, n_changes)
    property_name = kb.snapshot().triple(0).property
    added = [Triple(f"Varnholm Yard {kb.revision} {n}", property_name, f"value {n}") for n in range(n_changes)]
    model.retrieve(f"What is the {property_name} of {added[0].name}?", kb, _RETRIEVED)
    retrieval, found = [], 0
    for triple in added:
        kb.set(triple.name, triple.property, triple.value)
        begun = time.perf_counter()
        hits = model.retrieve(f"What is the {triple.property} of {triple.name}?", kb, _RETRIEVED)
        retrieval.append(1e3 * (time.perf_counter() - begun))
        found += any(hit.triple == triple for hit in hits)
    for triple in added:
        kb.remove(triple.name, triple.property)
    return Updates(
        visible_ms=max(times.added_ms, times.changed_ms),
        encoding_ms=encoding_ms(model.encoder, added),
        retrieval_ms=percentile(retrieval, 50),
        found=found / n_changes,
    )


def _every_key_is_scored(n_triples: int) -> bool:
    # Not at the top: it brings torch, which a report of earlier results does without.
    from kblam_engine.retrieval import KEPT_KEYS

    return n_triples <= KEPT_KEYS
