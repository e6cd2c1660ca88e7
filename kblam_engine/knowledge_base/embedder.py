"""The sentence encoder of a knowledge base, loaded when first needed and checked against the recorded one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import EncoderMismatchError, KnowledgeBaseError
from kblam_engine.knowledge_base.drafts import Drafts
from kblam_engine.knowledge_base.rows import round_into
from kblam_engine.knowledge_base.schema import Meta
from kblam_engine.knowledge_base.showing import after_a_while

if TYPE_CHECKING:
    from kblam_engine.sentence_encoder import SentenceEncoder

DEFAULT_ENCODER = "all-minilm-l6-v2"
_CHUNK = 512  # texts encoded at once: bounds memory, and how long a bar of progress stands still
_KEEP_EVERY = 10.0
"""Seconds of encoding that a kill may cost; what is done sooner is not kept before the change itself is."""


@dataclass(slots=True)
class EncodedTexts:
    """Embeddings of the key texts, values and properties of one change."""

    index: dict[str, int]
    """Key text or value -> row of `embeddings`, and beyond these of what was added later."""
    embeddings: NDArray[np.float16]
    properties: Mapping[str, NDArray[np.float32]]
    _later: list[NDArray[np.float16]] = field(default_factory=list)

    @classmethod
    def none(cls) -> EncodedTexts:
        """Return those of no text."""
        return cls({}, np.zeros((0, 0), np.float16), {})

    def add(self, text: str, row: NDArray[np.float32]) -> int:
        """Add the embedding of a text, `[1, embed_dim]`; return its row."""
        self._later.append(row.astype(np.float16))
        self.index[text] = len(self.embeddings) + len(self._later) - 1
        return self.index[text]

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.float16]:
        """Return rows, `[len(indices), embed_dim]`; not a copy where they lie side by side."""
        if self._later:
            added = np.concatenate(self._later)
            self.embeddings = np.concatenate([self.embeddings, added]) if len(self.embeddings) else added
            self._later = []
        first = int(indices[0])
        if np.array_equal(indices, np.arange(first, first + len(indices))):
            return self.embeddings[first : first + len(indices)]
        return self.embeddings[indices]


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

    @property
    def is_loaded(self) -> bool:
        """Whether the encoder is there already."""
        return self._encoder is not None

    def encode_all(
        self,
        meta: Meta,
        texts: Sequence[str],
        properties: Sequence[str],
        *,
        drafts: Drafts | None = None,
        progress: bool = False,
    ) -> EncodedTexts:
        """Embed the texts and properties of one change; a long encoding goes on from its drafts."""
        if not texts and not properties:
            return EncodedTexts.none()
        known = dict(zip(properties, self.encode(meta, properties), strict=True)) if properties else {}
        index = dict(zip(texts, range(len(texts)), strict=True))
        return EncodedTexts(index, self._encode_in_steps(meta, texts, drafts, progress), known)

    def encode(
        self, meta: Meta, texts: Sequence[str], *, progress: bool = False, dtype: type[Any] = np.float32
    ) -> NDArray[Any]:
        """Embed texts, `[len(texts), embed_dim]` float32.

        Raises:
            KnowledgeBaseError: the encoder returned another shape, or values that are not finite.
        """
        embeddings = np.empty((len(texts), self.encoder(meta).embed_dim), dtype)
        with _bar(texts, progress) as advance:
            for start in range(0, len(texts), _CHUNK):
                chunk = texts[start : start + _CHUNK]
                embeddings[start : start + len(chunk)] = self._encoded(meta, chunk)
                advance(chunk)
        return embeddings

    def _encode_in_steps(
        self, meta: Meta, texts: Sequence[str], drafts: Drafts | None, progress: bool
    ) -> NDArray[np.float16]:
        encoder = self.encoder(meta)
        rows = np.empty((len(texts), encoder.embed_dim), np.float16)
        places = drafts.fill(texts, rows, encoder.fingerprint) if drafts is not None else np.arange(len(texts))
        some = len(places) < len(texts)
        left = [texts[i] for i in places.tolist()] if some else texts
        fresh = np.empty((len(left), encoder.embed_dim), np.float16) if some else rows
        kept, since = 0, time.monotonic()
        with _bar(left, progress) as advance:
            for start in range(0, len(left), _CHUNK):
                end = min(start + _CHUNK, len(left))
                round_into(fresh[start:end], self._encoded(meta, left[start:end]))
                advance(left[start:end])
                if drafts is not None and time.monotonic() - since >= _KEEP_EVERY:
                    drafts.keep(left[kept:end], fresh[kept:end], encoder.fingerprint)
                    kept, since = end, time.monotonic()
        if some:
            rows[places] = fresh
        return rows

    def _encoded(self, meta: Meta, texts: list[str] | Sequence[str]) -> NDArray[np.float32]:
        encoder = self.encoder(meta)
        encoded = np.asarray(encoder.encode(texts))
        if encoded.shape != (len(texts), encoder.embed_dim) or not np.isfinite(encoded).all():
            raise KnowledgeBaseError(
                f"sentence encoder {encoder.name}: expected finite embeddings of shape "
                f"({len(texts)}, {encoder.embed_dim}), got shape {encoded.shape}, finite: "
                f"{bool(np.isfinite(encoded).all())}"
            )
        return encoded


@contextmanager
def _bar(texts: Sequence[str], shown: bool) -> Iterator[Callable[[Sequence[str]], None]]:
    """Show progress on stderr with the time that is left, once it has taken a while; by characters, because long texts take longer."""
    if not shown:
        yield lambda chunk: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("encoding"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("encoding", total=sum(map(len, texts)))
    try:
        with after_a_while(bar.start):
            yield lambda chunk: bar.advance(task, sum(map(len, chunk)))
    finally:
        if bar.live.is_started:
            bar.stop()
