"""Names of a knowledge base whose telling words a text has: no embedding tells codes apart."""

from __future__ import annotations

import re

import numpy as np

from kblam_engine.key_table import KeyTable
from kblam_engine.wording import FUNCTION_WORDS, Rarity, words

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
