"""The chat model that `kblam eval --judge` names: a local one, or any function of the user's."""

from __future__ import annotations

from kblam_engine.evaluation.judging import Judge
from kblam_engine.local_chat import load_chat

_MAX_NEW_TOKENS = 384  # the score comes first; a reason that is longer says no more


def load_judge(name: str, device: str | None = None) -> Judge:
    """Return the judge that a name stands for.

    Args:
        name: a base model (an embedded model's name, a folder, a Hugging Face id), or ``module:function`` for a
            function that takes chat messages and returns text.
        device: for a base model.

    Raises:
        ModelNotFoundError: there is no such model.
        ConfigurationError: there is no such function, or the model is not a chat model.
    """
    return Judge(name, load_chat(name, device, max_new_tokens=_MAX_NEW_TOKENS, role="judge"))
