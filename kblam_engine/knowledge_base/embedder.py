"""The sentence encoder of a knowledge base, loaded when first needed and checked against the recorded one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import EncoderMismatchError, KnowledgeBaseError
from kblam_engine.knowledge_base.schema import Meta

if TYPE_CHECKING:
    from kblam_engine.sentence_encoder import SentenceEncoder

DEFAULT_ENCODER = "all-minilm-l6-v2"
_CHUNK = 65_536  # texts encoded at once: bounds the float32 memory of a large import


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

    def encode(self, meta: Meta, texts: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]:
        """Embed texts, `[len(texts), embed_dim]` float32.

        Raises:
            KnowledgeBaseError: the encoder returned another shape, or values that are not finite.
        """
        encoder = self.encoder(meta)
        embeddings = np.empty((len(texts), encoder.embed_dim), np.float32)
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
