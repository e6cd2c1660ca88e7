"""Folders and ZIP archives of files that a source reads. Nothing outside the folder, nor outside the archive, is read."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from kblam_engine.errors import ConfigurationError, ImportFileError
from kblam_engine.sources.databases import NO_SOURCE
from kblam_engine.sources.registry import can_open, open_source, option_names
from kblam_engine.sources.source import FileSource
from kblam_engine.triples import Triple

MAX_FILES = 10_000
_DATABASE = "kb.sqlite"
"""What every knowledge base has in its folder."""
_MAX_RATIO = 200  # unpacked to packed; text reaches 20, a bomb 1,000


class FolderSource:
    """Every file of a folder and the folders in it that a source reads, in the order of their paths.

    Hidden files and folders, and links that lead out of the folder, are left out and counted in `skipped`, as
    are knowledge bases and files that no source reads. A folder that is a knowledge base itself is refused.

    Args:
        path: the folder.
        uri: what stands before a file's path in the source of its triples; default the path as given.
        max_files: more are refused.
        options: of the sources of the files; each gets those it knows.
    """

    hands_options_on = True

    def __init__(
        self, path: Any, *, uri: str | None = None, max_files: int = MAX_FILES, **options: Any
    ) -> None:
        if max_files < 1:
            raise ConfigurationError(f"max_files: expected at least 1, got {max_files}")
        self.path = Path(path)
        self.uri = uri or os.fspath(path)
        self.max_files = max_files
        self.options = options
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Triple]:
        self.skipped.clear()
        files = self._files()
        if not files:
            raise ImportFileError(self.path, 0, "expected files that a source reads, got none")
        self._check_options(files)
        for path in files:
            uri = f"{self.uri.rstrip('/')}/{path.relative_to(self.path).as_posix()}"
            source = open_source(path, uri=uri, **_known_options(path, self.options))
            yield from source
            self.skipped.update(source.skipped)

    def _check_options(self, files: list[Path]) -> None:
        known = [option_names(path) for path in files]
        for option in self.options:
            if all(names is not None and option not in names for names in known):
                raise ConfigurationError(f"no source of a file in {self.path} has an option {option!r}")

    def _files(self) -> list[Path]:
        if (self.path / _DATABASE).exists():
            raise ImportFileError(self.path, 0, NO_SOURCE)
        inside = self.path.resolve()
        files: list[Path] = []
        for folder, folders, names in os.walk(self.path, followlinks=False):
            # A knowledge base is no source: its files are its own.
            bases = [name for name in folders if Path(folder, name, _DATABASE).exists()]
            self.skipped.update(dict.fromkeys(["knowledge base"] if bases else [], len(bases)))
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in bases)
            for name in sorted(names):
                path = Path(folder, name)
                if name.startswith("."):
                    self.skipped["hidden file"] += 1
                elif not path.resolve().is_relative_to(inside) or not path.is_file():
                    self.skipped["link out of the folder, or no file"] += 1
                elif not can_open(path):
                    self.skipped["file that no source reads"] += 1
                else:
                    files.append(path)
            if len(files) > self.max_files:
                raise ImportFileError(
                    self.path, 0, f"expected at most {self.max_files} files; raise the limit with max_files"
                )
        return files


class ZipSource(FileSource):
    """The files of a ZIP archive that a source reads; it is unpacked into a temporary folder while it is read.

    Args:
        path: the archive.
        max_mb: limit of the archive, and of all its files unpacked.
        max_files: more are refused.
        options: of the sources of the files; each gets those it knows.
    """

    hands_options_on = True

    def __init__(
        self,
        path: Any,
        *,
        uri: str | None = None,
        max_mb: float = 1000,
        max_files: int = MAX_FILES,
        **options: Any,
    ) -> None:
        super().__init__(path, uri=uri, max_mb=max_mb)
        self.max_files = max_files
        self.options = options

    def _read(self) -> Iterator[Triple]:
        with tempfile.TemporaryDirectory(prefix="kblam-") as folder:
            try:
                with zipfile.ZipFile(self.path) as archive:
                    check_archive(archive, self.path, self.max_mb, self.max_files)
                    _unpack(archive, Path(folder), self.path)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
                if isinstance(error, ImportFileError):
                    raise
                raise self.error(0, f"not a sound ZIP archive: {error}") from None
            inner = FolderSource(folder, uri=f"{self.uri}!", max_files=self.max_files, **self.options)
            try:
                yield from inner
            except ImportFileError as error:
                member = os.path.relpath(error.path, folder)
                raise ImportFileError(f"{self.path}!{'' if member == '.' else member}", error.line, error.reason)
            finally:
                self.skipped.update(inner.skipped)


def check_archive(archive: zipfile.ZipFile, path: Path, max_mb: float, max_files: int = MAX_FILES) -> None:
    """Check an archive before anything of it is unpacked.

    Raises:
        ImportFileError: a path leads out of the archive, a member is a link or encrypted, there are too many, or
            they unpack to too much.
    """
    members = archive.infolist()
    if len(members) > max_files:
        raise ImportFileError(path, 0, f"expected at most {max_files} files, got {len(members)}")
    size = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if size > max_mb * 1e6 or size > 10e6 + _MAX_RATIO * packed:
        raise ImportFileError(
            path, 0, f"expected at most {max_mb:g} MB unpacked, and no bomb; got {size / 1e6:.0f} MB"
        )
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if not name.parts:
            if not member.is_dir():
                raise ImportFileError(path, 0, f"{member.filename!r} is no name of a file")
            continue  # the archive's own folder
        if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
            raise ImportFileError(path, 0, f"the path {member.filename!r} leads out of the archive")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ImportFileError(path, 0, f"{member.filename!r} is a link")
        if member.flag_bits & 1:
            raise ImportFileError(path, 0, f"{member.filename!r} is encrypted; unpack it first")


def _unpack(archive: zipfile.ZipFile, folder: Path, path: Path) -> None:
    for member in archive.infolist():
        target = folder / member.filename.replace("\\", "/")
        if member.is_dir() or not can_open(target):
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as packed, open(target, "xb") as file:
                shutil.copyfileobj(packed, file)  # zipfile stops at the size that was checked
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise ImportFileError(path, 0, f"{member.filename!r} is there twice, or a file and a folder") from None


def _known_options(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    known = option_names(path)
    return {name: value for name, value in options.items() if known is None or name in known}
