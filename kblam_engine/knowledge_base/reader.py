"""What can be asked of a knowledge base, and of a view of one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base.conditions import Condition, all_of, checked_count, matching
from kblam_engine.knowledge_base.embedder import Embedder
from kblam_engine.knowledge_base.history import diff, history, known_at, revisions
from kblam_engine.knowledge_base.neighbours import Neighbour, neighbours_of
from kblam_engine.knowledge_base.records import KBDiff, KBInfo, KBStats, Revision, SearchHit, TripleVersion
from kblam_engine.knowledge_base.schema import damaged
from kblam_engine.knowledge_base.selection import Selection
from kblam_engine.knowledge_base.snapshot import KBSnapshot
from kblam_engine.knowledge_base.statistics import statistics
from kblam_engine.knowledge_base.store import CONTENT, Store, triple_from_row
from kblam_engine.knowledge_base.verification import problems
from kblam_engine.knowledge_base.words import matching_triples, query_of, split
from kblam_engine.triple_files import WRITTEN, checked_path, write_triples
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.sentence_encoder import SentenceEncoder

PARQUET = (".parquet", ".pq")
_PAGE = 500
_SCORE_CHUNK = 16_384

# Labels that a triple has which is there: the first that is found tells.
_FIRST = "FROM labelled l JOIN triples t ON t.id = l.triple_id WHERE l.label_id = labels.id AND t.removed IS NULL LIMIT 1"
# A URI, or a document whose triples have none: a document and where it lies are one source.
_IS_PLACE = f"(kind = 'uri' OR kind = 'document' AND (SELECT json_extract(t.context, '$.provenance.uri') IS NULL {_FIRST}))"


class KBReader:
    """The questions; `KnowledgeBase` says where the answers come from."""

    _store: Store
    _embedder: Embedder
    _selection: Selection
    _pinned: int | None
    _wants_multi: bool

    def snapshot(self, revision: int | None = None) -> KBSnapshot:
        """Return a revision as arrays."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store.label!r})"

    @property
    def path(self) -> Path | None:
        """The directory, None in memory."""
        return self._store.path

    @property
    def read_only(self) -> bool:
        """Whether changes are refused."""
        return self._store.read_only

    @property
    def revision(self) -> int:
        """The number of changes so far."""
        return self._store.meta().revision if self._pinned is None else self._pinned

    @property
    def keeps_several_values(self) -> bool:
        """Whether a name's property may have several values side by side, now or from the next change on."""
        return bool(self._store.meta().multi) or self._wants_multi

    @property
    def encoder(self) -> SentenceEncoder:
        """The sentence encoder, loaded on first use."""
        return self._embedder.encoder(self._store.meta())

    def get(self, name: str, property: str) -> Triple | None:
        """Return the triple of a name's property, the first where there are several, None where there is none."""
        return next(iter(self.get_all(name, property)), None)

    def get_all(self, name: str, property: str | None = None) -> list[Triple]:
        """Return every triple of a name, or of one property of it."""
        where, parameters = self._condition(name, property)
        with self._store.connection() as connection:
            rows = connection.execute(f"SELECT {CONTENT} WHERE {where} ORDER BY t.slot", parameters).fetchall()
        return [triple_from_row(self._store.label, row) for row in rows]

    def with_values(self, values: Iterable[str]) -> list[Triple]:
        """Return the triples that have one of these values; reads the values of all triples once."""
        wanted, found = list(dict.fromkeys(values)), []
        where, parameters = self._condition()
        for start in range(0, len(wanted), _PAGE):
            page = wanted[start : start + _PAGE]
            marks = ",".join("?" * len(page))
            with self._store.connection() as connection:
                found += connection.execute(
                    f"SELECT {CONTENT} WHERE t.value IN ({marks}) AND {where} ORDER BY t.slot", (*page, *parameters)
                ).fetchall()
        return [triple_from_row(self._store.label, row) for row in found]

    def triple(self, id: int) -> Triple:
        """Return the triple with an id, one that has been removed too.

        Raises:
            KnowledgeBaseError: there is none.
        """
        return self._store.triples([id])[0]

    def triples(self, ids: Sequence[int]) -> list[Triple]:
        """Return the triples with these ids, in this order; those that have been removed too.

        Raises:
            KnowledgeBaseError: there is no triple with one of them.
        """
        return self._store.triples(ids)

    def ids(self, name: str | None = None, property: str | None = None) -> list[int]:
        """Return the ids of all triples, or of those of a name or property."""
        where, parameters = self._condition(name, property)
        with self._store.connection() as connection:
            rows = connection.execute(f"SELECT t.id FROM triples t WHERE {where} ORDER BY t.slot", parameters)
            return [row[0] for row in rows]

    def __iter__(self) -> Iterator[Triple]:
        """Iterate over the triples of one revision; changes meanwhile are not seen."""
        ids = self.ids()
        for start in range(0, len(ids), _PAGE):
            yield from self._store.triples(ids[start : start + _PAGE])

    def __len__(self) -> int:
        if self._pinned is None and self._selection == Selection():
            return self._store.meta().n_triples
        return len(self.snapshot())

    def search(self, text: str, k: int = 10) -> list[SearchHit]:
        """Return the `k` triples whose key text is closest in meaning to `text`, best first."""
        checked_count("k", k)
        if not isinstance(text, str) or not text.strip():
            raise ConfigurationError(f"expected a text to look for, got {text!r}")
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

    def find(self, words: str, k: int = 10) -> list[SearchHit]:
        """Return the `k` triples in whose name, property and value every word occurs, best first.

        A word counts most in a name, least in a value; case and accents do not count; "2 March" in quotation marks
        is a phrase, and `robot*` any word that begins so. Where more than 2,000 triples (or `k`) match, those with all words
        in name or property are looked at first, and of the others, as of those, not all are compared.

        Raises:
            ConfigurationError: there is no word, or `k` is below 1.
        """
        checked_count("k", k)
        query = query_of(split(words))
        with self._store.connection() as connection:
            found = matching_triples(connection, query, self._condition(of_few=True), k)
        triples = self._store.triples([row_id for row_id, _ in found])
        return [SearchHit(row_id, triple, score) for (row_id, score), triple in zip(found, triples, strict=True)]

    def neighbours(self, name: str, *, hops: int = 1, incoming: bool = True) -> list[Neighbour]:
        """Return the chains of triples that begin at a name, the nearest first; every triple appears once.

        Args:
            name: where to start; a value that is no name will do.
            hops: how many steps to follow.
            incoming: whether to follow triples from their value back to their name as well; that reads the values of all
                triples once a step, else only the names on the way are read.

        Raises:
            ConfigurationError: there is less than one hop, or the name is no text.
        """
        return neighbours_of(self, name, hops, incoming)

    def history(self, name: str, property: str | None = None) -> list[TripleVersion]:
        """Return every version of a name's triples, or of one property of it, oldest first."""
        found = history(self._store, all_of(matching(name, property), self._selection.condition(of_few=True)))
        return found if self._pinned is None else known_at(self._pinned, found)

    def revisions(self, last: int | None = None) -> list[Revision]:
        """Return what was changed when, newest first; all of it, or the `last` changes.

        Raises:
            ConfigurationError: `last` is no whole number, or below 1.
        """
        if last is not None:
            checked_count("last", last)
        return revisions(self._store, last)

    def diff(self, before: int, after: int | None = None) -> KBDiff:
        """Return what revision `after` (default: the newest) has that `before` has not, and the other way round.

        Raises:
            ConfigurationError: one of them is not there, or no longer.
        """
        newest = self.revision if after is None else after
        return diff(self._store, before, newest, self._selection.condition())

    def stats(self, top: int = 10) -> KBStats:
        """Return the names, properties, namespaces, tags and sources with the most triples, and how all of it grew.

        Raises:
            ConfigurationError: `top` is below 1.
        """
        checked_count("top", top)
        steps = revisions(self._store, None)[::-1] if self._selection == Selection() else []
        if self._pinned is not None:
            steps = [step for step in steps if step.number <= self._pinned]
        found = statistics(self._store, self._condition(), top, steps)
        if any(type(text) is not str for text, _ in (*found.names, *found.properties)):
            with self._store.connection() as connection:
                raise damaged(connection, "a triple has no name or property, or none that is a text")
        return found

    def info(self) -> KBInfo:
        """Return counts, encoder, revision and size."""
        where, parameters = self._condition()
        kinds = {"n_namespaces": "kind = 'namespace'", "n_sources": _IS_PLACE, "n_tags": "kind = 'tag'"}
        with self._store.reading() as connection:
            count = "count(*), count(DISTINCT t.name_id), count(DISTINCT t.property_id)"
            n_triples, n_names, n_properties = connection.execute(
                f"SELECT {count} FROM triples t WHERE {where}", parameters
            ).fetchone()
            n_removed = connection.execute(
                "SELECT count(*) FROM triples WHERE removed IS NOT NULL"
            ).fetchone()[0]
            n_labels = {
                part: connection.execute(f"SELECT count(DISTINCT text) FROM labels WHERE {kind} AND EXISTS (SELECT 1 {_FIRST})").fetchone()[0]
                for part, kind in kinds.items()
            }
        meta = self._store.meta()
        whole = self._pinned is None and self._selection == Selection()
        return KBInfo(
            path=self._store.label,
            n_triples=n_triples,
            n_names=n_names,
            n_properties=n_properties,
            n_removed=n_removed,
            revision=self.revision,
            fingerprint=meta.digest if whole else self.snapshot().fingerprint,
            multi=self.keeps_several_values,
            encoder=meta.encoder_name,
            encoder_fingerprint=meta.encoder_fingerprint,
            embed_dim=meta.embed_dim,
            schema_version=meta.schema_version,
            size_bytes=self._store.size_bytes(),
            oldest_revision=meta.oldest_revision,
            read_only=self.read_only,
            **n_labels,
        )

    def verify(self) -> list[str]:
        """Return what is wrong on disk, one line each; an empty list is a sound knowledge base. Waits for no writer.

        `kblam_engine.knowledge_base.problems_at` tells it of one that cannot be opened, too.
        """
        return problems(self._store, self._embedder)

    def export_file(self, path: str | os.PathLike[str], *, embeddings: bool = False) -> int:
        """Write every triple to a .jsonl, .csv or .parquet file; return how many. It appears whole or not at all.

        Args:
            path: the file; its suffix says which kind.
            embeddings: of keys and values as well; a .parquet file takes them.

        Raises:
            ConfigurationError: the suffix is another one, or embeddings are asked for where they cannot be.
            MissingDependencyError: it is a .parquet file, and pyarrow is not installed.
            OSError: the file cannot be written.
        """
        file = checked_path("path", path, "a .jsonl, .csv or .parquet file")
        suffix = file.suffix.lower()
        if embeddings and suffix not in PARQUET:
            raise ConfigurationError(f"embeddings: expected a .parquet file to write them to, got {file}")
        if suffix in PARQUET:
            from kblam_engine.sources.parquet import write_parquet

            return write_parquet(file, self, embeddings=embeddings)
        if suffix not in WRITTEN:
            raise ConfigurationError(f"{file}: expected a .jsonl, .csv or .parquet file, got {suffix or 'no suffix'}")
        return write_triples(file, self)

    def _condition(self, name: str | None = None, prop: str | None = None, *, of_few: bool = False) -> Condition:
        """Return the condition on triples `t` that are here, of a name or property where given."""
        here: Condition = ("t.removed IS NULL", [])
        if self._pinned is not None:
            here = "t.added <= ? AND (t.removed IS NULL OR t.removed > ?)", [self._pinned, self._pinned]
        chosen = self._selection.condition(of_few=of_few or name is not None)
        return all_of(here, matching(name, prop), chosen)
