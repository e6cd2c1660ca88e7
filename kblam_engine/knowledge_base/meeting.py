"""What a batch of triples meets in the knowledge base: known names and properties, and what is said of them."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple, TypeVar

from kblam_engine.knowledge_base.schema import read_meta
from kblam_engine.knowledge_base.store import Store
from kblam_engine.triples import Triple

_PAGE = 500
_FEW = 16
"""Keys looked up one by one; of more, everything that is said of their names is read."""
_T = TypeVar("_T")


class StoredTriple(NamedTuple):
    """A triple in the knowledge base, or about to be."""

    id: int
    name_id: int
    property_id: int
    value: str
    metadata: str | None
    slot: int
    namespace: int
    context: str | None
    value_slot: int | None


COLUMNS = ", ".join(StoredTriple._fields)


@dataclass(slots=True)
class Meeting:
    """Ids of the texts that are known, and the live triples of the batch's names and properties."""

    names: dict[str, int] = field(default_factory=dict)
    properties: dict[str, int] = field(default_factory=dict)
    triples: dict[tuple[int, int], list[StoredTriple]] = field(default_factory=dict)
    """By the ids of name and property, in the order of their slots."""
    revision: tuple[int, int] | None = None
    """Of the knowledge base, with the generation of its segments: for as long as these last, this holds."""

    @classmethod
    def of(cls, connection: sqlite3.Connection, batch: Iterable[Triple]) -> Meeting:
        """Look a batch up."""
        if connection.execute("SELECT 1 FROM names LIMIT 1").fetchone() is None:
            return cls()
        pairs = {(triple.name, triple.property): None for triple in batch}
        names = _ids(connection, "names", {name for name, _ in pairs})
        properties = _ids(connection, "properties", {prop for _, prop in pairs})
        known = [(names[n], properties[p]) for n, p in pairs if n in names and p in properties]
        found: dict[tuple[int, int], list[StoredTriple]] = defaultdict(list)
        for row in sorted(_said_of(connection, known), key=lambda row: row.slot):
            found[row.name_id, row.property_id].append(row)
        return cls(names, properties, dict(found))

    def about(self, triple: Triple) -> list[StoredTriple]:
        """Return the live triples with the name and property of one, in any namespace."""
        key = self.names.get(triple.name, 0), self.properties.get(triple.property, 0)
        return self.triples.get(key, [])


class Missing(NamedTuple):
    """What a batch needs embeddings of."""

    texts: list[str]
    """Key texts and values, each once."""
    properties: list[str]
    met: Meeting


def missing_texts(store: Store, batch: Sequence[Triple], *, values: bool) -> Missing:
    """Return the texts and the properties that the knowledge base has no embedding of.

    Args:
        store: the knowledge base.
        batch: what is to be added.
        values: embed values even where every key is known; with a new key they always are.
    """
    with store.reading() as connection:
        met = Meeting.of(connection, batch)
        meta = read_meta(connection)
        met.revision = meta.revision, meta.generation
    new: Sequence[Triple] = batch
    other_values: list[str] = []
    if met.triples:
        said = [met.about(triple) for triple in batch]
        new = [triple for triple, rows in zip(batch, said, strict=True) if not rows]
        known = [(triple.value, rows) for triple, rows in zip(batch, said, strict=True) if rows]
        other_values = [value for value, rows in known if all(row.value != value for row in rows)]
    texts = dict.fromkeys(triple.key_text for triple in new)
    if values or texts:
        texts.update(dict.fromkeys(triple.value for triple in new))
        texts.update(dict.fromkeys(other_values))
    properties = dict.fromkeys(triple.property for triple in batch)
    return Missing(list(texts), [prop for prop in properties if prop not in met.properties], met)


def _ids(connection: sqlite3.Connection, table: Literal["names", "properties"], texts: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for page in _pages(texts):
        marks = ",".join("?" * len(page))
        found.update(connection.execute(f"SELECT text, id FROM {table} WHERE text IN ({marks})", page))
    return found


def _said_of(connection: sqlite3.Connection, keys: list[tuple[int, int]]) -> Iterator[StoredTriple]:
    # The index by name: without word of it SQLite might walk through another one for the sake of some order.
    select = f"SELECT {COLUMNS} FROM triples INDEXED BY live_pairs WHERE removed IS NULL AND name_id"
    if len(keys) <= _FEW:
        for key in keys:
            yield from map(StoredTriple._make, connection.execute(f"{select} = ? AND property_id = ?", key))
        return
    for page in _pages({name_id: None for name_id, _ in keys}):
        marks = ",".join("?" * len(page))
        yield from map(StoredTriple._make, connection.execute(f"{select} IN ({marks})", page))


def _pages(items: Iterable[_T]) -> Iterator[list[_T]]:
    left = iter(items)
    while page := list(islice(left, _PAGE)):
        yield page
