"""The knowledge base as an application sees it, and views of it."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from kblam_engine.errors import ConfigurationError, KnowledgeBaseError
from kblam_engine.knowledge_base.batches import check_source, checked, remove_ids, remove_others
from kblam_engine.knowledge_base.bulk import roomy
from kblam_engine.knowledge_base.changes import ChangeSet, record_encoder
from kblam_engine.knowledge_base.conditions import all_of, checked_number, matching
from kblam_engine.knowledge_base.connections import TIMEOUT
from kblam_engine.knowledge_base.drafts import Drafts
from kblam_engine.knowledge_base.embedder import Embedder, EncodedTexts
from kblam_engine.knowledge_base.meeting import Missing, missing_texts
from kblam_engine.knowledge_base.merging import check_names, merge, renamed
from kblam_engine.knowledge_base.records import AddResult, MergeResult
from kblam_engine.knowledge_base.schema import Meta
from kblam_engine.knowledge_base.segment_checks import missing
from kblam_engine.knowledge_base.selection import LabelIndex, Selection
from kblam_engine.knowledge_base.showing import spinner
from kblam_engine.knowledge_base.slot_reading import check_revision, read_changes, read_past
from kblam_engine.knowledge_base.slots import SlotTable
from kblam_engine.knowledge_base.snapshot import KBSnapshot
from kblam_engine.knowledge_base.store import Store
from kblam_engine.knowledge_base.upkeep import KBUpkeep
from kblam_engine.knowledge_base.values import ValueEmbeddings
from kblam_engine.knowledge_base.vocabulary import Vocabulary
from kblam_engine.triple_files import checked_path, read_triples
from kblam_engine.triples import Provenance, Triple

if TYPE_CHECKING:
    from kblam_engine.sentence_encoder import SentenceEncoder

_ATTEMPTS = 4  # of a reader that compactions overtake
_instances = itertools.count(1)


class KnowledgeBase(KBUpkeep):
    """Triples and their sentence embeddings, in a directory that several threads and processes may share.

    Every change is one transaction and one new revision; a reader sees all of it or nothing. Get one from `open`.
    """

    def __init__(self, store: Store, embedder: Embedder, *, multi: bool) -> None:
        self._store = store
        self._embedder = embedder
        self._selection = Selection()
        self._pinned = None
        self._wants_multi = multi
        self._instance = next(_instances)
        self._vocabularies = Vocabulary(store, "names"), Vocabulary(store, "properties")
        self._values = ValueEmbeddings(store, embedder)
        self._labels = LabelIndex(store)
        self._snapshot_lock = threading.RLock()
        self._table = SlotTable.empty()
        self._snapshot: KBSnapshot | None = None
        self._in_use: weakref.WeakSet[KBSnapshot] = weakref.WeakSet()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        encoder: SentenceEncoder | str | None = None,
        create: bool = True,
        multi: bool = False,
        timeout: float = TIMEOUT,
        read_only: bool = False,
    ) -> KnowledgeBase:
        """Open the knowledge base in the directory `path`, or a new one in memory for ":memory:".

        Args:
            path: its directory; made if it is missing and `create`. One in a folder that cannot be written opens
                for reading only; one that an older version wrote is brought up to date.
            encoder: a sentence encoder or the name of one; default the one the knowledge base was made with, or
                "all-minilm-l6-v2". It is loaded when something has to be embedded, not before.
            create: make a new knowledge base where there is none.
            multi: keep several values of one name and property side by side. Remembered from the first change on: it stays on.
            timeout: seconds that a change waits for another writer.
            read_only: refuse changes.

        Raises:
            ConfigurationError: the path is none, or the timeout below 0.
            KnowledgeBaseNotFoundError: there is none and `create` is off.
            EncoderMismatchError: it was embedded by another encoder.
            KnowledgeBaseError: the path is something else, or of a newer format.
        """
        if timeout < 0:
            raise ConfigurationError(f"timeout: expected seconds, 0 or more, got {timeout}")
        folder = checked_path("path", path, "a folder such as 'company.kb', or ':memory:'")
        place = None if str(folder) == ":memory:" else folder
        store = Store(place, create=create, timeout=timeout, read_only=read_only)
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

    def add(self, triples: Iterable[Triple], *, progress: bool = False) -> AddResult:
        """Add triples in one transaction; the same name and property again replaces the value (see `multi`).

        Raises:
            TripleError: one of them is no `Triple`; nothing is added.
            KnowledgeBaseLockedError: another writer was busy for longer than the timeout.
        """
        return self._put(checked(triples), "add", progress=progress)

    def set(
        self,
        name: str,
        property: str,
        value: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        provenance: Provenance | None = None,
        namespace: str = "",
        tags: Iterable[str] = (),
        valid_from: str = "",
        valid_to: str = "",
    ) -> int:
        """Make `value` the only value of a name's property in its namespace; return the triple's id."""
        triple = Triple(
            name, property, value, metadata or {}, provenance, namespace, tuple(tags), valid_from, valid_to
        )
        self._put([triple], "set", only_value=True)
        return self.view(namespace=triple.namespace).ids(triple.name, triple.property)[0]

    def replace(self, id: int, triple: Triple) -> int:
        """Put another triple in the place of the one with an id; return the new one's id.

        Raises:
            KnowledgeBaseError: no triple in the knowledge base has this id.
        """
        self._store.check_writable()
        checked_number("id", id)
        encoded = self._encode(self._missing(checked([triple])))
        with self._store.writing() as connection:
            changes = self._changes(connection, "replace", encoded)
            if not changes.remove(("t.id = ?", [id])):
                raise KnowledgeBaseError(f"{self._store.label}: expected the id of a triple that is there, got {id}")
            changes.put([triple], beside_others=bool(changes.meta.multi))
            changes.finish()
            return changes.id_of(triple)

    def replace_source(
        self, source: str | Iterable[str], triples: Iterable[Triple], *, namespace: str | None = None, progress: bool = False
    ) -> AddResult:
        """Make these triples all that a source, or several, say: add them, and remove what else came from there.

        For documents that have been read again. What did not change keeps its id; other namespaces than a given one keep all.

        Raises:
            ConfigurationError: a triple names another document or URI.
        """
        batch, sources = checked(triples), {source} if isinstance(source, str) else set(source)
        check_source(batch, sources)
        parts = [Selection.of(namespace, source=each) for each in sorted(sources)]
        return self._put(batch, "replace source", progress=progress, instead_of=parts)

    def remove(
        self,
        name: str | None = None,
        property: str | None = None,
        value: str | None = None,
        *,
        ids: Sequence[int] | None = None,
        source: str | None = None,
        namespace: str | None = None,
        tags: str | Iterable[str] = (),
    ) -> int:
        """Remove the triples to which everything given applies; return how many there were.

        Args:
            name: of these triples.
            property: of these triples.
            value: of these triples.
            ids: their ids, as `search`, `find` and `history` tell them.
            source: the document or URI they came from.
            namespace: where they are.
            tags: what they all are tagged with.

        Raises:
            ConfigurationError: nothing is given, which would remove everything.
        """
        selection = Selection.of(namespace, tags, source)
        if name is None and property is None and value is None and ids is None and selection == Selection():
            raise ConfigurationError("expected a name, ids, a source, a namespace or tags to remove, got nothing")
        with self._store.writing() as connection:
            changes = ChangeSet(self._store, connection, self._embedder, action="remove")
            chosen = selection.condition(of_few=name is not None or ids is not None)
            condition = all_of(matching(name, property, value), chosen)
            count = changes.remove(condition) if ids is None else remove_ids(changes, ids, condition)
            changes.finish()
        return count

    def merge(self, keep: str, *others: str) -> MergeResult:
        """Give every triple of the `others` the name `keep`, as one revision that a `rollback` undoes.

        A moved triple's metadata keeps its old name as `written`. Where the kept name has another value of a property,
        it keeps its own, unless several values are kept side by side (see `multi`). Values are never touched.

        Raises:
            ConfigurationError: no triple has one of the names.
        """
        kept, names = check_names(keep, others)
        self._store.check_writable()
        with self._store.connection() as connection:
            coming = list(renamed(connection, self._store.label, kept, names).values())
        encoded = self._encode(self._missing(coming))
        with self._store.writing() as connection:
            changes = self._changes(connection, f"merge {', '.join(names)} into {kept}", encoded)
            result = merge(changes, connection, kept, names)
            changes.finish()
        return result

    def rollback(self, revision: int) -> int:
        """Make the contents those of an earlier revision again, as a new revision; return its number.

        Nothing is lost: what is undone stays in the history, until a compaction.

        Raises:
            ConfigurationError: there is no such revision, or no longer.
        """
        with self._store.writing() as connection:
            changes = ChangeSet(self._store, connection, self._embedder, action=f"rollback to {revision}")
            check_revision(changes.meta, revision)
            row = connection.execute("SELECT digest FROM revisions WHERE revision = ?", (revision,)).fetchone()
            if row is None or row[0] != changes.meta.digest:
                changes.restore(revision)
                changes.finish()
            return changes.meta.revision

    def import_file(self, path: str | os.PathLike[str], *, progress: bool = False) -> AddResult:
        """Add the triples of a .jsonl or .csv file: all of them, or none.

        Raises:
            ImportFileError: a line is wrong; it names file, line and reason.
        """
        file = checked_path("path", path, "a .jsonl or .csv file")
        return self._put(list(read_triples(file)), "import", progress=progress)

    def view(
        self,
        *,
        namespace: str | None = None,
        tags: str | Iterable[str] = (),
        source: str | None = None,
        at: str | date | datetime | None = None,
        revision: int | None = None,
    ) -> KnowledgeBase:
        """Return the part of this knowledge base to which everything given applies, itself one to read.

        It shares what this one holds, follows its changes, and is closed with it.

        Args:
            namespace: triples of this namespace, "" for those of none.
            tags: triples with all of these tags.
            source: triples from this document or URI.
            at: triples that hold at this time; those without times hold always.
            revision: as of an earlier revision.

        Raises:
            ConfigurationError: there is no such revision, or no longer.
        """
        from kblam_engine.knowledge_base.view import KBView  # a view is a knowledge base: it needs this class

        return KBView(self, Selection.of(namespace, tags, source, at), revision)

    def snapshot(self, revision: int | None = None) -> KBSnapshot:
        """Return the newest revision as arrays, the same object while nothing changes; or an earlier revision.

        A change, of this or another process, costs what changed, not what is there. An earlier revision costs as
        much as opening.

        Raises:
            ConfigurationError: there is no such revision, or no longer.
        """
        with self._snapshot_lock:
            newest = self._store.meta().revision
            if self._snapshot is not None and self._snapshot.revision == (newest if revision is None else revision):
                return self._snapshot
            if revision is None or revision == newest:
                self._snapshot = self._read_snapshot(None)
                return self._snapshot
            past = next((kept for kept in self._in_use if kept.revision == revision), None)
            return past or self._read_snapshot(revision)

    def _read_snapshot(self, revision: int | None) -> KBSnapshot:
        for attempt in range(_ATTEMPTS):
            if revision is None:
                table, changes = read_changes(self._store, self._table)
                self._table, meta = table.changed(changes), changes.meta
                table = self._table
            else:
                table, meta = read_past(self._store, revision)
            try:
                snapshot = self._as_snapshot(table, meta)
            except FileNotFoundError as error:  # unless a compaction has just deleted it
                if attempt == _ATTEMPTS - 1 or self._store.meta().generation == meta.generation:
                    raise missing(error) from error
            else:
                break
        self._in_use.add(snapshot)
        return snapshot

    def _as_snapshot(self, table: SlotTable, meta: Meta) -> KBSnapshot:
        if meta.encoder_fingerprint is None or meta.embed_dim is None:  # nothing has been embedded yet
            encoder = self._embedder.encoder(meta)
            fingerprint, embed_dim = encoder.fingerprint, encoder.embed_dim
        else:
            fingerprint, embed_dim = meta.encoder_fingerprint, meta.embed_dim
        uid = f"{meta.kb_id}-{self._instance}-{meta.revision}"
        return KBSnapshot(self._store, meta, table, self._vocabularies, (fingerprint, embed_dim), self._values, uid)

    def _put(
        self,
        batch: list[Triple],
        action: str,
        *,
        progress: bool = False,
        only_value: bool = False,
        instead_of: Sequence[Selection] = (),
    ) -> AddResult:
        if not batch and not instead_of:
            return AddResult(0, 0, 0)
        self._store.check_writable()  # encoding may take hours
        drafts = None if self._store.path is None else Drafts(self._store.path)
        missing = self._missing(batch)
        encoded = self._encode(missing, drafts, progress=progress)
        telling = spinner(f"writing {len(batch):,} triples", progress)
        with telling, self._store.writing() as connection, roomy(connection, len(batch)):
            changes = self._changes(connection, action, encoded)
            if instead_of:
                remove_others(changes, connection, instead_of, batch)
            met = None if instead_of else missing.met
            result = changes.put(batch, beside_others=bool(changes.meta.multi) and not only_value, met=met)
            changes.finish()
        if drafts is not None and drafts.used:
            drafts.forget()
        return result

    def _missing(self, batch: list[Triple]) -> Missing:
        """Say what has to be embedded for a batch.

        The value of a single triple can wait for the next answer, if only it is for it that an encoder were loaded.
        """
        return missing_texts(self._store, batch, values=len(batch) > 1 or self._embedder.is_loaded)

    def _encode(self, missing: Missing, drafts: Drafts | None = None, *, progress: bool = False) -> EncodedTexts:
        """Embed what is new, before the lock: it takes long and other writers should not wait for it."""
        texts, properties = missing.texts, missing.properties
        return self._embedder.encode_all(self._store.meta(), texts, properties, drafts=drafts, progress=progress)

    def _changes(self, connection: Any, action: str, encoded: EncodedTexts) -> ChangeSet:
        changes = ChangeSet(self._store, connection, self._embedder, encoded, action)
        meta = changes.meta
        meta.multi = int(bool(meta.multi) or self._wants_multi)
        if len(encoded.embeddings) or meta.encoder_fingerprint is None:
            encoder = self._embedder.encoder(meta)  # checked again: another process may have been first
            record_encoder(meta, encoder.name, encoder.fingerprint, encoder.embed_dim)
        return changes
