"""The knowledge base as an application sees it."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kblam_engine.errors import ConfigurationError, TripleError
from kblam_engine.knowledge_base.changes import ChangeSet, record_encoder, texts_to_embed
from kblam_engine.knowledge_base.embedder import Embedder
from kblam_engine.knowledge_base.records import AddResult, KBInfo, SearchHit
from kblam_engine.knowledge_base.schema import Meta
from kblam_engine.knowledge_base.slots import SlotTable
from kblam_engine.knowledge_base.snapshot import KBSnapshot
from kblam_engine.knowledge_base.store import Store
from kblam_engine.knowledge_base.values import value_embeddings
from kblam_engine.knowledge_base.verification import problems
from kblam_engine.knowledge_base.vocabulary import Vocabulary
from kblam_engine.triples import Triple, read_triples, write_triples

if TYPE_CHECKING:
    from kblam_engine.sentence_encoder import SentenceEncoder

_PAGE = 500
_SCORE_CHUNK = 16_384
_instances = itertools.count(1)


class KnowledgeBase:
    """Triples and their sentence embeddings, in a directory that several threads and processes may share.

    Every change is one transaction and one new revision; a reader sees all of it or nothing. Get one from `open`.
    """

    def __init__(self, store: Store, embedder: Embedder, *, multi: bool) -> None:
        self._store = store
        self._embedder = embedder
        self._wants_multi = multi
        self._instance = next(_instances)
        self._vocabularies = Vocabulary(store, "names"), Vocabulary(store, "properties")
        self._snapshot_lock = threading.Lock()
        self._table = SlotTable.empty()
        self._snapshot: KBSnapshot | None = None
        self._show_progress = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        encoder: SentenceEncoder | str | None = None,
        create: bool = True,
        multi: bool = False,
    ) -> KnowledgeBase:
        """Open the knowledge base in the directory `path`, or a new one in memory for ":memory:".

        Args:
            path: its directory; made if it is missing and `create`.
            encoder: a sentence encoder or the name of one; default the one the knowledge base was made with, or
                "all-minilm-l6-v2". It is loaded when something has to be embedded, not before.
            create: make a new knowledge base where there is none.
            multi: keep several values of one name and property side by side. Remembered: once on, it stays on.

        Raises:
            KnowledgeBaseNotFoundError: there is none and `create` is off.
            EncoderMismatchError: it was embedded by another encoder.
            KnowledgeBaseError: the path is something else, or of a newer format.
        """
        in_memory = os.fspath(path) == ":memory:"
        store = Store(None if in_memory else Path(path), create=create)
        try:
            embedder = Embedder(encoder)
            embedder.check_on_open(store.meta())
            return cls(store, embedder, multi=multi)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Close the files; snapshots keep their arrays but can no longer read triples."""
        self._store.close()

    def __enter__(self) -> KnowledgeBase:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"KnowledgeBase({self._store.label!r})"

    @property
    def path(self) -> Path | None:
        """The directory, None in memory."""
        return self._store.path

    @property
    def revision(self) -> int:
        """The number of changes so far."""
        return self._store.meta().revision

    @property
    def encoder(self) -> SentenceEncoder:
        """The sentence encoder, loaded on first use."""
        return self._embedder.encoder(self._store.meta())

    def add(self, triples: Iterable[Triple], *, progress: bool = False) -> AddResult:
        """Add triples in one transaction; the same name and property again replaces the value (see `multi`).

        Raises:
            TripleError: one of them is no `Triple`; nothing is added.
        """
        batch = list(triples)
        for triple in batch:
            if not isinstance(triple, Triple):
                raise TripleError("triple", f"expected a Triple, got {type(triple).__name__}")
        outcomes = self._put(batch, progress=progress)
        if len(batch) > 1 and any(outcome != "unchanged" for outcome in outcomes):
            # Now, where it can be watched, and not in the first answer. A single one is quick there as well.
            self._show_progress = progress
            self.snapshot().value_embeddings()
            self._show_progress = False
        return AddResult(*(outcomes.count(outcome) for outcome in ("added", "replaced", "unchanged")))

    def set(self, name: str, property: str, value: str, metadata: Mapping[str, Any] | None = None) -> int:
        """Make `value` the only value of a name's property; return the triple's id."""
        triple = Triple(name, property, value, metadata or {})
        self._put([triple], only_value=True)
        return self._store.live_ids(triple.name, triple.property)[0]

    def remove(self, name: str, property: str | None = None, value: str | None = None) -> int:
        """Remove a name's triples, or those of one property, or one value; return how many there were."""
        with self._store.writing() as connection:
            changes = ChangeSet(self._store, connection, self._embedder)
            count = changes.remove(name, property, value)
            changes.finish()
        return count

    def get(self, name: str, property: str) -> Triple | None:
        """Return the triple of a name's property, the first where there are several, None where there is none."""
        return next(iter(self.get_all(name, property)), None)

    def get_all(self, name: str, property: str | None = None) -> list[Triple]:
        """Return every triple of a name, or of one property of it."""
        return self._store.triples(self._store.live_ids(name, property))

    def __iter__(self) -> Iterator[Triple]:
        """Iterate over the triples of one revision; changes meanwhile are not seen."""
        ids = self._store.live_ids()
        for start in range(0, len(ids), _PAGE):
            yield from self._store.triples(ids[start : start + _PAGE])

    def __len__(self) -> int:
        return self._store.meta().n_triples

    def search(self, text: str, k: int = 10) -> list[SearchHit]:
        """Return the `k` triples whose key text is closest in meaning to `text`, best first."""
        if k < 1 or not text.strip():
            raise ConfigurationError(f"expected a text and k of at least 1, got {text!r} and {k}")
        snapshot = self.snapshot()
        if not len(snapshot):
            return []
        query = self._embedder.encode(self._store.meta(), [text.strip()])[0]
        keys = snapshot.key_embeddings
        # 16-bit products are slow on CPUs: widen a chunk at a time.
        parts = range(0, len(keys), _SCORE_CHUNK)
        scores = np.concatenate([keys[i : i + _SCORE_CHUNK].astype(np.float32) @ query for i in parts])
        best = np.argsort(-scores, kind="stable")[:k]
        found = zip(snapshot.ids[best], snapshot.triples(best), scores[best], strict=True)
        return [SearchHit(int(row_id), triple, float(score)) for row_id, triple, score in found]

    def info(self) -> KBInfo:
        """Return counts, encoder, revision and size."""
        with self._store.reading() as connection:
            n_names, n_properties = connection.execute(
                "SELECT count(DISTINCT name_id), count(DISTINCT property_id) FROM triples WHERE removed IS NULL"
            ).fetchone()
            n_removed = connection.execute(
                "SELECT count(*) FROM triples WHERE removed IS NOT NULL"
            ).fetchone()[0]
        meta = self._store.meta()
        return KBInfo(
            path=self._store.label,
            n_triples=meta.n_triples,
            n_names=n_names,
            n_properties=n_properties,
            n_removed=n_removed,
            revision=meta.revision,
            fingerprint=meta.digest,
            multi=bool(meta.multi) or self._wants_multi,
            encoder=meta.encoder_name,
            encoder_fingerprint=meta.encoder_fingerprint,
            embed_dim=meta.embed_dim,
            schema_version=meta.schema_version,
            size_bytes=self._store.size_bytes(),
        )

    def verify(self) -> list[str]:
        """Return what is wrong on disk, one line each; an empty list is a sound knowledge base."""
        return list(problems(self._store))

    def import_file(self, path: str | os.PathLike[str], *, progress: bool = False) -> AddResult:
        """Add the triples of a .jsonl or .csv file: all of them, or none.

        Raises:
            ImportFileError: a line is wrong; it names file, line and reason.
        """
        return self.add(list(read_triples(path)), progress=progress)

    def export_file(self, path: str | os.PathLike[str]) -> int:
        """Write every triple to a .jsonl or .csv file; return how many."""
        return write_triples(path, self)

    def snapshot(self) -> KBSnapshot:
        """Return the newest revision as arrays; the same object while nothing changes.

        A change, of this or another process, costs what changed, not what is there.
        """
        with self._snapshot_lock:
            if self._snapshot is None or self._store.meta().revision != self._snapshot.revision:
                self._snapshot = self._next_snapshot()
            return self._snapshot

    def _next_snapshot(self) -> KBSnapshot:
        changes = self._store.changes_since(self._table.revision, self._table.last_id)
        self._table = self._table.changed(changes)
        meta = changes.meta
        if meta.encoder_fingerprint is None or meta.embed_dim is None:  # nothing has been embedded yet
            encoder = self._embedder.encoder(meta)
            fingerprint, embed_dim = encoder.fingerprint, encoder.embed_dim
        else:
            fingerprint, embed_dim = meta.encoder_fingerprint, meta.embed_dim

        def embed_values(ids: NDArray[np.int64]) -> NDArray[np.float16]:
            return value_embeddings(self._store, self._embedder, ids, embed_dim, progress=self._show_progress)

        uid = f"{meta.kb_id}-{self._instance}-{meta.revision}"
        return KBSnapshot(
            self._store, meta, self._table, self._vocabularies, (fingerprint, embed_dim), embed_values, uid
        )

    def _put(self, batch: list[Triple], *, progress: bool = False, only_value: bool = False) -> list[str]:
        """Embed what is new, before the lock: it takes long and other writers should not wait for it."""
        if not batch:
            return []
        texts = texts_to_embed(self._store, batch)
        embeddings: dict[str, NDArray[np.float32]] = {}
        if texts:
            embedded = self._embedder.encode(self._store.meta(), texts, progress=progress)
            embeddings = dict(zip(texts, embedded, strict=True))
        with self._store.writing() as connection:
            changes = ChangeSet(self._store, connection, self._embedder, embeddings)
            self._prepare(changes.meta, embedding=bool(texts))
            beside_others = bool(changes.meta.multi) and not only_value
            outcomes: list[str] = [changes.put(triple, beside_others=beside_others) for triple in batch]
            changes.finish()
        return outcomes

    def _prepare(self, meta: Meta, *, embedding: bool) -> None:
        meta.multi = int(bool(meta.multi) or self._wants_multi)
        if embedding or meta.encoder_fingerprint is None:
            encoder = self._embedder.encoder(meta)  # checked again: another process may have been first
            record_encoder(meta, encoder.name, encoder.fingerprint, encoder.embed_dim)
