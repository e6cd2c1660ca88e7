"""A chat model by name, for the commands that take one: a base model on this machine, or any function of the user's."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from kblam_engine.chat_model import ChatModel, Message
from kblam_engine.chat_text import chat_text
from kblam_engine.errors import ConfigurationError
from kblam_engine.models import load_base_model, resolve_model
from kblam_engine.models.loading import NO_CODE, quiet_transformers

_FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class LocalChat:
    """A base model of transformers as a chat model: greedy, loaded when it is first asked.

    Raises:
        ModelNotFoundError: there is no such model.
        ConfigurationError: its tokenizer has no chat template.
    """

    def __init__(
        self, name: str, device: str | None = None, max_new_tokens: int = 384, *, role: str = "chat model"
    ) -> None:
        """Check that there is such a chat model.

        Args:
            name: an embedded model's, a folder, or a Hugging Face id.
            device: where it runs; default what suits.
            max_new_tokens: longest reply, in tokens.
            role: what errors call it.
        """
        self._name, self._device, self._max_new_tokens = name, device, max_new_tokens
        self._loaded: Any = None
        resolved = resolve_model(name)
        if resolved.kind != "embedded":  # those are chat models
            _check_template(resolved.path_or_id, role)

    def __call__(self, messages: Sequence[Message], /) -> str:
        """Return the reply."""
        import torch

        if self._loaded is None:
            from kblam_engine.packed_weights import pack_linears

            self._loaded = load_base_model(self._name, device=self._device)
            pack_linears(self._loaded.model)
        model, tokenizer = self._loaded.model, self._loaded.tokenizer
        prompt = tokenizer(chat_text(tokenizer, messages), add_special_tokens=False)["input_ids"]
        ids = torch.tensor([prompt], device=self._loaded.device)
        ends = model.generation_config.eos_token_id or tokenizer.eos_token_id
        with torch.no_grad(), quiet_transformers():
            written = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=ends[0] if isinstance(ends, list) else ends,
            )
        return str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))


def load_chat(name: str, device: str | None = None, *, max_new_tokens: int, role: str) -> ChatModel:
    """Return the chat model that a name stands for.

    Args:
        name: a base model (an embedded model's name, a folder, a Hugging Face id), or ``module:function`` for a
            function that takes chat messages and returns text.
        device: for a base model.
        max_new_tokens: longest reply of a base model, in tokens.
        role: what errors call it.

    Raises:
        ModelNotFoundError: there is no such model.
        ConfigurationError: there is no such function, or the model is not a chat model.
    """
    if _FUNCTION.fullmatch(name):
        return _function(name, role)
    return LocalChat(name, device, max_new_tokens, role=role)


def _function(name: str, role: str) -> ChatModel:
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    # As for `python -m`: a command's own path has not the folder where it is given.
    if here not in sys.path:
        sys.path.append(here)
    try:
        found: ChatModel = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"{role}: expected a function {attribute!r} in a module {module!r}, got: {error}; "
            "is the module in this folder, or its folder on PYTHONPATH?"
        ) from error
    if not callable(found):
        raise ConfigurationError(f"{role}: expected {name} to be a function, got {type(found).__name__}")
    return found


def _check_template(place: str, role: str) -> None:
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            template = AutoTokenizer.from_pretrained(place, **NO_CODE).chat_template
    except (OSError, ValueError, ImportError):
        return  # loading the model tells what is wrong
    if not template:
        raise ConfigurationError(f"{role}: expected a chat model, got {place!r}, whose tokenizer has no chat template")
