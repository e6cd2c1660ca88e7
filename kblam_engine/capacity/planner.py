"""What a knowledge base of a given size takes: disk, memory, GPU memory, hours to build, time to search.

Every number is a formula over measured constants and rules of the code; both are part of the result.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from kblam_engine.capacity import measured
from kblam_engine.capacity.estimates import Estimate, total
from kblam_engine.capacity.published import claim_note, published
from kblam_engine.capacity.searching import (
    ListSize,
    TreeSize,
    outgrows_beams,
    outgrows_probes,
    query_estimates,
)
from kblam_engine.capacity.shapes import ModelShape, shape_of_model
from kblam_engine.capacity.summary import first_token, results
from kblam_engine.capacity.terms import Known, Term, named, term
from kblam_engine.errors import ConfigurationError

FORMAT = "kblam-plan/1"
Index = Literal["exact", "tree", "ann"]
"""How keys are searched beyond `measured.KEPT_KEYS`."""
INDEXES: tuple[str, ...] = get_args(Index)
_BUILDING = "building a node"


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What to plan for.

    Attributes:
        triples: in all.
        model: a name of `SHAPES`, or a folder with a config.json.
        nodes: machines that the triples are spread over evenly.
        index: how keys are searched.
        cores: processors of each machine that build.
        context: tokens of a conversation that the KV cache holds.
    """

    triples: int
    model: str = "smollm2-135m"
    nodes: int = 1
    index: Index = "tree"
    cores: int = 1
    context: int = 2048

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("triples", "nodes", "cores", "context"):
            number = getattr(self, name)
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ConfigurationError(f"{name}: expected a whole number of at least 1, got {number!r}")
        if self.triples > 10**15:
            raise ConfigurationError(f"triples: expected at most 1e15, got {self.triples:g}")
        if self.index not in INDEXES:
            raise ConfigurationError(f"index: expected one of {', '.join(INDEXES)}, got {self.index!r}")

    @property
    def per_node(self) -> int:
        """Triples of the fullest node."""
        return math.ceil(self.triples / self.nodes)

    @property
    def is_kept(self) -> bool:
        """Whether a node holds so few that their keys are kept in memory and no index is used."""
        return self.per_node <= measured.KEPT_KEYS


@dataclass(frozen=True, slots=True)
class Plan:
    """Estimates with their formulas, and what they leave open.

    Attributes:
        results: disk, RAM, GPU memory, build time, query time and first token of a node, with short formulas.
        estimates: all numbers, the parts of the results among them.
        warnings: what does not work at this size, or not as well.
        notes: these, and what the numbers rest on.
    """

    request: PlanRequest
    shape: ModelShape
    results: tuple[Estimate, ...]
    estimates: tuple[Estimate, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def value(self, section: str, name: str) -> float:
        """Return one number; KeyError where there is none of that name."""
        for estimate in self.estimates:
            if (estimate.section, estimate.name) == (section, name):
                return estimate.value
        raise KeyError(f"{section}: {name}")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "format": FORMAT,
            "request": asdict(self.request),
            "triples_per_node": self.request.per_node,
            "model": {**asdict(self.shape), "n_parameters": self.shape.n_parameters},
            "largest_measured": measured.LARGEST,
            "largest_searched": measured.SEARCHED,
            "results": [asdict(estimate) for estimate in self.results],
            "estimates": [asdict(estimate) for estimate in self.estimates],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }


def plan(request: PlanRequest) -> Plan:
    """Estimate what `request` takes.

    Raises:
        ModelNotFoundError: the shape of the model is not known.
    """
    shape = shape_of_model(request.model)
    source = "asked for" if request.nodes == 1 else f"{request.triples:,} triples / {request.nodes:,} nodes, rounded up"
    n = term(Known("n", request.per_node, "triples", source))
    estimates = [
        *_disk(request, n),
        *_memory(request, n, shape),
        *_gpu(request, n, shape),
        *_building(request, n),
        *query_estimates("exact" if request.is_kept else request.index, n),
    ]
    estimates += [first_token(estimates, n, shape), *published(request.triples, shape)]
    too_many, narrow = _too_many(request), _narrow(request)
    notes = [*too_many, *_notes(request, narrow), claim_note(estimates, request.triples, shape)]
    return Plan(request, shape, results(estimates, n), tuple(estimates), (*too_many, *narrow), tuple(notes))


def _disk(request: PlanRequest, n: Term) -> list[Estimate]:
    dim = term(measured.DIM)
    parts = [
        Estimate.of("disk of a node", "sentence embeddings, key and value, 16 bits", 2 * dim * 2 * n, "B"),
        Estimate.of(
            "disk of a node", "texts, words, ids (SQLite)", n * (term(measured.STORE_BYTES) - 2 * dim * 2), "B", _outgrows_store(n)
        ),
    ]
    if not request.is_kept and request.index == "tree":
        tree = TreeSize.of(n)
        coarse, roots, inters = term(measured.COARSE), named("roots", tree.roots), named("inters", tree.inters)
        keys = n * (coarse + 4) + inters * (coarse + 20) + roots * (coarse + 12) + coarse * dim * 4
        parts += [
            Estimate.of("disk of a node", "inters: inter centres of the tree", tree.inters, ""),
            Estimate.of("disk of a node", "roots: of the tree", tree.roots, ""),
            Estimate.of("disk of a node", "tree: coarse keys by cluster, their slots, centres", keys, "B", _outgrows_index(n)),
        ]
    elif not request.is_kept and request.index == "ann":
        size = ListSize.of(n)
        keys = n * size.code + size.lists * (4 * dim + 8 + size.code * measured.CODE_BLOCK / 2)
        parts.append(Estimate.of("disk of a node", "faiss: 4-bit codes of keys, ids, centres", keys, "B", _outgrows_index(n)))
    return [*parts, total("disk of a node", "disk", parts)]


def _memory(request: PlanRequest, n: Term, shape: ModelShape) -> list[Estimate]:
    section = "memory of a node"
    dim = term(measured.DIM)
    parts = [Estimate.of(section, "ids, names and properties of triples", n * measured.STORE_MEMORY, "B", _outgrows_store(n))]
    if request.is_kept:
        parts.append(Estimate.of(section, "keys in memory, 32 bits", n * dim * 4, "B"))
    elif request.index == "exact":
        parts.append(Estimate.of(section, "blocks of a scan", term(measured.SCAN_BYTES), "B"))
    else:
        if request.index == "tree":
            tree = TreeSize.of(n)
            roots, inters = named("roots", tree.roots), named("inters", tree.inters)
            coarse = term(measured.COARSE)
            centres = (roots + inters) * (coarse + 12) + 24 * inters + coarse * dim * 4
        else:
            centres = ListSize.of(n).lists * dim * 4
        parts += [
            Estimate.of(section, "centres of the index", centres, "B", _outgrows_index(n)),
            Estimate.of(section, "whether each slot is alive", n * term(1), "B"),
        ]
    parts_of_model = [
        Estimate.of(section, "base model, 32 bits", term(_parameters(shape)) * 4, "B"),
        Estimate.of(section, "libraries, encoder, one answer", measured.process_bytes(), "B"),
    ]
    kb = total(section, "memory of the KB, beyond mapped files", parts)
    return [*parts, kb, *parts_of_model, total(section, "memory", [kb, *parts_of_model])]


def _gpu(request: PlanRequest, n: Term, shape: ModelShape) -> list[Estimate]:
    """Return what is on a GPU if the model is: only keys that it scores grow with the KB, and go there if there is room."""
    section = "GPU memory, if the model is on one"
    heads, width, hidden = (
        term(Known(symbol, value, "", shape.source))
        for symbol, value in (("heads", shape.n_heads), ("head", shape.head_dim), ("hidden", shape.hidden_size))
    )
    layers, key, roles = term(measured.KB_LAYERS), term(measured.KEY_DIM), term(measured.ROLES)
    cache = Known("cache", shape.cache_width, "", f"2 * layers * KV heads * head width, {shape.source}")
    context = Known("context", request.context, "tokens", "asked for")
    model_part = [
        Estimate.of(section, "base model, 16 bits", term(_parameters(shape)) * 2, "B"),
        Estimate.of(section, "KV cache of a conversation, 16 bits", term(context) * cache * 2, "B"),
    ]
    tokens = term(measured.SELECTED) * measured.STATEMENT_TOKENS
    kb_part = [
        Estimate.of(
            section,
            "maps of the adapter, 32 bits",
            (layers * hidden * (heads * roles + heads * width + 2 * key) + hidden * hidden) * 4,
            "B",
        ),
        Estimate.of(section, "native tokens of an answer, 32 bits", tokens * layers * (heads * width + key) * 4, "B"),
    ]
    model, kb = total(section, "model part", model_part), total(section, "KB part, whatever the KB's size", kb_part)
    found = [*model_part, model, *kb_part, kb, total(section, "GPU memory", [model, kb])]
    if request.index == "exact" and not request.is_kept:
        keys = n * term(measured.DIM) * 2
        found.append(Estimate.of(section, "besides: every key, 16 bits, where a quarter of the free memory holds them", keys, "B"))
    return found


def _building(request: PlanRequest, n: Term) -> list[Estimate]:
    section = _BUILDING
    cores = Known("cores", request.cores, "", "asked for; that time is divided by it is assumed")
    hour = 3600.0
    parts = [
        Estimate.of(section, "encoding keys and values", 2 * n / (term(measured.TEXTS_PER_S) * cores) / hour, "h"),
        Estimate.of(section, "import, one writer", n * measured.IMPORT_S / hour, "h", _outgrows_store(n)),
    ]
    indexing: list[Estimate] = []
    extra: list[Estimate] = []
    if not request.is_kept and request.index != "exact":
        indexing = _indexing(request.index, n, term(cores) * hour)
        extra = _building_memory(request, n)
    longest = [max(indexing, key=lambda estimate: estimate.value)] if indexing else []
    name = "build, with the longest of these times of an index" if len(indexing) > 1 else "build"
    extra += _worker_memory(request, n, extra)
    extra.append(Estimate.of(section, "first snapshot of a process", n * measured.SNAPSHOT_S / hour, "h", _outgrows_store(n)))
    return [*parts, *indexing, total(section, name, [*parts, *longest]), *extra]


def _indexing(index: str, n: Term, per_hour: Term) -> list[Estimate]:
    """Return the hours that building an index takes: by the growth measured, and beyond that by what it compares."""
    beyond = _outgrows_index(n)
    growth = measured.BUILD_S[index]
    found = [Estimate.of(_BUILDING, "index, by the measured growth", growth.at(n, "s", "s") / per_hour, "h", beyond)]
    if beyond:
        (seconds, *_) = found[0].knowns
        share = n / measured.SEARCHED
        # A tree has roots as n^(1/3), faiss lists as n^(1/2); each key is compared with all of them.
        power, compared = {"tree": (term(4.0) / 3, "roots (n^(1/3)"), "ann": (term(3.0) / 2, "lists (n^(1/2)")}[index]
        most = term(seconds) * share ** power / per_hour
        found.append(Estimate.of(_BUILDING, f"index, if a key is compared with all {compared} of them)", most, "h", True))
    return found


def _building_memory(request: PlanRequest, n: Term) -> list[Estimate]:
    dim = term(measured.DIM)
    if request.index == "ann":
        size = ListSize.of(n)
        needed = 2 * n * size.code + size.lists * measured.PER_LIST * dim * 4
        name = "memory while building: faiss holds the index twice until it is written, and its training keys"
    else:
        inters = named("inters", TreeSize.of(n).inters)
        coarse = term(measured.COARSE)
        needed = inters * (term(measured.SAMPLE) + 1) * coarse * 4 + 16 * n
        name = "memory while building: a sample of keys, sums of clusters, labels and order of all keys"
    return [Estimate.of(_BUILDING, name, needed, "B", _outgrows_index(n))]


def _worker_memory(request: PlanRequest, n: Term, indexing: list[Estimate]) -> list[Estimate]:
    """Return what a worker holds that makes a node's triples as one shard; nothing where there are no shards."""
    if request.nodes == 1:
        return []
    at_once = measured.ADDED_AT_ONCE
    part = n if request.per_node < at_once.value else term(at_once)
    held = n * measured.STORE_MEMORY
    parts = [
        Estimate.of(_BUILDING, "memory while adding: triples and embeddings of one part", part * measured.ADDED_BYTES, "B"),
        Estimate.of(_BUILDING, "memory of what has been added: ids, names and properties", held, "B", _outgrows_store(n)),
        Estimate.of(_BUILDING, "memory of the worker itself: libraries, encoder", measured.process_bytes(), "B"),
    ]
    # A part is gone before the index is built.
    most = max([parts[0], *indexing], key=lambda estimate: estimate.value)
    return [*parts, total(_BUILDING, "memory of a worker that makes one shard", [most, *parts[1:]])]


def _parameters(shape: ModelShape) -> Known:
    return Known("weights", shape.n_parameters, "", f"counted from the shape of {shape.name}, {shape.source}")


def _outgrows_store(n: Term) -> bool:
    return n.value > measured.LARGEST


def _outgrows_index(n: Term) -> bool:
    return n.value > measured.SEARCHED


def _beyond_note(request: PlanRequest) -> str:
    """Say what goes beyond what was measured, and how far recall is known."""
    n, triples, keys = request.per_node, measured.LARGEST, measured.SEARCHED
    said = (
        f"{n:,} triples a node are {n / triples:,.3g} times the largest knowledge base measured, {triples:,}; searches and "
        f"indexes were measured up to {keys:,} keys, nine tenths of those synthetic. What is marked with * goes beyond "
        "and is extrapolated."
    )
    recall = measured.RECALL.get(request.index)
    if recall is None:
        return said
    return f"{said} Recall of the best 16 was {recall:.3f} at {keys:,} keys; beyond it is not known."


def _too_many(request: PlanRequest) -> list[str]:
    if request.per_node <= measured.MOST_SLOTS:
        return []
    return [
        f"{request.per_node:,} triples do not fit one knowledge base, whose positions are 32-bit numbers: use "
        f"{math.ceil(request.triples / measured.MOST_SLOTS):,} nodes or more."
    ]


def _narrow(request: PlanRequest) -> list[str]:
    """Say where recall falls because a build tries no wider search."""
    n = request.per_node
    if not request.is_kept and request.index == "tree" and outgrows_beams(n):
        return [
            "A build tries beams up to {:,} roots and {:,} inter centres and takes the widest where none finds enough: "
            "beyond that recall falls, or the beam has to be set wider.".format(*measured.WIDEST_BEAM)
        ]
    if not request.is_kept and request.index == "ann" and outgrows_probes(n):
        return [f"A build tries up to {measured.MOST_PROBES:,} lists of faiss and takes as many where none finds enough: beyond that recall falls."]
    return []


def _notes(request: PlanRequest, narrow: list[str]) -> list[str]:
    n = request.per_node
    notes = []
    if n > measured.LARGEST:
        notes.append(_beyond_note(request))
    if n > measured.SEARCHED:
        notes.append(
            "Beyond that the times of a search and of an index are told twice, by their growth between the two largest sizes and "
            "by what is scored or compared; the totals take the longer."
        )
    if request.is_kept:
        notes.append(
            f"Up to {measured.KEPT_KEYS:,} triples keys are kept in memory and every one is scored: no index is used. "
            "The time shown is that of scoring mapped keys."
        )
    notes += narrow
    if request.index == "exact" and not request.is_kept:
        notes.append("Every search reads every key: below that much free memory it reads them from the disk each time.")
    notes.append(
        "Times are of one thread (a server with AVX-512; the store: one without 16-bit arithmetic), files in the page "
        "cache. Not measured, and not in any number: a cold disk, a network, a GPU."
    )
    notes.append(
        f"The first token among {measured.ASKED_AT:,} triples was measured, what a search takes longer among more is added. Of a model "
        "other than the default none was measured: that its prompt takes time as it has weights is assumed."
    )
    if request.nodes > 1:
        notes.append(
            f"{request.nodes:,} nodes: even shards (kblam cluster build), built and searched side by side. That their times "
            "do not add up is assumed: merging and the network were not measured. The model is counted on every node; one that "
            "holds shards alone needs none."
        )
    return notes
