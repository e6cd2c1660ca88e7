"""How long a change of one triple takes until a search over the new revision shows it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kblam_engine.evaluation.metrics import percentile
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase
    from kblam_engine.products import Floats
    from kblam_engine.search.interface import Found

K = 16

Search = Callable[["KBSnapshot", "Floats"], "Found"]
"""Searches a snapshot for queries [1, embed_dim]."""


@dataclass(frozen=True, slots=True)
class ChangeTimes:
    """Medians, in milliseconds of the clock; encoding is in them as far as the knowledge base's encoder takes time."""

    added_ms: float
    """From `set` of a new triple until a search returned that it found it."""
    changed_ms: float
    """The same of another value for it."""
    removed_ms: float
    """From `remove` until a search returned without it."""
    seen: bool
    """Whether every search showed its change."""


def visible_changes(kb: KnowledgeBase, search: Search, n_changes: int) -> ChangeTimes:
    """Add, change and remove triples one by one, and search the new revision for each.

    The knowledge base keeps its contents, but its history grows.

    Args:
        kb: has a triple at least; the new ones get a property of it, as most new triples do.
        search: of a snapshot; the time that it takes counts.
        n_changes: how often.
    """
    snapshot = kb.snapshot()
    property_name = snapshot.triple(0).property
    search(snapshot, np.asarray(snapshot.key_embeddings[[0]], np.float32))
    times: dict[str, list[float]] = {"added": [], "changed": [], "removed": []}
    seen = True
    for number in range(n_changes):
        name = f"Measured change {number} of {kb.revision}"
        query: Floats | None = None
        for what in times:
            value = f"value {what} {number}"
            begun = time.perf_counter()
            if what == "removed":
                kb.remove(name, property_name)
            else:
                kb.set(name, property_name, value)
            snapshot = kb.snapshot()
            spent = time.perf_counter() - begun
            if query is None:  # the key as it was stored, looked up off the clock
                newest = int(np.argmax(snapshot.ids))
                query = np.asarray(snapshot.key_embeddings[[newest]], np.float32)
            begun = time.perf_counter()
            found = search(snapshot, query)
            times[what].append(1e3 * (spent + time.perf_counter() - begun))
            at = found.at[0][found.at[0] >= 0]
            shown = [t.value for t in snapshot.triples(at) if (t.name, t.property) == (name, property_name)]
            seen &= shown == ([] if what == "removed" else [value])
    medians = {f"{what}_ms": percentile(each, 50) or 0.0 for what, each in times.items()}
    return ChangeTimes(**medians, seen=seen)


def encoding_ms(encoder: Any, triples: Sequence[Triple]) -> float:
    """Return the milliseconds that encoding key and value of one triple takes, a median after a warm-up.

    Args:
        encoder: a sentence encoder.
        triples: at least one; each is encoded by itself.
    """
    times = []
    encoder.encode([triples[0].key_text, triples[0].value])
    for triple in triples:
        begun = time.perf_counter()
        encoder.encode([triple.key_text, triple.value])
        times.append(1e3 * (time.perf_counter() - begun))
    return percentile(times, 50) or 0.0


def copied(kb: KnowledgeBase, target: Path) -> Path:
    """Copy a knowledge base on disk with its index, so that changes of the copy leave the original alone."""
    from kblam_engine.search.files import RECORD, read_record

    kb.backup(target)
    assert kb.path is not None
    record = read_record(kb.path)
    if record is not None:
        shutil.copytree(kb.path / record.folder, target / record.folder)
        shutil.copy2(kb.path / RECORD, target / RECORD)
    return target
