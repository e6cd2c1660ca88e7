"""Names whose telling words a text has, and how a conversation mentions a name: no embedding tells codes apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kblam_engine.key_table import KeyTable
from kblam_engine.wording import FUNCTION_WORDS, Rarity, same_word, words

N_MENTIONED_NAMES = 3
"""Names with telling words of the conversation whose triples become candidates as well: no embedding tells codes apart."""
COMMON_NAMES = 64
"""A word that more names have than this tells nothing."""
MAX_LOOKED_UP = 12
"""Words looked up at most."""
LEAST_RARITY = 0.25
"""How telling a word has to be; numbers always are."""


def names_mentioned(table: KeyTable, text: str, rarity: Rarity) -> list[int]:
    """Return the names that share the rarest words with a text, best first; at most ``2 * N_MENTIONED_NAMES``."""
    weights: dict[int, float] = {}
    for word in telling_words(text, rarity)[-MAX_LOOKED_UP:]:
        names = table.names_with_word(word, COMMON_NAMES)
        for name in names:
            weights[int(name)] = weights.get(int(name), 0.0) + float(np.log1p(len(table) / len(names)))
    return sorted(weights, key=lambda name: -weights[name])[: 2 * N_MENTIONED_NAMES]


_TOKEN = re.compile(r"\w+(?:[-./:_–]\w+)*")


def telling_words(text: str, rarity: Rarity) -> list[str]:
    """Return the distinct words worth looking up, in order; what is written in one piece, such as "2025-03", stays so."""
    found: dict[str, None] = {}
    for token in _TOKEN.findall(text):
        for piece in dict.fromkeys((token, *re.split(r"[-./:_–]", token))):
            parts = words(piece)
            if parts and piece.casefold() not in FUNCTION_WORDS and (
                any(part.isdigit() for part in parts) or max(map(rarity, parts)) > LEAST_RARITY
            ):
                found[piece.casefold()] = None
    return list(found)


class Mention(NamedTuple):
    """How a conversation mentions a name.

    Attributes:
        in_turn: the weighted share of its words that the turn has.
        identified: whether the turn has its numbers, or its rarest word.
        in_history: the share that one earlier message has.
        recency: of that message; 1 for the last one.
        nearly: the share of words that the turn has nearly.
        identified_before: recency of the last message that has its numbers, or its rarest word; 0 without one.
    """

    in_turn: float
    identified: float
    in_history: float
    recency: float
    nearly: float
    identified_before: float


def mention_of(name: Sequence[str], turn: Sequence[str], history: Sequence[Sequence[str]], rarity: Rarity) -> Mention:
    """Return how a conversation mentions a name.

    Args:
        name: its words.
        turn: the words of the last user message.
        history: the words of each message before it.
        rarity: of words.
    """
    weights = [0.15 + rarity(w) for w in name] or [1.0]
    total = sum(weights)
    found = [max((same_word(w, t) for t in turn), default=0.0) for w in name] or [0.0]
    in_turn = sum(w * f for w, f in zip(weights, found, strict=True)) / total
    fuzzy = sum(w for w, f in zip(weights, found, strict=True) if 0 < f < 0.9) / total
    # A number in a name ("ERR-2041 Loss of signal") identifies it; without one, its rarest word does.
    telling = [at for at, w in enumerate(name) if w.isdigit()] or [int(np.argmax(weights))]
    identified = min(found[at] for at in telling)
    share = recency = identified_before = 0.0
    for age, message in enumerate(reversed(history)):
        seen, recent = set(message), 1.0 / (1 + age)
        covered = sum(w for w, n in zip(weights, name, strict=False) if n in seen) / total
        if covered > share + 0.05:
            share, recency = covered, recent
        if not identified_before and name and all(name[at] in seen for at in telling):
            identified_before = recent
    return Mention(in_turn, identified, share, recency, fuzzy, identified_before)
