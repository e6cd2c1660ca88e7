"""Rectangular attention: a prompt attending to itself and to a knowledge base in one softmax.

Pure tensor functions; nothing here knows a model or a file. Shapes use these names:

    batch       sequences in the call          n_heads     query heads of the layer
    q_len       positions that ask             n_kv_heads  key/value heads; divides n_heads
    k_len       prompt positions to look at    head_dim    width of one head
    n_triples   knowledge tokens, `s` for a selection of them
    embed_dim   width of a sentence embedding

Query head h belongs to key/value head h // (n_heads / n_kv_heads), as in grouped-query attention. Where a KB
tensor may leave its batch dimension out or have it 1, one KB serves the whole batch and is never copied.
All softmax arithmetic is float32. A logit of -inf means masked, and a masked triple weighs exactly 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import ConfigurationError

EMPTY_LOGSUMEXP = -87.0
"""Log-sum-exp of a query that sees no key (padding); finite, so that sums and gradients stay finite."""

_CHUNK_LOGITS = 1 << 25
"""Prompt logits kept at once (128 MB in float32); longer prompts are worked off in slices of queries."""


@dataclass(frozen=True)
class KBBlock:
    """What one layer adds to the softmax of its prompt.

    Attributes:
        logits: `[batch, n_heads, q_len, s]`, already scaled and shifted; -inf masks a triple. Fewer than q_len rows are
            those of the last positions: the others attend to the prompt alone.
        values: `[batch or 1, n_heads or n_kv_heads, s, head_dim]`.
    """

    logits: Tensor
    values: Tensor

    def mix(self, weights: Tensor) -> Tensor:
        """Weigh the values: `[batch, n_heads, q_len, s]` to `[batch, n_heads, q_len, head_dim]`."""
        return heads_matmul(weights.to(self.values.dtype), self.values)

    def select(self, ids: Tensor) -> KBBlock:
        """Keep the triples `ids` (`[batch, k]`, positions in this block) of logits and values alike."""
        return KBBlock(*self._gathered(ids))

    def _gathered(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        batch, n_heads, q_len, _ = self.logits.shape
        logits = self.logits.gather(-1, ids[:, None, None, :].expand(batch, n_heads, q_len, -1))
        values = self.values.expand(batch, -1, -1, -1)
        index = ids[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
        return logits, values.gather(2, index)


@dataclass(frozen=True)
class AbsorbedBlock(KBBlock):
    """A block whose values are sentence embeddings, mapped through the value adapter once, after mixing.

    Attributes:
        logits: `[batch, n_heads, q_len, s]`.
        values: value embeddings, `[batch or 1, 1, s, embed_dim]`.
        value_map: `[n_heads or n_kv_heads, head_dim, embed_dim]`.
    """

    value_map: Tensor

    def mix(self, weights: Tensor) -> Tensor:
        """Mix the value embeddings, then map the mixture: linear, so equal to mapping every value first."""
        mixture = super().mix(weights).to(self.value_map.dtype)
        return heads_matmul(mixture, self.value_map.transpose(1, 2)[None])

    def select(self, ids: Tensor) -> AbsorbedBlock:
        """Keep the triples `ids` (`[batch, k]`, positions in this block)."""
        return AbsorbedBlock(*self._gathered(ids), value_map=self.value_map)


def heads_matmul(rows: Tensor, matrices: Tensor) -> Tensor:
    """Multiply every head's rows with the matrix of its group, without repeating a matrix.

    Args:
        rows: `[batch, n_heads, q_len, x]`.
        matrices: `[batch or 1, groups, x, y]`; `groups` divides `n_heads`.

    Returns:
        `[batch, n_heads, q_len, y]`.

    Raises:
        ConfigurationError: the number of groups does not divide the number of heads, or the batches differ.
    """
    batch, n_heads, q_len, inner = rows.shape
    groups, width = matrices.shape[1], matrices.shape[3]
    if n_heads % groups or matrices.shape[0] not in (1, batch):
        raise ConfigurationError(
            f"expected matrices for a batch of {batch} (or 1) and a divisor of {n_heads} heads, "
            f"got {matrices.shape[0]} and {groups}: use the key/value heads of the layer"
        )
    members = n_heads // groups * q_len
    grouped = rows.reshape(batch, groups, members, inner)
    if matrices.shape[0] == batch:
        return (grouped @ matrices).reshape(batch, n_heads, q_len, width)
    # One KB for the batch: fold the batch into the rows rather than expanding the KB.
    folded = grouped.transpose(0, 1).reshape(groups, batch * members, inner)
    product = (folded @ matrices[0]).reshape(groups, batch, members, width)
    return product.transpose(0, 1).reshape(batch, n_heads, q_len, width)


def prompt_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    is_causal: bool = True,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend to the prompt alone, and keep the log-sum-exp that lets a KB join the softmax afterwards.

    Args:
        query: `[batch, n_heads, q_len, head_dim]`.
        key: `[batch, n_kv_heads, k_len, head_dim]`.
        value: `[batch, n_kv_heads, k_len, head_dim]`.
        mask: None, or broadcastable to `[batch, n_heads, q_len, k_len]`; bool (True = visible) or a number
            that is added to the logits.
        scaling: factor of the dot products, usually head_dim ** -0.5.
        is_causal: with no mask and q_len > 1, query i sees the keys 0..i (later keys are unused cache slots).
        softcap: bound c of the logits, c·tanh(logit / c), where a model has one.

    Returns:
        Output `[batch, n_heads, q_len, head_dim]` and log-sum-exp `[batch, n_heads, q_len]` in float32. A
        query that sees no key (padding) gets output 0 and EMPTY_LOGSUMEXP.
    """
    batch, n_heads, q_len, _ = query.shape
    k_len = key.shape[2]
    if mask is None and is_causal and q_len > 1:
        mask = torch.ones(q_len, k_len, dtype=torch.bool, device=query.device).tril()[None, None]
    elif mask is not None:
        mask = mask[..., :k_len]
    rows = max(1, _CHUNK_LOGITS // (batch * n_heads * k_len))
    if rows >= q_len:
        return _prompt_slice(query, key, value, mask, scaling, softcap)
    parts = []
    for start in range(0, q_len, rows):
        stop = min(start + rows, q_len)
        part_mask = mask if mask is None or mask.shape[-2] == 1 else mask[..., start:stop, :]
        parts.append(_prompt_slice(query[:, :, start:stop], key, value, part_mask, scaling, softcap))
    return torch.cat([output for output, _ in parts], dim=2), torch.cat([total for _, total in parts], dim=2)


def _prompt_slice(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    logits = heads_matmul(query, key.transpose(2, 3)).float() * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if mask is not None:
        logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask.float()
    # Written out, because torch.logsumexp and softmax give NaN (and NaN gradients) for a row of -inf.
    top = logits.detach().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).min)
    shares = torch.exp(logits - top)
    total = shares.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    output = heads_matmul((shares / total).to(value.dtype), value)
    empty = top == torch.finfo(torch.float32).min
    return output, (top + total.log()).masked_fill(empty, EMPTY_LOGSUMEXP).squeeze(-1)


def merge_block(output: Tensor, prompt_logsumexp: Tensor, block: KBBlock) -> tuple[Tensor, Tensor]:
    """Join a KB block to a finished prompt attention: the same as one softmax over the concatenation.

    Args:
        output: prompt attention, `[batch, n_heads, q_len, head_dim]`.
        prompt_logsumexp: `[batch, n_heads, q_len]`, from `prompt_attention`.
        block: the KB's part, with logits `[batch, n_heads, q_len, s]` or of the last positions alone.

    Returns:
        The joint output (shape and dtype of `output`) and every triple's weight in the joint softmax, shaped like the
        block's logits, in float32; what is missing to 1 is the prompt's share.

    Raises:
        ConfigurationError: the logits do not fit the prompt.
    """
    shape, n = block.logits.shape[:-1], block.logits.shape[2]
    if shape[:2] != output.shape[:2] or not 0 < n <= output.shape[2]:
        raise ConfigurationError(
            f"expected KB logits of shape {[*output.shape[:-1], 's']} (batch, n_heads, q_len, s), or of fewer last "
            f"positions, got {list(block.logits.shape)}"
        )
    if not block.logits.shape[-1]:
        return output, block.logits.float()
    before, output = output[:, :, :-n], output[:, :, -n:]
    # The prompt is one more column: its log-sum-exp is finite, so a row of -inf leaves all of the weight to it.
    columns = torch.cat([prompt_logsumexp[:, :, -n:, None].float(), block.logits.float()], dim=-1)
    shares = columns.softmax(-1)
    share, weights = shares[..., :1], shares[..., 1:]
    joint = (output.float() * share + block.mix(weights).float()).to(output.dtype)
    return (joint if not before.shape[2] else torch.cat([before, joint], dim=2)), weights


def joint_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    block: KBBlock | None,
    *,
    scaling: float,
    is_causal: bool = True,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attend to the prompt and a KB block in one softmax (KBLaM, rectangular attention).

    The arguments are those of `prompt_attention` and `merge_block`; a block of None gives the prompt alone.

    Returns:
        Output `[batch, n_heads, q_len, head_dim]` and the weights of the triples,
        `[batch, n_heads, q_len, s]`, or None.
    """
    output, total = prompt_attention(
        query, key, value, mask, scaling=scaling, is_causal=is_causal, softcap=softcap
    )
    return (output, None) if block is None else merge_block(output, total, block)


def rectangular_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    kb_query: Tensor,
    kb_keys: Tensor,
    kb_values: Tensor,
    *,
    scaling: float,
    kb_scale: float | None = None,
    kb_mask: Tensor | None = None,
    top_k: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute one KB layer of KBLaM (equation 11) with materialised knowledge tokens.

    The prompt's arguments are those of `prompt_attention`, the KB's those of `materialised_block`. With
    `top_k` only the best k triples of every sequence take part, each with the logit it had among all of them.

    Returns:
        Output `[batch, n_heads, q_len, head_dim]` and the weights of the triples,
        `[batch, n_heads, q_len, s]`, where s is n_triples, or k after pruning.
    """
    block = materialised_block(kb_query, kb_keys, kb_values, scaling=scaling, kb_scale=kb_scale, mask=kb_mask)
    if top_k is not None:
        block, _ = keep_top_k(block, top_k)
    output, weights = joint_attention(query, key, value, mask, block, scaling=scaling)
    assert weights is not None
    return output, weights


def materialised_block(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    scaling: float,
    kb_scale: float | None = None,
    mask: Tensor | None = None,
) -> KBBlock:
    """Score knowledge tokens that are stored per head.

    Args:
        query: output of the KB query heads, without rotary embedding, `[batch, n_heads, q_len, head_dim]`.
        keys: `[n_triples, n_heads or n_kv_heads, head_dim]`, or the same with `batch` in front.
        values: same shape as `keys`.
        scaling: factor of the dot products, usually head_dim ** -0.5.
        kb_scale: C of the shift log C - log M (M: visible triples of the KB); None: no shift.
        mask: True = visible, `[n_triples]` or `[batch, n_triples]`; pads KBs of different sizes to one batch.
    """
    logits = heads_matmul(query, _batched(keys, 4).permute(0, 2, 3, 1)).float() * scaling
    return KBBlock(_shift_and_mask(logits, kb_scale, mask), _batched(values, 4).transpose(1, 2))


def absorbed_block(
    query: Tensor,
    key_embeddings: Tensor,
    value_embeddings: Tensor,
    key_map: Tensor,
    value_map: Tensor,
    *,
    scaling: float,
    kb_scale: float | None = None,
    mask: Tensor | None = None,
    key_norm: Tensor | None = None,
) -> AbsorbedBlock:
    """Score sentence embeddings directly: the adapters move to the query, and to the mixture of values.

    `<q, W_K k> = <W_Kᵀ q, k>` and `Σ a W_V v = W_V Σ a v`, so no knowledge token is ever stored.

    Args:
        query: output of the KB query heads, `[batch, n_heads, q_len, head_dim]`.
        key_embeddings: `[n_triples, embed_dim]` or `[batch, n_triples, embed_dim]`.
        value_embeddings: same shape as `key_embeddings`.
        key_map: key adapter of the layer, `[n_heads or n_kv_heads, head_dim, embed_dim]`; with a key
            layer-norm the centred one, `centre_key_map(key_map)`.
        value_map: value adapter of the layer, same shape.
        scaling: factor of the dot products, usually head_dim ** -0.5.
        kb_scale: C of the shift log C - log M; None: no shift.
        mask: True = visible, `[n_triples]` or `[batch, n_triples]`.
        key_norm: the scalar per triple of a key layer-norm, from `key_norm_scalars`, shaped like `mask`.
    """
    asked = heads_matmul(query, key_map[None].to(query.dtype))
    keys = _batched(key_embeddings, 3)[:, None].transpose(2, 3)
    logits = heads_matmul(asked.to(keys.dtype), keys).float() * scaling
    if key_norm is not None:
        logits = logits * _batched(key_norm, 2)[:, None, None, :].float()
    logits = _shift_and_mask(logits, kb_scale, mask)
    return AbsorbedBlock(logits, _batched(value_embeddings, 3)[:, None], value_map)


def centre_key_map(key_map: Tensor) -> Tensor:
    """Remove from a key adapter what a layer-norm would subtract: the mean over all heads and dimensions.

    Args:
        key_map: `[heads, head_dim, embed_dim]`.
    """
    return key_map - key_map.mean(dim=(0, 1), keepdim=True)


def key_norm_scalars(key_embeddings: Tensor, centred_key_map: Tensor, eps: float = 1e-5) -> Tensor:
    """Compute 1 / standard deviation of every triple's key over all heads of the layer.

    Together with a centred map this is a layer-norm without gain or bias, at one scalar per triple: the
    variance is a quadratic form of the embedding, so the keys themselves are not built.

    Args:
        key_embeddings: `[..., n_triples, embed_dim]`.
        centred_key_map: `[heads, head_dim, embed_dim]`, from `centre_key_map`.
        eps: added to the variance.

    Returns:
        `[..., n_triples]` in float32.
    """
    rows = centred_key_map.flatten(0, 1).float()
    gram = rows.T @ rows / rows.shape[0]
    embeddings = key_embeddings.float()
    return ((embeddings @ gram * embeddings).sum(-1).clamp_min(0) + eps).rsqrt()


def keep_top_k(block: KBBlock, k: int, query_mask: Tensor | None = None) -> tuple[KBBlock, Tensor]:
    """Prune a block to the k triples of each sequence with the highest logit over all heads and queries.

    Args:
        block: any block, logits `[batch, n_heads, q_len, n_triples]`.
        k: triples to keep; k >= n_triples keeps the block as it is.
        query_mask: True where a query counts, `[batch, q_len]`; leave padding out of the vote with it.

    Returns:
        The block and the kept positions `[batch, min(k, n_triples)]`.

    Raises:
        ConfigurationError: k is below 1.
    """
    if k < 1:
        raise ConfigurationError(f"expected top_k of at least 1, got {k}: pass None for no pruning")
    batch, _, _, n_triples = block.logits.shape
    if k >= n_triples:
        return block, torch.arange(n_triples, device=block.logits.device).expand(batch, -1)
    votes = block.logits.detach()
    if query_mask is not None:
        votes = votes.masked_fill(~query_mask[:, None, :, None], -math.inf)
    ids = votes.amax(dim=(1, 2)).topk(k, dim=-1).indices
    return block.select(ids), ids


def _shift_and_mask(logits: Tensor, kb_scale: float | None, mask: Tensor | None) -> Tensor:
    """Add log C - log M and mask; `logits` is `[batch, n_heads, q_len, n_triples]`."""
    visible = None if mask is None else _batched(mask, 2)
    if kb_scale is not None:
        if kb_scale <= 0:
            raise ConfigurationError(f"expected a KB scale above 0, got {kb_scale}")
        if visible is None:
            logits = logits + (math.log(kb_scale) - math.log(max(1, logits.shape[-1])))
        else:
            counts = visible.sum(-1).clamp_min(1).to(logits.dtype)
            logits = logits + (math.log(kb_scale) - counts.log())[:, None, None, None]
    return logits if visible is None else logits.masked_fill(~visible[:, None, None, :], -math.inf)


def _batched(tensor: Tensor, rank: int) -> Tensor:
    """Put a batch dimension of 1 in front of a tensor that has none."""
    return tensor[None] if tensor.dim() == rank - 1 else tensor
