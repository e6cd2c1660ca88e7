"""The sentence encoder of a knowledge base, loaded when first needed and checked against the recorded one."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import EncoderMismatchError, KnowledgeBaseError
from kblam_engine.knowledge_base.schema import Meta

if TYPE_CHECKING:
    from kblam_engine.sentence_encoder import SentenceEncoder

DEFAULT_ENCODER = "all-minilm-l6-v2"
_CHUNK = 65_536  # texts encoded at once: bounds the float32 memory of a large import


@dataclass(slots=True)
class EncodedTexts:
    """Embeddings of the key texts and properties of one change."""

    index: dict[str, int]
    """Key text -> row of `keys`, and beyond these of what was added later."""
    keys: NDArray[np.float16]
    properties: Mapping[str, NDArray[np.float32]]
    _later: list[NDArray[np.float16]] = field(default_factory=list)

    @classmethod
    def none(cls) -> EncodedTexts:
        """Return those of no text."""
        return cls({}, np.zeros((0, 0), np.float16), {})

    def add(self, text: str, row: NDArray[np.float32]) -> int:
        """Add the embedding of a key text, `[1, embed_dim]`; return its row."""
        self._later.append(row.astype(np.float16))
        self.index[text] = len(self.keys) + len(self._later) - 1
        return self.index[text]

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.float16]:
        """Return a copy of rows, `[len(indices), embed_dim]`."""
        if self._later:
            added = np.concatenate(self._later)
            self.keys = np.concatenate([self.keys, added]) if len(self.keys) else added
            self._later = []
        return self.keys[indices]


class Embedder:
    """Holds an encoder, or the name to load one by."""

    def __init__(self, given: SentenceEncoder | str | None) -> None:
        self._name = given if isinstance(given, str) else None
        self._encoder = None if isinstance(given, str) else given
        self._lock = threading.Lock()

    def check_on_open(self, meta: Meta) -> None:
        """Refuse another encoder as early as possible, but load none for a name that fits.

        Raises:
            EncoderMismatchError: the knowledge base was embedded by another encoder.
        """
        if meta.encoder_fingerprint is None:
            return
        if self._encoder is not None or self._name not in (None, meta.encoder_name):
            self.encoder(meta)

    def encoder(self, meta: Meta) -> SentenceEncoder:
        """Return the encoder.

        Raises:
            EncoderMismatchError: it is not the one that embedded the knowledge base.
        """
        with self._lock:
            if self._encoder is None:
                from kblam_engine.sentence_encoder import load_sentence_encoder

                self._encoder = load_sentence_encoder(self._name or meta.encoder_name or DEFAULT_ENCODER)
            encoder = self._encoder
        if meta.encoder_fingerprint not in (None, encoder.fingerprint):
            raise EncoderMismatchError(
                f"expected the sentence encoder this knowledge base was embedded by, {meta.encoder_name} "
                f"({meta.encoder_fingerprint}), got {encoder.name} ({encoder.fingerprint}); "
                "open it with that one, or export the triples and import them into a new knowledge base"
            )
        return encoder

    def encode_all(
        self, meta: Meta, keys: Sequence[str], properties: Sequence[str], *, progress: bool = False
    ) -> EncodedTexts:
        """Embed the key texts and properties of one change."""
        if not keys and not properties:
            return EncodedTexts.none()
        known = dict(zip(properties, self.encode(meta, properties), strict=True)) if properties else {}
        rows = self.encode(meta, keys, progress=progress, dtype=np.float16)
        return EncodedTexts({text: row for row, text in enumerate(keys)}, rows, known)

    def encode(
        self, meta: Meta, texts: Sequence[str], *, progress: bool = False, dtype: type[Any] = np.float32
    ) -> NDArray[Any]:
        """Embed texts, `[len(texts), embed_dim]` float32.

        Raises:
            KnowledgeBaseError: the encoder returned another shape, or values that are not finite.
        """
        encoder = self.encoder(meta)
        embeddings = np.empty((len(texts), encoder.embed_dim), dtype)
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            encoded = np.asarray(encoder.encode(chunk, progress=progress))
            if encoded.shape != (len(chunk), encoder.embed_dim) or not np.isfinite(encoded).all():
                raise KnowledgeBaseError(
                    f"sentence encoder {encoder.name}: expected finite embeddings of shape "
                    f"({len(chunk)}, {encoder.embed_dim}), got shape {encoded.shape}, finite: "
                    f"{bool(np.isfinite(encoded).all())}"
                )
            embeddings[start : start + len(chunk)] = encoded
        return embeddings
