"""A file whose name does not say what is in it, and standard input: read under another name that does."""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from kblam_engine.errors import ImportFileError
from kblam_engine.sources.source import Source
from kblam_engine.triples import Triple

STDIN = "-"
"""What stands for standard input in the place of a path."""
_LARGEST_MB = 4000
_AT_ONCE = 1 << 20


class GivenFormat:
    """A file, a pipe or standard input, read as a format that is given.

    Readers go by the end of a file's name, so they get a name that has it: that of a link to the file, or of a copy of
    what can be read only once. Both are in a temporary folder that goes with this source.

    Args:
        path: the file; "-" for standard input.
        suffix: the end of the name of such files.
        opener: of the reader, from a path and options.
        options: of the reader; its `max_mb` limits a copy.
        known: the options that the reader has, None if it takes any. Of these, `uri` is by default the path as given, or
            "stdin", and `base` its address.
    """

    def __init__(
        self,
        path: str,
        suffix: str,
        opener: Callable[..., Source],
        options: Mapping[str, Any],
        known: Collection[str] | None,
    ) -> None:
        self.path = path
        called = "stdin" if path == STDIN else path
        address = "file:///stdin" if path == STDIN else Path(path).absolute().as_uri()
        defaults = {"uri": called} if known is None else {"uri": called, "base": address}
        defaults = {option: text for option, text in defaults.items() if known is None or option in known}
        folder = tempfile.mkdtemp(prefix="kblam-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        stem = Path(called).name
        self._link = Path(folder, stem if stem.lower().endswith(suffix) else f"{stem}{suffix}")
        self._inner = opener(self._link, **{**defaults, **options})

    @property
    def uri(self) -> str:
        """Where the triples come from."""
        return self._inner.uri

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many triples the last iteration left out, by reason."""
        return self._inner.skipped

    def __iter__(self) -> Iterator[Triple]:
        if self.path != STDIN:
            os.stat(self.path)  # where there is no such file, the error names it and not the link
        if not os.path.lexists(self._link):
            self._provide()
        try:
            yield from self._inner
        except ImportFileError as error:
            path = error.path.replace(os.fspath(self._link), self.path)
            raise ImportFileError(path, error.line, error.reason) from None

    def _provide(self) -> None:
        """Make the name that the reader opens.

        Raises:
            ImportFileError: what is to be copied is too large.
            OSError: there is no such file.
        """
        if self.path == STDIN:
            # Where a program has put texts in its place, there are no bytes beneath.
            stream = getattr(sys.stdin, "buffer", None) or io.BytesIO(sys.stdin.read().encode())
            self._copy(stream)
        elif stat.S_ISREG(mode := os.stat(self.path).st_mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            self._link.symlink_to(Path(self.path).absolute())
        else:
            with open(self.path, "rb") as pipe:
                self._copy(pipe)

    def _copy(self, stream: IO[bytes]) -> None:
        limit = getattr(self._inner, "max_mb", _LARGEST_MB)
        draft = self._link.with_name("draft")
        with open(draft, "wb") as file:
            while part := stream.read(_AT_ONCE):
                if file.tell() + len(part) > limit * 1e6:
                    raise ImportFileError(
                        self.path, 0, f"expected at most {limit:g} MB, got more; split it, or raise the limit with max_mb"
                    )
                file.write(part)
        shutil.move(draft, self._link)
