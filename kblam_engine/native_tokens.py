"""Native tokens: a selected triple's statement, token by token, inside the frozen LLM's attention.

A triple squeezed into one sentence vector comes back garbled. Native tokens keep it exact: for every
token ``y_j`` of the statement "The <property> of <name> is <value>." a KB layer gets one key and one
value. The value writes the embedding of ``y_j`` into the residual stream; the key says when: the
answer being written attends to position ``j`` when

* its own hidden state asks for the role of ``y_j`` (a statement begins, the value begins, ...),
* its hidden state already leans towards ``y_j`` (content match),
* what has been written so far ends like the statement does before ``j`` (suffix match, the exact
  form of an induction head), and
* the gate of the triple is open (the log-probability that the triple answers the question).

The keys need no forward pass of the LLM over the statements, so a triple costs nothing until it is
selected and a change is visible at once; see ``docs/decisions.md`` for the comparison with contextual keys.

This module knows tensors and token ids. It does not retrieve, and it does not know knowledge bases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kblam_engine.errors import ConfigurationError
from kblam_engine.statements import Role, StatementTokens

MIN_LOG_GATE = -9.0
"""Gates are clamped here: a triple less likely than e^-9 is as good as absent."""


@dataclass(frozen=True)
class NativeTokenConfig:
    """Shape of a native-token adapter.

    Attributes:
        layers: KB layers (decoder layer indices, ascending) that attend to native tokens.
        hidden_size: width of the LLM's residual stream.
        n_heads: query heads of the LLM's attention.
        head_dim: width of one head.
        key_dim: width of the content match.
        max_match: longest suffix match told apart from longer ones, in tokens.
    """

    layers: tuple[int, ...]
    hidden_size: int
    n_heads: int
    head_dim: int
    key_dim: int = 64
    max_match: int = 8

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigurationError: a size is not positive or the layers are not ascending.
        """
        sizes = (self.hidden_size, self.n_heads, self.head_dim, self.key_dim, self.max_match)
        if min(sizes) < 1:
            raise ConfigurationError(f"native tokens: every size must be at least 1, got {self}")
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ConfigurationError(
                f"native tokens: layers must be ascending decoder layers, got {self.layers}"
            )


@dataclass
class NativeTokens:
    """The native tokens of a batch of selections, padded to one length ``s``.

    Attributes:
        ids: int64 [batch, s], the token each position would copy.
        previous: int64 [batch, s], the statement token before it, -1 where a statement begins.
        roles: int64 [batch, s], see ``Role``.
        slots: int64 [batch, s], index of the triple in its selection; the null triple comes last.
        gates: float [batch, s], log-probability of the position's triple.
        mask: bool [batch, s], False on padding.
        cover_length: int64 [batch, s], at the position after a value its matched length that proves the
            value was written out, 0 elsewhere.
    """

    ids: Tensor
    previous: Tensor
    roles: Tensor
    slots: Tensor
    gates: Tensor
    mask: Tensor
    cover_length: Tensor

    def rows(self, indices: Tensor) -> NativeTokens:
        """Return the batch rows with these indices."""
        return NativeTokens(**{k: v[indices] for k, v in vars(self).items()})


def collate(
    selections: Sequence[Sequence[StatementTokens]],
    gates: Sequence[Sequence[float]],
    device: torch.device | str = "cpu",
) -> NativeTokens:
    """Lay out one selection of statements per batch row.

    Args:
        selections: per row the statements, the null triple's last.
        gates: per row one log-probability per statement.
        device: where the tensors go.

    Returns:
        The padded batch; ``s`` is the longest row.

    Raises:
        ConfigurationError: a row has not one gate per statement.
    """
    for row, (statements, row_gates) in enumerate(zip(selections, gates, strict=True)):
        if len(statements) != len(row_gates):
            raise ConfigurationError(f"row {row}: {len(statements)} statements but {len(row_gates)} gates")
    length = max(sum(len(s.ids) for s in statements) for statements in selections)
    shape = (len(selections), length)
    ids, previous, roles, slots, cover = (torch.zeros(shape, dtype=torch.int64) for _ in range(5))
    gate = torch.zeros(shape)
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, (statements, row_gates) in enumerate(zip(selections, gates, strict=True)):
        at = 0
        for slot, (statement, value) in enumerate(zip(statements, row_gates, strict=True)):
            n = len(statement.ids)
            ids[row, at : at + n] = torch.tensor(statement.ids)
            before = [-1, *statement.ids[:-1]]
            if Role.MORE in statement.roles:
                before[-1] = before[-2]  # the line break and the end are alternatives after the same token
            previous[row, at : at + n] = torch.tensor(before)
            roles[row, at : at + n] = torch.tensor(statement.roles)
            slots[row, at : at + n] = slot
            gate[row, at : at + n] = value
            mask[row, at : at + n] = True
            n_value = sum(r in (Role.VALUE_FIRST, Role.VALUE) for r in statement.roles)
            if n_value:
                last = max(j for j, r in enumerate(statement.roles) if r in (Role.VALUE_FIRST, Role.VALUE))
                cover[row, at + last + 1] = min(n_value, 4)
            at += n
    previous = previous.masked_fill(~mask, -1)
    moved = (x.to(device) for x in (ids, previous, roles, slots, gate, mask, cover))
    return NativeTokens(*moved)


@dataclass
class Progress:
    """What the answer so far has in common with the statements (grows with every written token).

    Attributes:
        match: int64 [batch, s], length of the suffix match before each position.
        covered: bool [batch, s], the triple of this position has had its value written out.
    """

    match: Tensor
    covered: Tensor
    remaining: Tensor  # float [batch], log-probability of the best triple not yet written out
    start: (
        Tensor  # float [batch], 1 where a statement may begin: nothing written yet, or a line break just now
    )


def _remaining(tokens: NativeTokens, covered: Tensor) -> Tensor:
    usable = tokens.mask & ~covered & (tokens.roles == Role.VALUE_FIRST)
    return tokens.gates.masked_fill(~usable, MIN_LOG_GATE).amax(1).clamp(min=MIN_LOG_GATE)


def start_progress(tokens: NativeTokens) -> Progress:
    """Return the progress of an answer that has not begun."""
    covered = torch.zeros_like(tokens.mask)
    start = torch.ones(len(tokens.ids), device=tokens.ids.device)
    return Progress(torch.zeros_like(tokens.ids), covered, _remaining(tokens, covered), start)


def advance(tokens: NativeTokens, progress: Progress, written: Tensor) -> Progress:
    """Return the progress after one more token.

    Args:
        tokens: the native tokens.
        progress: before the token.
        written: int64 [batch], the token just written.
    """
    shifted = nn.functional.pad(progress.match[:, :-1], (1, 0))
    # The end-of-turn token sits one further from its predecessor than the others (after MORE).
    twice = nn.functional.pad(progress.match[:, :-2], (2, 0))
    after_more = (tokens.roles == Role.END) & (nn.functional.pad(tokens.roles[:, :-1], (1, 0)) == Role.MORE)
    same = tokens.previous == written[:, None]
    match = torch.where(same, torch.where(after_more, twice, shifted) + 1, torch.zeros_like(shifted))
    done = (tokens.cover_length > 0) & (match >= tokens.cover_length)
    n_slots = int(tokens.slots.max()) + 1
    per_slot = torch.zeros(len(match), n_slots, dtype=torch.int64, device=match.device)
    per_slot.scatter_add_(1, tokens.slots, done.long())
    covered = progress.covered | (per_slot.gather(1, tokens.slots) > 0)
    start = ((tokens.roles == Role.MORE) & (tokens.ids == written[:, None])).any(1)
    return Progress(match, covered, _remaining(tokens, covered), start.to(tokens.gates.dtype))


@dataclass
class LayerKeys:
    """What one KB layer keeps of the native tokens for a whole answer (no hidden state involved)."""

    content: Tensor  # [batch, s, key_dim]
    values: Tensor  # [batch, n_heads, s, head_dim]


class NativeTokenAdapter(nn.Module):
    """The trained part: per KB layer, how hidden states ask for native tokens and what those write."""

    def __init__(self, config: NativeTokenConfig) -> None:
        """Make an adapter of the given shape; ``initialise_from`` fills in the closed-form start."""
        super().__init__()
        self.config = config
        n, h, d = len(config.layers), config.n_heads, config.hidden_size
        r, k = len(Role), config.key_dim
        self.role_query = nn.Parameter(torch.zeros(n, h * r, d))
        self.role_bias = nn.Parameter(torch.zeros(n, h * r))
        self.covered_bias = nn.Parameter(torch.zeros(n, h, r))
        self.remaining_scale = nn.Parameter(torch.zeros(n, h, r))
        self.start_bias = nn.Parameter(torch.zeros(n, h, r))
        self.content_query = nn.Parameter(torch.zeros(n, k, d))
        self.content_key = nn.Parameter(torch.randn(n, k, d) / math.sqrt(k))
        self.match_bias = nn.Parameter(torch.zeros(n, h, config.max_match + 1))
        self.gate_scale = nn.Parameter(torch.ones(n, h))
        self.value = nn.Parameter(torch.zeros(n, h * config.head_dim, d))

        self._open_as_a_copier()

    @torch.no_grad()
    def _open_as_a_copier(self) -> None:
        """Start as the copier by rule that training then refines.

        Nothing matched: shut. A longer match opens wider. A statement may begin where the answer or a line
        begins; one that is written out does not begin again; a line break follows while a triple remains.
        """
        self.match_bias[..., 0] = -6.0
        self.match_bias[..., 1] = 3.0
        self.match_bias[..., 2:] = (3.0 + torch.arange(1, self.config.max_match)).clamp(max=8.0)
        self.start_bias[..., [Role.BEGIN, Role.NULL_BEGIN]] = 10.0
        self.covered_bias[..., [Role.BEGIN, Role.PROPERTY_FIRST, Role.NAME_FIRST, Role.VALUE_FIRST]] = -6.0
        self.remaining_scale[..., Role.MORE] = 2.0
        self.role_bias.view(len(self.config.layers), self.config.n_heads, len(Role))[..., Role.MORE] = 3.0

    @torch.no_grad()
    def initialise_from(self, output_projections: Sequence[Tensor], strengths: Sequence[float]) -> None:
        """Start the value maps so that an attended token adds its embedding to the residual stream.

        Args:
            output_projections: per KB layer ``o_proj.weight`` [hidden, n_heads * head_dim]; its ridge
                pseudo-inverse says which head outputs write a given vector.
            strengths: per KB layer the length of what a fully attended token writes.
        """
        for i, (weight, strength) in enumerate(zip(output_projections, strengths, strict=True)):
            w = weight.float()
            gram = w.T @ w
            ridge = 0.05 * gram.diagonal().mean() * torch.eye(len(gram), device=w.device)
            self.value[i] = torch.linalg.solve(gram + ridge, w.T) * strength

    def layer_keys(self, index: int, embeddings: Tensor) -> LayerKeys:
        """Return what KB layer number ``index`` needs of the tokens.

        Args:
            index: position of the layer in ``config.layers``.
            embeddings: float [batch, s, hidden], unit embeddings of the token ids.
        """
        batch, s, _ = embeddings.shape
        values = (embeddings @ self.value[index].T).view(batch, s, self.config.n_heads, self.config.head_dim)
        return LayerKeys(embeddings @ self.content_key[index].T, values.transpose(1, 2))

    def logits(
        self, index: int, hidden: Tensor, tokens: NativeTokens, keys: LayerKeys, progress: Progress
    ) -> Tensor:
        """Return attention logits relative to the prompt's log-sum-exp.

        Args:
            index: position of the layer in ``config.layers``.
            hidden: float [batch, q_len, hidden], the (normed) input of the layer's attention.
            tokens: the native tokens.
            keys: from ``layer_keys``.
            progress: at every query position: ``match`` and ``covered`` [batch, q_len, s], ``remaining``
                and ``start`` [batch, q_len].

        Returns:
            float [batch, n_heads, q_len, s]; padding is -inf.
        """
        batch, q_len, _ = hidden.shape
        s = tokens.ids.shape[1]
        h, r = self.config.n_heads, len(Role)
        asked = (hidden @ self.role_query[index].T + self.role_bias[index]).view(batch, q_len, h, r)
        asked = asked.permute(0, 2, 1, 3)
        roles = tokens.roles[:, None, None, :].expand(batch, h, q_len, s)
        logits = asked.gather(3, roles)
        signals = (
            (self.covered_bias, progress.covered[:, None]),
            (self.remaining_scale, progress.remaining[:, None, :, None]),
            (self.start_bias, progress.start[:, None, :, None]),
        )
        for by_role, signal in signals:
            logits = logits + by_role[index][:, tokens.roles].transpose(0, 1)[:, :, None] * signal
        content = (hidden @ self.content_query[index].T) @ keys.content.transpose(1, 2)
        logits = logits + content[:, None]
        logits = logits + self.match_bias[index][
            :, progress.match.clamp(max=self.config.max_match)
        ].transpose(0, 1)
        logits = logits + self.gate_scale[index][None, :, None, None] * tokens.gates[:, None, None, :]
        return logits.masked_fill(~tokens.mask[:, None, None, :], -torch.inf)


@dataclass
class NativeTokenReader:
    """The native tokens of one call while its answer is being written: a state machine over token ids.

    ``feed`` is told the answer tokens of every forward pass before the layers run; ``block`` then answers
    for each KB layer. Only positions from ``first_active`` on (the last prompt token and the answer) may attend:
    the prompt's own keys and values never depend on the KB.
    """

    adapter: NativeTokenAdapter
    tokens: NativeTokens
    embeddings: Tensor  # [batch, s, hidden]
    progress: Progress = field(init=False)
    keys: dict[int, LayerKeys] = field(init=False, default_factory=dict)
    _now: Progress = field(init=False)

    def __post_init__(self) -> None:
        """Start with nothing written: the next forward pass has the last prompt token as its active position."""
        self.progress = start_progress(self.tokens)
        self._now = _stack([self.progress])

    def feed(self, written: Tensor, *, after_prompt: bool = False) -> None:
        """Take the ids [batch, n] of the answer tokens in the coming forward pass, oldest first.

        Args:
            written: the ids.
            after_prompt: the pass also holds the last prompt token, just before them.
        """
        steps = [self.progress] if after_prompt else []
        for column in written.unbind(1):
            self.progress = advance(self.tokens, self.progress, column)
            steps.append(self.progress)
        self._now = _stack(steps)

    @property
    def n_active(self) -> int:
        """Positions at the end of the coming forward pass that may attend."""
        return self._now.match.shape[1]

    def block(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return (logits relative to the prompt [batch, n_heads, n, s], values [batch, n_heads, s, head_dim]).

        Args:
            layer: decoder layer.
            hidden: [batch, n, hidden] of the ``n`` active positions fed last.
        """
        index = self.adapter.config.layers.index(layer)
        if layer not in self.keys:
            self.keys[layer] = self.adapter.layer_keys(index, self.embeddings)
        keys = self.keys[layer]
        logits = self.adapter.logits(index, hidden, self.tokens, keys, self._now)
        return logits, keys.values

    def repeat(self, n: int) -> None:
        """Follow the batch when every row becomes ``n`` beams."""
        rows = torch.arange(len(self.tokens.ids), device=self.tokens.ids.device)
        self.reorder(rows.repeat_interleave(n))

    def reorder(self, beams: Tensor) -> None:
        """Follow a beam search that keeps the given rows."""
        self.tokens, self.embeddings = self.tokens.rows(beams), self.embeddings[beams]
        self.keys = {i: LayerKeys(k.content[beams], k.values[beams]) for i, k in self.keys.items()}
        self.progress, self._now = (
            Progress(*(x[beams] for x in vars(p).values())) for p in (self.progress, self._now)
        )


def _stack(steps: Sequence[Progress]) -> Progress:
    return Progress(
        torch.stack([p.match for p in steps], 1),
        torch.stack([p.covered for p in steps], 1),
        torch.stack([p.remaining for p in steps], 1),
        torch.stack([p.start for p in steps], 1),
    )


def unit_embeddings(weight: Tensor, mean: Tensor, ids: Tensor) -> Tensor:
    """Return unit-length, centred token embeddings [..., hidden].

    Args:
        weight: [vocab, hidden], the LLM's input embedding.
        mean: [hidden], the mean of its rows.
        ids: int64 [...].
    """
    return nn.functional.normalize(weight[ids].float() - mean, dim=-1)
