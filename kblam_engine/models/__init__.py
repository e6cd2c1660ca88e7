"""Base models: where they come from, how the embedded one is prepared, and how one is loaded.

Importing this package imports no torch: the heavy modules are imported by the functions that need them.
"""

from __future__ import annotations

from kblam_engine.models.loading import LoadedModel, default_device, default_dtype, load_base_model
from kblam_engine.models.registry import (
    DEFAULT_MODEL,
    ModelCard,
    ResolvedModel,
    cache_dir,
    list_models,
    resolve_model,
)

__all__ = [
    "DEFAULT_MODEL",
    "LoadedModel",
    "ModelCard",
    "ResolvedModel",
    "cache_dir",
    "default_device",
    "default_dtype",
    "list_models",
    "load_base_model",
    "resolve_model",
]
