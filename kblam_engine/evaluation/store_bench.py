"""What the store of a knowledge base costs: import, opening, look-ups, changes and memory, without any encoding."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from kblam_engine.evaluation.metrics import percentile
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from kblam_engine.knowledge_base import KnowledgeBase

METHOD = (
    "Invented triples, five to a name, with random unit vectors for embeddings; the time to draw these is left out. "
    "torch is loaded, as with an encoder: it rounds them to 16 bits. "
    "Times are of the wall clock; cpu_s beside them tells what a busy machine adds. Memory is anonymous memory of a "
    "fresh process (Linux), beyond what it had before it opened the knowledge base."
)
GOALS = {
    "import_per_s": 100_000,
    "open_ms": 1_000,
    "get_ms": 0.1,
    "change_ms": 50,
    "memory_mb": 200,
}
"""On two cores, at 1,000,000 triples; the first is to be reached, the others not to be passed."""
_BATCH = 100_000
_EMBED_DIM = 384
_N_CHANGES = 20
_N_LOOKUPS = 500
_N_FINDS = 50
_WORDS = 20_000

Progress = Callable[[str, int, int], None]

_OPENING = """
import json, sys, time
import numpy
from kblam_engine.knowledge_base import KnowledgeBase
def anonymous():
    try:
        lines = dict(line.split(":", 1) for line in open("/proc/self/status", encoding="ascii"))
        return int(lines["RssAnon"].split()[0]) / 1024
    except (OSError, KeyError):
        return None
before, begun = anonymous(), time.perf_counter()
kb = KnowledgeBase.open(sys.argv[1], create=False)
kb.get("nothing", "at all")
opened = time.perf_counter()
snapshot = kb.snapshot()
snapshot.name_index, snapshot.property_index
ready = time.perf_counter()
snapshot.value_embeddings(), snapshot.positions_with_words("word1"), kb.find("word1")
after = anonymous()
print(json.dumps({"open_ms": 1e3 * (opened - begun), "snapshot_ms": 1e3 * (ready - opened),
    "memory_mb": None if before is None else after - before}))
"""


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
    memory_mb: float | None
    size_mb: float
    verified: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {part: round(v, 3) if isinstance(v, float) else v for part, v in asdict(self).items()}


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
    n_triples: int, *, folder: Path | None = None, seed: int = 0, progress: Progress = lambda *_: None
) -> StoreResult:
    """Fill a new knowledge base and measure it; in a temporary folder unless one is given."""
    import torch  # noqa: F401

    from kblam_engine.knowledge_base import KnowledgeBase

    with TemporaryDirectory(prefix="kblam-bench-", dir=folder) as temporary:
        path, encoder = Path(temporary) / "kb", RandomEncoder()
        with KnowledgeBase.open(path, encoder=encoder) as kb:
            spent, cpu = _fill(kb, n_triples, seed, progress)
            spent, cpu = spent - encoder.seconds, cpu - encoder.cpu_seconds
            asked = list(islice(invented(seed), 0, n_triples, max(1, n_triples // _N_LOOKUPS)))
            numbers = {
                "get_ms": _median_ms(lambda t: kb.get(t.name, t.property), asked),
                "find_ms": _median_ms(lambda t: kb.find(f"{t.name} {t.property}"), asked[:_N_FINDS]),
                "change_ms": _median_ms(lambda t: _change(kb, t), asked[:_N_CHANGES]),
            }
            snapshot = kb.snapshot()
            numbers["name_words_ms"] = _median_ms(lambda t: snapshot.positions_with_words(t.name), asked[:_N_FINDS])
            verified = not kb.verify()
            size = kb.info().size_bytes / 1e6
        return StoreResult(
            n_triples=n_triples,
            import_s=spent,
            import_cpu_s=cpu,
            import_per_s=n_triples / spent,
            **numbers,
            **_opened(path),
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


def _change(kb: KnowledgeBase, triple: Triple) -> None:
    kb.set(triple.name, triple.property, f"{triple.value} now")
    snapshot = kb.snapshot()
    snapshot.value_embeddings()
    _ = snapshot.name_index, snapshot.property_index, snapshot.property_embeddings
    snapshot.positions_of_name(0)


def _median_ms(call: Callable[[Triple], object], triples: list[Triple]) -> float:
    times = []
    for triple in triples:
        begun = time.perf_counter()
        call(triple)
        times.append(1e3 * (time.perf_counter() - begun))
    return percentile(times, 50) or 0.0


def _opened(path: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", _OPENING, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    numbers: dict[str, Any] = json.loads(done.stdout)
    return numbers
