"""Which options LlamaIndex's engines have: an index hands all of them on to its retriever."""

from __future__ import annotations

import inspect
from functools import cache

__all__ = ["names_of_engines"]


@cache
def names_of_engines() -> frozenset[str]:
    """Return the names of what query and chat engines over a retriever are made with."""
    from llama_index.core.chat_engine import (
        CondensePlusContextChatEngine,
        CondenseQuestionChatEngine,
        ContextChatEngine,
        SimpleChatEngine,
    )
    from llama_index.core.query_engine import RetrieverQueryEngine

    makers = (
        RetrieverQueryEngine.from_args,
        CondensePlusContextChatEngine.from_defaults,
        CondenseQuestionChatEngine.from_defaults,
        ContextChatEngine.from_defaults,
        SimpleChatEngine.from_defaults,
    )
    return frozenset(name for make in makers for name in inspect.signature(make).parameters) - {"kwargs"}
