"""What was measured, with the file that holds it, and the rules of the code that sizes follow from.

A test compares every number here with its file. Times are of one thread: those of searches of a server with AVX-512, those of
the store of one without 16-bit arithmetic.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from kblam_engine.capacity.terms import Known, Term, term

SEARCH = "docs/results/search"
LARGEST = 1_000_000
"""Triples of the largest knowledge base that was measured as a whole; beyond it what grows with triples is extrapolated."""
SEARCHED = 10_000_000
"""Keys of the largest index that was built and searched, nine tenths of them synthetic; beyond it what is told of indexes and of
searches is extrapolated."""
RECALL = {"tree": 0.9881, "ann": 0.9838}
"""At `SEARCHED` keys, recall in search/ten-million.json."""
KEPT_KEYS = 100_000
"""Up to here keys are kept in memory and every one is scored (`kblam_engine/retrieval.py`)."""
GROWTH = f"{SEARCH}/ten-million.json"


@dataclass(frozen=True, slots=True)
class Growth:
    """One measured quantity of searching, by the number of keys, all of one run.

    Attributes:
        kind: "exact", "tree" or "ann".
        field: in the file, of each result of that kind.
        points: (keys, value), the smallest first; two or more.
    """

    kind: str
    field: str
    points: tuple[tuple[int, float], ...]

    @property
    def exponents(self) -> tuple[float, ...]:
        """Return b of value = a * keys ** b through each two neighbouring sizes, rounded to three digits."""
        return tuple(
            round(math.log(after[1] / before[1]) / math.log(after[0] / before[0]), 3)
            for before, after in pairwise(self.points)
        )

    def at(self, n: Term, symbol: str, unit: str = "") -> Term:
        """Return the value at n keys: as measured, or growing as between the sizes around n; outside them, as between the nearest two.

        Its formula starts from `symbol` and `b_<symbol>`.
        """
        place = max(0, bisect_right(self.points, n.value, key=lambda point: point[0]) - 1)
        return self._from(place, min(place, len(self.points) - 2), n, symbol, unit)

    def at_most(self, n: Term, symbol: str, unit: str = "") -> Term:
        """Return the same, but beyond the largest size growing as where it grew fastest."""
        last = len(self.points) - 1
        if n.value <= self.points[last][0]:
            return self.at(n, symbol, unit)
        return self._from(last, max(range(last), key=self.exponents.__getitem__), n, symbol, unit)

    def _from(self, place: int, step: int, n: Term, symbol: str, unit: str) -> Term:
        """Return the value measured at one place times the growth between a size and the next."""
        keys, value = self.points[place]
        (start, _), (end, _) = self.points[step : step + 2]
        anchor = Known(symbol, value, unit, f"{self.kind} at {keys:,} keys, {self.field} in {GROWTH}")
        exponent = Known(
            f"b_{symbol}", self.exponents[step], "", f"from {self.field} at {start:,} and {end:,} keys in {GROWTH}"
        )
        return term(anchor) * (n / keys) ** term(exponent)


QUERY_MS = {
    kind: Growth(kind, "query_cpu_ms", points)
    for kind, points in {
        "exact": ((10_000, 1.0677), (100_000, 9.5033), (1_000_000, 94.1671), (10_000_000, 1043.0189)),
        "tree": ((10_000, 0.7555), (100_000, 2.1236), (1_000_000, 9.6741), (10_000_000, 43.0907)),
        "ann": ((10_000, 0.6128), (100_000, 1.3763), (1_000_000, 2.9002), (10_000_000, 23.2065)),
    }.items()
}
BUILD_S = {
    kind: Growth(kind, "build_cpu_s", points)
    for kind, points in {
        "tree": ((10_000, 2.7669), (100_000, 11.1605), (1_000_000, 81.2129), (10_000_000, 1174.8003)),
        "ann": ((10_000, 2.5232), (100_000, 6.047), (1_000_000, 40.9402), (10_000_000, 756.2524)),
    }.items()
}
TREE_ROOTS = Growth("tree", "options.beam.roots", ((10_000, 48), (100_000, 192), (1_000_000, 457), (10_000_000, 1536)))
TREE_BEAM = Growth("tree", "options.beam.inters", ((10_000, 128), (100_000, 609), (1_000_000, 2896), (10_000_000, 4096)))
PROBES = Growth("ann", "options.n_probes", ((10_000, 128), (100_000, 181), (1_000_000, 362), (10_000_000, 2048)))
MOST_SLOTS = 2**31 - 1
"""Positions and ids of names are 32-bit numbers: no knowledge base is larger."""

SPLIT = Known(
    "split",
    1.03115,
    "",
    f"inter centres of the tree over 4 n^(2/3), options.inters at 1,000,000 keys in {SEARCH}/real.json",
)
WIDEST_BEAM = (1536, 4096)
"""Roots and inter centres of the widest beam that a build tries (`kblam_engine/search/recall.py` ROOTS, INTERS)."""
MOST_PROBES = 2048
"""Lists of faiss that a search looks into, the most that a build tries (`kblam_engine/search/faiss_index.py` _PROBES)."""
FINENESS = Known("fine", 4, "", "rule: inter centres in multiples of n^(2/3), kblam_engine/search/tree_growth.py")
SAMPLE = Known("sample", 12, "", "rule: keys a cluster that centres are found from, kblam_engine/search/tree_growth.py")
LISTS = Known("fine_a", 2, "", "rule: lists of faiss in multiples of n^(1/2), kblam_engine/search/faiss_index.py")

DIM = Known("dim", 384, "", "embed_dim of the default sentence encoder, docs/results/search/encoding.json")
COARSE = Known(
    "coarse", 192, "B", f"principal directions of the keys, options.directions at 1,000,000 keys in {SEARCH}/real.json"
)
SCORED_AGAIN = Known("again", 192, "", "rule: 8 times the 24 candidates asked for, kblam_engine/search/tree.py, retrieval.py")
PER_LIST = Known("per_list", 40, "", "rule: keys a list that its centre is found from, kblam_engine/search/faiss_index.py")
CODE_BLOCK = Known("block", 32, "", "keys whose codes lie together in a list of faiss; the last block of a list may be half empty")
CODED_AGAIN = Known("again_a", 512, "", "rule: the least that are scored again, for the 24 candidates asked for, kblam_engine/search/faiss_index.py")
SCAN_BYTES = Known("scan", 2_300_000, "B", "rule: 2 MB and 0.3 MB a query, kblam_engine/search/exact.py")

TEXTS_PER_S = Known("texts", 289.392, "texts/s", f"results[0].texts_per_cpu_s in {SEARCH}/encoding.json")
QUESTION_MS = Known("question", 11.646, "ms", f"results[0].question_cpu_ms in {SEARCH}/encoding.json")
STORE_BYTES = Known("stored", 1755.59, "B", f"size_mb at 1,000,000 triples in {SEARCH}/store.json, a triple")
STORE_MEMORY = Known("held", 29.746 * 1024**2 / 1e6, "B", f"memory_mb (MiB) at 1,000,000 triples in {SEARCH}/store.json, a triple")
IMPORT_S = Known("imported", 15.611 / 1e6, "s", f"import_cpu_s at 1,000,000 triples in {SEARCH}/store.json, a triple")
SNAPSHOT_S = Known(
    "shown", 0.687604 / 1e6, "s", f"snapshot_ms at 1,000,000 triples in {SEARCH}/store.json, a triple; of the clock"
)
ADDED_BYTES = Known("added", 3_100, "B", "peak while a knowledge base takes a change of short triples, a triple; tests/test_capacity.py")
ADDED_AT_ONCE = Known(
    "part", 250_000, "triples", "rule: triples that a worker adds in one change, kblam_engine/cluster/shard_building.py"
)

_ADAPTER = "kblam_engine/adapters/smollm2-135m/adapter_config.json"
KB_LAYERS = Known("native_layers", 4, "", f"native.layers in {_ADAPTER}; as many are assumed for other models")
KEY_DIM = Known("key", 64, "", f"native.key_dim in {_ADAPTER}; the same is assumed for other models")
SELECTED = Known("selected", 6, "triples", f"n_select in {_ADAPTER}")
ROLES = Known("roles", 14, "", "rule: roles of a token, kblam_engine/statements.py")
STATEMENT_TOKENS = Known("tokens", 64, "tokens", "assumed: of a statement, a long one")

ASKED_AT = 10_000
"""Triples among which the time to the first token was measured."""
ASKED_MOST = 1_053_370
"""The most triples among which it was measured; beyond it what is told of it is extrapolated."""
_ASKED = f"docs/results/bench-{ASKED_AT}-1-thread.json"
PROMPT_MS = Known("prompt", 101.016, "ms", f"results[0].ttft_ms_base in {_ASKED}, the default model without a KB")
ASKED_MS = Known("asked", 115.346, "ms", f"results[0].ttft_ms_kb in {_ASKED}, among {ASKED_AT:,} triples")
SEARCHES = Known("searches", 2, "", "rule: by the turn and by the conversation, kblam_engine/retrieval.py; a first turn takes one")
DEFAULT_WEIGHTS = Known(
    "weights_135m", 134_515_008, "", f"parameters of smollm2-135m, 16 bits each in {_ASKED}; time of a prompt as the weights is assumed"
)


def process_bytes() -> Term:
    """Return what a process holds beside the weights of its model, measured with the default one at 10,000 triples."""
    peak = Known("peak", 977.0, "MiB", f"results[0].peak_rss_mb in {_ASKED}, with {ASKED_AT:,} triples")
    return term(peak) * 1024 ** 2 - term(DEFAULT_WEIGHTS) * 2
