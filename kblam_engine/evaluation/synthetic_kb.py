"""Invented triples for measuring speed: any number of them, the same ones for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from kblam_engine.triples import Triple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kblam_engine.knowledge_base import KnowledgeBase

REAL_UP_TO = 2_000
"""Triples whose embeddings the sentence encoder makes; at a million it would take hours on a CPU."""
_CHUNK = 20_000  # 30 MB of float32 embeddings at 384 dimensions

_SYLLABLES = (
    "ba bel cor dan der el fa fen gar hol il jor ka kel lan lor ma mir nar nel or pel qua ren ro sal sen tar "
    "tol ul va vin wes yar zel zor"
).split()
_KINDS = ("Works", "Museum", "Bridge", "Institute", "Harbour", "Foundation", "Observatory", "Press")
_PROPERTIES = ("founder", "annual budget", "year of opening", "postal code", "contact address", "head office")
_OPENINGS = (
    "What is the {property} of {name}?",
    "Could you tell me the {property} of {name}, please?",
    "I am writing a report about {name} and need to know its {property}. What is it?",
    "Which {property} does {name} have?",
    "Someone asked me today about {name}. What would its {property} be?",
    "Please look up {name} and give me its {property}.",
)


def invented_triples(seed: int = 0) -> Iterator[Triple]:
    """Yield distinct triples without end: six properties of one invented name after another."""
    rng = random.Random(seed)
    serial = 0
    while True:
        # The serial number keeps names distinct however many there are.
        name = f"{_word(rng)} {_word(rng)} {_KINDS[serial % len(_KINDS)]} {_numeral(serial)}"
        for prop in _PROPERTIES:
            yield Triple(name, prop, _value(rng, prop))
        serial += 1


def fresh_questions(triples: list[Triple], seed: int = 0) -> Iterator[tuple[str, Triple]]:
    """Yield a question and the triple that answers it, no text twice.

    Each triple is asked about once before any is asked again in other words; ends when every triple has been
    asked about in every wording.
    """
    rng = random.Random(seed)
    order = list(range(len(triples)))
    rng.shuffle(order)
    for turn in range(len(_OPENINGS)):
        for place in order:
            triple = triples[place]
            opening = _OPENINGS[(place + turn) % len(_OPENINGS)]
            yield opening.format(name=triple.name, property=triple.property), triple


class InventingEncoder:
    """A sentence encoder that returns random unit vectors while `inventing`, and else asks the one it wraps.

    It has the name and fingerprint of the one it wraps, so that a model takes the knowledge base for its own.
    """

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.inventing = False
        self.name: str = encoder.name
        self.fingerprint: str = encoder.fingerprint
        self.embed_dim: int = encoder.embed_dim
        self._calls = 0

    def encode(self, texts: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]:
        """Return unit rows, float32 `[len(texts), embed_dim]`."""
        if not self.inventing:
            found: NDArray[np.float32] = self._encoder.encode(texts, progress=progress)
            return found
        import numpy as np

        self._calls += 1
        drawn = np.random.default_rng(self._calls).standard_normal((len(texts), self.embed_dim), np.float32)
        unit: NDArray[np.float32] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        return unit


def fill(
    kb: KnowledgeBase,
    encoder: InventingEncoder,
    n_triples: int,
    seed: int = 0,
    real_up_to: int = REAL_UP_TO,
    told: Callable[[int], None] = lambda n_done: None,
) -> tuple[list[Triple], int]:
    """Put `n_triples` invented triples into an empty knowledge base opened with `encoder`.

    The embeddings of the first `real_up_to` are real; the rest are random unit vectors, which cost the
    attention exactly what real ones do.

    Returns:
        The triples with real embeddings, to ask about, and how many embeddings are synthetic.
    """
    source = invented_triples(seed)
    real = list(islice(source, min(n_triples, real_up_to)))
    kb.add(real)
    kb.snapshot()  # embeds what else a KB embeds (its properties) while the encoder is still a real one
    n_done = len(real)
    told(n_done)
    encoder.inventing = True
    try:
        while n_done < n_triples:
            n_done += kb.add(islice(source, min(n_triples - n_done, _CHUNK))).added
            told(n_done)
    finally:
        encoder.inventing = False
    return real, n_triples - len(real)


def _word(rng: random.Random) -> str:
    return "".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))).capitalize()


def _numeral(serial: int) -> str:
    """Return a short code of letters and digits, different for every number."""
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    serial, digit = divmod(serial, 100)
    code = ""
    while True:
        serial, place = divmod(serial, len(letters))
        code = letters[place] + code
        if serial == 0:
            return f"{code}{digit:02d}"


def _value(rng: random.Random, prop: str) -> str:
    if prop == "annual budget":
        return f"{rng.randint(1, 999)}.{rng.randint(0, 9)} million crowns"
    if prop == "year of opening":
        return str(rng.randint(1700, 2020))
    if prop == "postal code":
        return f"{rng.choice('BDFGKLM')}{rng.randint(1000, 9999)}"
    if prop == "contact address":
        return f"{_word(rng).lower()}@{_word(rng).lower()}.example"
    return f"{_word(rng)} {_word(rng)}"
