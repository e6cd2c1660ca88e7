"""Check that what is on disk agrees with itself."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from kblam_engine.errors import (
    EncoderMismatchError,
    KBLaMError,
    KnowledgeBaseError,
    KnowledgeBaseNotFoundError,
)
from kblam_engine.knowledge_base.connections import SEE_VERIFY, TIMEOUT
from kblam_engine.knowledge_base.embedder import Embedder
from kblam_engine.knowledge_base.row_checks import (
    REPAIRED,
    bad_properties,
    bad_revisions,
    inconsistent,
    unreadable,
)
from kblam_engine.knowledge_base.schema import read_meta
from kblam_engine.knowledge_base.segment_checks import bad_embeddings, missing
from kblam_engine.knowledge_base.store import Store
from kblam_engine.knowledge_base.words import index_is_sound

if TYPE_CHECKING:
    from kblam_engine.sentence_encoder import SentenceEncoder

_ATTEMPTS = 4  # of a reader that compactions overtake


def problems(store: Store, embedder: Embedder) -> list[str]:
    """Return one line for everything that is wrong; nothing for a sound knowledge base. Waits for no writer.

    An encoder that cannot be loaded here is nothing that is wrong with the knowledge base.
    """
    found = list[str]()
    for check in (_bad_database, _inconsistent, _bad_revisions, _unreadable, _bad_segments, _bad_words):
        try:
            found.extend(check(store))
        except (KnowledgeBaseError, OSError) as error:  # too damaged for this check: the others go on
            found.append(_plain(error))
    try:
        meta = store.meta()
        if meta.encoder_fingerprint is not None:
            embedder.encoder(meta)
    except EncoderMismatchError as error:
        found.append(f"sentence encoder: {error}")
    except KnowledgeBaseError as error:
        found.append(_plain(error))
    except (KBLaMError, OSError):
        pass
    return list(dict.fromkeys(found))


def problems_at(
    path: str | os.PathLike[str], *, encoder: SentenceEncoder | str | None = None, timeout: float = TIMEOUT
) -> list[str]:
    """Return what is wrong with the knowledge base in a folder, even if it is too damaged to be opened.

    Raises:
        KnowledgeBaseNotFoundError: there is none.
    """
    try:
        store = Store(Path(path), create=False, timeout=timeout)
    except KnowledgeBaseNotFoundError:
        raise
    except (KnowledgeBaseError, OSError) as error:
        return [_plain(error)]
    with closing(store):
        return problems(store, Embedder(encoder))


def _plain(error: Exception) -> str:
    """Return an error's text without the advice to run what is running."""
    return str(error).replace(SEE_VERIFY, "")


def _bad_database(store: Store) -> Iterator[str]:
    with store.reading() as connection:
        read_meta(connection)
        for (line,) in connection.execute("PRAGMA integrity_check"):
            if line != "ok":
                yield f"database: {line}"
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            yield f"database: a trigger {name!r}, which no knowledge base has"


def _inconsistent(store: Store) -> Iterator[str]:
    with store.reading() as connection:
        meta = read_meta(connection)
        yield from inconsistent(connection, meta)
        if bad := bad_properties(connection, meta):
            yield f"properties: {len(bad)} with an embedding that is none of the sentence encoder's; {REPAIRED}"


def _bad_revisions(store: Store) -> Iterator[str]:
    with store.reading() as connection:
        yield from bad_revisions(connection, read_meta(connection))


def _unreadable(store: Store) -> Iterator[str]:
    with store.reading() as connection:
        yield from unreadable(connection, store.label)


def _bad_segments(store: Store) -> list[str]:
    for attempt in range(_ATTEMPTS):
        with store.reading() as connection:
            generation = read_meta(connection).generation
            try:
                return list(bad_embeddings(store, connection))
            except FileNotFoundError as error:  # unless a compaction has just deleted it
                lost = missing(error)
        if attempt == _ATTEMPTS - 1 or store.meta().generation == generation:
            break
    return [str(lost)]


def _bad_words(store: Store) -> Iterator[str]:
    """Compare the full-text index with the texts; in a copy, because SQLite does that as a writer."""
    with store.scratch_copy() as connection:
        if not _is_sound(connection):
            yield "words: the full-text index does not agree with the triples; kblam kb compact rebuilds it"


def _is_sound(connection: sqlite3.Connection) -> bool:
    connection.execute("BEGIN")
    return index_is_sound(connection)
