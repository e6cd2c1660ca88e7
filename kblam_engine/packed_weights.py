"""Weights of linear layers in the order in which a CPU's bfloat16 products read them.

torch puts a bfloat16 weight into that order again at every product. Put there once, the same products, to the bit, make
a token of the default model a fifth faster and encoding a question a quarter (docs/decisions.md). Weights in this order
take no gradients: this is for answering.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from kblam_engine.freed_memory import give_back_freed

_TOKENS = 1
"""Rows of a product that the order is chosen for: those of a written token. It serves any number."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x @ weight.T + bias``, [..., n_out], of a weight [n_out, n_in] in either order."""
    if weight.is_mkldnn:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return found
    return functional.linear(x, weight, bias)


def packed(weight: Tensor) -> Tensor:
    """Return a weight [n_out, n_in] in that order, or as it is where this is no gain or cannot be done."""
    return _packed(weight.detach()) if _is_packable(weight) else weight


def pack_linears(model: nn.Module) -> int:
    """Replace the linear layers of a model by `PackedLinear`, in place; return how many there were.

    A weight that other modules share, such as the output embeddings that are the input embeddings too, stays besides.
    """
    n_uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            n_uses[id(parameter)] = n_uses.get(id(parameter), 0) + 1
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and _is_packable(child.weight)
    ]
    n_found = len(found)
    while found:  # what is replaced goes at once, so that no more than one layer is there twice
        parent, name, child = found.pop()
        # Native tokens look up rows of the head's weight.
        keep = child is head or n_uses[id(child.weight)] > 1
        setattr(parent, name, PackedLinear(child, keep=keep).train(child.training))
    if n_found:
        give_back_freed()  # the weights as they were: they would be held for nothing
    return n_found


class PackedLinear(nn.Module):
    """A linear layer whose weight is in that order. It has no parameters that could be trained or saved."""

    def __init__(self, layer: nn.Linear, *, keep: bool) -> None:
        """Pack the weight of a layer.

        Args:
            layer: what to compute.
            keep: whether its weight stays as it was besides.
        """
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._packed = packed(layer.weight)
        self._kept = layer.weight.detach() if keep else None
        self.bias = None if layer.bias is None else layer.bias.detach()

    @property
    def weight(self) -> Tensor:
        """The weight [out_features, in_features] as it was; a copy, unless it is kept."""
        return self._packed.to_dense() if self._kept is None else self._kept

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, [..., out_features]; where a gradient is asked for, by the weight as it was."""
        if x.dtype != torch.bfloat16 or (torch.is_grad_enabled() and x.requires_grad):
            return functional.linear(x, self.weight, self.bias)
        return linear(x, self._packed, self.bias)

    def extra_repr(self) -> str:
        """Return what the layer's name is followed by in a model's text."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def _is_packable(weight: Tensor) -> bool:
    return weight.ndim == 2 and weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and not weight.is_mkldnn and _can_pack()


def _packed(weight: Tensor) -> Tensor:
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _TOKENS)
    return found


@lru_cache(maxsize=1)
def _can_pack() -> bool:
    """Say whether torch has these products here and they are the products: it does not promise that it has them."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 64, generator=generator).bfloat16()
    x, bias = torch.randn(3, 64, generator=generator).bfloat16(), torch.randn(48, generator=generator).bfloat16()
    try:
        for of in (bias, None):
            if not torch.equal(linear(x, _packed(weight), of), functional.linear(x, weight, of)):
                return False
    except (RuntimeError, AttributeError):
        return False
    return True
