"""The forward pass of a BERT sentence encoder, in plain tensor functions.

A question is encoded inside every answer, so this path is short: one tokenizer without shared state, no
padding for a single text, no module calls. It also loads without transformers or sentence-transformers, whose
imports take longer than everything else about a small KB. It computes what sentence-transformers computes, to
rounding (a test compares them), and `read_recipe` declines every model for which that would not hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from kblam_engine.errors import ModelNotFoundError
from kblam_engine.low_rank import LowRankConfig, LowRankUpdate
from kblam_engine.packed_weights import linear, packed
from kblam_engine.sentence_encoder import encode_distinct

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Padded tokens of one batch: enough to fill a matrix product, small enough to stay in a processor's cache.
_TOKENS_PER_BATCH = 2048
# In bfloat16 texts are padded to multiples of so many tokens. What is multiplied by then has few shapes: for each, the
# library behind torch makes code at its first use, which takes milliseconds, and keeps it (docs/decisions.md).
_MULTIPLE = 4
# While an update is trained, of texts that stand in one step: little padding matters more.
_TOKENS_PER_TRAINING_BATCH = 320


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the forward pass needs to know beside the weights; `pooling` is "mean" or "cls"."""

    n_layers: int
    n_heads: int
    hidden: int
    layer_norm_eps: float
    max_tokens: int
    pad_token: int
    pooling: str


def read_recipe(folder: Path) -> Recipe | None:
    """Return the recipe of a sentence-transformers folder, or None where this forward pass does not fit.

    It fits BERT with absolute positions and exact GELU, mean or first-token pooling, and no prompt.
    """
    needed = ("model.safetensors", "tokenizer.json", "config.json", "modules.json", "1_Pooling/config.json")
    if not all((folder / name).is_file() for name in needed):
        return None
    config = _read_json(folder / "config.json")
    modules = [
        str(module.get("type", "")).rsplit(".", 1)[-1] for module in _read_json(folder / "modules.json")
    ]
    pooling = _pooling(_read_json(folder / "1_Pooling/config.json"))
    prompts = folder / "config_sentence_transformers.json"
    fits = (
        config.get("model_type") == "bert"
        and config.get("hidden_act") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and modules in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
        and not (prompts.is_file() and _read_json(prompts).get("default_prompt_name"))
    )
    if not fits or pooling is None:
        return None
    limits = folder / "sentence_bert_config.json"
    options = _read_json(limits) if limits.is_file() else {}
    if options.get("do_lower_case"):  # lower-cases beside the tokenizer
        return None
    most = int(config["max_position_embeddings"])
    return Recipe(
        n_layers=int(config["num_hidden_layers"]),
        n_heads=int(config["num_attention_heads"]),
        hidden=int(config["hidden_size"]),
        layer_norm_eps=float(config["layer_norm_eps"]),
        max_tokens=min(most, int(options.get("max_seq_length") or most)),
        pad_token=int(config.get("pad_token_id") or 0),
        pooling=pooling,
    )


class BertEncoder:
    """A sentence encoder whose weights are a dictionary and whose forward pass is a function.

    Holds nothing that a call changes, so threads need no lock.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, *, name: str, fingerprint: str, device: str, dtype: torch.dtype
    ) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        self.name = name
        self.fingerprint = fingerprint
        self.embed_dim = recipe.hidden
        self._recipe = recipe
        self._device = torch.device(device)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(recipe.max_tokens)
        state = {
            key.removeprefix("bert."): value.to(self._device, dtype)
            for key, value in load_file(folder / "model.safetensors").items()
            if value.is_floating_point()
        }
        try:
            self._embeddings = _Embeddings.of(state)
            self._layers = [_Layer.of(state, index) for index in range(recipe.n_layers)]
        except KeyError as error:
            raise ModelNotFoundError(
                f"{folder}: expected the weights of a BERT encoder, found no {error.args[0]!r}"
            ) from error

    def encode(self, texts: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]:
        """Return the normalised sentence embeddings, float32 [len(texts), embed_dim]."""
        return encode_distinct(texts, lambda distinct: self._encode(distinct, progress), self.embed_dim)

    def update_config(self, rank: int) -> LowRankConfig:
        """Return the shape of an update for this encoder."""
        inner = self._layers[0].up[0].shape[0]
        return LowRankConfig(len(self._layers), self._recipe.hidden, inner, rank)

    def updated(self, update: LowRankUpdate, dtype: torch.dtype | None = None) -> BertEncoder:
        """Return this encoder with an update added to its weights, at no cost for each text; what it embeds is different.

        Args:
            update: what is added.
            dtype: of the layers from then on, for encoding alone; None leaves theirs.
        """
        other = copy(self)
        with torch.no_grad():
            other._layers = _with_added(self._layers, update, dtype)
        other.fingerprint = f"{self.fingerprint}+{update.digest()}"
        return other

    def trainable(self, texts: Sequence[str], update: LowRankUpdate) -> Tensor:
        """Return normalised sentence embeddings [len(texts), embed_dim] that gradients of an update flow through."""
        layers = _with_added(self._layers, update)
        token_ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        batches = _batches([len(ids) for ids in token_ids], _TOKENS_PER_TRAINING_BATCH)
        rows = [self._forward(*self._pad([token_ids[index] for index in batch]), layers) for batch in batches]
        order = torch.tensor([index for batch in batches for index in batch]).argsort()
        return functional.normalize(torch.cat(rows).float(), dim=-1)[order]

    def _encode(self, texts: list[str], progress: bool) -> NDArray[np.float32]:
        with torch.inference_mode():
            if len(texts) == 1:
                return self._forward(*self._pad([self._tokenizer.encode(texts[0]).ids])).float().cpu().numpy()
            token_ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
            rows = np.empty((len(texts), self.embed_dim), dtype=np.float32)
            for batch in _progress(_batches([len(ids) for ids in token_ids]), len(texts), progress):
                ids, mask = self._pad([token_ids[index] for index in batch])
                rows[batch] = self._forward(ids, mask).float().cpu().numpy()
        return rows

    def _pad(self, token_ids: list[list[int]]) -> tuple[Tensor, Tensor | None]:
        """Return ids [batch, q_len] and which of them are text, None where all are."""
        longest = max(len(ids) for ids in token_ids)
        if self._layers[0].up[0].dtype == torch.bfloat16:
            longest = min(-(-longest // _MULTIPLE) * _MULTIPLE, self._recipe.max_tokens)
        padded = [ids + [self._recipe.pad_token] * (longest - len(ids)) for ids in token_ids]
        ids = torch.tensor(padded, device=self._device)
        lengths = torch.tensor([len(ids) for ids in token_ids], device=self._device)
        if bool((lengths == longest).all()):
            return ids, None
        return ids, torch.arange(longest, device=self._device)[None, :] < lengths[:, None]

    def _forward(self, ids: Tensor, mask: Tensor | None, layers: Sequence[_Layer] | None = None) -> Tensor:
        """Return pooled hidden states [batch, hidden] for ids and mask [batch, q_len]."""
        recipe = self._recipe
        batch, q_len = ids.shape
        size, eps = (recipe.hidden,), recipe.layer_norm_eps
        heads = (batch, q_len, 3, recipe.n_heads, recipe.hidden // recipe.n_heads)
        embeddings = self._embeddings
        x = embeddings.words[ids] + embeddings.positions[:q_len]
        layers = self._layers if layers is None else layers
        x = functional.layer_norm(x, size, *embeddings.norm, eps).to(layers[0].up[0].dtype)
        visible = None if mask is None else mask[:, None, None, :]
        for layer in layers:
            query, key, value = linear(x, *layer.qkv).view(heads).permute(2, 0, 3, 1, 4)
            y = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
            y = linear(y.transpose(1, 2).reshape(batch, q_len, recipe.hidden), *layer.output)
            x = functional.layer_norm(x + y, size, *layer.attention_norm, eps)
            y = linear(functional.gelu(linear(x, *layer.up)), *layer.down)
            x = functional.layer_norm(x + y, size, *layer.norm, eps)
        if recipe.pooling == "cls":
            return x[:, 0]
        x = x.float()
        if mask is None:
            return x.mean(dim=1)
        return (x * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


_Pair = tuple[Tensor, Tensor]  # weight and bias


@dataclass(frozen=True, slots=True)
class _Embeddings:
    """The input of the first layer; the embedding of the one segment is added to the positions."""

    words: Tensor
    positions: Tensor
    norm: _Pair

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> _Embeddings:
        segment = state["embeddings.token_type_embeddings.weight"][0]
        return cls(
            words=state["embeddings.word_embeddings.weight"],
            positions=state["embeddings.position_embeddings.weight"] + segment,
            norm=_pair(state, "embeddings.LayerNorm"),
        )


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer; query, key and value are one matrix product."""

    qkv: _Pair
    output: _Pair
    attention_norm: _Pair
    up: _Pair
    down: _Pair
    norm: _Pair

    @classmethod
    def of(cls, state: dict[str, Tensor], index: int) -> _Layer:
        prefix = f"encoder.layer.{index}"
        parts = [_pair(state, f"{prefix}.attention.self.{part}") for part in ("query", "key", "value")]
        return cls(
            qkv=(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts])),
            output=_pair(state, f"{prefix}.attention.output.dense"),
            attention_norm=_pair(state, f"{prefix}.attention.output.LayerNorm"),
            up=_pair(state, f"{prefix}.intermediate.dense"),
            down=_pair(state, f"{prefix}.output.dense"),
            norm=_pair(state, f"{prefix}.output.LayerNorm"),
        )


def _with_added(layers: Sequence[_Layer], update: LowRankUpdate, dtype: torch.dtype | None = None) -> list[_Layer]:
    """Return the layers with an update added to their weights, in another type where one is given."""
    parts = update.added()

    def changed(layer: _Layer, index: int) -> _Layer:
        pairs: dict[str, _Pair] = {field.name: getattr(layer, field.name) for field in fields(layer)}
        for part, added in parts.items():
            weight, bias = pairs[part]
            pairs[part] = weight + added[index].to(weight), bias
        if dtype is not None:
            pairs = {part: (packed(weight.to(dtype)), bias.to(dtype)) for part, (weight, bias) in pairs.items()}
        return _Layer(**pairs)

    return [changed(layer, index) for index, layer in enumerate(layers)]


def _pair(state: dict[str, Tensor], name: str) -> _Pair:
    return state[f"{name}.weight"], state[f"{name}.bias"]


def _pooling(config: dict[str, Any]) -> str | None:
    """Return the pooling of a sentence-transformers pooling module, in its old or its new spelling."""
    mode = config.get("pooling_mode")
    if mode is None:
        modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
        names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        mode = names.get(modes[0]) if len(modes) == 1 else None
    return mode if mode in ("mean", "cls") else None


def _batches(lengths: list[int], most: int = _TOKENS_PER_BATCH) -> list[list[int]]:
    """Group text indices, shortest first, so that a batch pads little and holds a bounded number of tokens."""
    batches: list[list[int]] = [[]]
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches[-1] and (len(batches[-1]) + 1) * lengths[index] > most:
            batches.append([])
        batches[-1].append(index)
    return batches


def _progress(batches: list[list[int]], total: int, shown: bool) -> Iterable[list[int]]:
    """Yield the batches, with a progress bar of texts on stderr where one is wanted."""
    if not shown:
        yield from batches
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("encoding", total=total)
        for batch in batches:
            yield batch
            bar.advance(task, len(batch))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelNotFoundError(f"{path}: expected JSON, got something else ({error})") from error
