"""What one call tells the attention about its knowledge base."""

from __future__ import annotations

from torch import Tensor

from .attention import KBBlock


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

        `generate` repeats its inputs for beams and return sequences before the first forward: a state that
        keeps something per sequence finds the batch n times as large as its own here, and repeats itself.
        """

    def observe(self, layer: int, hidden: Tensor) -> None:
        """See the input of a watched layer's self-attention (after its norm), `[batch, q_len, hidden]`."""

    def extend(self, layer: int, hidden: Tensor, prompt_logsumexp: Tensor) -> KBBlock | None:
        """Return the block that joins the softmax of `layer`, or None for the prompt alone.

        Args:
            layer: index of the decoder layer.
            hidden: input of its self-attention, `[batch, q_len, hidden]`.
            prompt_logsumexp: of the prompt's logits, `[batch, n_heads, q_len]` in float32; EMPTY_LOGSUMEXP at
                left-padded positions; zeros where the layer `is_relative`.
        """
        return None

    def is_relative(self, layer: int) -> bool:
        """Say whether the logits of a layer's block are `prompt_logsumexp` plus what does not depend on it.

        Their weights are the same for any log-sum-exp then, so `extend` is given zeros, and the prompt's part of the
        softmax is left to the stock attention.
        """
        return False

    def observe_weights(self, layer: int, weights: Tensor) -> None:
        """See the triples' weights in the softmax of `layer`, float32, shaped like the logits of the block."""

    def guided(self, logits: Tensor) -> Tensor:
        """Return the logits of the newest position, `[batch, n_tokens]`, as a token of the answer is chosen from them."""
        return logits

    def repeat(self, n: int) -> None:
        """Follow a batch in which every sequence was repeated n times in a row."""

    def reorder(self, indices: Tensor) -> None:
        """Follow a batch whose sequence i is now what `indices[i]` was, as beam search does."""
