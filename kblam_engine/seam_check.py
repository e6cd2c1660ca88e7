"""Self-test of the seam: a model that silently ignores its knowledge base must be found at load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .attention import KBBlock
from .errors import SeamError
from .kb_state import KBState

if TYPE_CHECKING:
    from .injection import Injection


def check_seam(injection: Injection) -> None:
    """Run the checks of `Injection.self_test`."""
    model = injection.model
    training = model.training
    model.eval()
    try:
        _check(injection)
    finally:
        model.train(training)


def _check(injection: Injection) -> None:
    with injection.stock_attention():
        stock = _probe(injection)
    with injection.use(None):
        plain = _probe(injection)
    if not torch.equal(stock, plain):
        difference = (stock - plain).abs().max().item()
        raise SeamError(f"with no KB the logits differ from the stock model's by up to {difference:.3g}")
    masked, visible = _Sentinel(injection.layers, -torch.inf), _Sentinel(injection.layers, 2.0)
    with injection.use(masked):
        unchanged = _probe(injection)
    with injection.use(visible):
        changed = _probe(injection)
    deaf = sorted(injection.layers.keys() - masked.seen)
    if deaf:
        raise SeamError(f"the attention of layers {deaf} did not ask for its KB: it ignores the registration")
    # Not bitwise: another kernel. In 16 bits a deep model's own rounding is all that this can tell apart from
    # (.016 measured at 30 layers in bfloat16, 1e-6 in float32; a layer that loses causality makes .008).
    bound = min(256 * torch.finfo(injection.model.dtype).eps, 0.1)
    difference = ((stock - unchanged).norm() / stock.norm()).item()
    if not difference <= bound:
        raise SeamError(f"a masked KB changes the logits by {difference:.3g} of their size, not {bound:.3g}")
    if torch.equal(unchanged, changed):
        raise SeamError("a visible KB does not change the logits: the model drops what its attention returns")


@torch.no_grad()
def _probe(injection: Injection) -> Tensor:
    """Return the logits of two short sequences, one left-padded, without padding: `[11, vocabulary]`."""
    embedding = injection.model.get_input_embeddings().weight
    mask = torch.ones(2, 7, dtype=torch.long, device=embedding.device)
    mask[1, :3] = 0
    ids = (torch.arange(14, device=embedding.device) * 7919 + 11).remainder(embedding.shape[0]).view(2, 7)
    output = injection.model(input_ids=ids, attention_mask=mask, use_cache=False)
    result = output.logits if hasattr(output, "logits") else output.last_hidden_state
    return result[mask.bool()].float()  # type: ignore[no-any-return]


class _Sentinel(KBState):
    """One triple with the same share everywhere, and a value that cannot go unnoticed."""

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
