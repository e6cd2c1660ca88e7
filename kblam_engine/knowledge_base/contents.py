"""What a triple is made of, as text to store and as a number to compare knowledge bases by."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from hashlib import blake2b as _blake2b

from kblam_engine.triples import Triple, instant

_BYTES = 16
_as_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode  # `json.dumps` makes one for every call


def metadata_text(triple: Triple) -> str | None:
    """Return a triple's metadata as the text that is stored."""
    return _as_json(dict(triple.metadata)) if triple.metadata else None


def context_text(triple: Triple) -> str | None:
    """Return namespace, tags, times and provenance as the text that is stored."""
    if not (triple.provenance or triple.namespace or triple.tags or triple.valid_from or triple.valid_to):
        return None
    return _as_json(triple.context())


def labels_of(triple: Triple) -> list[tuple[str, str]]:
    """Return the labels by which a triple is chosen, as kind and text."""
    labels = [("tag", tag) for tag in triple.tags]
    labels += [("namespace", triple.namespace)]
    if triple.provenance is not None:
        labels += [("document", triple.provenance.document), ("uri", triple.provenance.uri)]
    return [(kind, text) for kind, text in labels if text]


def times_of(triple: Triple) -> tuple[int | None, int | None] | None:
    """Return from when to when a triple holds, in seconds since 1970; None if it says neither."""
    if not (triple.valid_from or triple.valid_to):
        return None
    begin, end = (instant(time) if time else None for time in (triple.valid_from, triple.valid_to))
    return begin, end


def hash_of(name: str, prop: str, value: str, metadata: str | None, context: str | None) -> int:
    """Hash the content of one triple; a knowledge base's digest is the sum of these."""
    return hashes_of([(name, prop, value, metadata, context)])


def hashes_of(contents: Iterable[tuple[str, str, str, str | None, str | None]]) -> int:
    """Return the sum of the hashes of several triples, each given as for `hash_of`; no part contains NUL."""
    total, new, number = 0, _blake2b(digest_size=_BYTES).copy, int.from_bytes
    for name, prop, value, metadata, context in contents:
        hashing = new()  # half the time of a new one
        hashing.update(f"{name}\0{prop}\0{value}\0{metadata or ''}\0{context or ''}".encode())
        total += number(hashing.digest(), "big")
    return total


def digest_text(total: int) -> str:
    """Return a sum of hashes as it is stored."""
    return f"{total % 2 ** (8 * _BYTES):x}"


def digest_of(connection: sqlite3.Connection) -> str:
    """Compute the digest of the live triples."""
    rows = connection.execute(
        "SELECT n.text, p.text, t.value, t.metadata, t.context FROM triples t JOIN names n ON n.id = t.name_id "
        "JOIN properties p ON p.id = t.property_id WHERE t.removed IS NULL"
    )
    return digest_text(hashes_of(rows))
