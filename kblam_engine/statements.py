"""Statements: a triple as the tokens of its sentence, each with the part it plays.

No tensors here; ``native_tokens`` lays statements out for attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from kblam_engine.triples import Triple

REFUSAL_TEXT = "I cannot find that in the knowledge base."
"""The null triple's statement: what the model says when no triple answers (DESIGN 3.4)."""


class Role(IntEnum):
    """The part a token plays in its statement."""

    PAD = 0
    BEGIN = 1
    PROPERTY_FIRST = 2
    PROPERTY = 3
    NAME_FIRST = 4
    NAME = 5
    VALUE_FIRST = 6
    VALUE = 7
    GLUE = 8
    STOP = 9
    END = 10
    NULL_BEGIN = 11
    NULL = 12
    MORE = 13


@dataclass(frozen=True)
class StatementTokens:
    """One statement as token ids with the role of each token."""

    ids: tuple[int, ...]
    roles: tuple[int, ...]


class StatementSource(Protocol):
    """What gives native tokens for triples: ``StatementTokenizer``, or a cache in front of it."""

    @property
    def null(self) -> StatementTokens:
        """The null triple's statement."""

    def __call__(self, triple: Triple) -> StatementTokens:
        """Return the statement of a triple."""


class StatementTokenizer:
    """Turn triples into statement tokens with roles.

    A triple's statement is followed by two alternatives: a line break (another triple's statement comes
    next) and the end-of-turn token. The null triple's statement only ends.
    """

    def __init__(self, tokenizer: Any, end_id: int, refusal_text: str = REFUSAL_TEXT) -> None:
        """Keep the LLM's fast tokenizer (offsets are needed) and the id that ends an assistant turn."""
        self._tokenizer = tokenizer
        self.end_id = end_id
        self.more_id = tokenizer("\n", add_special_tokens=False)["input_ids"][-1]
        ids = tokenizer(refusal_text, add_special_tokens=False)["input_ids"]
        roles = [int(Role.NULL_BEGIN)] + [int(Role.NULL)] * (len(ids) - 1)
        self.null = StatementTokens((*ids, end_id), (*roles, int(Role.END)))

    def __call__(self, triple: Triple) -> StatementTokens:
        """Return the tokens of ``triple.statement`` and what each of them says."""
        text = triple.statement
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = _spans(triple, text)
        roles: list[int] = []
        for position, (start, end) in enumerate(encoded["offset_mapping"]):
            roles.append(_role(position, start, end, text, spans, roles))
        ends = (self.more_id, self.end_id)
        return StatementTokens((*encoded["input_ids"], *ends), (*roles, int(Role.MORE), int(Role.END)))


def _spans(triple: Triple, text: str) -> list[tuple[int, int, Role, Role]]:
    # Counted, not searched for: a part may also be in the words between ("s" in "is") or in another part.
    property_start = len("The ")
    name_start = property_start + len(triple.property) + len(" of ")
    value_start = name_start + len(triple.name) + len(" is ")
    return [
        (property_start, property_start + len(triple.property), Role.PROPERTY_FIRST, Role.PROPERTY),
        (name_start, name_start + len(triple.name), Role.NAME_FIRST, Role.NAME),
        (value_start, value_start + len(triple.value), Role.VALUE_FIRST, Role.VALUE),
    ]


def _role(
    position: int,
    start: int,
    end: int,
    text: str,
    spans: list[tuple[int, int, Role, Role]],
    before: list[int],
) -> int:
    if position == 0:
        return int(Role.BEGIN)
    while start < end - 1 and text[start] == " ":  # a token often carries the space before its word
        start += 1
    for low, high, first, inside in spans:
        # A bare space token before the part (digits are split off it) already begins the part.
        begins = text[start:end] == " " and end == low
        if begins or (start < high and end > low):
            started = before[-1] in (int(first), int(inside))
            return int(inside if started else first)
    return int(Role.STOP) if start >= spans[-1][1] else int(Role.GLUE)
