"""The seam into transformers: a decoder's own attention, with a knowledge base in its softmax.

`attach` registers one attention function and one mask function under the name "kblam", selects them on the decoder,
and puts a forward pre-hook on every self-attention (which sees the hidden states, where the attention function sees
only queries, keys and values). No model class is forked. What a call knows, its `KBState`, lives in a ContextVar:
never on a module, so that threads can answer over different knowledge bases with one model. New threads start
without a state: enter `Injection.use` inside the worker. Knowledge tokens never enter the KV cache.
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

ATTENTION_NAME = "kblam"
"""Name in the registries of transformers; "sdpa" or "flash" in it would trigger checks for those kernels."""


class KBState:
    """What the attention needs to know for one call; subclass it, and override what is of use.

    Attributes:
        layers: decoder layers whose softmax this state extends.
        watch: decoder layers whose input hidden states it wants to see; may overlap `layers`.
    """

    layers: frozenset[int] = frozenset()
    watch: frozenset[int] = frozenset()

    def on_input_ids(self, input_ids: Tensor) -> None:
        """See the token ids of a forward before it starts, `[batch, q_len]`.

        `generate` repeats its inputs for beams and return sequences before the first forward: a state that keeps
        something per sequence finds the batch n times as large as its own here, and repeats itself.
        """

    def observe(self, layer: int, hidden: Tensor) -> None:
        """See the input of a watched layer's self-attention (after its norm), `[batch, q_len, hidden]`."""

    def extend(self, layer: int, hidden: Tensor, prompt_logsumexp: Tensor) -> KBBlock | None:
        """Return the block that joins the softmax of `layer`, or None for the prompt alone.

        Args:
            layer: index of the decoder layer.
            hidden: input of its self-attention, `[batch, q_len, hidden]`.
            prompt_logsumexp: of the prompt's logits, `[batch, n_heads, q_len]` in float32; finite, and meaningless
                at padded positions.
        """
        return None

    def observe_weights(self, layer: int, weights: Tensor) -> None:
        """See the triples' weights in the joint softmax of `layer`, `[batch, n_heads, q_len, s]` in float32."""

    def repeat(self, n: int) -> None:
        """Follow a batch in which every sequence was repeated n times in a row."""

    def reorder(self, indices: Tensor) -> None:
        """Follow a batch whose sequence i is now what `indices[i]` was, as beam search does."""


class KBCache(DynamicCache):  # type: ignore[misc]  # untyped base
    """A KV cache that keeps a state in step with it: pass it to `generate` as `past_key_values` for beam search."""

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
        layers: self-attention modules by decoder layer.
        stock: attention implementation the model had, "sdpa" or "eager"; runs wherever there is no state.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._decoder: PreTrainedModel = model.get_decoder()
        self.layers: dict[int, nn.Module] = _self_attentions(self._decoder)
        self.stock: str = self._decoder.config._attn_implementation
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
        self._decoder.set_attn_implementation(ATTENTION_NAME)
        if self._decoder.config._attn_implementation != ATTENTION_NAME:
            raise SeamError(f"{type(self._decoder).__name__} does not let its attention be replaced")
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
            self._decoder.set_attn_implementation(self.stock)

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
                f"expected layers among {sorted(self.layers)}, got {unknown}: the adapter is made for another model"
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
        self._decoder.set_attn_implementation(self.stock)
        try:
            yield
        finally:
            self._decoder.set_attn_implementation(ATTENTION_NAME)

    def self_test(self) -> None:
        """Check on a few tokens that the model really runs through the seam; call it once after loading.

        Without a state the logits must be bitwise those of the stock attention. A sentinel must be asked by every
        layer: masked, it must leave the logits as they are; visible, it must change them.

        Raises:
            SeamError: one of these does not hold, or the model has an attention feature that is not supported.
        """
        training = self.model.training
        self.model.eval()
        try:
            self._self_test()
        finally:
            self.model.train(training)

    def _self_test(self) -> None:
        with self.stock_attention():
            stock = self._probe()
        with self.use(None):
            plain = self._probe()
        if not torch.equal(stock, plain):
            difference = (stock - plain).abs().max().item()
            raise SeamError(f"with no KB the logits differ from the stock model's by up to {difference:.3g}")
        masked, visible = _Sentinel(self.layers, -torch.inf), _Sentinel(self.layers, 2.0)
        with self.use(masked):
            unchanged = self._probe()
        with self.use(visible):
            changed = self._probe()
        deaf = sorted(self.layers.keys() - masked.seen)
        if deaf:
            raise SeamError(f"the attention of layers {deaf} did not ask for its KB: it ignores the registration")
        # Not bitwise: another kernel. Rounding grows with depth, so the bound is loose beside the logits' own size.
        bound = 32 * torch.finfo(self.model.dtype).eps * max(1.0, stock.abs().max().item())
        difference = (stock - unchanged).abs().max().item()
        if not difference <= bound:
            raise SeamError(f"a masked KB changes the logits by up to {difference:.3g} (allowed: {bound:.3g})")
        if torch.equal(unchanged, changed):
            raise SeamError("a visible KB does not change the logits: the model drops what its attention returns")

    @torch.no_grad()
    def _probe(self) -> Tensor:
        """Logits of two short sequences, the second left-padded, without the padding: `[11, vocabulary]`."""
        device = self.model.get_input_embeddings().weight.device
        mask = torch.ones(2, 7, dtype=torch.long, device=device)
        mask[1, :3] = 0
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        ids = (torch.arange(14, device=device) * 7919 + 11).remainder(vocabulary).view(2, 7)
        output = self.model(input_ids=ids, attention_mask=mask, use_cache=False)
        result = output.logits if hasattr(output, "logits") else output.last_hidden_state
        return result[mask.bool()].float()  # type: ignore[no-any-return]


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
    for key, feature in (("s_aux", "attention sinks"), ("position_bias", "a position bias"), ("cache", "paging")):
        if kwargs.get(key) is not None:
            raise SeamError(f"{name} uses {feature}, which cannot be joined with a KB yet")
    if kwargs.get("dropout"):
        raise SeamError(f"{name} has attention dropout {kwargs['dropout']}: the base model is frozen, call eval()")


class _Sentinel(KBState):
    """One triple of the same logit everywhere, with a value that cannot go unnoticed; used by the self-test."""

    def __init__(self, modules: Mapping[int, nn.Module], logit: float) -> None:
        self.layers = frozenset(modules)
        self.seen: set[int] = set()
        self._modules = modules
        self._logit = logit

    def extend(self, layer: int, hidden: Tensor, prompt_logsumexp: Tensor) -> KBBlock:
        self.seen.add(layer)
        module = self._modules[layer]
        batch, n_heads, _ = prompt_logsumexp.shape
        head_dim = int(getattr(module, "v_head_dim", None) or module.head_dim)  # type: ignore[arg-type]
        logits = (prompt_logsumexp + self._logit).unsqueeze(-1)
        ramp = torch.linspace(-3, 3, head_dim, device=hidden.device, dtype=hidden.dtype)
        return KBBlock(logits, ramp.expand(1, n_heads, 1, -1))


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
