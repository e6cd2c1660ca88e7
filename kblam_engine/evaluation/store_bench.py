"""What the store of a knowledge base costs: import, opening, look-ups, changes and memory, encoding by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from kblam_engine.evaluation.metrics import percentile
from kblam_engine.evaluation.store_processes import followed_ms, opened, read
from kblam_engine.evaluation.visible import K, encoding_ms, visible_changes
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase
    from kblam_engine.search.interface import Found, KeyIndex

METHOD = (
    "Invented triples, five to a name, with random unit vectors for embeddings; the time to draw these is left out. "
    "torch is loaded, as with an encoder: it rounds them to 16 bits. "
    "Times are of the wall clock; cpu_s beside them tells what a busy machine adds. Memory is anonymous memory of a "
    "fresh process (Linux), beyond what it had before it opened the knowledge base. exact_ and tree_ are times from "
    "the change of one triple until a search over the new revision showed it; encoding_ms, the time of the real "
    "sentence encoder for the key and value of one triple, comes on top of them. goals_met compares every size with the "
    "goals for 1,000,000 triples; that of a change is compared with both together."
)
_CHANGES = (
    "change_ms",
    "other_process_ms",
    "view_ms",
    *(f"{search}_{what}_ms" for search in ("exact", "tree") for what in ("added", "changed", "removed")),
)
"""From a change until it is visible; the encoder's time comes on top."""
GOALS = {
    "import_per_s": 100_000,
    "open_ms": 1_000,
    "get_ms": 0.1,
    **dict.fromkeys(_CHANGES, 50),
    "memory_mb": 200,
}
"""On two cores, at 1,000,000 triples; the first is to be reached, the others not to be passed."""
_TO_REACH = frozenset({"import_per_s"})
_BATCH = 100_000
_EMBED_DIM = 384
_N_CHANGES = 20
_N_VISIBLE = 9
_N_LOOKUPS = 500
_N_FINDS = 50
_WORDS = 20_000

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What one size cost; times are medians."""

    n_triples: int
    import_s: float
    import_cpu_s: float
    import_per_s: float
    """Triples a second, with words, keys and values on disk."""
    open_ms: float
    """Until the first look-up."""
    snapshot_ms: float
    """The first one of a process."""
    get_ms: float
    find_ms: float
    name_words_ms: float
    change_ms: float
    """From `set` to a new snapshot with all that retrieval reads, in the process that had one before."""
    other_process_ms: float
    """The same in another process that had one before, and is told of the change through a pipe."""
    view_ms: float
    """The same of a view, of the triples in no namespace: all of them."""
    exact_added_ms: float
    """From `set` until a search that scores every key of the new snapshot found the triple."""
    exact_changed_ms: float
    exact_removed_ms: float
    tree_added_ms: float | None
    """The same with a tree, where one was asked for."""
    tree_changed_ms: float | None
    tree_removed_ms: float | None
    encoding_ms: float | None
    """Of the real sentence encoder, for key and value of one triple: it comes on top of every change."""
    memory_mb: float | None
    size_mb: float
    verified: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object, and for each number that has a goal whether it meets it."""
        numbers = {part: round(v, 3) if isinstance(v, float) else v for part, v in asdict(self).items()}
        return {**numbers, "goals_met": goals_met(numbers)}


def goals_met(numbers: Mapping[str, Any]) -> dict[str, bool | None]:
    """Say for each number of a size that has a goal whether it meets it; a change together with its encoding."""
    encoding = numbers["encoding_ms"] or 0.0
    with_encoding = {part: numbers[part] + encoding for part in _CHANGES if numbers[part] is not None}
    return {part: goal_met(part, {**numbers, **with_encoding}[part]) for part in GOALS}


def goal_met(part: str, value: float | None) -> bool | None:
    """Say whether a number meets its goal; None where there is no number, or no goal."""
    if value is None or part not in GOALS:
        return None
    return value >= GOALS[part] if part in _TO_REACH else value <= GOALS[part]


class RandomEncoder:
    """Random unit vectors, and how long it took to draw them."""

    name = "random"
    fingerprint = "random:v1"
    embed_dim = _EMBED_DIM

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self._calls = 0

    def encode(self, texts: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]:
        """Return unit rows, float32 `[len(texts), embed_dim]`."""
        import numpy as np

        begun, cpu = time.perf_counter(), time.process_time()
        self._calls += 1
        drawn = np.random.default_rng(self._calls).standard_normal((len(texts), self.embed_dim), np.float32)
        unit: NDArray[np.float32] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        self.seconds += time.perf_counter() - begun
        self.cpu_seconds += time.process_time() - cpu
        return unit


def bench_store(
    n_triples: int,
    *,
    folder: Path | None = None,
    seed: int = 0,
    tree: bool = False,
    encoder: Any = None,
    progress: Progress = lambda *_: None,
) -> StoreResult:
    """Fill a new knowledge base and measure it.

    Args:
        n_triples: how many.
        folder: where to put it; default: the temporary folder.
        seed: of the triples.
        tree: build a tree, too, and measure changes with it.
        encoder: the sentence encoder to time; None: none.
        progress: called with what is being done, steps done, steps in all.
    """
    import torch  # noqa: F401

    from kblam_engine.knowledge_base import KnowledgeBase

    with TemporaryDirectory(prefix="kblam-bench-", dir=folder) as temporary:
        path, random = Path(temporary) / "kb", RandomEncoder()
        with KnowledgeBase.open(path, encoder=random) as kb:
            spent, cpu = _fill(kb, n_triples, seed, progress)
            spent, cpu = spent - random.seconds, cpu - random.cpu_seconds
            asked = list(islice(invented(seed), 0, n_triples, max(1, n_triples // _N_LOOKUPS)))
            numbers = {
                "get_ms": _median_ms(lambda t: kb.get(t.name, t.property), asked),
                "find_ms": _median_ms(lambda t: kb.find(f"{t.name} {t.property}"), asked[:_N_FINDS]),
                "change_ms": _median_ms(lambda t: _change(kb, kb, t), asked[:_N_CHANGES]),
                "other_process_ms": percentile(followed_ms(kb, path, asked[:_N_CHANGES]), 50) or 0.0,
            }
            view = kb.view(namespace="")
            view.snapshot()
            numbers["view_ms"] = _median_ms(lambda t: _change(kb, view, t), asked[:_N_CHANGES])
            snapshot = kb.snapshot()
            numbers["name_words_ms"] = _median_ms(lambda t: snapshot.positions_with_words(t.name), asked[:_N_FINDS])
            visible, seen = _visible(kb, tree)
            verified = seen and not kb.verify()
            size = kb.info().size_bytes / 1e6
        return StoreResult(
            n_triples=n_triples,
            import_s=spent,
            import_cpu_s=cpu,
            import_per_s=n_triples / spent,
            **numbers,
            **visible,
            encoding_ms=None if encoder is None else encoding_ms(encoder, asked[:_N_CHANGES]),
            **opened(path),
            size_mb=size,
            verified=verified,
        )


def invented(seed: int) -> Iterator[Triple]:
    """Yield triples without end, five properties to a name."""
    rng, serial = Random(seed), 0
    while True:
        name = f"word{serial % _WORDS} word{(7 * serial) % _WORDS} {serial}"
        for i in range(5):
            value = " ".join(f"word{rng.randrange(_WORDS)}" for _ in range(4))
            yield Triple(name, f"property {(serial + i) % 50}", value)
        serial += 1


def _fill(kb: KnowledgeBase, n_triples: int, seed: int, progress: Progress) -> tuple[float, float]:
    """Return the seconds of the wall clock and of the processor that `add` took."""
    triples, spent, cpu = islice(invented(seed), n_triples), 0.0, 0.0
    done = 0
    while batch := list(islice(triples, _BATCH)):
        begun, begun_cpu = time.perf_counter(), time.process_time()
        kb.add(batch)
        spent += time.perf_counter() - begun
        cpu += time.process_time() - begun_cpu
        done += len(batch)
        progress(f"import {n_triples:,}", done, n_triples)
    return spent, cpu


def _change(kb: KnowledgeBase, shown_by: KnowledgeBase, triple: Triple) -> None:
    kb.set(triple.name, triple.property, f"{triple.value} of {kb.revision}")
    read(shown_by.snapshot())


def _visible(kb: KnowledgeBase, tree: bool) -> tuple[dict[str, Any], bool]:
    """Return the times of changes by the field of the result, and whether every search showed its change."""
    from kblam_engine.search.build import build_index, open_index
    from kblam_engine.search.snapshot_search import SnapshotSearch

    def searched(by: KeyIndex | None, snapshot: KBSnapshot, query: NDArray[np.float32]) -> Found:
        return SnapshotSearch(snapshot, by).search(query, K)

    index = None
    if tree:
        build_index(kb.snapshot(), "tree")
        opened = open_index(kb.snapshot())
        index = None if opened is None else opened[1]
    times: dict[str, Any] = {}
    seen = True
    for kind, by in (("exact", None), ("tree", index)):
        found = None
        if kind == "exact" or by is not None:
            found = visible_changes(kb, partial(searched, by), _N_VISIBLE)
            seen &= found.seen
        for what in ("added_ms", "changed_ms", "removed_ms"):
            times[f"{kind}_{what}"] = None if found is None else getattr(found, what)
    return times, seen


def _median_ms(call: Callable[[Triple], object], triples: list[Triple]) -> float:
    times = []
    for triple in triples:
        begun = time.perf_counter()
        call(triple)
        times.append(1e3 * (time.perf_counter() - begun))
    return percentile(times, 50) or 0.0
