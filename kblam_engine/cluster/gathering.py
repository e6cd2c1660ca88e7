"""Triples of shards, brought here a handful at a time and kept for a while.

A question looks at some dozens of triples, each of them several times: by key, by name, by value. So all there is of a
triple comes in one go, and what asks for it next finds it here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kblam_engine.cluster.numbering import Counted, Numbers
from kblam_engine.cluster.shard import Part, Rows
from kblam_engine.cluster.shards import Ask, Shards
from kblam_engine.knowledge_base.rows import Embeddings, LazyRows
from kblam_engine.triples import Triple

KEPT_ROWS = 8_192
"""Triples kept here: 1.5 KB each and their texts."""
WHOLE_ROWS = 512
"""Up to so many triples at once are brought whole; of more, the column that is asked for alone."""
KEPT_SIBLINGS = 1_000_000
"""Places of names' triples kept here, 8 bytes each; a name may have any number of them."""
_CHUNK = 16_384


@dataclass(frozen=True, slots=True)
class Row:
    """A triple of any shard, with numbers of all shards together."""

    ids: int
    names: int
    properties: int
    keys: Embeddings
    values: Embeddings
    triple: Triple


class Gathering:
    """Brings triples from shards; safe to use from several threads."""

    def __init__(
        self, shards: Shards, positions: Counted, names: Counted, properties: list[NDArray[np.int64]], n_shards: int
    ) -> None:
        """Keep where things are.

        Args:
            shards: those that hold them.
            positions: counted over the shards.
            names: counted over the shards.
            properties: for each shard, the number of each of its properties among all.
            n_shards: of the whole folder, empty ones too.
        """
        self._shards, self._positions, self._names, self._properties = shards, positions, names, properties
        self._n_shards = n_shards
        self._rows: OrderedDict[int, Row] = OrderedDict()
        self._siblings: OrderedDict[int, Numbers] = OrderedDict()
        self._n_siblings = 0
        self._lock = threading.Lock()

    def rows(self, positions: Numbers) -> list[Row]:
        """Return the triples at positions."""
        wanted = positions.tolist()
        with self._lock:
            known = {p: self._rows[p] for p in wanted if p in self._rows}
            for p in known:
                self._rows.move_to_end(p)
        missing = np.array([p for p in dict.fromkeys(wanted) if p not in known], np.int64)
        if len(missing):
            known |= self._brought(missing)
        return [known[p] for p in wanted]

    def siblings(self, name: int) -> Numbers:
        """Return the positions of the triples of one name, ascending.

        Raises:
            IndexError: there is no such name.
        """
        with self._lock:
            found = self._siblings.get(name)
            if found is not None:
                self._siblings.move_to_end(name)
        if found is None:
            ((shard, _, own),) = self._names.by_shard(np.array([name], np.int64))
            said = self._shards.ask({shard: Ask("positions_of_name", (int(own[0]),))})[shard]
            found = self._positions.of_shard(shard, said)
            with self._lock:
                self._keep_siblings({name: found})
        return found

    def column(self, part: Part, positions: Numbers) -> NDArray[Any]:
        """Return one column at positions, from what is here if there are few, else straight from the shards."""
        if len(positions) <= WHOLE_ROWS:
            return np.array([getattr(row, part) for row in self.rows(positions)])
        places = list(self._positions.by_shard(positions))
        said = self._shards.ask({shard: Ask("column", (part, own)) for shard, _, own in places})
        first = said[places[0][0]]
        out = np.empty((len(positions), *first.shape[1:]), first.dtype)
        for shard, at, _ in places:
            out[at] = self._numbered(part, shard, said[shard])
        return out

    def triples(self, positions: Numbers) -> list[Triple]:
        """Return the triples at positions, in this order."""
        if len(positions) <= WHOLE_ROWS:
            return [row.triple for row in self.rows(positions)]
        places = list(self._positions.by_shard(positions))
        said = self._shards.ask({shard: Ask("triples", (own,)) for shard, _, own in places})
        found = {int(p): t for shard, at, _ in places for p, t in zip(positions[at], said[shard], strict=True)}
        return [found[p] for p in positions.tolist()]

    def _brought(self, positions: Numbers) -> dict[int, Row]:
        places = list(self._positions.by_shard(positions))
        said = self._shards.ask({shard: Ask("rows", (own,)) for shard, _, own in places})
        brought: dict[int, Row] = {}
        siblings: dict[int, Numbers] = {}
        for shard, at, _ in places:
            rows: Rows = said[shard]
            parts = (
                positions[at].tolist(),
                self._numbered("ids", shard, rows.ids).tolist(),
                self._numbered("names", shard, rows.names).tolist(),
                self._numbered("properties", shard, rows.properties).tolist(),
                rows.keys,
                rows.values,
                rows.triples,
            )
            for position, *columns in zip(*parts, strict=True):
                brought[position] = Row(*columns)
            for name, own in rows.siblings.items():
                siblings[int(self._names.starts[shard]) + name] = self._positions.of_shard(shard, own)
        with self._lock:
            _keep(self._rows, brought)
            self._keep_siblings(siblings)
        return brought

    def _keep_siblings(self, new: dict[int, Numbers]) -> None:
        """Keep the places of names' triples, those of the names that were asked for last; `_lock` is held."""
        for name, places in new.items():
            self._n_siblings += len(places) - len(self._siblings.pop(name, ()))
            self._siblings[name] = places
        while self._n_siblings > KEPT_SIBLINGS or len(self._siblings) > KEPT_ROWS:
            self._n_siblings -= len(self._siblings.popitem(last=False)[1])

    def _numbered(self, part: Part, shard: int, own: NDArray[Any]) -> NDArray[Any]:
        """Return a shard's own numbers as those of all; embeddings as they are."""
        if part == "ids":
            return own * self._n_shards + shard
        if part == "names":
            return self._names.of_shard(shard, own)
        return self._properties[shard][own] if part == "properties" else own


class Column(LazyRows):
    """A column of all shards; only what is asked for is brought."""

    def __init__(self, gathering: Gathering, part: Part, n: int, dtype: DTypeLike, width: int = 0) -> None:
        """Keep what it is of; `width` is the length of a row, 0 for single numbers."""
        super().__init__((n, width) if width else (n,), dtype)
        self._gathering, self._part = gathering, part

    def at(self, positions: Numbers) -> NDArray[Any]:
        """Return what is at positions."""
        if not len(positions):
            return np.zeros((0, *self.shape[1:]), self.dtype)
        return self._gathering.column(self._part, positions).astype(self.dtype, copy=False)

    def copy(self) -> NDArray[Any]:
        """Return all of it, brought part by part."""
        parts = [self[start : start + _CHUNK] for start in range(0, len(self), _CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(self.shape, self.dtype)


def column(gathering: Gathering, part: Part, n: int, dtype: DTypeLike, width: int = 0) -> NDArray[Any]:
    """Return a `Column`, typed as the array that it stands for."""
    return cast(NDArray[Any], Column(gathering, part, n, dtype, width))


def positions_of(index: Iterable[int] | NDArray[np.integer]) -> Numbers:
    """Return positions as an array."""
    return np.fromiter(index, np.int64)


def _keep(kept: OrderedDict[int, Any], new: dict[int, Any]) -> None:
    kept.update(new)
    while len(kept) > KEPT_ROWS:
        kept.popitem(last=False)
