"""A knowledge base from a stranger: links, pipes and journals that lead out of its folder, other formats, edited rows."""

import os
import sqlite3
import struct

import pytest
from kb_parts import ACME, CountingEncoder, open_kb

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import KnowledgeBaseError, KnowledgeBaseLockedError
from kblam_engine.knowledge_base.drafts import FILE

PRECIOUS = b"precious" * 1_000


@pytest.fixture
def folder(tmp_path):
    """A knowledge base that nobody has open, in files that are all there."""
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
    return tmp_path / "kb"


@pytest.fixture
def outside(tmp_path):
    file = tmp_path / "outside"
    file.write_bytes(PRECIOUS)
    yield file
    assert file.read_bytes() == PRECIOUS, "whatever was done, this file is as it was"


def use_all(path, **options):
    """Read, write and look after a knowledge base."""
    with open_kb(path, **options) as kb:
        list(kb)
        kb.snapshot().value_embeddings()
        kb.add([Triple("New", "thing", "x")])
        kb.verify()
        kb.compact()


@pytest.mark.parametrize("name", ["kb.sqlite-wal", "kb.sqlite-shm", "kb.sqlite-journal", "writer"])
@pytest.mark.parametrize("there", [True, False], ids=["a file", "nothing"])
def test_a_link_in_the_place_of_a_file_is_refused(folder, outside, name, there):
    target = outside if there else outside.with_name("not there")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    with pytest.raises(KnowledgeBaseError, match=f"{name}: expected a file, got a link; copy what it points to here"):
        use_all(folder)
    assert target.exists() == there, "nothing is made at the other end"


def test_a_linked_database_is_neither_written_nor_read(folder, tmp_path):
    with open_kb(tmp_path / "other") as other:
        other.add([Triple("secret", "thing", "x")])
    database = tmp_path / "other" / "kb.sqlite"
    before = database.read_bytes()
    (folder / "kb.sqlite").unlink()
    (folder / "kb.sqlite").symlink_to(database)
    for options in ({}, {"read_only": True}):
        with pytest.raises(KnowledgeBaseError, match="kb.sqlite: expected a file, got a link"):
            use_all(folder, **options)
    assert database.read_bytes() == before


def test_a_refused_link_leaves_no_change_and_no_lock(folder, outside):
    with open_kb(folder) as kb:
        (folder / "writer").unlink()
        (folder / "writer").symlink_to(outside)
        with pytest.raises(KnowledgeBaseError, match="writer: expected a file, got a link"):
            kb.add([Triple("New", "thing", "x")])
        assert list(kb) == ACME
        (folder / "writer").unlink()
        kb.add([Triple("New", "thing", "x")])
        assert len(kb) == 4 and kb.verify() == []


def test_what_a_linked_file_says_is_not_told(folder, tmp_path):
    """A second writer's error names the first; a link would put another file's text there."""
    (tmp_path / "secret").write_text("password")
    with open_kb(folder) as one, open_kb(folder, timeout=0.1) as two, one._store.writing():
        (folder / "writer").unlink()
        (folder / "writer").symlink_to(tmp_path / "secret")
        with pytest.raises(KnowledgeBaseLockedError, match="another process has been writing for 0.1 s"):
            two.add([Triple("New", "thing", "x")])
        (folder / "writer").unlink()
        (folder / "writer").write_text("\x1b[2J of this terminal")
        with pytest.raises(KnowledgeBaseLockedError, match="another process has been writing for 0.1 s"):
            two.add([Triple("New", "thing", "x")])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["kb.sqlite-wal", "writer", "keys-000001.f16"])
def test_a_pipe_does_not_hang(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(KnowledgeBaseError, match=f"{name}: expected a file, got a device or pipe"):
        use_all(folder)


def test_a_folder_in_the_place_of_a_file_is_refused(folder):
    (folder / "kb.sqlite-wal").mkdir()
    with pytest.raises(KnowledgeBaseError, match="kb.sqlite-wal: expected a file, got a folder"):
        use_all(folder)


def test_a_journal_that_names_another_file_deletes_nothing(folder, outside):
    """SQLite deletes the file that such a journal names, once it has looked into it: no knowledge base has one."""
    magic, name = bytes.fromhex("d9d505f920a163d7"), str(outside).encode()
    head = (magic + struct.pack(">5I", 0, 0, (folder / "kb.sqlite").stat().st_size // 4096, 512, 4096)).ljust(512, b"\0")
    tail = struct.pack(">I", 0x40000000 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name)) + magic
    (folder / "kb.sqlite-journal").write_bytes(head + tail)
    with pytest.raises(KnowledgeBaseError, match="kb.sqlite-journal: .* one that names another file; delete it if"):
        use_all(folder)
    assert outside.exists()
    (folder / "kb.sqlite-journal").unlink()
    use_all(folder)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_drafts_follow_no_link_of_any_kind(folder, outside, suffix, monkeypatch):
    monkeypatch.setattr("kblam_engine.knowledge_base.embedder._KEEP_EVERY", 0.0)
    if suffix:
        sqlite3.connect(folder / FILE).close()
    (folder / (FILE + suffix)).symlink_to(outside)
    encoder = CountingEncoder()
    with KnowledgeBase.open(folder, encoder=encoder) as kb:
        kb.add([Triple(f"name {i}", "property", f"value {i}") for i in range(5)])
        assert len(encoder.texts) == 11 and len(kb) == 8 and kb.verify() == []


def test_no_file_of_a_backup_follows_a_link(folder, outside):
    with open_kb(folder) as kb:
        (folder / "values-000001.f16").unlink()
        (folder / "values-000001.f16").symlink_to(outside)
        with pytest.raises(KnowledgeBaseError, match="values-000001.f16: expected a file, got a link"):
            kb.backup(folder.with_name("copy"))
    assert not folder.with_name("copy").exists()
    assert not [name for name in os.listdir(folder.parent) if name.endswith(".part")]
