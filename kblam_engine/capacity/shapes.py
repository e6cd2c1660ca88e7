"""The shape of a base model, as far as its memory goes: from its name, or from the config.json of its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kblam_engine.errors import ModelNotFoundError
from kblam_engine.models.registry import resolve_model


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder of the Llama kind: grouped-query attention, a gated MLP, two norms a layer."""

    name: str
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied: bool
    """Whether the LM head is the embedding."""
    source: str

    @property
    def n_parameters(self) -> int:
        """Count the weights; biases and the norms inside attention, of some families, are not in it."""
        attention = self.hidden_size * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        tokens = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return self.n_layers * layer + tokens + self.hidden_size

    @property
    def cache_width(self) -> int:
        """Return the numbers that the KV cache keeps of one token."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim


SHAPES: dict[str, ModelShape] = {
    shape.name: shape
    for shape in (
        ModelShape("smollm2-135m", 576, 30, 9, 3, 64, 1536, 49152, True, "its config.json"),
        ModelShape("llama-3.2-1b", 2048, 16, 32, 8, 64, 8192, 128256, True, "its published config.json"),
        ModelShape("llama-3.1-8b", 4096, 32, 32, 8, 128, 14336, 128256, False, "its published config.json"),
    )
}
"""Shapes known without a file; the last two only to plan for."""


def shape_of_model(name: str) -> ModelShape:
    """Return the shape of a model: a known name, an embedded model that has been converted, or a folder.

    Raises:
        ModelNotFoundError: there is no such model, its shape is not known without loading it, or its config.json is not
            one of a decoder.
    """
    known = SHAPES.get(name.lower())
    if known is not None:
        return known
    unknown = ModelNotFoundError(
        f"model {name!r}: expected one of {', '.join(SHAPES)}, or a folder with its config.json, because nothing "
        "is loaded or downloaded for a plan"
    )
    try:
        resolved = resolve_model(name)
    except ModelNotFoundError:
        if Path(name).expanduser().is_dir():
            raise
        raise unknown from None  # the other error offers models to load, whose shape may be no more known than this one's
    config = Path(resolved.path_or_id) / "config.json"
    if resolved.kind == "hub" or not config.is_file():
        raise unknown
    try:
        return _of_config(resolved.name, json.loads(config.read_text(encoding="utf-8")), str(config))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelNotFoundError(f"{config}: expected the configuration of a decoder, got {error!r}") from error


def _of_config(name: str, config: dict[str, Any], source: str) -> ModelShape:
    config = config.get("text_config", config)
    heads = int(config["num_attention_heads"])
    hidden = int(config["hidden_size"])
    return ModelShape(
        name=name,
        hidden_size=hidden,
        n_layers=int(config["num_hidden_layers"]),
        n_heads=heads,
        n_kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        intermediate_size=int(config["intermediate_size"]),
        vocab_size=int(config["vocab_size"]),
        tied=bool(config.get("tie_word_embeddings", True)),
        source=source,
    )
