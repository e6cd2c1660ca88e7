"""The chat model that `kblam eval --judge` names: a local one, or any function of the user's."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from kblam_engine.evaluation.judging import Judge
from kblam_engine.local_chat import LocalChat, load_chat

_MAX_NEW_TOKENS = 384  # the score comes first; a reason that is longer says no more


def load_judge(name: str, device: str | None = None) -> Judge:
    """Return the judge that a name stands for.

    Args:
        name: a base model (an embedded model's name, a folder, a Hugging Face id), or ``module:function`` for a
            function that takes chat messages and returns text; its version is its module's source.
        device: for a base model.

    Raises:
        ModelNotFoundError: there is no such model.
        ConfigurationError: there is no such function, or the model is not a chat model.
    """
    chat = load_chat(name, device, max_new_tokens=_MAX_NEW_TOKENS, role="judge")
    return Judge(name, chat, "" if isinstance(chat, LocalChat) else _source_digest(name.partition(":")[0]))


def _source_digest(module: str) -> str:
    """Return the digest of a loaded module's file; nothing where it has none."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not Path(file).is_file():
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
