"""Public names of a bridge that load on first use, and say what to install where its framework is missing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from kblam_engine.errors import MissingDependencyError


def load(package: str, homes: Mapping[str, str], name: str, roots: tuple[str, ...], needs: str, extra: str) -> Any:
    """Return what a package calls `name`, imported now.

    Args:
        package: the package's own name, for errors.
        homes: by public name, the module that has it.
        name: what is asked for.
        roots: top-level modules of the framework.
        needs: the distribution that brings them.
        extra: of kblam-engine, which installs it.

    Raises:
        AttributeError: the package has no such name.
        MissingDependencyError: the framework is not installed.
    """
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    try:
        return getattr(import_module(homes[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in roots:
            raise
        raise MissingDependencyError(
            f"{name} needs {needs}, which is not installed: pip install 'kblam-engine[{extra}]'"
        ) from None
