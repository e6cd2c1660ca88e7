"""How training reads text: chats as prompts, text as token ids, which words tell most, and sentences once only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kblam_engine.chat_text import chat_text
from kblam_engine.evidence import Examiner
from kblam_engine.models import LoadedModel
from kblam_engine.sentence_encoder import SentenceEncoder
from kblam_engine.wording import Rarity


def chat_prompts(loaded: LoadedModel) -> Callable[[Any], str]:
    """Return what writes a conversation as the LLM reads it."""

    def chat_prompt(messages: Any) -> str:
        return chat_text(loaded.tokenizer, messages)

    return chat_prompt


def token_ids(loaded: LoadedModel) -> Callable[[str], list[int]]:
    """Return what turns text into token ids, without special tokens around it."""

    def ids_of(text: str) -> list[int]:
        ids: list[int] = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    return ids_of


def examiner_for(loaded: LoadedModel) -> Examiner:
    """Return an examiner that knows how telling words are to the base model."""
    return Examiner(Rarity(token_ids(loaded), loaded.model.config.get_text_config().vocab_size))


class RememberingEncoder:
    """A sentence encoder that encodes no text twice: every fold reads nearly the same questions and values."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        """Wrap an encoder; the rows take 4 * embed_dim bytes each."""
        self._encoder = encoder
        self._rows: dict[str, NDArray[np.float32]] = {}
        self.name, self.fingerprint, self.embed_dim = encoder.name, encoder.fingerprint, encoder.embed_dim

    def encode(self, texts: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]:
        """Return one row for each text, float32 [len(texts), embed_dim]."""
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if new:
            self._rows.update(zip(new, self._encoder.encode(new, progress=progress), strict=True))
        if not texts:
            return np.zeros((0, self.embed_dim), np.float32)
        return np.stack([self._rows[text] for text in texts])
