"""SQLite connections of a knowledge base: how they are opened, and what their errors mean to a user."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from kblam_engine.errors import (
    ConfigurationError,
    KnowledgeBaseError,
    KnowledgeBaseLockedError,
    ReadOnlyError,
)
from kblam_engine.knowledge_base.own_files import check_database

TIMEOUT = 60.0
"""Seconds that a second writer waits for the first."""
_CACHE_KB = 2_048
"""Of pages, a connection: SQLite's own choice. With 16 MB look-ups and searches of a million triples were no faster, because the
system keeps pages too; but a process held 15 MB more."""
SEE_VERIFY = "kblam kb verify tells what is wrong; "
"""What an error of a damaged knowledge base recommends, except to whoever runs just that."""
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
_NO_LOG = {*_NO_ROOM, sqlite3.SQLITE_IOERR_SHMOPEN}
_TOO_LARGE = "too large to convert to SQLite INTEGER"
_KEPT_WAL = 64 * 2**20


def connect(
    path: Path | None, timeout: float, *, read_only: bool = False, no_room: bool = False
) -> sqlite3.Connection:
    """Open a connection in autocommit mode, in memory for None; threads may take turns on it.

    With `no_room` nothing is written beside the database either, as long as no process has a log there: so a knowledge
    base on a full disk can be read.

    Nothing in a database from elsewhere is trusted: what its schema defines may not run functions with effects, and
    links are not followed.

    Raises:
        KnowledgeBaseError: the database or one of its journals is no plain file.
        sqlite3.Error: it cannot be opened.
    """
    if path is not None:
        check_database(path)
    name = ":memory:" if path is None else _uri(path, read_only, no_room)
    connection = sqlite3.connect(
        name, timeout=timeout, isolation_level=None, check_same_thread=False, uri=path is not None
    )
    try:
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KB}")
        connection.execute("PRAGMA temp_store=MEMORY")
        if not read_only:
            _use_wal(connection, timeout)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA journal_size_limit={_KEPT_WAL}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def page_cache(connection: sqlite3.Connection, kb: int) -> Iterator[None]:
    """Lend the connection another amount of memory for pages, in KiB, and give it back at the end.

    More, so that a large change does not write every page several times; less, to read everything once.
    """
    connection.execute(f"PRAGMA cache_size=-{kb}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KB}")
        connection.execute("PRAGMA shrink_memory")


def scratch() -> sqlite3.Connection:
    """Open a database without a name: in memory as far as the cache goes, beyond it in a file that nobody sees."""
    connection = sqlite3.connect("", isolation_level=None)
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection


def can_write(folder: Path) -> bool:
    """Say whether a knowledge base in this folder can be changed."""
    database = folder / "kb.sqlite"
    return os.access(folder, os.W_OK | os.X_OK) and (not database.exists() or os.access(database, os.W_OK))


def lacks_room(error: sqlite3.Error) -> bool:
    """Say whether this is SQLite's way of saying that the disk is full."""
    return getattr(error, "sqlite_errorcode", 0) in _NO_ROOM


def lacks_log(error: sqlite3.Error) -> bool:
    """Say whether SQLite could not make its own files beside the database, for which a full disk is the usual reason."""
    return getattr(error, "sqlite_errorcode", 0) in _NO_LOG


def _uri(path: Path, read_only: bool, no_room: bool) -> str:
    uri = f"file:{quote(str(path.absolute()))}"
    if not read_only:
        return uri
    # In a folder that cannot be written SQLite cannot share a log, and needs none where nobody writes.
    log = path.with_name(f"{path.name}-wal")
    still = no_room or not os.access(path.parent, os.W_OK)
    quiet = still and not (log.exists() and log.stat().st_size)
    return f"{uri}?mode=ro" + ("&immutable=1" if quiet else "")


def _use_wal(connection: sqlite3.Connection, timeout: float) -> None:
    # Switching the journal mode does not always honour the busy timeout when two processes create at once.
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def translated_errors(
    label: str, timeout: float = TIMEOUT, writer: Callable[[], str] = lambda: "another process"
) -> Iterator[None]:
    """Turn SQLite's errors into this package's, or into the OSError for a full disk.

    `writer` is asked who is writing once somebody has waited in vain for it: another may have been before.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if lacks_room(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), label) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise locked(label, timeout, writer()) from error
        if code == sqlite3.SQLITE_READONLY:
            raise ReadOnlyError(f"{label}: cannot be written; make the folder writable, or work on a copy") from error
        raise KnowledgeBaseError(f"{label}: {_meaning(error, code)}") from error
    except UnicodeDecodeError as error:  # an error of SQLite that quotes bytes which are no text
        raise KnowledgeBaseError(
            f"{label}: damaged, or not a knowledge base (a text that is none); {SEE_VERIFY}restore it from a backup or an export"
        ) from error
    except OverflowError as error:  # of a number that the caller was given
        if _TOO_LARGE not in str(error):
            raise
        raise ConfigurationError("expected whole numbers below 2^63 as ids, counts and revisions, got a larger one") from error


def _meaning(error: sqlite3.Error, code: int) -> str:
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return "this knowledge base has been closed; open it again"
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return f"cannot be read or written ({error}); is the disk full or failing, or is this no folder of yours?"
    if isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
        return str(error)
    # What else SQLite may say of these statements, it says of tables, rows and texts that are not as they were made.
    reason = str(error).partition(" with text ")[0]
    return (
        f"damaged, or not a knowledge base ({reason}); {SEE_VERIFY}restore it from a backup or an export"
    )


def locked(label: str, timeout: float, writer: str) -> KnowledgeBaseLockedError:
    """Return the error of a writer whose patience is over."""
    return KnowledgeBaseLockedError(
        f"{label}: {writer} has been writing for {timeout:g} s; try again, or wait longer (timeout)"
    )


def may_run(process: int) -> bool:
    """Say whether there is a process of this number, as far as the system tells without doing anything to it."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)  # no signal: it only looks
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True
