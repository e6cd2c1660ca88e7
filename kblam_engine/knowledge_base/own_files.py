"""The files of a knowledge base's folder, which may come from a stranger: plain files of its own, and nothing else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from kblam_engine.errors import KnowledgeBaseError, KnowledgeBaseNotFoundError

BESIDE_A_DATABASE = ("-wal", "-shm", "-journal")
"""What SQLite adds to a database's name for its own files."""
# What a rollback journal ends with that names another file, as databases that are changed together leave it. SQLite
# reads that name from the journal, and deletes the file: a knowledge base is alone, so it has no such journal.
_JOURNAL_END = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"


def opened(path: Path, flags: int) -> int:
    """Open a file, but follow no link: a knowledge base from elsewhere reads and writes its own folder alone.

    Returns:
        The descriptor, as `os.open` does.

    Raises:
        KnowledgeBaseError: it is a link, or no plain file.
        OSError: it cannot be opened.
    """
    check_own(path)
    try:
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:  # since it was looked at
            raise _refused(path, "a link") from None
        raise


def check_own(path: Path) -> None:
    """Refuse a link, or anything else that is no plain file, where a file of the knowledge base is expected.

    Raises:
        KnowledgeBaseError: there is one.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise _refused(path, "a link")
    if not stat.S_ISREG(mode):
        raise _refused(path, "a folder" if stat.S_ISDIR(mode) else "a device or pipe")


def check_folder(database: Path, create: bool) -> None:
    """Refuse a folder that is none, or of other files; make one that is missing and to be made.

    Raises:
        KnowledgeBaseError: it is a file, or has other files in it.
        KnowledgeBaseNotFoundError: there is no knowledge base, and none is to be made.
    """
    path = database.parent
    if path.is_file():
        raise KnowledgeBaseError(
            f"{path}: expected a knowledge base (a folder), got a file; "
            f"for a file of triples: kblam kb import {path} --kb NEW"
        )
    if database.exists():
        return
    if not create:
        raise KnowledgeBaseNotFoundError(
            f"{path}: no knowledge base there; make one with: kblam kb import FILE --kb {path}"
        )
    if path.is_dir() and any(path.iterdir()):
        raise KnowledgeBaseError(
            f"{path}: expected a knowledge base or an empty folder, got a folder of other files"
        )
    path.mkdir(parents=True, exist_ok=True)


def check_database(path: Path) -> None:
    """Refuse a database that is no plain file of its folder, or whose journals are none.

    Raises:
        KnowledgeBaseError: it is not, or its journal names a file elsewhere.
    """
    check_own(path)
    for suffix in BESIDE_A_DATABASE:
        check_own(path.with_name(path.name + suffix))
    journal = path.with_name(f"{path.name}-journal")
    if _ends_like_a_common_journal(journal):
        raise KnowledgeBaseError(
            f"{journal}: expected the journal of this knowledge base alone, got one that names another file; "
            "delete it if you trust the rest, or restore the knowledge base from a backup"
        )


def _ends_like_a_common_journal(journal: Path) -> bool:
    try:
        with open(opened(journal, os.O_RDONLY), "rb") as file:
            if os.fstat(file.fileno()).st_size < 2 * len(_JOURNAL_END):
                return False
            file.seek(-len(_JOURNAL_END), os.SEEK_END)
            return file.read() == _JOURNAL_END
    except FileNotFoundError:
        return False


def _refused(path: Path, what: str) -> KnowledgeBaseError:
    remedy = "copy what it points to here" if what == "a link" else "move it away, or restore the knowledge base"
    return KnowledgeBaseError(f"{path}: expected a file, got {what}; {remedy}")
