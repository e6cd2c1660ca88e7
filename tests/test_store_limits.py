"""The store at its edges: words that are everywhere, numbers without end, a writer at work, a disk without room."""

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from kb_parts import ACME, CountingEncoder, kb_fixture, open_kb  # noqa: F401

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import (
    ConfigurationError,
    KnowledgeBaseError,
    KnowledgeBaseLockedError,
    ReadOnlyError,
)
from kblam_engine.knowledge_base import slot_reading
from kblam_engine.knowledge_base import words as words_module
from kblam_engine.knowledge_base.connections import translated_errors
from kblam_engine.knowledge_base.row_checks import bad_revisions

NEW = Triple("New", "thing", "x")

# Words


def test_a_name_is_found_behind_thousands_of_values(kb):
    kb.add([Triple(f"car {i}", "colour", "red") for i in range(2_600)])
    kb.add([Triple("red", "wavelength", "700 nm"), Triple("paint", "red", "one of many reds"), Triple("blue", "is not", "red")])
    best = kb.find("red", k=2)
    assert [hit.triple.name for hit in best] == ["red", "paint"] and best[0].score > best[1].score
    assert [hit.triple.name for hit in kb.find("red wavelength", k=1)] == ["red"]
    assert len(kb.find("red", k=2_603)) == len({hit.id for hit in kb.find("red", k=5_000)}) == 2_603, "all that are asked for"
    assert len(kb.view(namespace="none").find("red")) == 0


def test_few_matches_are_ordered_as_one(kb, monkeypatch):
    kb.add([Triple(f"car {i % 9} red", "colour", "red" * (i % 2) or "blue") for i in range(30)])
    before = kb.find('car "3 red"'), kb.find("red*")
    monkeypatch.setattr(words_module, "_BETTER", ())
    assert (kb.find('car "3 red"'), kb.find("red*")) == before


# Ids and revisions


def test_replace_tells_the_id_of_what_it_put(tmp_path):
    with open_kb(tmp_path / "kb", multi=True) as kb:
        kb.add([Triple("Acme", "seat", place) for place in ("Berlin", "Bonn", "Ulm")])
        first, second, third = kb.ids()
        new = kb.replace(second, Triple("Acme", "seat", "Kiel"))
        assert kb.triple(new).value == "Kiel"
        assert kb.replace(third, Triple("Acme", "seat", "Berlin")) == first, "it is there already"
        assert kb.triple(kb.replace(first, Triple("Acme", "seat", "Berlin", {"page": 3}))).metadata == {"page": 3}
        assert sorted(t.value for t in kb) == ["Berlin", "Kiel"]


def test_metadata_hides_no_field_of_a_version(kb):
    (row_id,) = (kb.add([Triple("A", "p", "v", {"id": "77", "added": "x", "note": 1})]), kb.ids())[1]
    version = kb.history("A")[0].to_dict()
    assert (version["id"], version["added"]) == (row_id, 1)
    assert version["metadata"] == {"id": "77", "added": "x", "note": 1} and "note" not in version
    kb.add([Triple("A", "q", "v", {"note": 1})])
    assert kb.history("A", "q")[0].to_dict()["note"] == 1


@pytest.mark.parametrize("revision", [99_999_999, -1, 2**70, "a", True, 1.0])
def test_a_revision_that_is_none_is_not_compacted_to(kb, revision):
    kb.add(ACME)
    kb.set("Acme", "seat", "Bonn")
    with pytest.raises(ConfigurationError, match=r"expected a revision in 0\.\.2"):
        kb.compact(keep_from=revision)
    assert len(kb.history("Acme", "seat")) == 2 and kb.compact(keep_from=0).n_dropped == 0


@pytest.mark.parametrize(
    "use",
    [
        lambda kb: kb.remove(ids=[2**70]),
        lambda kb: kb.remove(ids=[-(2**70)]),
        lambda kb: kb.replace(2**70, NEW),
        lambda kb: kb.triple(2**70),
        lambda kb: kb.triples([1, 2**70]),
        lambda kb: kb.revisions(2**70),
        lambda kb: kb.find("Acme", k=2**70),
        lambda kb: kb.stats(2**70),
        lambda kb: kb.rollback(2**70),
        lambda kb: kb.diff(2**70),
        lambda kb: kb.snapshot(2**70),
        lambda kb: kb.revisions(-1),
        lambda kb: kb.revisions("3"),
        lambda kb: kb.find(None),
        lambda kb: kb.find("Acme", k="3"),
        lambda kb: kb.search(None),
        lambda kb: kb.search("Acme", k=None),
        lambda kb: kb.get(5, 6),
        lambda kb: kb.remove(5),
        lambda kb: kb.history(5),
        lambda kb: kb.view(tags=5),
        lambda kb: kb.remove(ids=5),
        lambda kb: kb.replace("1", NEW),
    ],
)
def test_what_is_no_number_or_text_is_refused(kb, use):
    kb.add(ACME)
    with pytest.raises(ConfigurationError, match="expected"):
        use(kb)
    assert list(kb) == ACME and kb.revision == 1


# Writers


def test_opening_and_checking_wait_for_no_writer(tmp_path):
    with open_kb(tmp_path / "kb") as one:
        one.add(ACME)
        with one._store.writing(), open_kb(tmp_path / "kb", timeout=0.1) as two:
            assert list(two) == ACME and two.verify() == []
            with pytest.raises(KnowledgeBaseLockedError):
                two.add([NEW])
        assert one.verify() == []


def test_nothing_is_encoded_for_a_knowledge_base_that_cannot_be_written(tmp_path):
    open_kb(tmp_path / "kb").close()
    encoder = CountingEncoder()
    with KnowledgeBase.open(tmp_path / "kb", encoder=encoder, read_only=True) as kb:
        for change in (lambda: kb.add([NEW]), lambda: kb.replace(1, NEW), lambda: kb.set("a", "b", "c")):
            with pytest.raises(ReadOnlyError):
                change()
    assert encoder.texts == []


# A disk without room

LIMITED = """
    import resource, signal, sys
    from kblam_engine import KnowledgeBase, Triple
    from kblam_engine.sentence_encoder import HashingEncoder
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    try:
        kb = KnowledgeBase.open(sys.argv[1], encoder=HashingEncoder())
        print(kb.read_only, len(list(kb)), len(kb.snapshot().key_embeddings), len(kb.find("acme")), len(kb.verify()))
        kb.add([Triple(f"name {i}", "property", f"value {i}") for i in range(3_000)])
    except Exception as error:
        print(type(error).__name__, error)
"""


def limited(path, room):
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(path), str(room)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_knowledge_base_on_a_full_disk_can_be_read(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
    for _ in range(2):  # what the first leaves does not hinder the second
        told, refused = limited(tmp_path / "kb", 0)
        assert told == "True 3 3 2 0"
        assert refused.startswith("ReadOnlyError") and "there was no room for the files of SQLite; make room" in refused
    with open_kb(tmp_path / "kb") as kb:
        assert kb.add([NEW]).added == 1 and kb.verify() == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_log_on_a_full_disk_is_not_passed_over(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
        shutil.copytree(tmp_path / "kb", tmp_path / "copy", ignore=shutil.ignore_patterns("*-shm"))
    assert (tmp_path / "copy" / "kb.sqlite-wal").stat().st_size
    (told,) = limited(tmp_path / "copy", 0)
    assert "No space left" in told or "is the disk full" in told, "what it holds would be missing"
    with open_kb(tmp_path / "copy") as kb:
        assert list(kb) == ACME


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_failed_change_gives_its_room_back(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
        sizes = {kind: os.path.getsize(tmp_path / "kb" / f"{kind}-000001.f16") for kind in ("keys", "values")}
        assert limited(tmp_path / "kb", 400_000)[0] == "False 3 3 2 0"
        for kind, size in sizes.items():
            assert os.path.getsize(tmp_path / "kb" / f"{kind}-000001.f16") == size
        assert list(kb) == ACME and kb.verify() == []


def test_a_failed_compaction_leaves_no_segment(tmp_path, monkeypatch):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
        kb.remove("Borealis")
        before = sorted(os.listdir(tmp_path / "kb"))
        with monkeypatch.context() as patch:
            patch.setattr("kblam_engine.knowledge_base.maintenance._move", None)
            with pytest.raises(TypeError):
                kb.compact()
        assert sorted(os.listdir(tmp_path / "kb")) == before and kb.verify() == []
        assert kb.compact().n_dropped == 1 and kb.verify() == []


def test_a_backup_without_room_names_its_target(tmp_path, monkeypatch):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
        with monkeypatch.context() as patch:
            patch.setattr("kblam_engine.knowledge_base.segments.os.fsync", full)
            with pytest.raises(OSError, match="No space left") as caught:
                kb.backup(tmp_path / "copy")
        assert caught.value.filename == str(tmp_path / "copy")


def full(_):
    raise OSError(28, os.strerror(28))


def test_an_error_of_sqlite_that_is_no_text_is_translated():
    with pytest.raises(KnowledgeBaseError, match="damaged, or not a knowledge base"):
        with translated_errors("kb"):
            b"\xe4".decode()


def test_records_without_numbers_are_found_and_refused():
    """Flipped bits make a table of what SQLite itself would not write there; here a table without types does."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript("""
            CREATE TABLE triples (id INTEGER PRIMARY KEY AUTOINCREMENT, added, removed, name_id, property_id, value, metadata, context);
            CREATE TABLE names (id, text); CREATE TABLE properties (id, text);
            CREATE TABLE revisions (revision, added, removed, n_triples, digest);
            INSERT INTO names VALUES ('x', 'Acme'); INSERT INTO triples (added, name_id) VALUES (1, 'x');
            INSERT INTO revisions VALUES (NULL, 1, 0, 1, '1');
        """)
        meta = SimpleNamespace(n_triples=1, digest="1", revision=1, oldest_revision=0, n_slots=1)
        assert "revisions: some on record have no number" in list(bad_revisions(connection, meta))
        rows = np.ones((1, 4), np.int64)
        with pytest.raises(KnowledgeBaseError, match="a name or property has no number"):
            slot_reading._check_rows(connection, meta, rows, rows[:0])
