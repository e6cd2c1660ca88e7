"""What was measured, with the file that holds it, and the rules of the code that sizes follow from.

A test compares every number here with its file. Times are of one thread: those of searches of a server with AVX-512, those of
encoding and of the store of one without 16-bit arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kblam_engine.capacity.terms import Known, Term, term

SEARCH = "docs/results/search"
LARGEST = 1_000_000
"""Keys of the largest knowledge base that was measured; what is told beyond it is extrapolated. (Ten million keys, most of them
synthetic, were searched to see whether the extrapolation holds: docs/scale.md.)"""
KEPT_KEYS = 100_000
"""Up to here keys are kept in memory and every one is scored (`kblam_engine/retrieval.py`)."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One measured quantity of searching, by the number of keys.

    Attributes:
        kind: "exact", "tree" or "ann".
        field: in the files, of each result of that kind.
        points: (keys, value), the smallest first.
    """

    kind: str
    field: str
    points: tuple[tuple[int, float], ...]

    @property
    def exponent(self) -> float:
        """Fit value = a * keys ** b by least squares of the logarithms; return b, rounded to two digits."""
        xs, ys = ([math.log(point[i]) for point in self.points] for i in (0, 1))
        mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
        covariance = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
        return round(covariance / sum((x - mean_x) ** 2 for x in xs), 2)

    def known(self, symbol: str, unit: str) -> tuple[Known, Known]:
        """Return the value at the largest size and the exponent, as `<symbol>` and `b_<symbol>`."""
        n, value = self.points[-1]
        return (
            Known(symbol, value, unit, f"{self.kind} at {n:,} keys, {self.field} in {SEARCH}/real.json"),
            Known(
                f"b_{symbol}",
                self.exponent,
                "",
                f"fitted to {self.field} at {self.points[0][0]:,} to {n:,} keys in {SEARCH}/real.json",
            ),
        )


QUERY_MS = {
    kind: Growth(kind, "query_cpu_ms", points)
    for kind, points in {
        "exact": ((10_000, 1.4991), (100_000, 9.7086), (237_568, 24.8091), (1_000_000, 101.1086)),
        "tree": ((10_000, 1.073), (100_000, 2.2768), (237_568, 3.3389), (1_000_000, 9.4201)),
        "ann": ((10_000, 0.8942), (100_000, 1.4786), (237_568, 2.6079), (1_000_000, 2.9805)),
    }.items()
}
BUILD_S = {
    kind: Growth(kind, "build_cpu_s", points)
    for kind, points in {
        "tree": ((10_000, 3.7233), (100_000, 12.7779), (237_568, 25.8904), (1_000_000, 91.5984)),
        "ann": ((10_000, 3.6421), (100_000, 6.8371), (237_568, 14.0154), (1_000_000, 44.3194)),
    }.items()
}
TREE_ROOTS = Growth("tree", "options.beam.roots", ((10_000, 48), (100_000, 192), (237_568, 228), (1_000_000, 457)))
TREE_BEAM = Growth("tree", "options.beam.inters", ((10_000, 128), (100_000, 609), (237_568, 861), (1_000_000, 2896)))
PROBES = Growth("ann", "options.n_probes", ((10_000, 128), (100_000, 181), (237_568, 512), (1_000_000, 362)))
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

TEXTS_PER_S = Known("texts", 194.697, "texts/s", f"results[0].texts_per_cpu_s in {SEARCH}/encoding.json")
QUESTION_MS = Known("question", 16.225, "ms", f"results[0].question_cpu_ms in {SEARCH}/encoding.json")
STORE_BYTES = Known("stored", 1755.59, "B", f"size_mb at 1,000,000 triples in {SEARCH}/store.json, a triple")
STORE_MEMORY = Known("held", 29.746 * 1024**2 / 1e6, "B", f"memory_mb (MiB) at 1,000,000 triples in {SEARCH}/store.json, a triple")
IMPORT_S = Known("imported", 15.611 / 1e6, "s", f"import_cpu_s at 1,000,000 triples in {SEARCH}/store.json, a triple")
SNAPSHOT_S = Known(
    "shown", 0.687604 / 1e6, "s", f"snapshot_ms at 1,000,000 triples in {SEARCH}/store.json, a triple; of the clock"
)

_ADAPTER = "kblam_engine/adapters/smollm2-135m/adapter_config.json"
KB_LAYERS = Known("native_layers", 4, "", f"native.layers in {_ADAPTER}; as many are assumed for other models")
KEY_DIM = Known("key", 64, "", f"native.key_dim in {_ADAPTER}; the same is assumed for other models")
SELECTED = Known("selected", 6, "triples", f"n_select in {_ADAPTER}")
ROLES = Known("roles", 14, "", "rule: roles of a token, kblam_engine/statements.py")
STATEMENT_TOKENS = Known("tokens", 64, "tokens", "assumed: of a statement, a long one")


def process_bytes() -> Term:
    """Return what a process holds beside the weights of its model, measured with the default one at 10,000 triples."""
    at = "docs/results/bench-10000-1-thread.json"
    peak = Known("peak", 913.0, "MiB", f"results[0].peak_rss_mb in {at}, with 10,000 triples")
    weights = Known("weights_135m", 134_515_008, "", f"parameters of smollm2-135m, 16 bits each in {at}")
    return term(peak) * 1024 ** 2 - term(weights) * 2
