"""Errors of the engine: one base class, and subclasses that are also the built-in error a caller expects."""

from __future__ import annotations

from os import PathLike, fspath


class KBLaMError(Exception):
    """Base of every error this package raises on purpose; its message is one line for the user."""


class ConfigurationError(KBLaMError, ValueError):
    """An option has a value that cannot work."""


class TripleError(KBLaMError, ValueError):
    """A triple is not usable; `field` names the part that is wrong."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(f"{field}: {message}")


class KnowledgeBaseError(KBLaMError):
    """A knowledge base is damaged, locked or of an unknown format."""


class KnowledgeBaseNotFoundError(KnowledgeBaseError, FileNotFoundError):
    """There is no knowledge base at the given path."""


class KnowledgeBaseLockedError(KnowledgeBaseError, TimeoutError):
    """Another writer has held a knowledge base for longer than this one was willing to wait."""


class KnowledgeBaseUnreachableError(KnowledgeBaseError, ConnectionError):
    """A service that holds keys of a knowledge base does not answer, or refuses to."""


class ReadOnlyError(KnowledgeBaseError, PermissionError):
    """A change of a knowledge base that is open for reading only: a view, or a folder that cannot be written."""


class EncoderMismatchError(KnowledgeBaseError, ValueError):
    """A knowledge base was embedded by another sentence encoder than the one it is opened with."""


class ImportFileError(KnowledgeBaseError, ValueError):
    """A file of triples cannot be read; carries `path`, `line` (from 1; 0: the whole file) and `reason`."""

    def __init__(self, path: str | PathLike[str], line: int, reason: str) -> None:
        self.path = fspath(path)
        self.line = line
        self.reason = reason
        where = f"{self.path}, line {line}" if line else self.path
        super().__init__(f"{where}: {reason}")


class ModelNotFoundError(KBLaMError, LookupError):
    """No base model or sentence encoder has the given name."""


class CheckpointError(KBLaMError, ValueError):
    """An adapter is damaged, or made for another model, encoder or version."""


class MissingDependencyError(KBLaMError, ImportError):
    """An optional package is not installed; the message carries the pip command."""


class SeamError(KBLaMError, RuntimeError):
    """The self-test of the injection into the base model's attention failed."""
