"""Where an index lies: a folder of its own in the knowledge base's, and a record that says which one counts.

A new index is written beside the one in use and synced; then the record is replaced as a whole. A crash before that
leaves the old index, and its rubbish is removed by the next build. Readers of the old one go on: what is mapped stays.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kblam_engine.errors import KnowledgeBaseError, KnowledgeBaseLockedError

RECORD = "index.json"
FORMAT = "kblam-index/2"
_LOCK = "index.lock"
_FOLDER = re.compile(r"index-[0-9a-f]{12}")
_PART = ".index-*.part"
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class IndexRecord:
    """What is known about an index.

    Attributes:
        kind: "tree" or "ann".
        folder: its name beside the record.
        kb_id: of the knowledge base it belongs to.
        generation: of the key segment whose slots it holds.
        n_slots: how many slots are in it.
        recall: share of the best keys that it finds, compared with scoring every key, over `recall_queries` queries
            for the best `recall_k`.
        time_ratio: time of a search by it over that of scoring every key, measured when it was built.
        build_s: seconds.
        size_bytes: of its files.
        options: what its kind needs to know.
        files: name -> bytes and CRC-32.
    """

    kind: str
    folder: str
    kb_id: str
    generation: int
    n_slots: int
    recall: float
    recall_k: int
    recall_queries: int
    time_ratio: float
    build_s: float
    size_bytes: int
    options: dict[str, Any] = field(default_factory=dict)
    files: dict[str, tuple[int, int]] = field(default_factory=dict)


def read_record(folder: Path) -> IndexRecord | None:
    """Read the record of the index in use in a knowledge base's folder; None where there is none.

    Raises:
        KnowledgeBaseError: it cannot be read, or another version wrote it.
    """
    try:
        loaded = json.loads((folder / RECORD).read_text("utf-8"))
        if loaded.pop("format", None) != FORMAT:
            raise ValueError("another format")
        loaded["files"] = {name: (int(size), int(check)) for name, (size, check) in loaded["files"].items()}
        record = IndexRecord(**loaded)
        if not _FOLDER.fullmatch(record.folder) or not all(re.fullmatch(r"[\w.-]+", name) for name in record.files):
            raise ValueError("a folder that is not its own")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise KnowledgeBaseError(
            f"{folder / RECORD}: expected the record of an index, got {error}; make a new one: "
            f"kblam kb index --kb {folder}"
        ) from error
    return record


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Hold the right to build an index in a knowledge base's folder; yield an empty folder for its files.

    Raises:
        KnowledgeBaseLockedError: another process is building one.
    """
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise KnowledgeBaseLockedError(f"{folder}: another process is building an index; wait for it") from None
    try:
        _remove(folder.glob(_PART))
        draft = folder / f".index-{uuid.uuid4().hex[:12]}.part"
        draft.mkdir()
        yield draft
    finally:
        _remove(folder.glob(_PART))
        lock.release()


def publish(draft: Path, make_record: Callable[[str, int, dict[str, tuple[int, int]]], IndexRecord]) -> IndexRecord:
    """Make a draft the index in use, and remove the one before.

    `make_record` gets the folder's name, the bytes of its files, and the files with their checksums.
    """
    files = {path.name: (path.stat().st_size, checksum(path)) for path in sorted(draft.iterdir())}
    for path in draft.iterdir():
        _sync(path)
    place = draft.parent / draft.name.removeprefix(".").removesuffix(".part")
    record = make_record(place.name, sum(size for size, _ in files.values()), files)
    os.rename(draft, place)
    written = draft.parent / f"{RECORD}.part"
    written.unlink(missing_ok=True)  # in a folder from elsewhere it could be a link
    written.write_text(json.dumps({"format": FORMAT, **asdict(record)}, indent=2), "utf-8")
    _sync(written)
    os.replace(written, draft.parent / RECORD)
    _sync(draft.parent)
    _remove(path for path in place.parent.glob("index-*") if path.name != place.name and _FOLDER.fullmatch(path.name))
    return record


def remove_index(folder: Path) -> bool:
    """Remove the index of a knowledge base's folder; say whether there was one."""
    there = (folder / RECORD).exists()
    (folder / RECORD).unlink(missing_ok=True)
    _remove(path for path in folder.glob("index-*") if _FOLDER.fullmatch(path.name))
    return there


def index_problems(folder: Path) -> list[str]:
    """Return what is wrong with the files of the index in use, one line each."""
    try:
        record = read_record(folder)
    except KnowledgeBaseError as error:
        return [str(error)]
    if record is None:
        return []
    found = []
    for name, (size, expected) in record.files.items():
        path = folder / record.folder / name
        if not path.is_file() or path.is_symlink() or path.stat().st_size != size:
            found.append(f"index: {name} is missing or has been cut; kblam kb index makes a new one")
        elif checksum(path) != expected:
            found.append(f"index: {name} is not as it was written; kblam kb index makes a new one")
    return found


def checked_file(folder: Path, record: IndexRecord, name: str, *, contents: bool = True) -> Path:
    """Return the path of an index's file, whose length and, if `contents`, checksum are right.

    Raises:
        KnowledgeBaseError: they are not.
    """
    path = folder / record.folder / name
    size, expected = record.files.get(name, (-1, 0))
    sound = path.is_file() and not path.is_symlink() and path.stat().st_size == size
    if not sound or (contents and checksum(path) != expected):
        raise KnowledgeBaseError(
            f"{path}: expected the file as it was written, got another or none; make a new index: "
            f"kblam kb index --kb {folder}"
        )
    return path


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


def _remove(paths: Any) -> None:
    for path in list(paths):
        shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # directories cannot be opened everywhere
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
