"""Knowledge in attention: a frozen Llama answers from the triples of a knowledge base.

The public names load on first use, so that importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kblam_engine.engine import Answer, AttendedTriple, KBLaM
    from kblam_engine.errors import KBLaMError
    from kblam_engine.knowledge_base import KnowledgeBase
    from kblam_engine.triples import Triple

__version__ = "0.1.0"
__all__ = ["Answer", "AttendedTriple", "KBLaM", "KBLaMError", "KnowledgeBase", "Triple", "__version__"]

_HOMES = {
    "Answer": "kblam_engine.engine",
    "AttendedTriple": "kblam_engine.engine",
    "KBLaM": "kblam_engine.engine",
    "KBLaMError": "kblam_engine.errors",
    "KnowledgeBase": "kblam_engine.knowledge_base",
    "Triple": "kblam_engine.triples",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
