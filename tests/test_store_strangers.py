"""A knowledge base from a stranger: links, pipes and journals that lead out of its folder, other formats, edited rows."""

import os
import random
import shutil
import sqlite3
import struct

import pytest
from kb_parts import ACME, CountingEncoder, edit, open_kb

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import KBLaMError, KnowledgeBaseError, KnowledgeBaseLockedError
from kblam_engine.knowledge_base.drafts import FILE
from kblam_engine.triples import Provenance

PRECIOUS = b"precious" * 1_000
FLIPS = int(os.environ.get("KBLAM_FLIPS", "40"))
"""How many damaged databases are tried; KBLAM_FLIPS=1000 for the long run."""


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


# Versions


def with_version(folder, version):
    with sqlite3.connect(folder / "kb.sqlite") as connection:
        if version is None:
            connection.execute("DELETE FROM meta WHERE key = 'schema_version'")
        else:
            connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (version,))
    connection.close()


@pytest.mark.parametrize("version", [0, -1, None, "2", "two", 2.0, 1.5, b"\x02", 3, 10**12])
def test_only_known_formats_are_opened(folder, version):
    with_version(folder, version)
    before = (folder / "kb.sqlite").read_bytes()
    newer = isinstance(version, int) and version > 2
    remedy = "open it with the version of kblam-engine that wrote it" if newer else "restore it from a backup or an export"
    for options in ({}, {"read_only": True}):
        with pytest.raises(KnowledgeBaseError) as caught:
            open_kb(folder, **options)
        assert str(caught.value) == f"{folder}: expected a knowledge base of format 2, got {version!r}; {remedy}"
    assert (folder / "kb.sqlite").read_bytes() == before, "nothing is migrated"


def test_what_only_claims_to_be_of_the_first_format_is_left_as_it_was(folder):
    with_version(folder, 1)
    with pytest.raises(KnowledgeBaseError, match="damaged, or not a knowledge base .*duplicate column"):
        open_kb(folder)
    with_version(folder, 2)
    with open_kb(folder) as kb:
        assert list(kb) == ACME and kb.verify() == []


# Edited and damaged rows


@pytest.mark.parametrize(
    ("column", "content"),
    [
        ("metadata", '{"source": "regis'),
        ("metadata", "[1, 2]"),
        ("metadata", "[" * 100_000),
        ("context", "{"),
        ("context", "[]7"),
        ("context", '{"nonsense": 1}'),
        ("context", '{"provenance": {"span": [5, 1]}}'),
        ("context", '{"tags": 5}'),
        ("value", b"\xff\xfe bytes"),
        ("value", ""),
    ],
)
def test_a_row_that_is_no_triple_is_named(folder, column, content):
    edit(folder, f"UPDATE triples SET {column} = ? WHERE id = 2", content)
    with open_kb(folder) as kb:
        for read in (lambda: list(kb), lambda: kb.get("Acme", "seat"), lambda: kb.history("Acme"), lambda: kb.triple(2)):
            with pytest.raises(KnowledgeBaseError, match="row with id 2, .* restore a backup, or remove it .* --id 2") as caught:
                read()
            assert str(caught.value).startswith(f"{folder}: ")
        assert any(line.startswith("triples: 2 cannot be read: ") for line in kb.verify())
        assert kb.get("Acme", "founder") == ACME[0], "the others can be read"
        assert kb.remove(ids=[2]) == 1 and list(kb) == [ACME[0], ACME[2]], "what the error says to do works"


def test_a_text_that_is_no_utf_8_is_found(folder):
    edit(folder, "UPDATE triples SET value = CAST(x'6cff6d' AS TEXT) WHERE id = 1")
    with open_kb(folder) as kb:
        with pytest.raises(KnowledgeBaseError, match="Could not decode .*kblam kb verify tells what is wrong"):
            list(kb)
        assert any(line.startswith("triples: 1 cannot be read: ") for line in kb.verify())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE triples SET slot = 99 WHERE id = 1",
        "UPDATE triples SET slot = 'x' WHERE id = 1",
        "UPDATE triples SET slot = -1 WHERE id = 1",
        "UPDATE triples SET name_id = 1099511627776 WHERE id = 1",
        "UPDATE triples SET property_id = 0 WHERE id = 1",
        "UPDATE triples SET value_slot = 77 WHERE id = 1",
        "UPDATE names SET text = x'00ff' WHERE id = 1",
        "UPDATE properties SET embedding = x'00' WHERE id = 1",
        "UPDATE meta SET value = 1099511627776 WHERE key = 'n_slots'",
        "UPDATE meta SET value = 2000000000 WHERE key = 'n_slots'",
        "UPDATE meta SET value = 'many' WHERE key = 'n_triples'",
        "UPDATE meta SET value = 'no digest' WHERE key = 'digest'",
        "UPDATE meta SET value = NULL WHERE key = 'embed_dim'",
        "UPDATE meta SET value = 0 WHERE key = 'embed_dim'",
        "DELETE FROM sqlite_sequence",
        "DROP TABLE names",
    ],
)
def test_numbers_that_lead_nowhere_are_refused(folder, statement):
    """No index error, no gigabytes of memory: what is read is checked before it is a place in an array."""
    edit(folder, statement)
    with pytest.raises(KnowledgeBaseError, match=r"kb: (damaged|expected)"), open_kb(folder) as kb:
        snapshot = kb.snapshot()
        snapshot.names, snapshot.property_embeddings, snapshot.value_embeddings()  # noqa: B018


def test_verify_goes_on_where_one_check_cannot(folder):
    edit(folder, "DROP TABLE labels")
    edit(folder, "UPDATE triples SET metadata = '{' WHERE id = 2")
    with open_kb(folder) as kb:
        found = kb.verify()
        assert any("no such table: labels" in line for line in found)
        assert any(line.startswith("triples: 2 cannot be read") for line in found)
        assert any(line.startswith("contents: expected digest") for line in found)


def test_verify_checks_the_words_of_a_knowledge_base_that_cannot_be_written(folder):
    with open_kb(folder, read_only=True) as kb:
        assert kb.verify() == []
    edit(folder, "UPDATE names SET text = 'Bcme' WHERE text = 'Acme'")
    before = sorted(os.listdir(folder)), (folder / "kb.sqlite").read_bytes()
    with open_kb(folder, read_only=True) as kb:
        assert any(line.startswith("words: the full-text index does not agree") for line in kb.verify())
    assert (folder / "kb.sqlite").read_bytes() == before[1], "in a copy"


USES = {
    "verify": lambda kb, folder: kb.verify(),
    "list": lambda kb, folder: list(kb),
    "names": lambda kb, folder: (kb.snapshot().names, kb.snapshot().property_embeddings),
    "arrays": lambda kb, folder: (kb.snapshot().key_embeddings, kb.snapshot().value_embeddings()),
    "find": lambda kb, folder: kb.find("value"),
    "history": lambda kb, folder: (kb.history("name 4"), kb.revisions(), kb.diff(1)),
    "past": lambda kb, folder: kb.snapshot(1).triples([0]),
    "view": lambda kb, folder: kb.view(namespace="sales", tags="t1", at="2020-05").snapshot().ids,
    "stats": lambda kb, folder: (kb.stats(), kb.info(), kb.documents()),
    "add": lambda kb, folder: kb.add([Triple("new", "thing", "x"), Triple("name 5", "property 1", "y")]),
    "remove": lambda kb, folder: kb.remove("name 7"),
    "rollback": lambda kb, folder: kb.rollback(1),
    "backup": lambda kb, folder: kb.backup(folder.with_name("copy")),
    "compact": lambda kb, folder: kb.compact(),
}


def test_flipped_bytes_of_the_database_are_errors_of_this_package(tmp_path):
    """Anywhere in the file: what is damaged is said, or was not touched; nothing else ever comes out."""
    original, path, rng = tmp_path / "original", tmp_path / "kb", random.Random(8)
    with open_kb(original) as kb:
        for i in range(2):
            page = Provenance("a page", "https://acme.example", (i, i + 9))
            kb.add([
                Triple(f"name {j}", f"property {j % 3}", f"value {i} {j}", {"page": j}, page, "sales" if j % 2 else "",
                       (f"t{j % 3}",), "2020", "2021")
                for j in range(12)
            ])
        kb.remove("name 3")
    data = (original / "kb.sqlite").read_bytes()
    written = [place for place, byte in enumerate(data) if byte]
    n_noticed = 0
    for _ in range(FLIPS):
        shutil.copytree(original, path)
        place, bit = rng.choice(written), 1 << rng.randrange(8)
        (path / "kb.sqlite").write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        try:
            with open_kb(path) as kb:
                for use, call in USES.items():
                    try:
                        n_noticed += bool(call(kb, path)) if use == "verify" else 0
                    except KBLaMError:
                        assert use != "verify", "it lists what is wrong"
        except KBLaMError:
            n_noticed += 1
        except BaseException as error:
            error.add_note(f"bit {bit} of byte {place} was flipped; {use}")
            raise
        for folder in (path, path.with_name("copy")):
            shutil.rmtree(folder, ignore_errors=True)
    assert n_noticed >= FLIPS // 2
