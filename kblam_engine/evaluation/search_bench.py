"""What searching keys costs by the size of the knowledge base, and what an index misses: no model, no store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kblam_engine.evaluation.latency import Progress
from kblam_engine.evaluation.metrics import growth_exponent, percentile
from kblam_engine.evaluation.real_keys import RealKeys, extended
from kblam_engine.evaluation.synthetic_kb import fresh_questions
from kblam_engine.products import Floats
from kblam_engine.search.exact import ExactIndex, scan
from kblam_engine.search.interface import KeyIndex
from kblam_engine.search.recall import K, fitting_beam, recall_of, sample_queries
from kblam_engine.search.tree_files import write_tree
from kblam_engine.search.tree_growth import find_clusters

FORMAT = "kblam-search-bench/1"
METHOD = (
    "Keys are those of real triples, in a random order of their names; where there are no more they are synthetic, each "
    "on the way between two real ones. Queries are questions in six wordings about triples that every size holds. Each query "
    "is put to every kind in turn; ratios are medians of paired ratios with scoring every key. Recall is the share of "
    f"the exact best {K} that is found. A tree's beam and faiss's probes are chosen on other queries, made from keys."
)
_N_QUESTIONS = 100
_N_TIMED = 40


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One way to search at one size; times are medians of single queries, on the clock and of the processor."""

    kind: str
    n_keys: int
    n_synthetic: int
    query_ms: float
    query_cpu_ms: float
    """Of the processor, all threads together: what a busy machine adds is not in it."""
    time_ratio: float
    """Time of a query over that of scoring every key."""
    cpu_ratio: float
    recall: float
    recall_on_key_queries: float
    """Recall over queries made from keys, as `kblam kb info` shows it."""
    build_s: float
    build_cpu_s: float
    disk_bytes_per_key: float
    resident_bytes_per_key: float
    options: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(self).items()}


def bench_search(
    sizes: Sequence[int],
    encoder: Any,
    real_keys: Callable[[Path, Progress], RealKeys],
    *,
    kinds: Sequence[str] = ("tree", "ann"),
    folder: Path | None = None,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> Iterator[SearchResult]:
    """Measure every kind at every size, the smallest first.

    Args:
        sizes: numbers of keys.
        encoder: the sentence encoder.
        real_keys: gives the keys, for which it may use a folder that is gone afterwards, and at least as many triples
            as the smallest size.
        kinds: beside "exact".
        folder: where indexes are built; default: the temporary folder.
        seed: of every draw.
        progress: called with what is being done, steps done, steps in all.
    """
    with TemporaryDirectory(prefix="kblam-search-", dir=folder) as temporary:
        real = real_keys(Path(temporary), progress)
        asked = fresh_questions(real.triples[: min(sizes)], seed)
        questions = encoder.encode([text for (text, _), _ in zip(asked, range(_N_QUESTIONS), strict=False)])
        keys = extended(real.keys, max(sizes), Path(temporary) / "keys", seed, progress)
        for size in sorted(sizes):
            n_synthetic = max(0, size - len(real.keys))
            with TemporaryDirectory(dir=temporary) as place:
                yield from _measure(keys[:size], n_synthetic, questions, kinds, Path(place), seed, progress)


def growth_exponents(results: Sequence[SearchResult]) -> dict[str, float]:
    """Fit processor time = a * n_keys ** b for each kind; return b, for kinds of two sizes or more."""
    found = {}
    for kind in dict.fromkeys(result.kind for result in results):
        own = [result for result in results if result.kind == kind]
        if len({result.n_keys for result in own}) > 1:
            found[kind] = growth_exponent([r.n_keys for r in own], [r.query_cpu_ms for r in own])
    return found


def local_exponents(results: Sequence[SearchResult]) -> dict[str, list[dict[str, float]]]:
    """Return b of processor time = a * n_keys ** b between each two neighbouring sizes, for kinds of two sizes or more.

    One exponent for all sizes hides that the smallest grow slowest. Each is {"from": keys, "to": keys, "exponent": b}.
    """
    found = {}
    for kind in dict.fromkeys(result.kind for result in results):
        own = {result.n_keys: result.query_cpu_ms for result in results if result.kind == kind}
        between = [
            {"from": small, "to": large, "exponent": round(float(np.log(own[large] / own[small]) / np.log(large / small)), 3)}
            for small, large in pairwise(sorted(own))
        ]
        if between:
            found[kind] = between
    return found


def _measure(
    keys: NDArray[np.float16],
    n_synthetic: int,
    questions: Floats,
    kinds: Sequence[str],
    place: Path,
    seed: int,
    progress: Progress,
) -> list[SearchResult]:
    built = {"exact": _Built(ExactIndex(keys))}
    for kind in kinds:
        built[kind] = _build(kind, keys, place / kind, seed, progress)
    near_keys = sample_queries(keys, seed=seed + 1)
    truths = scan(keys, questions, K), scan(keys, near_keys, K)
    times: dict[str, list[_Time]] = {kind: [] for kind in built}
    for number, query in enumerate(questions[:_N_TIMED, None]):
        progress(f"searching {len(keys):,} keys", number, _N_TIMED)
        for kind, one in built.items():
            begun, cpu = time.perf_counter(), time.process_time()
            one.index.search(query, K)
            times[kind].append(_Time(1e3 * (time.perf_counter() - begun), 1e3 * (time.process_time() - cpu)))
    return [
        SearchResult(
            kind=kind,
            n_keys=len(keys),
            n_synthetic=n_synthetic,
            query_ms=_median(t.wall for t in times[kind]),
            query_cpu_ms=_median(t.cpu for t in times[kind]),
            time_ratio=_median(t.wall / e.wall for t, e in zip(times[kind], times["exact"], strict=True)),
            cpu_ratio=_median(t.cpu / e.cpu for t, e in zip(times[kind], times["exact"], strict=True)),
            recall=recall_of(one.index.search(questions, K), truths[0]),
            recall_on_key_queries=recall_of(one.index.search(near_keys, K), truths[1]),
            build_s=one.seconds,
            build_cpu_s=one.cpu_seconds,
            disk_bytes_per_key=one.disk_bytes / len(keys),
            resident_bytes_per_key=one.resident_bytes / len(keys),
            options=one.options,
        )
        for kind, one in built.items()
    ]


class _Time(NamedTuple):
    wall: float
    cpu: float


def _median(values: Iterable[float]) -> float:
    return percentile(values, 50) or 0.0


@dataclass
class _Built:
    index: KeyIndex
    options: Any = None
    disk_bytes: int = 0
    resident_bytes: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def _build(kind: str, keys: NDArray[np.float16], place: Path, seed: int, progress: Progress) -> _Built:
    place.mkdir()
    built = _Built(ExactIndex(keys[:0]))
    with _timed(built):
        if kind == "tree":
            tree = write_tree(place, keys, find_clusters(keys, seed=seed, progress=progress))
            queries = sample_queries(keys, seed=seed)
            tree = replace(tree, beam=fitting_beam(tree, queries, scan(keys, queries, K)))
            built.index, built.resident_bytes = tree, tree.resident_bytes
            built.options = tree.options
        else:
            from kblam_engine.search.faiss_index import write_faiss

            built.index, built.options = write_faiss(place, keys, seed, progress)
            built.resident_bytes = 4 * keys.shape[1] * built.options["n_lists"]
    built.disk_bytes = sum(file.stat().st_size for file in place.iterdir())
    return built


@contextmanager
def _timed(built: _Built) -> Iterator[None]:
    begun, cpu = time.perf_counter(), time.process_time()
    yield
    built.seconds, built.cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu
