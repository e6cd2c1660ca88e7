"""The hidden state's part of the KB query, in closed form on cached hidden states (DESIGN 3.2).

A linear map from the LLM's hidden state at the retrieval layer to the sentence embedding of what is asked for:
ridge regression onto the mean of the supports' key embeddings. It adds what sentence embeddings of the user's
words miss, above all the subject of a follow-up question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kblam_engine.injection import Injection
from kblam_engine.kb_state import KBState
from kblam_engine.knowledge_state import pool_tail
from kblam_engine.products import Floats

RIDGE = 1000.0
"""Penalty on the map, in samples, for standardised inputs."""
SHARE = 0.5
"""Weight of the hidden state's score beside the sentence embeddings' (docs/decisions.md)."""
BATCH = 16


@dataclass(frozen=True)
class QueryMap:
    """A linear map from hidden states to KB queries: weight [embed_dim, hidden], bias [embed_dim]."""

    weight: Floats
    bias: Floats

    def __call__(self, hidden: Floats) -> Floats:
        """Return [n, embed_dim] for [n, hidden]."""
        queries: Floats = hidden @ self.weight.T + self.bias
        return queries


class _Reached(Exception):
    """The layer that is looked at has been reached: the layers after it have nothing to add."""


class _Tail(KBState):
    """Pools the end of the prompt at one layer, as an answer does, and ends the forward pass there."""

    def __init__(self, layer: int) -> None:
        self.watch = frozenset({layer})
        self.pooled: Tensor | None = None

    def observe(self, layer: int, hidden: Tensor) -> None:
        self.pooled = pool_tail(hidden)
        raise _Reached


@torch.no_grad()
def hidden_states(
    injection: Injection, prompts: Sequence[Sequence[int]], layer: int, report: Callable[[int], None] = lambda n: None
) -> Floats:
    """Return the pooled hidden states of prompts at a layer, [n, hidden].

    Args:
        injection: of the base model.
        prompts: token ids.
        layer: the retrieval layer.
        report: told how many are done.
    """
    out: list[Floats | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # prompts of a length pad little
    device = injection.model.device
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        longest = max(len(prompts[i]) for i in rows)
        ids = torch.tensor([[0] * (longest - len(prompts[i])) + list(prompts[i]) for i in rows], device=device)
        lengths = torch.tensor([[len(prompts[i])] for i in rows], device=device)
        mask = (torch.arange(longest, device=device) >= longest - lengths).long()
        state = _Tail(layer)
        try:
            with injection.use(state):
                injection.decoder(input_ids=ids, attention_mask=mask, use_cache=False)
        except _Reached:
            pass
        assert state.pooled is not None, f"the model has no layer {layer}"
        for i, row in zip(rows, state.pooled.cpu().numpy(), strict=True):
            out[i] = row
        report(start + len(rows))
    return np.stack([row for row in out if row is not None])


def fit_query_map(hidden: Floats, targets: Floats, ridge: float = RIDGE) -> QueryMap:
    """Return the map from hidden states [n, hidden] to targets [n, embed_dim], its outputs at ``SHARE`` of their length."""
    mean, scale = hidden.mean(0), 1.0 / (hidden.std(0) + 1e-4)
    inputs = ((hidden - mean) * scale).astype(np.float64)
    centre = targets.mean(0)
    gram = inputs.T @ inputs + ridge * np.eye(inputs.shape[1])
    weight = np.linalg.solve(gram, inputs.T @ (targets - centre)).T * scale
    bias = centre - weight @ mean
    return QueryMap((SHARE * weight).astype(np.float32), (SHARE * bias).astype(np.float32))
