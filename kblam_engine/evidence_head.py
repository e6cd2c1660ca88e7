"""The evidence head: from the features of a candidate to the probability that it answers (DESIGN 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

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

    @classmethod
    def mean_of(cls, members: Sequence[EvidenceHead]) -> EvidenceHead:
        """Return the head whose log-odds are the mean of its members' (one input, one comparison): their units side by side."""
        first = members[0]
        head = cls(sum(member.inner.out_features for member in members), len(first.question_map))
        with torch.no_grad():
            for name in ("mean", "scale", "question_map", "property_map", "value_map"):
                getattr(head, name).copy_(getattr(first, name))
            head.inner.weight.copy_(torch.cat([member.inner.weight for member in members]))
            head.inner.bias.copy_(torch.cat([member.inner.bias for member in members]))
            head.outer.weight.copy_(torch.cat([member.outer.weight for member in members], 1) / len(members))
            head.outer.bias.copy_(torch.stack([member.outer.bias for member in members]).mean(0))
            head.direct.weight.copy_(torch.stack([member.direct.weight for member in members]).mean(0))
        return head

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
