"""Where native tokens stand, and how far the answer has come along them. Token ids only: nothing here is trained.

The statements of a selection are laid out one after another. While the answer is written, every position knows how
long a stretch of it ends like the statement does before that position (the suffix match), by how much another
position beats it, and whether its triple has been written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kblam_engine.errors import ConfigurationError
from kblam_engine.statements import Role, StatementTokens

MIN_LOG_GATE = -9.0
"""Gates are clamped here: a triple less likely than e^-9 is as good as absent."""


@dataclass
class NativeTokens:
    """The native tokens of a batch of selections, padded to one length ``s``.

    Attributes:
        ids: int64 [batch, s], the token each position would copy.
        previous: int64 [batch, s], the statement token before it, -1 where a statement begins.
        roles: int64 [batch, s], see ``Role``.
        slots: int64 [batch, s], index of the triple in its selection.
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
        selections: per row the statements: those of triples, or the null triple's alone.
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
        remaining: float [batch], log-probability of the best triple not yet written out.
        start: float [batch], 1 where a statement may begin: nothing written yet, or a line break just now.
        aligned: bool [batch, s], the line so far is the statement up to this position, from its first token.
        written: bool [batch, s], the statement of this position fills a whole line.
    """

    match: Tensor
    covered: Tensor
    remaining: Tensor
    start: Tensor
    aligned: Tensor
    written: Tensor


def _remaining(tokens: NativeTokens, covered: Tensor) -> Tensor:
    usable = tokens.mask & ~covered & (tokens.roles == Role.VALUE_FIRST)
    return tokens.gates.masked_fill(~usable, MIN_LOG_GATE).amax(1).clamp(min=MIN_LOG_GATE)


def start_progress(tokens: NativeTokens) -> Progress:
    """Return the progress of an answer that has not begun."""
    covered = torch.zeros_like(tokens.mask)
    start = torch.ones(len(tokens.ids), device=tokens.ids.device)
    aligned = tokens.mask & (tokens.previous < 0)
    return Progress(torch.zeros_like(tokens.ids), covered, _remaining(tokens, covered), start, aligned, covered)


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
    # Only where nothing matches longer: "2009" ends the dates of two triples, but one of them was being written.
    longest = match.amax(1, keepdim=True)
    done = (tokens.cover_length > 0) & (match >= tokens.cover_length) & (match == longest)
    covered = progress.covered | _all_of_slots(tokens, done)
    start = ((tokens.roles == Role.MORE) & (tokens.ids == written[:, None])).any(1)
    begins = tokens.mask & (tokens.previous < 0) & start[:, None]
    aligned = begins | (nn.functional.pad(progress.aligned[:, :-1], (1, 0)) & same & tokens.mask)
    ended = aligned & ((tokens.roles == Role.MORE) | (tokens.roles == Role.END))
    whole = progress.written | _all_of_slots(tokens, ended)
    return Progress(
        match, covered, _remaining(tokens, covered), start.to(tokens.gates.dtype), aligned, whole
    )


def _all_of_slots(tokens: NativeTokens, some: Tensor) -> Tensor:
    """Return bool [batch, s]: every position of the triples of which some position is True."""
    per_slot = torch.zeros(len(some), int(tokens.slots.max()) + 1, dtype=torch.int64, device=some.device)
    per_slot.scatter_add_(1, tokens.slots, some.long())
    return per_slot.gather(1, tokens.slots) > 0


def continuations(tokens: NativeTokens, progress: Progress) -> Tensor:
    """Return where the statements go on that the line so far has begun; nowhere, if it has begun otherwise or is whole.

    Those that are not written yet, if there are any: two statements that begin alike ("The price of the Orca" and "of the
    Orca 2") part where one has been written and the other has not.

    Args:
        tokens: the native tokens.
        progress: of the answer so far.

    Returns:
        bool [batch, s].
    """
    inside = torch.ones_like(tokens.mask)
    for role in (Role.BEGIN, Role.NULL_BEGIN, Role.MORE, Role.END):
        inside &= tokens.roles != role
    going_on = progress.aligned & inside & tokens.mask
    new = going_on & ~progress.written
    return torch.where(new.any(1, keepdim=True), new, going_on)


def deficits(tokens: NativeTokens, match: Tensor, covered: Tensor) -> Tensor:
    """Return by how much each suffix match is shorter than the longest one of a triple still to be written.

    Args:
        tokens: the native tokens.
        match: int64 [batch, q_len, s].
        covered: bool [batch, q_len, s], the position's triple has been written out.

    Returns:
        int64 [batch, q_len, s], 0 where nothing matches longer; a longest match of one token says too little.
    """
    out = covered | ~tokens.mask[:, None]
    longest = match.masked_fill(out, 0).amax(2, keepdim=True)
    return torch.where(longest >= 2, (longest - match).clamp(min=0), torch.zeros_like(match))


def stack_progress(steps: Sequence[Progress]) -> Progress:
    """Return the progress at several positions in a row: every tensor gains a dimension after the batch."""
    return Progress(
        torch.stack([p.match for p in steps], 1),
        torch.stack([p.covered for p in steps], 1),
        torch.stack([p.remaining for p in steps], 1),
        torch.stack([p.start for p in steps], 1),
        torch.stack([p.aligned for p in steps], 1),
        torch.stack([p.written for p in steps], 1),
    )
