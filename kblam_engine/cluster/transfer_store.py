"""Where shards are pushed to: files below an address that fsspec knows. This module alone knows fsspec."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kblam_engine.errors import (
    ConfigurationError,
    KnowledgeBaseError,
    KnowledgeBaseNotFoundError,
    MissingDependencyError,
)

BLOCK = 8 << 20
"""Bytes that are read at a time; a store is asked once for each."""
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "memory"})
"""What keeps no folders, so that none have to be made, and whose files appear whole; asked for a folder they may make a bucket."""
_SECRET = re.compile(r"(?<=://)[^/@]*@")


class Store:
    """The files below one address, each by its name there, such as `shards.json`; safe to use from several threads.

    Attributes:
        url: the address, without the name and password of a user.

    Every method raises:
        KnowledgeBaseError: the store cannot be reached, or refuses.
    """

    def __init__(self, filesystem: Any, root: str, url: str) -> None:
        protocols = {filesystem.protocol} if isinstance(filesystem.protocol, str) else set(filesystem.protocol)
        self._files, self._root = filesystem, root.rstrip("/")
        self._has_folders = not protocols & _OBJECT_STORES
        self.url = _SECRET.sub("", url.rstrip("/"))

    def sizes(self) -> dict[str, int]:
        """Return the names of all files, and how many bytes each has."""
        self._files.invalidate_cache()
        with self._asked("listed", ""):
            try:
                found = self._files.find(self._root, detail=True)
            except FileNotFoundError:
                found = {}
        start = len(self._root) + 1
        sizes = {path[start:]: int(facts.get("size") or 0) for path, facts in found.items()}
        # Some tools mark a folder by an empty object of its name.
        return {name: size for name, size in sizes.items() if size or not (name == "" or name.endswith("/"))}

    def read(self, name: str, at_most: int) -> bytes:
        """Return the contents of a small file.

        Raises:
            KnowledgeBaseNotFoundError: it is not there.
            KnowledgeBaseError: it has more than `at_most` bytes.
        """
        content = b""
        for block in self.blocks(name):
            content += block
            if len(content) > at_most:
                raise KnowledgeBaseError(f"{self.url}/{name}: expected at most {at_most:,} bytes, got more; is it what was pushed?")
        return content

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield the contents of a file, `BLOCK` bytes at a time.

        Raises:
            KnowledgeBaseNotFoundError: it is not there.
        """
        with self._asked("read", name):
            file = self._files.open(self._path(name), "rb", block_size=BLOCK)
        with file:
            while True:
                with self._asked("read", name):
                    block = file.read(BLOCK)
                if not block:
                    return
                yield bytes(block)

    def send(self, path: Path, name: str) -> None:
        """Put a file of this machine there."""
        with self._asked("written", name):
            self._make_folder_of(name)
            self._files.put_file(str(path), self._path(name))

    def write(self, name: str, content: bytes) -> None:
        """Put contents there, as a whole: who reads sees what was there before, or all of it."""
        folder, slash, last = name.rpartition("/")
        draft = f"{folder}{slash}.{last}.part" if self._has_folders else name
        with self._asked("written", name):
            self._make_folder_of(name)
            self._files.pipe_file(self._path(draft), content)
            if draft != name:
                self._files.mv(self._path(draft), self._path(name))

    def remove(self, names: Collection[str]) -> None:
        """Delete files, and the folders that are empty then."""
        if not names:
            return
        with self._asked("deleted", next(iter(names))):
            self._files.rm([self._path(name) for name in names])
        if self._has_folders:
            # Those that are inside others come first.
            parents = {str(parent) for name in names for parent in Path(name).parents if parent.name}
            for parent in sorted(parents, key=len, reverse=True):
                with suppress(OSError):
                    self._files.rmdir(self._path(parent))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_folder_of(self, name: str) -> None:
        if self._has_folders:
            self._files.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)

    @contextmanager
    def _asked(self, what: str, name: str) -> Iterator[None]:
        """Tell in one line what a store refused; each client has errors of its own, many of them no `OSError`."""
        place = f"{self.url}/{name}" if name else self.url
        try:
            yield
        except FileNotFoundError as error:
            raise KnowledgeBaseNotFoundError(
                f"{place}: expected it to be there, got {_told(error)}; check the address: a bucket has to be made first"
            ) from error
        except Exception as error:
            raise KnowledgeBaseError(
                f"{place}: cannot be {what}: {_told(error)}; check the address, the credentials and what they allow"
            ) from error


def open_store(url: str, options: Mapping[str, Any] | None = None) -> Store:
    """Return the store at an address; nothing is asked of it yet.

    Args:
        url: such as s3://bucket/path, gs://, az:// or file:///path.
        options: of its fsspec filesystem, such as `endpoint_url`; default what the environment says.

    Raises:
        ConfigurationError: it is no such address, or its settings cannot work.
        MissingDependencyError: the package of this kind of store is not installed.
    """
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    protocol, separator, path = url.partition("://")
    if not (separator and protocol and path.strip("/")) or "::" in url:
        raise ConfigurationError(
            f"expected an address such as s3://bucket/path, got {url!r}; of a folder on this machine it is file:///path"
        )
    try:
        filesystem, root = url_to_fs(url, **(options or {}))
    except ImportError as error:
        package = known_implementations.get(protocol, {}).get("class", "").partition(".")[0]
        remedy = f"pip install {package}" if package not in ("", "fsspec") else f"{_told(error)}, with pip install"
        raise MissingDependencyError(f"{protocol}:// needs a package that is not installed; {remedy}") from None
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{_SECRET.sub('', url)}: expected an address that fsspec can open: {_told(error)}") from error
    return Store(filesystem, str(root), url)


def _told(error: Exception) -> str:
    return f"{type(error).__name__} ({error})" if str(error) else type(error).__name__
