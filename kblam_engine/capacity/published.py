"""The published ways to keep a KB in attention, in bytes: KBLaM, and AtlasKV's HiKVP with its claim of 20 GB.

Both keep the projected key and value of each triple for every KB layer and query head, in 16 bits. KBLaM attends to all
of them on the GPU. HiKVP keeps root keys there, holds everything else in the memory of the host, and brings a layer's
candidates over: inter keys below the best 128 roots, leaf keys below the best 64 inter keys, the values of the best 16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kblam_engine.capacity.estimates import Estimate, total
from kblam_engine.capacity.shapes import ModelShape
from kblam_engine.capacity.terms import Known, Term, term

CLAIM_BYTES = 20e9
"""AtlasKV (arXiv 2510.17934): 10^9 triples with less than 20 GB of GPU memory, an 8B model."""
STRIDE = 3
BEAMS = (128, 64, 16)
"""Roots, inter keys and leaves that HiKVP keeps."""

_SECTION = "for comparison: KBLaM and HiKVP as published, all triples"


def published(triples: int, shape: ModelShape) -> list[Estimate]:
    """Return what the published forms of a KB of that many triples take."""
    n = term(Known("triples", triples, "", "asked for"))
    layers = term(Known("kb_layers", math.ceil(shape.n_layers / STRIDE), "", "rule: every third layer from the first"))
    width = term(Known("width", shape.n_heads * shape.head_dim, "", f"query heads * head width, {shape.source}"))
    weights = Known("weights", shape.n_parameters, "", f"counted from the shape of {shape.name}, {shape.source}")
    branching = n ** (term(1) / 3)
    roots, inters, leaves = (
        term(Known(symbol, beam, "", "default of the published code")) for symbol, beam in zip("RIL", BEAMS, strict=True)
    )
    model = _of("base model, 16 bits", term(weights) * 2)
    tokens = _of("KBLaM: keys and values of every KB layer, on the GPU", n * layers * 2 * width * 2)
    # No beam keeps more than there is.
    below_roots = _least(n ** (term(2) / 3), roots * branching)
    below_inters = _least(n, inters * branching)
    parts = [
        _of("HiKVP: root keys of every KB layer", branching * layers * width * 2),
        _of("HiKVP: inter keys of one layer below the best roots", below_roots * width * 2),
        _of("HiKVP: leaf keys of one layer below the best inter keys", below_inters * width * 2),
        _of("HiKVP: values of one layer", leaves * width * 2),
    ]
    return [
        model,
        tokens,
        total(_SECTION, "KBLaM: GPU memory", [model, tokens]),
        *parts,
        total(_SECTION, "HiKVP: GPU memory", [model, *parts]),
        _of(
            "HiKVP: memory of the host, values and keys of leaves, inter keys",
            (n * 2 + n ** (term(2) / 3)) * layers * width * 2,
        ),
    ]


def claim_note(estimates: Sequence[Estimate], triples: int, shape: ModelShape) -> str:
    """Say whether HiKVP stays below the claim's GPU memory, and what it needs besides."""
    gpu, host = (
        next(found.value for found in estimates if found.name.startswith(name))
        for name in ("HiKVP: GPU memory", "HiKVP: memory of the host")
    )
    holds = "below" if gpu < CLAIM_BYTES else "not below"
    return (
        f"AtlasKV's 20 GB: {shape.name} with {triples:,} triples comes to {gpu / 1e9:.1f} GB of GPU memory without KV "
        f"cache and activations, {holds} 20 GB, and {host / 1e9:,.0f} GB of the host's. Computed, not measured."
    )


def _of(name: str, made: Term) -> Estimate:
    return Estimate.of(_SECTION, name, made, "B")


def _least(first: Term, second: Term) -> Term:
    return first if first.value <= second.value else second
