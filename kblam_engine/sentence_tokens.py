"""Sentence tokens: one knowledge token per triple and KB layer, made by linear adapters (KBLaM).

A triple's key and value sentence embeddings are mapped to every KB layer, and a separate query head of that
layer, without rotary embedding, attends to them in one softmax with the prompt. The adapters are linear, so
a KB may also stay what it is, two embeddings per triple: then the adapters move to the query and to the
mixture of values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import (
    EMPTY_LOGSUMEXP,
    KBBlock,
    absorbed_block,
    centre_key_map,
    keep_top_k,
    key_norm_scalars,
    materialised_block,
)
from .errors import ConfigurationError, SeamError
from .kb_state import KBState

if TYPE_CHECKING:
    from .injection import Injection

_MATERIALISE_UP_TO = 1024
"""Triples up to which the form "auto" builds knowledge tokens; beyond, their memory outweighs the time."""


@dataclass(frozen=True)
class SentenceTokenConfig:
    """Shape and rules of sentence tokens.

    Attributes:
        embed_dim: width of the sentence embeddings.
        hidden_size: width of the base model.
        n_layers: its decoder layers.
        n_heads: its query heads.
        n_kv_heads: its key/value heads.
        head_dim: width of one head.
        kb_layer_stride: every how many layers, from layer 0, a KB layer follows.
        kb_scale: C of the shift log C - log M that keeps large KBs from drowning the prompt (equation 11),
            the same in training and in use; None: no shift.
        key_norm: layer-norm the keys of a layer, without gain or bias.
        token_heads: "query" gives every query head its own keys and values, as the paper does; "kv" shares
            them in the groups of grouped-query attention.
        form: "materialised" builds the knowledge tokens of a KB once per call, "absorbed" never does; "auto"
            decides by the size of the KB. All give the same answer.
        top_k: attend to the k best triples per layer only; None: to all.
        query_bias: the KB query heads have a bias, as the model's own have.
    """

    embed_dim: int
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    kb_layer_stride: int = 3
    kb_scale: float | None = 100.0
    key_norm: bool = True
    token_heads: Literal["query", "kv"] = "query"
    form: Literal["auto", "absorbed", "materialised"] = "auto"
    top_k: int | None = None
    query_bias: bool = False

    def __post_init__(self) -> None:
        for name, number in asdict(self).items():
            if isinstance(number, int) and number < 1 and name not in ("key_norm", "kb_scale", "query_bias"):
                raise ConfigurationError(f"expected {name} of at least 1, got {number}")
        if self.n_heads % self.n_kv_heads:
            raise ConfigurationError(f"expected n_kv_heads to divide {self.n_heads}, got {self.n_kv_heads}")
        if self.kb_scale is not None and not self.kb_scale > 0:
            raise ConfigurationError(f"expected a kb_scale above 0 or None, got {self.kb_scale}")
        if self.token_heads not in ("query", "kv"):
            raise ConfigurationError(f'expected token_heads "query" or "kv", got {self.token_heads!r}')
        if self.form not in ("auto", "absorbed", "materialised"):
            raise ConfigurationError(f'expected form "auto", "absorbed", "materialised", got {self.form!r}')

    @property
    def kb_layers(self) -> tuple[int, ...]:
        """Decoder layers that attend to the KB."""
        return tuple(range(0, self.n_layers, self.kb_layer_stride))

    @property
    def n_token_heads(self) -> int:
        """Heads of a knowledge token."""
        return self.n_heads if self.token_heads == "query" else self.n_kv_heads

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SentenceTokenConfig:
        """Read what `to_dict` wrote; an unknown name raises ConfigurationError."""
        unknown = sorted(data.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigurationError(
                f"expected options of sentence tokens, got {unknown}: written by a newer version?"
            )
        return cls(**data)


class SentenceTokenLayer(nn.Module):
    """Key adapter, value adapter and KB query head of one layer.

    Parameters: `key_map` and `value_map`, `[n_token_heads * head_dim, embed_dim]`; `query_weight`,
    `[n_heads * head_dim, hidden]`; `query_bias`, `[n_heads * head_dim]`, where the configuration says so.
    """

    def __init__(self, config: SentenceTokenConfig) -> None:
        super().__init__()
        self.config = config
        width = config.n_token_heads * config.head_dim
        asked = config.n_heads * config.head_dim
        self.key_map = nn.Parameter(torch.empty(width, config.embed_dim))
        self.value_map = nn.Parameter(torch.empty(width, config.embed_dim))
        self.query_weight = nn.Parameter(torch.empty(asked, config.hidden_size))
        self.query_bias = nn.Parameter(torch.zeros(asked)) if config.query_bias else None
        for parameter in (self.key_map, self.value_map):
            nn.init.normal_(parameter, std=config.embed_dim**-0.5)
        nn.init.normal_(self.query_weight, std=config.hidden_size**-0.5)

    def query(self, hidden: Tensor) -> Tensor:
        """Ask the KB: `[batch, q_len, hidden]` to `[batch, n_heads, q_len, head_dim]`."""
        asked = functional.linear(hidden.to(self.query_weight.dtype), self.query_weight, self.query_bias)
        return asked.view(*hidden.shape[:2], self.config.n_heads, self.config.head_dim).transpose(1, 2)

    def maps(self) -> tuple[Tensor, Tensor]:
        """Return key map (centred where keys are normed) and value map, `[heads, head_dim, embed_dim]`."""
        shape = (self.config.n_token_heads, self.config.head_dim, self.config.embed_dim)
        key_map, value_map = self.key_map.view(shape), self.value_map.view(shape)
        return (centre_key_map(key_map) if self.config.key_norm else key_map), value_map

    def key_norm(self, key_embeddings: Tensor, key_map: Tensor) -> Tensor | None:
        """Return the scalar per triple `[..., n_triples]`, or None where keys are not normed."""
        return key_norm_scalars(key_embeddings, key_map) if self.config.key_norm else None

    def tokens(self, key_embeddings: Tensor, value_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Build keys and values: `[batch, n_triples, embed_dim]` to `[batch, n_triples, heads, head_dim]`."""
        key_map, value_map = self.maps()
        keys = torch.einsum("bme,hde->bmhd", key_embeddings, key_map)
        norm = self.key_norm(key_embeddings, key_map)
        if norm is not None:
            keys = keys * norm[..., None, None].to(keys.dtype)
        return keys, torch.einsum("bme,hde->bmhd", value_embeddings, value_map)


class SentenceTokenAdapter(nn.Module):
    """What is trained of KBLaM: per KB layer two adapters and a query head, under `layers.<index>.<name>`."""

    def __init__(self, config: SentenceTokenConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleDict({str(index): SentenceTokenLayer(config) for index in config.kb_layers})

    @classmethod
    def from_injection(cls, injection: Injection, embed_dim: int, **options: Any) -> SentenceTokenAdapter:
        """Make an untrained float32 adapter for a model; query heads start as the layers' own.

        Args:
            injection: of the model, from `attach`.
            embed_dim: width of the sentence embeddings.
            options: further fields of `SentenceTokenConfig`.

        Raises:
            SeamError: a KB layer has no query head to start from.
        """
        shape = injection.decoder.config
        some = next(iter(injection.layers.values()))
        config = SentenceTokenConfig(
            embed_dim=embed_dim,
            hidden_size=shape.hidden_size,
            n_layers=shape.num_hidden_layers,
            n_heads=shape.num_attention_heads,
            n_kv_heads=getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads,
            head_dim=int(some.head_dim),  # type: ignore[arg-type]
            **options,
        )
        missing = sorted(set(config.kb_layers) - injection.layers.keys())
        if missing:
            raise SeamError(f"layers {missing} have no self-attention: choose another kb_layer_stride")
        width = config.n_heads * config.head_dim
        heads = {index: own_query_head(injection.layers[index], width) for index in config.kb_layers}
        adapter = cls(replace(config, query_bias=any(bias is not None for _, bias in heads.values())))
        with torch.no_grad():
            for index, (weight, bias) in heads.items():
                layer = adapter.layer(index)
                layer.query_weight.copy_(weight)
                if bias is not None and layer.query_bias is not None:
                    layer.query_bias.copy_(bias)
        return adapter.to(injection.model.device)

    def layer(self, index: int) -> SentenceTokenLayer:
        """Return the part of decoder layer `index`."""
        part = self.layers[str(index)]
        assert isinstance(part, SentenceTokenLayer)
        return part


def own_query_head(attention: nn.Module, width: int) -> tuple[Tensor, Tensor | None]:
    """Find a self-attention's query head: weight `[width, hidden]` and bias `[width]` or None.

    Raises:
        SeamError: the module has neither `q_proj` nor `qkv_proj`, or its weights are quantised.
    """
    head = getattr(attention, "q_proj", None) or getattr(attention, "qkv_proj", None)
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.shape[0] < width:
        raise SeamError(
            f"expected {type(attention).__name__} to have a floating-point q_proj or qkv_proj: "
            "load the base model without quantisation"
        )
    # A fused projection holds the queries first.
    return weight.detach()[:width], None if bias is None else bias.detach()[:width]


class SentenceTokenState(KBState):
    """Sentence tokens of one KB per sequence, for one call; KBs of different sizes are padded and masked.

    Args:
        adapter: for the model that will run.
        key_embeddings: per KB `[n_triples, embed_dim]`; one KB alone serves every sequence of a batch.
        value_embeddings: per KB, as many as keys.
        among: per KB, how many triples those were chosen from: each keeps the logit that it has among all of
            them. None: these are all.
        collect: keep the weights of the last forward in `weights`, by layer.

    Raises:
        ConfigurationError: keys, values and adapter do not fit each other.
    """

    def __init__(
        self,
        adapter: SentenceTokenAdapter,
        key_embeddings: Sequence[Tensor],
        value_embeddings: Sequence[Tensor],
        *,
        among: Sequence[int] | None = None,
        collect: bool = False,
    ) -> None:
        self.adapter = adapter
        self.layers = frozenset(adapter.config.kb_layers)
        self.collect = collect
        self.weights: dict[int, Tensor] = {}
        self._check(key_embeddings, value_embeddings, among)
        like = next(adapter.parameters())
        pad = nn.utils.rnn.pad_sequence
        self._keys = pad([keys.to(like) for keys in key_embeddings], batch_first=True)
        self._values = pad([values.to(like) for values in value_embeddings], batch_first=True)
        sizes = torch.tensor([len(keys) for keys in key_embeddings], device=like.device)
        self._mask = torch.arange(self._keys.shape[1], device=like.device) < sizes[:, None]
        # The shift log C - log M counts what is visible; this turns M into what it was chosen from.
        self._among = among is not None
        unseen = sizes if among is None else torch.tensor(among, device=like.device)
        self._missing = sizes.clamp_min(1).log() - unseen.clamp_min(1).log()
        self._rows = torch.arange(len(sizes), device=like.device)
        self._prepared: dict[int, tuple[Tensor, ...]] = {}

    def _check(self, keys: Sequence[Tensor], values: Sequence[Tensor], among: Sequence[int] | None) -> None:
        embed_dim = self.adapter.config.embed_dim
        key_shapes, value_shapes = [tuple(kb.shape) for kb in keys], [tuple(kb.shape) for kb in values]
        if not key_shapes or key_shapes != value_shapes:
            raise ConfigurationError(f"expected keys and values alike, got {key_shapes} and {value_shapes}")
        if any(len(shape) != 2 or shape[1] != embed_dim for shape in key_shapes):
            raise ConfigurationError(
                f"expected embeddings [n_triples, {embed_dim}], got {key_shapes}: "
                "use the sentence encoder that the adapter was trained with"
            )
        sizes = [shape[0] for shape in key_shapes]
        if among is not None and (
            len(among) != len(sizes) or any(n < size for n, size in zip(among, sizes, strict=True))
        ):
            raise ConfigurationError(f"expected among to be at least {sizes}, got {list(among)}")

    def on_input_ids(self, input_ids: Tensor) -> None:
        """Follow the repetition of the inputs by beam search or several return sequences."""
        batch, own = input_ids.shape[0], len(self._rows)
        if own == 1 or batch == own:
            return
        if batch % own:
            raise ConfigurationError(f"expected a batch that is a multiple of {own} KBs, got {batch}")
        self.repeat(batch // own)

    def repeat(self, n: int) -> None:
        """Repeat every KB n times in a row."""
        if len(self._rows) > 1:
            self._take(torch.arange(len(self._rows), device=self._rows.device).repeat_interleave(n))

    def reorder(self, indices: Tensor) -> None:
        """Give sequence i the KB of sequence `indices[i]`."""
        # Beams move within their own question nearly always, so there is usually nothing to move here.
        if len(self._rows) > 1 and not torch.equal(self._rows[indices], self._rows):
            self._take(indices)

    def _take(self, indices: Tensor) -> None:
        self._rows, self._mask = self._rows[indices], self._mask[indices]
        self._keys, self._values = self._keys[indices], self._values[indices]
        self._missing = self._missing[indices]
        self._prepared.clear()

    def extend(self, layer: int, hidden: Tensor, prompt_logsumexp: Tensor) -> KBBlock | None:
        """Score every triple for the positions of `hidden`, `[batch, q_len, hidden]`."""
        if not self._keys.shape[1]:
            return None
        config, query = self.adapter.config, self.adapter.layer(layer).query(hidden)
        rules: dict[str, Any] = {
            "scaling": config.head_dim**-0.5,
            "kb_scale": config.kb_scale,
            "mask": self._mask,
        }
        block: KBBlock
        if self._materialises():
            block = materialised_block(query, *self._prepare(layer), **rules)
        else:
            key_map, value_map, *norm = self._prepare(layer)
            rules["key_norm"] = norm[0] if norm else None
            block = absorbed_block(query, self._keys, self._values, key_map, value_map, **rules)
        if config.kb_scale is not None and self._among:
            block = replace(block, logits=block.logits + self._missing[:, None, None, None])
        if config.top_k is not None:
            seen = (prompt_logsumexp != EMPTY_LOGSUMEXP).any(1)
            block, _ = keep_top_k(block, config.top_k, query_mask=seen)
        return block

    def observe_weights(self, layer: int, weights: Tensor) -> None:
        """Keep the weights of the triples, `[batch, n_heads, q_len, n_triples or top_k]`, if asked to."""
        if self.collect:
            self.weights[layer] = weights

    def _materialises(self) -> bool:
        form = self.adapter.config.form
        return form == "materialised" or (form == "auto" and self._keys.shape[1] <= _MATERIALISE_UP_TO)

    def _prepare(self, layer: int) -> tuple[Tensor, ...]:
        """Return what depends on the KB alone: its knowledge tokens, or the maps and the key norm."""
        if layer in self._prepared:
            return self._prepared[layer]
        part = self.adapter.layer(layer)
        if self._materialises():
            prepared: tuple[Tensor, ...] = part.tokens(self._keys, self._values)
        else:
            key_map, value_map = part.maps()
            norm = part.key_norm(self._keys, key_map)
            prepared = (key_map, value_map) if norm is None else (key_map, value_map, norm)
        # Kept for the next decoding steps; in training the graph must be built anew.
        if not torch.is_grad_enabled():
            self._prepared[layer] = prepared
        return prepared
