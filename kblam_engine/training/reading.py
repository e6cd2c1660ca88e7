"""How the base model reads text: chats as prompts, text as token ids, and which words tell it most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kblam_engine.evidence import Examiner
from kblam_engine.models import LoadedModel
from kblam_engine.wording import Rarity


def chat_prompts(loaded: LoadedModel) -> Callable[[Any], str]:
    """Return what writes a conversation as the LLM reads it."""

    def chat_prompt(messages: Any) -> str:
        text = loaded.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return str(text)

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
