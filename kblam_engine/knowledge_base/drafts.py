"""What a long encoding has done so far, kept beside the knowledge base, so that a kill costs seconds and not hours."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.knowledge_base.connections import connect

FILE = "encoding.sqlite"
_BYTES = 16
_TIMEOUT = 1.0


class Drafts:
    """Embeddings by text and encoder that no commit points at yet; losing them loses time and nothing else.

    Only ever a help: what goes wrong here (a full disk, another process that writes, a link) is passed over in
    silence, and the texts are encoded again.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self.used = False
        """Whether something came from here or went here: then a commit makes them superfluous."""

    def fill(self, texts: Sequence[str], rows: NDArray[np.float16], fingerprint: str) -> NDArray[np.int64]:
        """Write what was kept of `texts` into `rows` `[len(texts), embed_dim]`; return the places of the others."""
        left = np.ones(len(texts), bool)
        if self._path.exists():
            places = {_hash(text, fingerprint): i for i, text in enumerate(texts)}
            try:
                with closing(connect(self._path, _TIMEOUT)) as connection:
                    for digest, row in connection.execute("SELECT digest, embedding FROM drafts"):
                        place = places.get(digest)
                        if place is not None and len(row) == 2 * rows.shape[1]:
                            rows[place] = np.frombuffer(row, "<f2")
                            left[place] = not np.isfinite(rows[place]).all()
            except (sqlite3.Error, KnowledgeBaseError, OSError):
                left[:] = True
        self.used = not left.all()
        return np.flatnonzero(left)

    def keep(self, texts: Sequence[str], rows: NDArray[np.float16], fingerprint: str) -> None:
        """Keep the embeddings of some texts, durably."""
        kept = [(_hash(text, fingerprint), row.astype("<f2").tobytes()) for text, row in zip(texts, rows, strict=True)]
        try:
            with closing(connect(self._path, _TIMEOUT)) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS drafts (digest BLOB, embedding BLOB)")
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT INTO drafts VALUES (?, ?)", kept)
                connection.execute("COMMIT")
            self.used = True
        except (sqlite3.Error, KnowledgeBaseError, OSError):
            return

    def forget(self) -> None:
        """Delete them."""
        for suffix in ("", "-wal", "-shm"):
            try:
                self._path.with_name(FILE + suffix).unlink(missing_ok=True)
            except OSError:
                continue


def _hash(text: str, fingerprint: str) -> bytes:
    return hashlib.blake2b(f"{fingerprint}\0{text}".encode(), digest_size=_BYTES).digest()
