"""The evidence head: from the features of a candidate to the probability that it answers (DESIGN 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kblam_engine.evidence import FEATURES, Comparison


class EvidenceHead(nn.Module):
    """Features to the log-odds that the candidate answers (part of) the question; a small MLP.

    Shapes: [n, len(FEATURES)] -> [n].
    """

    def __init__(self, hidden: int = 64, embed_dim: int = 384) -> None:
        """Make a head; ``mean`` and ``scale`` standardise its input and are set from training data."""
        super().__init__()
        n = len(FEATURES)
        self.mean = nn.Parameter(torch.zeros(n), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(n), requires_grad=False)
        self.inner = nn.Linear(n, hidden)
        self.outer = nn.Linear(hidden, 1)
        self.direct = nn.Linear(n, 1, bias=False)
        self.question_map = nn.Parameter(torch.eye(embed_dim))
        self.property_map = nn.Parameter(torch.eye(embed_dim))
        self.value_map = nn.Parameter(torch.eye(embed_dim) * 0.5)

    def comparison(self) -> Comparison:
        """Return the learned comparison as arrays."""
        return Comparison(
            *(
                m.detach().float().cpu().numpy()
                for m in (self.question_map, self.property_map, self.value_map)
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return log-odds."""
        x = ((features - self.mean) * self.scale).clamp(-5, 5)
        log_odds: Tensor = (self.outer(torch.tanh(self.inner(x))) + self.direct(x)).squeeze(-1)
        return log_odds
