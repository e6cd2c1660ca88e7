"""What is added to the linear maps of a transformer encoder: products of two thin matrices (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kblam_engine.errors import ConfigurationError


@dataclass(frozen=True)
class LowRankConfig:
    """Shape of an update.

    Attributes:
        n_layers: of the encoder.
        hidden: width of its hidden states.
        inner: width of its feed-forward layers.
        rank: of what is added to each map.
    """

    n_layers: int
    hidden: int
    inner: int
    rank: int

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigurationError: a size is below 1.
        """
        if min(self.n_layers, self.hidden, self.inner, self.rank) < 1:
            raise ConfigurationError(f"low-rank update: every size must be at least 1, got {self}")


class LowRankUpdate(nn.Module):
    """Two factors for each linear map of each layer; the maps of query, key and value count as one.

    Attributes:
        config: its shape.
    """

    def __init__(self, config: LowRankConfig) -> None:
        """Make an update that changes nothing: the right factors are random, the left ones 0."""
        super().__init__()
        self.config = config
        hidden, inner = config.hidden, config.inner
        sizes = {"qkv": (3 * hidden, hidden), "output": (hidden, hidden), "up": (inner, hidden), "down": (hidden, inner)}
        n_layers, rank = config.n_layers, config.rank
        self.left = nn.ParameterDict({part: torch.zeros(n_layers, n_out, rank) for part, (n_out, _) in sizes.items()})
        self.right = nn.ParameterDict(
            {part: torch.randn(n_layers, rank, n_in) / n_in**0.5 for part, (_, n_in) in sizes.items()}
        )

    def added(self) -> dict[str, Tensor]:
        """Return what is added to the weights of each part, [n_layers, n_out, n_in]."""
        return {part: self.left[part] @ self.right[part] for part in self.left}

    def digest(self) -> str:
        """Return a short id of the numbers."""
        numbers = (value.detach().float().cpu().numpy().tobytes() for _, value in sorted(self.named_parameters()))
        return hashlib.sha256(b"".join(numbers)).hexdigest()[:12]
