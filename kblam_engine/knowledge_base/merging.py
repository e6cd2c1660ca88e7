"""Two names of one thing made one, as a change like any other."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base.batches import remove_ids
from kblam_engine.knowledge_base.changes import ChangeSet
from kblam_engine.knowledge_base.records import MergeResult
from kblam_engine.knowledge_base.store import CONTENT, triple_from_row
from kblam_engine.triples import Triple

WRITTEN = "written"
"""Key of the metadata that keeps the name a triple came with, as `kblam_engine.sources.names.reconcile` does."""


def check_names(keep: str, others: Sequence[str]) -> tuple[str, list[str]]:
    """Return the names as they are stored.

    Raises:
        ConfigurationError: there is none to merge, one is no text, or one is the name to keep.
    """
    for name in (keep, *others):
        if not isinstance(name, str) or not name.strip():
            raise ConfigurationError(f"expected a name, got {name!r}")
    kept, distinct = keep.strip(), list(dict.fromkeys(name.strip() for name in others))
    if not distinct or kept in distinct:
        raise ConfigurationError(f"expected names other than {kept!r} to merge into it, got {distinct}")
    return kept, distinct


def renamed(connection: sqlite3.Connection, label: str, keep: str, others: Sequence[str]) -> dict[int, Triple]:
    """Return what the other names' triples will be, by the ids they have now.

    Raises:
        ConfigurationError: no triple has one of the names.
    """
    found: dict[int, Triple] = {}
    for name in (keep, *others):
        rows = connection.execute(
            f"SELECT {CONTENT} WHERE t.removed IS NULL AND t.name_id = (SELECT id FROM names WHERE text = ?) "
            "ORDER BY t.slot",
            (name,),
        ).fetchall()
        if not rows:
            raise ConfigurationError(f"expected the name of a triple that is there, got {name!r}")
        if name != keep:
            for row in rows:
                triple = triple_from_row(label, row)
                found[row[0]] = replace(triple, name=keep, metadata={WRITTEN: name, **triple.metadata})
    return found


def merge(changes: ChangeSet, connection: sqlite3.Connection, keep: str, others: Sequence[str]) -> MergeResult:
    """Give the other names' triples the name to keep, where it does not say something itself.

    Raises:
        ConfigurationError: no triple has one of the names.
    """
    coming = renamed(connection, changes.label, keep, others)
    multi = bool(changes.meta.multi)
    said: dict[tuple[str, str], list[Triple]] = {}
    for row in connection.execute(
        f"SELECT {CONTENT} WHERE t.removed IS NULL AND t.name_id = (SELECT id FROM names WHERE text = ?)", (keep,)
    ):
        triple = triple_from_row(changes.label, row)
        said.setdefault((triple.namespace, triple.property), []).append(triple)
    moved: list[Triple] = []
    overruled: list[Triple] = []
    n_same = 0
    for triple in coming.values():
        beside = said.setdefault((triple.namespace, triple.property), [])
        if any(other.value == triple.value for other in beside):
            n_same += 1
        elif beside and not multi:
            overruled.append(triple)
        else:
            beside.append(triple)
            moved.append(triple)
    remove_ids(changes, list(coming), ("1", []))
    changes.put(moved, beside_others=multi)
    return MergeResult(len(moved), n_same, overruled)
