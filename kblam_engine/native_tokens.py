"""Native tokens: a selected triple's statement, token by token, inside the frozen LLM's attention.

A triple squeezed into one sentence vector comes back garbled. Native tokens keep it exact: for every
token ``y_j`` of the statement "The <property> of <name> is <value>." a KB layer gets one key and one
value. The value writes into the residual stream what raises the logit of ``y_j`` above all others; the key
says when: the answer being written attends to position ``j`` when

* its own hidden state asks for the role of ``y_j`` (a statement begins, the value begins, ...),
* its hidden state already leans towards ``y_j`` (content match),
* what has been written so far ends like the statement does before ``j`` (suffix match, the exact
  form of an induction head), and no other position matches longer, and
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
from kblam_engine.native_layout import (
    NativeTokens,
    Progress,
    advance,
    continuations,
    deficits,
    stack_progress,
    start_progress,
)
from kblam_engine.statements import Role


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
        max_deficit: how far a suffix match may be behind the longest one before it is as good as none.
    """

    layers: tuple[int, ...]
    hidden_size: int
    n_heads: int
    head_dim: int
    key_dim: int = 64
    max_match: int = 8
    max_deficit: int = 4

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigurationError: a size is not positive or the layers are not ascending.
        """
        sizes = (self.hidden_size, self.n_heads, self.head_dim, self.key_dim, self.max_match, self.max_deficit)
        if min(sizes) < 1:
            raise ConfigurationError(f"native tokens: every size must be at least 1, got {self}")
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ConfigurationError(
                f"native tokens: layers must be ascending decoder layers, got {self.layers}"
            )


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
        self.deficit_bias = nn.Parameter(torch.zeros(n, h, config.max_deficit + 1))
        self.gate_scale = nn.Parameter(torch.ones(n, h))
        self.value = nn.Parameter(torch.zeros(n, h * config.head_dim, d))
        self.token_mean = nn.Parameter(torch.zeros(d), requires_grad=False)
        self.token_map = nn.Parameter(torch.eye(d), requires_grad=False)

        self._open_as_a_copier()

    @torch.no_grad()
    def _open_as_a_copier(self) -> None:
        """Start as the copier by rule that training then refines.

        Nothing matched: shut. A longer match opens wider; where another is longer still, it wins: long names
        and texts repeat themselves, but the longest match is the place. A statement may begin where the answer or a line
        begins; one that is written out is over; a line break follows while a triple remains.
        """
        self.match_bias[..., 0] = -6.0
        self.match_bias[..., 1] = 3.0
        self.match_bias[..., 2:] = (3.0 + torch.arange(1, self.config.max_match)).clamp(max=8.0)
        self.deficit_bias[..., 1:] = -4.0
        self.start_bias[..., [Role.BEGIN, Role.NULL_BEGIN]] = 10.0
        said = [r for r in Role if r not in (Role.STOP, Role.MORE, Role.END)]
        self.covered_bias[..., said] = -8.0
        self.remaining_scale[..., Role.MORE] = 2.0
        self.role_bias.view(len(self.config.layers), self.config.n_heads, len(Role))[..., Role.MORE] = 3.0

    @torch.no_grad()
    def initialise_from(
        self, unembedding: Tensor, output_projections: Sequence[Tensor], strengths: Sequence[float]
    ) -> None:
        """Start in closed form: an attended token adds its direction to the residual stream.

        The rows of the LM head share a few strong directions, those of frequent words: a plain row raises " and"
        half as much as its own token. Whitened rows do not.

        Args:
            unembedding: ``lm_head.weight`` [vocab, hidden].
            output_projections: per KB layer ``o_proj.weight`` [hidden, n_heads * head_dim]; its ridge
                pseudo-inverse says which head outputs write a given vector.
            strengths: per KB layer the length of what a fully attended token writes.
        """
        head = unembedding.float()
        self.token_mean.copy_(head.mean(0))
        rows = head - self.token_mean
        covariance = rows.T @ rows / len(rows)
        eye = torch.eye(len(covariance), device=head.device)
        inverse = torch.linalg.inv(covariance + 0.1 * covariance.diagonal().mean() * eye)
        self.token_map.copy_(inverse / inverse.diagonal().mean())
        for i, (weight, strength) in enumerate(zip(output_projections, strengths, strict=True)):
            w = weight.float()
            gram = w.T @ w
            ridge = 0.05 * gram.diagonal().mean() * torch.eye(len(gram), device=w.device)
            self.value[i] = torch.linalg.solve(gram + ridge, w.T) * strength

    def directions(self, unembedding: Tensor, ids: Tensor) -> Tensor:
        """Return what tokens write, as unit vectors [..., hidden].

        Args:
            unembedding: ``lm_head.weight`` [vocab, hidden].
            ids: int64 [...].
        """
        rows = unembedding[ids].to(self.token_mean.dtype) - self.token_mean
        return nn.functional.normalize(rows @ self.token_map, dim=-1)

    def layer_keys(self, directions: Tensor) -> list[LayerKeys]:
        """Return what each KB layer needs of the tokens.

        Args:
            directions: float [batch, s, hidden], what the tokens write, see ``directions``.
        """
        batch, s, _ = directions.shape
        content = directions @ self.content_key[:, None].transpose(2, 3)
        values = directions @ self.value[:, None].transpose(2, 3)
        heads = values.view(-1, batch, s, self.config.n_heads, self.config.head_dim).transpose(2, 3)
        return [LayerKeys(c, v) for c, v in zip(content, heads, strict=True)]

    def biases(self, tokens: NativeTokens, progress: Progress) -> Tensor:
        """Return the part of all layers' logits that no hidden state has a say in, float [n_layers, batch, n_heads, q_len, s].

        Args:
            tokens: the native tokens.
            progress: at every query position: ``match`` and ``covered`` [batch, q_len, s], ``remaining``
                and ``start`` [batch, q_len].
        """
        by_role = (
            (self.covered_bias, progress.covered[:, None]),
            (self.remaining_scale, progress.remaining[:, None, :, None]),
            (self.start_bias, progress.start[:, None, :, None]),
        )
        by_length = (
            (self.match_bias, progress.match.clamp(max=self.config.max_match)),
            (self.deficit_bias, deficits(tokens, progress.match, progress.covered).clamp(max=self.config.max_deficit)),
        )
        total = self.gate_scale[:, None, :, None, None] * tokens.gates[:, None, None, :]
        for bias, signal in by_role:
            total = total + bias[:, :, tokens.roles].transpose(1, 2)[:, :, :, None] * signal
        for bias, length in by_length:
            total = total + bias[:, :, length].transpose(1, 2)
        return total.masked_fill(~tokens.mask[:, None, None, :], -torch.inf)

    def logits(self, index: int, hidden: Tensor, tokens: NativeTokens, keys: LayerKeys, biases: Tensor) -> Tensor:
        """Return attention logits relative to the prompt's log-sum-exp.

        Args:
            index: position of the layer in ``config.layers``.
            hidden: float [batch, q_len, hidden], the (normed) input of the layer's attention.
            tokens: the native tokens.
            keys: of the layer, from ``layer_keys``.
            biases: of the layer, from ``biases``, [batch, n_heads, q_len, s].

        Returns:
            float [batch, n_heads, q_len, s]; padding is -inf.
        """
        batch, q_len, _ = hidden.shape
        h, r = self.config.n_heads, len(Role)
        asked = (hidden @ self.role_query[index].T + self.role_bias[index]).view(batch, q_len, h, r)
        roles = tokens.roles[:, None, None, :].expand(batch, h, q_len, -1)
        content = (hidden @ self.content_query[index].T) @ keys.content.transpose(1, 2)
        return asked.transpose(1, 2).gather(3, roles) + content[:, None] + biases


@dataclass
class NativeTokenReader:
    """The native tokens of one call while its answer is being written: a state machine over token ids.

    ``feed`` is told the answer tokens of every forward pass before the layers run; ``block`` then answers
    for each KB layer. Only positions from ``first_active`` on (the last prompt token and the answer) may attend:
    the prompt's own keys and values never depend on the KB.
    """

    adapter: NativeTokenAdapter
    tokens: NativeTokens
    unembedding: Tensor  # [vocab, hidden]
    directions: Tensor = field(init=False)  # [batch, s, hidden]
    progress: Progress = field(init=False)
    keys: list[LayerKeys] = field(init=False)  # of each KB layer
    _biases: Tensor = field(init=False)  # of the active positions, see `NativeTokenAdapter.biases`

    def __post_init__(self) -> None:
        """Start with nothing written: the next forward pass has the last prompt token as its active position."""
        self.directions = self.adapter.directions(self.unembedding, self.tokens.ids)
        self.keys = self.adapter.layer_keys(self.directions)
        self.progress = start_progress(self.tokens)
        self._look([self.progress])

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
        self._look(steps)

    def _look(self, steps: list[Progress]) -> None:
        """Take the progress at each active position of the coming forward pass."""
        self._biases = self.adapter.biases(self.tokens, stack_progress(steps))

    def guided(self, logits: Tensor) -> Tensor:
        """Return logits [batch, n_tokens] of the next token without what would mix two statements.

        A line that has begun as a statement goes on as one: the value that follows a name and a property is theirs. What
        begins otherwise is left alone, and so is what follows a whole statement.
        """
        allowed = continuations(self.tokens, self.progress)
        if not bool(allowed.any()):
            return logits
        batch, n_tokens = logits.shape
        left_out = torch.ones(batch, n_tokens + 1, dtype=torch.bool, device=logits.device)  # the last for other positions
        left_out.scatter_(1, self.tokens.ids.masked_fill(~allowed, n_tokens), value=False)
        return logits.masked_fill(left_out[:, :n_tokens] & allowed.any(1, keepdim=True), -torch.inf)

    @property
    def n_active(self) -> int:
        """Positions at the end of the coming forward pass that may attend."""
        return self._biases.shape[3]

    def block(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return (logits relative to the prompt [batch, n_heads, n, s], values [batch, n_heads, s, head_dim]).

        Args:
            layer: decoder layer.
            hidden: [batch, n, hidden] of the ``n`` active positions fed last.
        """
        index = self.adapter.config.layers.index(layer)
        keys = self.keys[index]
        return self.adapter.logits(index, hidden, self.tokens, keys, self._biases[index]), keys.values

    def repeat(self, n: int) -> None:
        """Follow the batch when every row becomes ``n`` beams."""
        rows = torch.arange(len(self.tokens.ids), device=self.tokens.ids.device)
        self.reorder(rows.repeat_interleave(n))

    def reorder(self, beams: Tensor) -> None:
        """Follow a beam search that keeps the given rows."""
        self.tokens, self.directions = self.tokens.rows(beams), self.directions[beams]
        self.keys = [LayerKeys(k.content[beams], k.values[beams]) for k in self.keys]
        self._biases = self._biases[:, beams]
        self.progress = Progress(*(x[beams] for x in vars(self.progress).values()))
