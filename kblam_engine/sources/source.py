"""What a source is: something to iterate over, triple by triple, each with where it comes from.

That is the triple's `provenance` (uri, document, span, extractor, confidence), and in its metadata, where they are
known, `line` (of the file, from 1; in a table without lines the number of the record), `page` (from 1), `section` (the
headings above, joined by " > ") and `sentence` (the text at the span, cut off if it is long).

A source reads when it is iterated, not before, and again from the beginning the next time. What it cannot use
without being wrong (an empty name, a value too long) it counts in `skipped`; what is damaged raises.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from kblam_engine.errors import ConfigurationError, ImportFileError, MissingDependencyError, TripleError
from kblam_engine.triples import Provenance, Triple

MAX_MB = 256
"""The default size limit of a file that is read whole into memory."""


class Source(Protocol):
    """Anything that yields triples; `KnowledgeBase.add` takes it as it is."""

    @property
    def uri(self) -> str:
        """Where the triples come from: a path or a URI."""

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many triples the last iteration left out, by reason."""

    def __iter__(self) -> Iterator[Triple]:
        """Read the source from its beginning.

        Raises:
            ImportFileError: it is damaged; the triples before that point are sound, but not all there are.
            OSError: it cannot be opened.
        """


class FileSource(ABC):
    """A source that reads one file.

    Args:
        path: the file.
        uri: what triples name as their source; default the path as given.
        max_mb: larger files are refused.

    Raises:
        ConfigurationError: `max_mb` is not above 0.
    """

    extractor = ""
    """What its triples name as their extractor."""

    def __init__(
        self, path: str | os.PathLike[str], *, uri: str | None = None, max_mb: float = MAX_MB
    ) -> None:
        if max_mb <= 0:
            raise ConfigurationError(f"max_mb: expected more than 0, got {max_mb}")
        self.path = Path(path)
        self.uri = uri or os.fspath(path)
        self.max_mb = max_mb
        self.skipped: Counter[str] = Counter()
        self.provenance = Provenance(uri=self.uri, extractor=self.extractor)

    def __iter__(self) -> Iterator[Triple]:
        self.skipped.clear()
        check_size(self.path, self.max_mb)
        yield from self._read()

    @abstractmethod
    def _read(self) -> Iterator[Triple]:
        """Yield the triples of the file."""

    def error(self, line: int, reason: str) -> ImportFileError:
        """Return an error that names the file, a line (0: the whole file) and the reason."""
        return ImportFileError(self.path, line, reason)

    def checked(
        self, name: str, prop: str, value: str, metadata: Mapping[str, Any] | None = None
    ) -> Triple | None:
        """Return a triple, or None where a part is empty or too long; that is counted in `skipped`."""
        try:
            return Triple(name, prop, value, metadata or {}, self.provenance)
        except TripleError as error:
            self.skipped[f"{error.field} empty, too long or no text"] += 1
            return None


def check_size(path: Path, max_mb: float) -> None:
    """Check that there is a file, and of what size.

    Raises:
        ImportFileError: it is no file, or larger than `max_mb`.
        OSError: there is none.
    """
    found = path.stat()
    size = found.st_size
    if stat.S_ISDIR(found.st_mode):
        raise ImportFileError(path, 0, "expected a file, got a folder; open_source reads folders")
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):  # it may never end
        raise ImportFileError(path, 0, "expected a file, got a device")
    if size > max_mb * 1e6:
        raise ImportFileError(
            path,
            0,
            f"expected at most {max_mb:g} MB, got {size / 1e6:.1f} MB; split it, or raise the limit with max_mb",
        )


def read_text(path: Path) -> str:
    """Read a UTF-8 file whole, without a byte order mark and with plain line feeds.

    Raises:
        ImportFileError: it is not UTF-8; names the line.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ImportFileError(path, line, f"not UTF-8 at byte {error.start}; convert it first") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def missing(package: str, extra: str, what: str) -> MissingDependencyError:
    """Return the error for a package that is not installed."""
    return MissingDependencyError(f"{what} needs {package}; pip install 'kblam-engine[{extra}]'")
