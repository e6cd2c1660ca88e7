"""KBLaM as published, to measure against: every triple projected for every KB layer, stored, and attended to.

arXiv 2410.10450 and its code keep a key and a value of every query head in every third layer, from linear adapters with
bias over sentence embeddings; keys are layer-normed over all layers and heads together. A query head of its own, without
rotary embedding, scores all keys in each of these layers at every position, in one softmax with the prompt.

The weights are drawn at random, because none are published for the models used here: time and memory do not depend on
them, what is answered does. Two things that the code does and the method does not need are left out, in its favour: keys
and values are not copied beside the prompt's at each token, and the KB is scored once per layer, not twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from kblam_engine.attention import KBBlock, heads_matmul
from kblam_engine.errors import ConfigurationError
from kblam_engine.kb_state import KBState
from kblam_engine.sentence_tokens import own_query_head

if TYPE_CHECKING:
    from kblam_engine.injection import Injection

STRIDE = 3
"""Every how many layers a KB layer follows, from the first."""
KB_SCALE = 100.0
"""C of the shift log C - log M."""
_CHUNK = 1024


@dataclass(frozen=True)
class PublishedAdapter:
    """Adapters and query heads of KBLaM, with random maps.

    Attributes:
        layers: KB layers, ascending.
        n_heads: query heads.
        head_dim: width of one.
        key_map: `[n_layers * n_heads * head_dim, embed_dim]`.
        key_bias: `[n_layers * n_heads * head_dim]`.
        value_map: shape of `key_map`.
        value_bias: shape of `key_bias`.
        query_heads: by layer, weight `[n_heads * head_dim, hidden]` and bias or None; copies of the model's own.
    """

    layers: tuple[int, ...]
    n_heads: int
    head_dim: int
    key_map: Tensor
    key_bias: Tensor
    value_map: Tensor
    value_bias: Tensor
    query_heads: dict[int, tuple[Tensor, Tensor | None]]

    @classmethod
    def random(cls, injection: Injection, embed_dim: int, seed: int = 0) -> PublishedAdapter:
        """Draw an adapter for a model.

        Raises:
            SeamError: a KB layer has no query head to start from.
        """
        shape = injection.decoder.config
        layers = tuple(range(0, shape.num_hidden_layers, STRIDE))
        head_dim = int(next(iter(injection.layers.values())).head_dim)  # type: ignore[arg-type]
        width = shape.num_attention_heads * head_dim
        generator = torch.Generator().manual_seed(seed)

        def drawn(*size: int) -> Tensor:
            made: Tensor = torch.randn(*size, generator=generator) * embed_dim**-0.5
            like = injection.model.get_input_embeddings().weight
            return made.to(like.device, like.dtype)

        heads = {}
        for layer in layers:
            weight, bias = own_query_head(injection.layers[layer], width)
            heads[layer] = weight.clone(), None if bias is None else bias.clone()
        n = len(layers) * width
        maps = drawn(n, embed_dim), drawn(n), drawn(n, embed_dim), drawn(n)
        return cls(layers, shape.num_attention_heads, head_dim, *maps, heads)

    def keys(self, embeddings: Tensor) -> Tensor:
        """Project keys, `[n, embed_dim]` to `[n, n_layers, n_heads, head_dim]`."""
        flat: Tensor = functional.linear(embeddings.to(self.key_map), self.key_map, self.key_bias)
        return self._by_layer(functional.layer_norm(flat, flat.shape[-1:]))

    def values(self, embeddings: Tensor) -> Tensor:
        """Project values, likewise; they are not normed."""
        return self._by_layer(functional.linear(embeddings.to(self.value_map), self.value_map, self.value_bias))

    def query(self, layer: int, hidden: Tensor) -> Tensor:
        """Ask the KB: `[batch, q_len, hidden]` to `[batch, n_heads, q_len, head_dim]`."""
        asked = functional.linear(hidden, *self.query_heads[layer])
        return asked.view(*hidden.shape[:2], self.n_heads, self.head_dim).transpose(1, 2)

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors, which do not grow with the KB."""
        heads = [tensor for pair in self.query_heads.values() for tensor in pair if tensor is not None]
        return bytes_of([self.key_map, self.key_bias, self.value_map, self.value_bias, *heads])

    def _by_layer(self, flat: Tensor) -> Tensor:
        return flat.view(len(flat), len(self.layers), self.n_heads, self.head_dim)


@dataclass(frozen=True)
class ProjectedKB:
    """What KBLaM keeps of a KB.

    Attributes:
        keys: by layer, `[n_heads, head_dim, n_triples]`: in this order a single position takes half the time.
        values: by layer, the same shape.
    """

    keys: dict[int, Tensor]
    values: dict[int, Tensor]

    @property
    def n_triples(self) -> int:
        """How many triples these are of."""
        return next(iter(self.keys.values())).shape[2]

    @property
    def n_bytes(self) -> int:
        """Bytes of all keys and values."""
        return bytes_of([*self.keys.values(), *self.values.values()])


def project(adapter: PublishedAdapter, key_embeddings: Tensor, value_embeddings: Tensor) -> ProjectedKB:
    """Project a KB for every KB layer, some triples at a time.

    Args:
        adapter: of the model that will run.
        key_embeddings: `[n_triples, embed_dim]` in any floating type.
        value_embeddings: as many as keys.

    Raises:
        ConfigurationError: there is no triple, or there are not as many values as keys.
    """
    if not len(key_embeddings) or key_embeddings.shape != value_embeddings.shape:
        raise ConfigurationError(
            f"expected as many values as keys and at least one, got {tuple(key_embeddings.shape)} keys and "
            f"{tuple(value_embeddings.shape)} values"
        )
    n, heads, width = len(key_embeddings), adapter.n_heads, adapter.head_dim
    keys, values = (
        {layer: adapter.key_map.new_empty(heads, width, n) for layer in adapter.layers} for _ in range(2)
    )
    for start in range(0, n, _CHUNK):
        stop = min(start + _CHUNK, n)
        new_keys, new_values = adapter.keys(key_embeddings[start:stop]), adapter.values(value_embeddings[start:stop])
        for place, layer in enumerate(adapter.layers):
            keys[layer][:, :, start:stop] = new_keys[:, place].permute(1, 2, 0)
            values[layer][:, :, start:stop] = new_values[:, place].permute(1, 2, 0)
    return ProjectedKB(keys, values)


class PublishedState(KBState):
    """KBLaM's rectangular attention: one KB, of which every KB layer scores every key at every position."""

    def __init__(self, adapter: PublishedAdapter, kb: ProjectedKB, kb_scale: float | None = KB_SCALE) -> None:
        """Take an adapter and the KB that it projected; `kb_scale` None leaves the logits unshifted."""
        self.adapter, self.kb = adapter, kb
        self.layers = frozenset(adapter.layers)
        self.shift = shift_of(kb_scale, kb.n_triples)

    def extend(self, layer: int, hidden: Tensor, prompt_logsumexp: Tensor) -> KBBlock:
        """Score all keys for the positions of `hidden`, `[batch, q_len, hidden]`."""
        query, keys = self.adapter.query(layer, hidden), self.kb.keys[layer]
        logits = heads_matmul(query, keys[None]).float() * self.adapter.head_dim**-0.5
        return KBBlock(logits.add_(self.shift), self.kb.values[layer].transpose(1, 2)[None])


def shift_of(kb_scale: float | None, n_triples: int) -> float:
    """Return log C - log M; 0 for no scale."""
    return 0.0 if kb_scale is None else math.log(kb_scale) - math.log(n_triples)


def bytes_of(tensors: Sequence[Tensor]) -> int:
    """Return the bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
