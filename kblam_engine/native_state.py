"""Native tokens as an attention state: what each KB layer sees of the selected triples during one call."""

from __future__ import annotations

from torch import Tensor

from kblam_engine.attention import KBBlock
from kblam_engine.kb_state import KBState
from kblam_engine.native_tokens import NativeTokenReader


class NativeTokenState(KBState):
    """Answer from one fixed selection per batch row.

    The reader must have been told which answer tokens the coming forward pass holds; only the last
    ``n_active`` positions of a pass may attend, the rest of the prompt runs as in the base model.
    """

    def __init__(self, reader: NativeTokenReader) -> None:
        """Keep the reader of this call."""
        self.reader = reader
        self.layers = frozenset(reader.adapter.config.layers)

    def is_relative(self, layer: int) -> bool:
        """What native tokens weigh beside the prompt depends on the answer so far, not on the prompt's logits."""
        return True

    def extend(self, layer: int, hidden: Tensor, prompt_logsumexp: Tensor) -> KBBlock:
        """Return the native tokens' block for the active positions: logits relative to the prompt's log-sum-exp."""
        n = self.reader.n_active
        dtype = self.reader.adapter.value.dtype
        logits, values = self.reader.block(layer, hidden[:, -n:].to(dtype))
        return KBBlock(logits + prompt_logsumexp[:, :, -n:, None].detach(), values.to(hidden.dtype))

    def repeat(self, n: int) -> None:
        """Follow the batch into beams."""
        self.reader.repeat(n)

    def reorder(self, indices: Tensor) -> None:
        """Follow a beam search."""
        self.reader.reorder(indices)
