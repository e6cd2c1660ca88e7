"""What keeps a knowledge base small, safe and sound."""

from __future__ import annotations

import os
import threading
import weakref

from kblam_engine.knowledge_base.loading import KBDocuments
from kblam_engine.knowledge_base.maintenance import backup, compact
from kblam_engine.knowledge_base.records import CompactResult, RepairResult
from kblam_engine.knowledge_base.repair import repair
from kblam_engine.knowledge_base.selection import LabelIndex
from kblam_engine.knowledge_base.slot_reading import check_keep_from
from kblam_engine.knowledge_base.snapshot import KBSnapshot
from kblam_engine.knowledge_base.values import ValueEmbeddings
from kblam_engine.knowledge_base.vocabulary import Vocabulary
from kblam_engine.triple_files import checked_path


class KBUpkeep(KBDocuments):
    """Compaction, backup and repair."""

    _snapshot_lock: threading.RLock
    _snapshot: KBSnapshot | None
    _in_use: weakref.WeakSet[KBSnapshot]
    _values: ValueEmbeddings
    _labels: LabelIndex
    _vocabularies: tuple[Vocabulary, Vocabulary]

    def compact(self, keep_from: int | None = None) -> CompactResult:
        """Give back the space of removed triples and drop their history; readers and other processes go on.

        Args:
            keep_from: the earliest revision that can still be read afterwards; default the newest, but what a
                snapshot taken here still shows is kept.

        Raises:
            ConfigurationError: there is no such revision.
            KnowledgeBaseError: embeddings are not as they were written; nothing is changed.
        """
        with self._snapshot_lock:
            if keep_from is not None:
                check_keep_from(self._store.meta(), keep_from)
            self._snapshot = None
            shown = [snapshot.revision for snapshot in self._in_use]
            oldest = min([*shown, self.revision if keep_from is None else keep_from])
            result = compact(self._store, oldest)
            self._values.forget()
        return result

    def backup(self, target: str | os.PathLike[str]) -> None:
        """Copy the knowledge base to a new folder, as of one revision, while others read and write it.

        Raises:
            KnowledgeBaseError: there is something at `target`, or embeddings are not as they were written.
            OSError: `target` cannot be written; nothing is left of it.
        """
        backup(self._store, checked_path("target", target, "a folder that does not exist yet"))

    def repair(self) -> RepairResult:
        """Make anew what is missing or wrong and follows from the triples: embeddings, words, labels and times.

        What triples say, their ids and history stay; where something was to be done it is one new revision. A file of
        embeddings that is another knowledge base's is renamed. Loads the encoder only if something has to be embedded.

        Raises:
            KnowledgeBaseError: the tables are too damaged to be read; nothing is changed.
            EncoderMismatchError: the encoder is not the one this was embedded by.
        """
        with self._snapshot_lock:
            done = repair(self._store, self._embedder)
            self._snapshot = None
            self._values.forget()
            self._labels = LabelIndex(self._store)
            self._vocabularies = Vocabulary(self._store, "names"), Vocabulary(self._store, "properties")
        return RepairResult(**done, left=self.verify())
