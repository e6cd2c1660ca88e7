"""The seam into transformers: a decoder's own attention, with a knowledge base in its softmax.

`attach` registers one attention function and one mask function under the name "kblam", selects them on the
decoder, and puts a forward pre-hook on every self-attention (which sees the hidden states, where the
attention function sees only queries, keys and values). No model class is forked. What a call knows, its
`KBState`, lives in a ContextVar: never on a module, so that threads can answer over different knowledge
bases with one model. New threads start without a state: enter `Injection.use` inside the worker. Knowledge
tokens never enter the KV cache.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention import KBBlock, merge_block, prompt_attention
from .errors import ConfigurationError, SeamError
from .kb_state import KBState
from .seam_check import check_seam

__all__ = ["ATTENTION_NAME", "Injection", "KBBlock", "KBCache", "KBState", "attach", "kblam_attention"]

ATTENTION_NAME = "kblam"
"""Name in the registries of transformers; "sdpa" or "flash" in it would trigger checks for those kernels."""


class KBCache(DynamicCache):  # type: ignore[misc]  # untyped base
    """A KV cache that keeps a state in step with it: for beam search, as `past_key_values`."""

    def __init__(self, state: KBState, config: Any = None) -> None:
        super().__init__(config=config)
        self.state = state

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the cached sequences and the state."""
        super().reorder_cache(beam_idx)
        self.state.reorder(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat the cached sequences and the state."""
        super().batch_repeat_interleave(repeats)
        self.state.repeat(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some of the cached sequences, and of the state."""
        super().batch_select_indices(indices)
        self.state.reorder(indices)


_STATES: ContextVar[Mapping[int, KBState | None]] = ContextVar("kblam_states", default=MappingProxyType({}))
"""State of each injection (by id) in the current context."""


@dataclass(frozen=True)
class _LayerCall:
    """Travels from the pre-hook of a self-attention to the attention function, as a keyword argument."""

    injection: Injection
    layer: int
    state: KBState | None = None
    hidden: Tensor | None = None


class Injection:
    """A model whose attention takes knowledge bases; made by `attach`.

    Attributes:
        model: the model attached to.
        decoder: the part of it that holds the layers; the model itself where there is no other part.
        layers: self-attention modules by decoder layer.
        stock: attention implementation the model had, "sdpa" or "eager"; runs wherever there is no state.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.decoder: PreTrainedModel = model.get_decoder()
        self.layers: dict[int, nn.Module] = _self_attentions(self.decoder)
        self.stock: str = self.decoder.config._attn_implementation
        self._handles: list[RemovableHandle] = []
        if self.stock == ATTENTION_NAME:
            raise SeamError("this model is attached already: detach() its injection first, or use that one")
        if self.stock not in ("sdpa", "eager"):
            raise SeamError(
                f"expected a model with sdpa or eager attention, got {self.stock!r}: "
                'load it with attn_implementation="sdpa"'
            )
        self._stock_functions = {index: self._stock_function(module) for index, module in self.layers.items()}
        self._attach()

    def _stock_function(self, module: nn.Module) -> Callable[..., Any]:
        if self.stock == "sdpa":
            function: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS["sdpa"]
            return function
        for cls in type(module).__mro__:
            eager = getattr(sys.modules[cls.__module__], "eager_attention_forward", None)
            if eager is not None:
                return eager  # type: ignore[no-any-return]
        raise SeamError(f"{type(module).__name__} has no eager attention function to fall back to")

    def _attach(self) -> None:
        AttentionInterface.register(ATTENTION_NAME, kblam_attention)
        AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
        self.decoder.set_attn_implementation(ATTENTION_NAME)
        if self.decoder.config._attn_implementation != ATTENTION_NAME:
            raise SeamError(f"{type(self.decoder).__name__} does not let its attention be replaced")
        for index, module in self.layers.items():
            hook = self._self_attention_hook(index)
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        embedding = self.model.get_input_embeddings()
        self._handles.append(embedding.register_forward_pre_hook(self._embedding_hook))

    def detach(self) -> None:
        """Give the model its stock attention back and remove every hook; a second call does nothing."""
        if self._handles:
            for handle in self._handles:
                handle.remove()
            self._handles.clear()
            self.decoder.set_attn_implementation(self.stock)

    @property
    def state(self) -> KBState | None:
        """The state of the current context."""
        return _STATES.get().get(id(self))

    @contextmanager
    def use(self, state: KBState | None) -> Iterator[KBState | None]:
        """Run the model with `state` inside the block, in this thread or task only; None means no KB.

        Under gradient checkpointing the backward pass belongs in the block as well: it runs the layers again.

        Raises:
            ConfigurationError: the state names layers that the model does not have.
            SeamError: the injection is detached.
        """
        if not self._handles:
            raise SeamError("this injection is detached: attach(model) again")
        unknown = () if state is None else sorted((state.layers | state.watch) - self.layers.keys())
        if unknown:
            raise ConfigurationError(
                f"expected layers among {sorted(self.layers)}, got {unknown}: "
                "the adapter is made for another model"
            )
        token = _STATES.set({**_STATES.get(), id(self): state})
        try:
            yield state
        finally:
            _STATES.reset(token)

    def _embedding_hook(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        state = self.state
        if state is not None and args:
            state.on_input_ids(args[0])

    def _self_attention_hook(self, layer: int) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
        idle = _LayerCall(self, layer)

        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            state, call = self.state, idle
            if state is not None:
                hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
                if layer in state.watch:
                    state.observe(layer, hidden)
                if layer in state.layers:
                    call = _LayerCall(self, layer, state, hidden)
            return args, {**kwargs, "kblam_call": call}

        return hook

    @contextmanager
    def stock_attention(self) -> Iterator[None]:
        """Run the model as it was before `attach`; not for a model that other threads use meanwhile."""
        self.decoder.set_attn_implementation(self.stock)
        try:
            yield
        finally:
            self.decoder.set_attn_implementation(ATTENTION_NAME)

    def self_test(self) -> None:
        """Check on a few tokens that the model really runs through the seam; call it once after loading.

        Without a state the logits must be bitwise those of the stock attention. A sentinel must be asked by
        every layer: masked, it must leave the logits as they are; visible, it must change them.

        Raises:
            SeamError: one of these does not hold, or the model has an attention feature that is not
                supported.
        """
        check_seam(self)


def attach(model: PreTrainedModel) -> Injection:
    """Open a transformers decoder for knowledge bases; with no state in use it computes bitwise what it did.

    Raises:
        SeamError: the model is attached already, or its attention cannot be replaced.
    """
    return Injection(model)


def kblam_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    kblam_call: _LayerCall | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as the stock function does, or jointly with the KB of the current state.

    Args:
        module: the self-attention.
        query: `[batch, n_heads, q_len, head_dim]`, rotated.
        key: `[batch, n_kv_heads, k_len, head_dim]`, from the cache.
        value: same shape as `key`.
        attention_mask: what `sdpa_mask` made: None, or `[batch, 1, q_len, k_len]`.
        kblam_call: from the pre-hook.
        kwargs: of the stock function.

    Returns:
        Output `[batch, q_len, n_heads, head_dim]`, and None or the stock function's weights.

    Raises:
        SeamError: the layer takes a KB, but its attention has a feature that is not supported.
    """
    if kblam_call is None:
        raise SeamError(f"{type(module).__name__} was never attached: call attach(model)")
    if kblam_call.state is None or kblam_call.hidden is None:
        return _stock_attention(kblam_call, module, query, key, value, attention_mask, kwargs)
    _refuse_unsupported(module, kwargs)
    if kblam_call.state.is_relative(kblam_call.layer):
        output = _stock_attention(kblam_call, module, query, key, value, attention_mask, kwargs)[0].transpose(1, 2)
        logsumexp = torch.zeros(output.shape[:-1], device=output.device)
    else:
        is_causal = kwargs.get("is_causal")
        output, logsumexp = prompt_attention(
            query,
            key,
            value,
            attention_mask,
            scaling=kwargs.get("scaling") or query.shape[-1] ** -0.5,
            is_causal=getattr(module, "is_causal", True) if is_causal is None else is_causal,
            softcap=kwargs.get("softcap"),
        )
    block = kblam_call.state.extend(kblam_call.layer, kblam_call.hidden, logsumexp)
    if block is not None:
        output, weights = merge_block(output, logsumexp, block)
        kblam_call.state.observe_weights(kblam_call.layer, weights)
    return output.transpose(1, 2).contiguous(), None


def _stock_attention(
    call: _LayerCall,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    if call.injection.stock == "eager":
        mask = _eager_mask(mask, query, key)
    function = call.injection._stock_functions[call.layer]
    return function(module, query, key, value, mask, **kwargs)  # type: ignore[no-any-return]


def _eager_mask(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """Turn a mask for sdpa into the additive one that eager attention expects."""
    q_len, k_len = query.shape[2], key.shape[2]
    if mask is None and q_len > 1:
        mask = torch.ones(q_len, k_len, dtype=torch.bool, device=query.device).tril()[None, None]
    if mask is None or mask.dtype != torch.bool:
        return mask
    zero = torch.zeros((), dtype=query.dtype, device=query.device)
    return torch.where(mask, zero, torch.finfo(query.dtype).min)


def _refuse_unsupported(module: nn.Module, kwargs: dict[str, Any]) -> None:
    name = type(module).__name__
    refused = {"s_aux": "attention sinks", "position_bias": "a position bias", "cache": "a paged cache"}
    for key, feature in refused.items():
        if kwargs.get(key) is not None:
            raise SeamError(f"{name} uses {feature}, which cannot be joined with a KB yet")
    if kwargs.get("dropout"):
        raise SeamError(f"{name} has attention dropout {kwargs['dropout']}: call eval() on the frozen model")


def _self_attentions(decoder: nn.Module) -> dict[int, nn.Module]:
    found: dict[int, nn.Module] = {}
    for name, module in decoder.named_modules():
        layer = getattr(module, "layer_idx", None)
        if name.rpartition(".")[2] != "self_attn" or not isinstance(layer, int):
            continue
        if layer in found:
            raise SeamError(f"{type(decoder).__name__} has two self-attentions for layer {layer}")
        found[layer] = module
    if not found:
        raise SeamError(
            f"{type(decoder).__name__} has no `self_attn` modules with a layer index: "
            "use a decoder of the Llama, Mistral, Qwen, Phi-3, Gemma or SmolLM kind"
        )
    return found
