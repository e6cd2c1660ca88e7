"""Where an index lies: a folder of its own in the knowledge base's, and a record that says which one counts.

A new index is written beside the one in use and synced; then the record is replaced as a whole. A crash before that
leaves the old index, and its rubbish is removed by the next build. Readers of the old one go on: what is mapped stays.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tokenize
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kblam_engine.errors import KnowledgeBaseError, KnowledgeBaseLockedError
from kblam_engine.knowledge_base.own_files import check_own, opened

RECORD = "index.json"
FORMAT = "kblam-index/3"
_LOCK = "index.lock"
_WRITTEN = f"{RECORD}.part"
_FOLDER = re.compile(r"index-[0-9a-f]{12}")
_PART = ".index-*.part"
_BLOCK = 1 << 20
CHECKED_WHOLE = 1 << 25
"""Bytes of a file whose contents are compared with its checksum at every opening: 20 ms. Those of larger ones are compared
beside the searches (`contents_problem`), and are not all in memory."""
_LARGEST_RECORD = 1 << 20
"""Bytes. One of a tree has 2,000."""
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # of faiss; and RecursionError
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,  # of numpy, from a header
)
"""What reading a file that has been damaged can raise, in json, numpy and faiss."""


@dataclass(frozen=True, slots=True)
class IndexRecord:
    """What is known about an index.

    Attributes:
        kind: "tree" or "ann".
        folder: its name beside the record.
        kb_id: of the knowledge base it belongs to.
        generation: of the key segment whose slots it holds.
        n_slots: how many slots are in it.
        keys: CRC-32 of some of their keys (`build.keys_check`): a knowledge base that was restored from an older copy
            can have other keys in the same slots of the same generation.
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
    keys: int
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
        with open(opened(folder / RECORD, os.O_RDONLY), "rb") as file:
            written = file.read(_LARGEST_RECORD + 1)
        if len(written) > _LARGEST_RECORD:
            raise ValueError(f"more than {_LARGEST_RECORD:,} bytes")
        loaded = json.loads(written)
        if loaded.pop("format", None) != FORMAT:
            raise ValueError("another format")
        loaded["files"] = {name: (int(size), int(check)) for name, (size, check) in loaded["files"].items()}
        record = IndexRecord(**loaded)
        _check_types(record)
        if not _FOLDER.fullmatch(record.folder) or not all(re.fullmatch(r"[\w.-]+", name) for name in record.files):
            raise ValueError("a folder that is not its own")
    except FileNotFoundError:
        return None
    except (*_DAMAGE, KnowledgeBaseError) as error:
        got = "a link, or no file" if isinstance(error, KnowledgeBaseError) else error
        raise KnowledgeBaseError(
            f"{folder / RECORD}: expected the record of an index, got {got}; {_remedy(folder)}"
        ) from error
    return record


def _check_types(record: IndexRecord) -> None:
    for name in ("kind", "folder", "kb_id"):
        _check_type(record, name, str)
    for name in ("generation", "n_slots", "keys", "recall_k", "recall_queries", "size_bytes"):
        _check_type(record, name, int)
    for name in ("recall", "time_ratio", "build_s"):
        _check_type(record, name, int, float)
        if not math.isfinite(getattr(record, name)):
            raise ValueError(f"{name} {getattr(record, name)}")
    _check_type(record, "options", dict)
    if record.n_slots < 1:
        raise ValueError(f"{record.n_slots} slots")


def _check_type(record: IndexRecord, name: str, *types: type) -> None:
    if type(getattr(record, name)) not in types:  # bool is an int
        raise ValueError(f"{name} {str(getattr(record, name))[:40]!r}")


@contextmanager
def reading(folder: Path, record: IndexRecord) -> Iterator[None]:
    """Tell what goes wrong while an index's files are read as what it is: they are damaged.

    Raises:
        KnowledgeBaseError: in the place of whatever json, numpy or faiss raise.
    """
    place = folder / record.folder
    if place.is_symlink():
        raise KnowledgeBaseError(f"{place}: expected a folder of the knowledge base's own, got a link; {_remedy(folder)}")
    try:
        yield
    except _DAMAGE as error:
        got = f"{type(error).__name__}: {error}"
        raise KnowledgeBaseError(f"{place}: expected an index as it was written, got {got}; {_remedy(folder)}") from error


def _remedy(folder: Path) -> str:
    return f"make a new index: kblam kb index --kb {folder}"


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Hold the right to build an index in a knowledge base's folder; yield an empty folder for its files.

    Raises:
        KnowledgeBaseError: a folder is where the record is to be, or a link where the lock is.
        KnowledgeBaseLockedError: another process is building one.
    """
    with _locked(folder):
        try:
            _remove(folder.glob(_PART))
            draft = folder / f".index-{uuid.uuid4().hex[:12]}.part"
            draft.mkdir()
            yield draft
        finally:
            _remove(folder.glob(_PART))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    check_own(folder / _LOCK)  # the lock's file is emptied: it must not be another's
    for path in (folder / RECORD, folder / _WRITTEN):
        if path.is_dir() and not path.is_symlink():  # a link is replaced
            raise KnowledgeBaseError(f"{path}: expected a file or nothing, got a folder; move it away")
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise KnowledgeBaseLockedError(f"{folder}: another process is building an index; wait for it") from None
    try:
        yield
    finally:
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
    written = draft.parent / _WRITTEN
    os.rename(draft, place)
    try:
        written.unlink(missing_ok=True)  # in a folder from elsewhere it could be a link
        written.write_text(json.dumps({"format": FORMAT, **asdict(record)}, indent=2), "utf-8")
        _sync(written)
        os.replace(written, draft.parent / RECORD)
    except BaseException:
        _remove([place])
        raise
    _sync(draft.parent)
    _remove(path for path in _places(place.parent) if path.name != place.name)
    return record


def remove_index(folder: Path) -> bool:
    """Remove the index of a knowledge base's folder; say whether there was one.

    Raises:
        KnowledgeBaseLockedError: another process is building one, and would put it into use without its files.
    """
    if not os.path.lexists(folder / RECORD) and not any(_places(folder)):
        return False  # nothing is written, which a folder may not allow
    with _locked(folder):
        there = os.path.lexists(folder / RECORD)
        (folder / RECORD).unlink(missing_ok=True)
        _remove(_places(folder))
    return there


def index_problems(folder: Path) -> list[str]:
    """Return what is wrong with the files of the index in use, one line each."""
    try:
        record = read_record(folder)
    except KnowledgeBaseError as error:
        return [str(error)]
    if record is None:
        return []
    if (folder / record.folder).is_symlink():
        return [f"index: {record.folder} is a link; {_remedy(folder)}"]
    problems = (_file_problem(folder, record, name) for name in record.files)
    return [f"index: {problem}; {_remedy(folder)}" for problem in problems if problem is not None]


def contents_problem(folder: Path, record: IndexRecord) -> str | None:
    """Return what is wrong with the contents of an index's files; None for nothing, or where a newer index is in use.

    All of them are read, so it is for a thread beside the searches: opening compares no large file's contents.
    """
    problems = (_file_problem(folder, record, name) for name in record.files)
    problem = next((problem for problem in problems if problem is not None), None)
    try:
        if problem is None or read_record(folder) != record:
            return None
    except KnowledgeBaseError:  # told when it is opened
        return None
    return f"{folder / record.folder}: {problem}; {_remedy(folder)}"


def _file_problem(folder: Path, record: IndexRecord, name: str, *, contents: bool = True) -> str | None:
    path, (size, expected) = folder / record.folder / name, record.files.get(name, (-1, 0))
    try:
        check_own(path)
        if path.stat().st_size != size:
            return f"{name} is missing or has been cut"
        return f"{name} is not as it was written" if contents and checksum(path) != expected else None
    except (OSError, KnowledgeBaseError):
        return f"{name} is missing or has been cut"


def checked_file(folder: Path, record: IndexRecord, name: str, *, contents: bool = True) -> Path:
    """Return the path of an index's file, whose length is right, and whose checksum is, if `contents` or it is small.

    Raises:
        KnowledgeBaseError: they are not.
    """
    path = folder / record.folder / name
    small = record.files.get(name, (0, 0))[0] <= CHECKED_WHOLE
    if _file_problem(folder, record, name, contents=contents or small) is not None:
        raise KnowledgeBaseError(
            f"{path}: expected the file as it was written, got another or none; {_remedy(folder)}"
        )
    return path


def checksum(path: Path, n_bytes: int | None = None) -> int:
    """Return the CRC-32 of a file, or of its first bytes."""
    found, left = 0, path.stat().st_size if n_bytes is None else n_bytes
    with path.open("rb") as file:
        while block := file.read(min(left, _BLOCK)):
            found, left = zlib.crc32(block, found), left - len(block)
    return found


def _places(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("index-*") if _FOLDER.fullmatch(path.name))


def _remove(paths: Any) -> None:
    for path in list(paths):
        if path.is_symlink():
            path.unlink(missing_ok=True)
        else:
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
