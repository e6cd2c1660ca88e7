"""Keep sentence embeddings on disk by content, so that a second run does not encode its triples again."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)
_BATCH = 500  # below SQLite's limit on variables of a statement in every version


class CachedEncoder:
    """A sentence encoder with a memory: same name, fingerprint and results as the one it wraps.

    One SQLite file per encoder fingerprint. A cache that cannot be read or written costs time, no error.
    """

    def __init__(self, encoder: Any, folder: Path) -> None:
        self._encoder = encoder
        self.name: str = encoder.name
        self.fingerprint: str = encoder.fingerprint
        self.embed_dim: int = encoder.embed_dim
        self._path = folder / f"{_digest(encoder.fingerprint).hex()[:16]}.sqlite"

    def encode(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Return float32 `[len(texts), embed_dim]`; only texts not seen before are encoded."""
        import numpy as np

        keys = [_digest(text) for text in texts]
        known = self._load(set(keys))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            fresh = np.asarray(
                self._encoder.encode(list(missing.values()), progress=progress), dtype=np.float32
            )
            known.update(zip(missing, fresh, strict=True))
            self._save({key: known[key] for key in missing})
        rows = [known[key] for key in keys]
        return np.stack(rows) if rows else np.empty((0, self.embed_dim), dtype=np.float32)

    def _load(self, keys: set[bytes]) -> dict[bytes, np.ndarray]:
        import numpy as np

        ordered = list(keys)
        found: dict[bytes, np.ndarray] = {}
        try:
            with self._open() as db:
                for start in range(0, len(ordered), _BATCH):
                    part = ordered[start : start + _BATCH]
                    marks = ",".join("?" * len(part))
                    for key, blob in db.execute(
                        f"SELECT key, embedding FROM cache WHERE key IN ({marks})", part
                    ):
                        if len(blob) == 4 * self.embed_dim:
                            found[key] = np.frombuffer(blob, dtype="<f4")
        except (OSError, sqlite3.Error) as error:
            logger.warning("embedding cache %s is not readable, encoding again: %s", self._path, error)
        return found

    def _save(self, embeddings: dict[bytes, np.ndarray]) -> None:
        pairs = [(key, vector.astype("<f4").tobytes()) for key, vector in embeddings.items()]
        try:
            with self._open() as db, db:
                db.executemany("INSERT OR REPLACE INTO cache VALUES (?, ?)", pairs)
        except (OSError, sqlite3.Error) as error:
            logger.warning("embedding cache %s is not writable: %s", self._path, error)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # A connection per call: cheap beside encoding, and no thread ever meets another's.
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=10)) as db:
            db.execute("CREATE TABLE IF NOT EXISTS cache (key BLOB PRIMARY KEY, embedding BLOB NOT NULL)")
            yield db


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
