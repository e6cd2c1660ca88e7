"""What the methods of a knowledge base return."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kblam_engine.triples import Triple


@dataclass(frozen=True, slots=True)
class AddResult:
    """What one `add` did, in triples."""

    added: int
    replaced: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A triple found by meaning; `score` is the cosine of its key and the searched text, -1 to 1."""

    id: int
    triple: Triple
    score: float


@dataclass(frozen=True, slots=True)
class KBInfo:
    """A knowledge base at a glance; `encoder` and `embed_dim` are None until the first triple."""

    path: str
    n_triples: int
    n_names: int
    n_properties: int
    n_removed: int
    revision: int
    fingerprint: str
    multi: bool
    encoder: str | None
    encoder_fingerprint: str | None
    embed_dim: int | None
    schema_version: int
    size_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)
