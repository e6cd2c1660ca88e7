"""The keys in Qdrant, a vector service: for a knowledge base that one machine does not hold.

The only module that imports its client. What is searched for is the absorbed query (DESIGN 3.1), so an existing service
serves every layer and head with one collection of sentence embeddings. The service holds keys by slot and nothing else;
texts and values stay in the knowledge base.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from kblam_engine.errors import (
    ConfigurationError,
    KnowledgeBaseError,
    KnowledgeBaseUnreachableError,
    MissingDependencyError,
)
from kblam_engine.knowledge_base import KBSnapshot
from kblam_engine.products import Floats
from kblam_engine.search.interface import Found, Mask, log_sum_exp
from kblam_engine.search.snapshot_search import some_slots

_BATCH = 1024
_COMPARED = 8
"""Keys that are compared from the end, where copies of a knowledge base part, and as many from everywhere."""
_ROUNDED = 1e-3
"""Of a number of a key: by so much may the service change it."""
_LONGEST_REASON = 200
_SPARE = 4
"""Keys asked for in multiples of k where some are not alive: the service does not know which."""


class RemoteIndex:
    """A `KeyIndex` whose keys are in a collection of Qdrant, and an `IndexSource` of it for the model.

    Found keys that are not alive are passed over, and more is asked for until there are enough. The normaliser is over
    the keys found, because the service tells no other scores: a lower bound.
    """

    kind: ClassVar[str] = "remote"

    def __init__(self, client: Any, collection: str, place: str = "") -> None:
        """Take a client of Qdrant and the name of a collection; `connect` makes both, and knows where the service is."""
        self._client, self.collection = _Service(client, collection, place), collection
        self._n_slots: int | None = None

    @property
    def n_slots(self) -> int:
        """How many slots are in the collection: they are sent in order, and none is left out."""
        if self._n_slots is None:
            self._n_slots = self._counted()
        return self._n_slots

    def of(self, snapshot: KBSnapshot) -> RemoteIndex | None:
        """Return this index for a snapshot of its knowledge base; None while nothing has been sent.

        What other processes have sent since is counted in.

        Raises:
            KnowledgeBaseError: the collection is of another knowledge base, of one before its last compaction, or of
                other keys than the knowledge base has since it was restored from a copy.
            KnowledgeBaseUnreachableError: the service does not answer, here and in all that follows.
        """
        n_slots = self._counted()
        if not n_slots:
            return None
        self._check(snapshot, n_slots)
        self._n_slots = n_slots
        return self

    def send(self, snapshot: KBSnapshot) -> int:
        """Send the slots that the collection does not have, batch by batch; return how many there were.

        A run that breaks off is taken up by the next: sending a slot twice changes nothing.

        Raises:
            KnowledgeBaseError: the collection is of something else (see `of`).
        """
        models = _qdrant().models
        origin = _origin(snapshot)
        if not self._exists():
            self._client.create_collection(
                self.collection,
                vectors_config=models.VectorParams(
                    size=snapshot.embed_dim, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16, on_disk=True
                ),
            )
        self._check(snapshot, self.n_slots)
        segment, first = snapshot.key_segment(), self.n_slots
        for start in range(first, len(segment), _BATCH):
            rows = np.asarray(segment[start : start + _BATCH], np.float32)
            self._client.upsert(
                self.collection,
                models.Batch(
                    ids=list(range(start, start + len(rows))),
                    vectors=rows.tolist(),
                    payloads=[{"origin": origin}] * len(rows),
                ),
                wait=True,
            )
            self._n_slots = start + len(rows)
        return max(0, len(segment) - first)

    def search(self, queries: Floats, k: int, alive: Mask | None = None) -> Found:
        """Return the best keys by the service's own index; see `KeyIndex.search`."""
        at = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for row, query in enumerate(queries):
            found = self._best(np.asarray(query, np.float32), k, alive)
            for place, (slot, score) in enumerate(found):
                at[row, place], scores[row, place] = slot, score
        return Found(at, scores, log_sum_exp(scores))

    def _best(self, query: Floats, k: int, alive: Mask | None) -> list[tuple[int, float]]:
        limit = k
        while True:
            points = self._client.query_points(self.collection, query=query.tolist(), limit=limit).points
            # Others may have sent slots that the mask does not know.
            found = [
                (int(p.id), float(p.score))
                for p in points
                if alive is None or (int(p.id) < len(alive) and alive[int(p.id)])
            ]
            if len(found) >= k or len(points) < limit:
                return found[:k]
            limit *= _SPARE

    def _counted(self) -> int:
        return int(self._client.count(self.collection, exact=True).count) if self._exists() else 0

    def _exists(self) -> bool:
        return bool(self._client.collection_exists(self.collection))

    def _check(self, snapshot: KBSnapshot, n_slots: int) -> None:
        """Refuse a collection of something else: its vectors' shape, and a few of the first `n_slots` points are looked at."""
        shape = self._client.get_collection(self.collection).config.params.vectors
        got = (getattr(shape, "size", None), getattr(getattr(shape, "distance", None), "value", None))
        if got != (snapshot.embed_dim, "Dot"):
            raise self._another(f"vectors of {snapshot.embed_dim} numbers, compared by their inner product", f"{got}")
        segment = snapshot.key_segment()
        slots = some_slots(min(n_slots, len(segment)), _COMPARED).tolist()
        found = self._client.retrieve(self.collection, ids=slots, with_payload=True, with_vectors=True) if slots else []
        missing = sorted(set(slots) - {point.id for point in found})
        if missing:
            raise self._another("slots that were sent in order", f"{n_slots} points without slot {missing[0]}")
        for point in found:
            origin = (point.payload or {}).get("origin")
            if origin != _origin(snapshot):
                raise self._another(f"the keys of {_origin(snapshot)}", f"those of {origin}")
            if not np.allclose(point.vector, np.asarray(segment[point.id], np.float32), atol=_ROUNDED):
                raise self._another(f"the keys of {_origin(snapshot)}", f"another key in slot {point.id}, as a copy may have")

    def _another(self, expected: str, got: str) -> KnowledgeBaseError:
        return KnowledgeBaseError(
            f"collection {self.collection!r}: expected {expected}, got {got}; take another collection, or delete this one"
        )


class _Service:
    """A client of Qdrant that says in one line what its service did not do."""

    def __init__(self, client: Any, collection: str, place: str) -> None:
        self._client, self._what = client, f"collection {collection!r}{f' at {place}' if place else ''}"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._client, name)

        def asked(*arguments: Any, **options: Any) -> Any:
            try:
                return call(*arguments, **options)
            except _failures() as error:
                reason = " ".join(f"{error}".split())[:_LONGEST_REASON]
                raise KnowledgeBaseUnreachableError(
                    f"{self._what}: expected an answer of the vector service, got: {reason}; start it, or check its address and "
                    "api_key"
                ) from error

        return asked


def _failures() -> tuple[type[Exception], ...]:
    """Return what the client raises where a service cannot be reached, or refuses."""
    found: list[type[Exception]] = [OSError, import_module("qdrant_client.http.exceptions").ApiException]
    try:
        found.append(import_module("grpc").RpcError)
    except ImportError:  # the client asks over HTTP unless it is told otherwise
        pass
    return tuple(found)


def _origin(snapshot: KBSnapshot) -> str:
    return f"{snapshot.kb_id}-{snapshot.generation}"


def connect(place: str, collection: str, **options: Any) -> RemoteIndex:
    """Connect to a collection.

    Args:
        place: the address of a server ("http://host:6333"), a folder for Qdrant's local mode, or ":memory:".
        collection: its name.
        options: of the client, such as `api_key` or `timeout`.

    Raises:
        ConfigurationError: there is no name, or the address is of no kind that the client knows.
        MissingDependencyError: the client is not installed.

    Nothing is asked of the service yet: one that cannot be reached is told by the first use.
    """
    if not collection:
        raise ConfigurationError("expected the name of a collection, got nothing")
    client = _qdrant().QdrantClient
    if "://" in place:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Failed to obtain server version")  # the first use tells it, and what to do
            try:
                return RemoteIndex(client(url=place, **options), collection, place)
            except ValueError as error:
                raise ConfigurationError(f"expected an address such as http://localhost:6333, got {place}: {error}") from None
    where = {"location": place} if place == ":memory:" else {"path": place}
    return RemoteIndex(client(**where, **options), collection, place)


def _qdrant() -> Any:
    try:
        import qdrant_client
    except ImportError:
        raise MissingDependencyError(
            'keys in a vector service need the client of Qdrant: pip install "kblam-engine[remote]"'
        ) from None
    return qdrant_client
