"""A damaged knowledge base: nothing is written over what is another's, and what follows from the triples is made anew."""

import os
import shutil
import sqlite3

import pytest
from kb_parts import ACME, CountingEncoder, assert_consistent, contents, edit, open_kb

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import KBLaMError, KnowledgeBaseError, ReadOnlyError
from kblam_engine.knowledge_base import RepairResult, problems_at
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Provenance

PAGE = Provenance("a page", "https://acme.example", (3, 9))
PLACED = [
    Triple("Acme", "founder", "Lena Hoffmann", provenance=PAGE, tags=("people", "checked")),
    Triple("Acme", "seat", "Berlin", {"page": 4}, namespace="sales", valid_from="2020", valid_to="2021"),
    Triple("Borealis", "founder", "Tomás Rivera", valid_from="2024-03"),
    Triple("Borealis", "seat", "Nuuk"),
]
NEW = Triple("New", "thing", "x")


@pytest.fixture
def folder(tmp_path):
    """A knowledge base with a history, that nobody has open."""
    with open_kb(tmp_path / "kb") as kb:
        kb.add(PLACED)
        kb.set("Borealis", "seat", "Ulm")
        kb.remove("Borealis", "founder")
        kb.snapshot().value_embeddings()
    return tmp_path / "kb"


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def another_file(folder):
    with open_kb(folder.with_name("other")) as other:
        other.add([Triple(f"name {i}", "property", f"value {i}") for i in range(200)])
    shutil.copy(folder.with_name("other") / "keys-000001.f16", folder)


SEGMENTS = {
    "another's": another_file,
    "of the values": lambda folder: shutil.copy(folder / "values-000001.f16", folder / "keys-000001.f16"),
    "a flipped header": lambda folder: flip(folder / "keys-000001.f16", 20),
    "a flipped embedding": lambda folder: flip(folder / "keys-000001.f16", 64 + 130),
    "flipped values": lambda folder: flip(folder / "values-000001.f16", 64 + 130),
    "cut": lambda folder: os.truncate(folder / "keys-000001.f16", 64 + 150),
    "cut values": lambda folder: os.truncate(folder / "values-000001.f16", 64 + 128),
    "empty": lambda folder: os.truncate(folder / "keys-000001.f16", 0),
    "missing": lambda folder: os.unlink(folder / "keys-000001.f16"),
    "both missing": lambda folder: [os.unlink(folder / f"{kind}-000001.f16") for kind in ("keys", "values")],
}
REFUSED = ["another's", "of the values", "a flipped header", "cut", "empty", "missing", "both missing"]


@pytest.mark.parametrize("how", REFUSED)
def test_nothing_is_added_behind_rows_that_are_not_there(folder, how):
    SEGMENTS[how](folder)
    before = {file.name: file.read_bytes() for file in folder.glob("*.f16")}
    with open_kb(folder) as kb:
        found = kb.verify()
        assert found
        with pytest.raises(KnowledgeBaseError, match=r"keys-000001.f16: .*; kblam kb verify --repair embeds again"):
            kb.add([NEW])
        assert kb.verify() == found and len(kb) == 3, "the diagnosis is the same"
    assert {file.name: file.read_bytes() for file in folder.glob("*.f16")} == before


def test_a_crash_while_a_segment_was_begun_hinders_nothing(tmp_path):
    for begun in (b"", b"KBLaM", bytes(64), bytes(100)):
        with open_kb(tmp_path / "kb") as kb:
            (tmp_path / "kb" / "keys-000001.f16").write_bytes(begun)
            kb.add(ACME)
            assert_consistent(kb.snapshot(), HashingEncoder())
            assert kb.verify() == []
        shutil.rmtree(tmp_path / "kb")


@pytest.mark.parametrize("how", SEGMENTS)
def test_embeddings_are_made_again(folder, how):
    with open_kb(folder) as kb:
        before = list(kb), kb.ids(), kb.info().fingerprint, contents(kb.snapshot(1))
    SEGMENTS[how](folder)
    with open_kb(folder) as reader, KnowledgeBase.open(folder, encoder=CountingEncoder()) as kb:
        assert all("kblam kb verify --repair" in line for line in kb.verify())
        done = kb.repair()
        assert done.left == [] and done.properties == done.labels == done.words == 0
        assert (done.keys + done.values > 0) == (how != "a flipped header"), "what the checksums vouch for is kept"
        assert kb.revision == 4 and kb.revisions(1)[0].action == "repair"
        assert (list(kb), kb.ids(), kb.info().fingerprint, contents(kb.snapshot(1))) == before
        for each in (kb.snapshot(), kb.snapshot(1), reader.snapshot()):
            assert_consistent(each, HashingEncoder())
        assert kb.repair() == RepairResult(0, 0, 0, 0, 0, []) and kb.revision == 4
        kb.add([NEW])
        kb.compact()
        assert_consistent(kb.snapshot(), HashingEncoder())
        assert kb.verify() == []


def test_another_s_file_is_kept_by_a_repair(folder):
    another_file(folder)
    foreign = (folder / "keys-000001.f16").read_bytes()
    with open_kb(folder) as kb:
        kb.repair()
        kb.compact()
    assert (folder / "keys-000001.f16.other").read_bytes() == foreign


ROWS = {
    "DELETE FROM labelled": "labels",
    "DELETE FROM validity": "labels",
    "UPDATE validity SET valid_from = 5": "labels",
    "UPDATE labels SET kind = 'bogus'": "labels",
    "UPDATE labels SET text = 'another' WHERE text = 'people'": "labels",
    "UPDATE triples SET namespace = 0": "labels",
    "UPDATE triples SET namespace = 7 WHERE id = 1": "labels",
    "INSERT INTO labelled SELECT id, 4 FROM labels": "labels",
    "INSERT INTO validity VALUES (4, 1, 2)": "labels",
    "UPDATE properties SET embedding = zeroblob(length(embedding))": "properties",
    "UPDATE properties SET embedding = x'00'": "properties",
    "UPDATE properties SET embedding = 'text'": "properties",
    "INSERT INTO words (words) VALUES ('delete-all')": "words",
    "DELETE FROM blocks": "keys",
    "UPDATE blocks SET segment = 'neither' WHERE segment = 'keys' AND start = 0": "keys",
    "UPDATE triples SET value_slot = 99999 WHERE id = 1": "values",
    "UPDATE triples SET value_slot = 'x' WHERE id = 1": "values",
    "UPDATE triples SET value_slot = 0": "values",
    "UPDATE triples SET slot = 99999 WHERE id = 1": "keys",
    "UPDATE triples SET slot = 'x' WHERE id = 3": "keys",
    "UPDATE triples SET slot = 0": "keys",
}


@pytest.mark.parametrize("statement", ROWS)
def test_what_follows_from_the_triples_is_found_and_made_again(folder, statement):
    edit(folder, statement)
    with open_kb(folder) as kb:
        assert kb.verify()
        done = kb.repair()
        assert done.left == [] and getattr(done, ROWS[statement]) > 0, done
        assert set(kb) == {PLACED[0], PLACED[1], Triple("Borealis", "seat", "Ulm")}
        assert_consistent(kb.snapshot(), HashingEncoder())
        view = kb.view(source="a page", tags="people")
        assert list(view) == [PLACED[0]] and [t.value for t in view.snapshot().triples([0])] == ["Lena Hoffmann"]
        assert list(kb.view(namespace="sales", at="2020-05")) == [PLACED[1]] and not kb.view(namespace="sales", at="2022").ids()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE triples SET added = 99 WHERE id = 1",
        "UPDATE triples SET added = 'x' WHERE id = 1",
        "UPDATE triples SET removed = 77 WHERE id = 3",
        "UPDATE triples SET removed = 2 WHERE id = 3",
        "UPDATE triples SET removed = NULL WHERE id = 3",
        "UPDATE triples SET value = 'forged' WHERE id = 3",
        "DELETE FROM triples WHERE id = 3",
        "UPDATE revisions SET added = 7 WHERE revision = 2",
        "UPDATE revisions SET removed = 'x' WHERE revision = 2",
        "UPDATE revisions SET n_triples = 7 WHERE revision = 2",
        "UPDATE revisions SET digest = 'zz' WHERE revision = 2",
        "UPDATE revisions SET digest = '17' WHERE revision = 3",
        "DELETE FROM revisions WHERE revision = 2",
        "DELETE FROM revisions WHERE revision = 1",
        "DELETE FROM revisions",
        "UPDATE sqlite_sequence SET seq = 2 WHERE name = 'triples'",
        "UPDATE meta SET value = 3 WHERE key = 'oldest_revision'",
        "DELETE FROM names WHERE text = 'Acme'",
        "DELETE FROM properties WHERE text = 'founder'",
    ],
)
def test_what_contradicts_the_record_is_found(folder, statement):
    edit(folder, statement)
    with open_kb(folder) as kb:
        found = kb.verify()
        assert found and not any("kblam kb verify tells" in line for line in found), found


def test_a_sound_knowledge_base_stays_so_whatever_is_done(tmp_path):
    with open_kb(tmp_path / "kb", multi=True) as kb:
        kb.add(PLACED)
        kb.add([Triple("Acme", "seat", "Bonn", namespace="sales", tags=("new",)), PLACED[3], PLACED[3]])
        kb.replace(1, Triple("Acme", "founder", "Lena"))
        kb.rollback(1)
        kb.merge("Acme", "Borealis")
        kb.compact(keep_from=3)
        assert kb.verify() == []
        kb.rollback(3)
        kb.remove("Acme")
        assert kb.verify() == []
        kb.compact()
        kb.add(PLACED)
        assert kb.verify() == [] and kb.repair() == RepairResult(0, 0, 0, 0, 0, [])


def test_a_repair_does_not_vouch_for_what_was_forged(folder):
    edit(folder, "UPDATE triples SET value = 'forged' WHERE id = 1")
    with open_kb(folder) as kb:
        left = kb.repair().left
        assert any("digest" in line for line in left) and "left" in kb.repair().to_dict()


def test_a_repair_of_what_cannot_be_written_or_is_a_part(folder):
    with open_kb(folder, read_only=True) as kb, pytest.raises(ReadOnlyError):
        kb.repair()
    with open_kb(folder) as kb, pytest.raises(ReadOnlyError, match="is a view"):
        kb.view(namespace="sales").repair()


def test_in_memory_there_is_little_to_repair():
    with open_kb(":memory:") as kb:
        kb.add(PLACED)
        with kb._store.writing() as connection:
            connection.execute("DELETE FROM labelled")
            connection.execute("UPDATE triples SET slot = 77 WHERE id = 1")
        assert kb.repair() == RepairResult(1, 0, 0, 2, 0, [])
        assert_consistent(kb.snapshot(), HashingEncoder())


@pytest.mark.parametrize("how", ["a flipped embedding", "flipped values", "cut", "missing", "another's"])
def test_damage_is_not_backed_up(folder, how):
    SEGMENTS[how](folder)
    with open_kb(folder) as kb, pytest.raises(KnowledgeBaseError, match="kblam kb verify --repair embeds again"):
        kb.backup(folder.with_name("copy"))
    assert not folder.with_name("copy").exists() and not list(folder.parent.glob("*.part"))


# Errors that say what is true


@pytest.mark.parametrize("value", [b"\x00\xff", "UPDATE"])
def test_verify_does_not_advise_to_verify(folder, value):
    edit(folder, "UPDATE meta SET value = ? WHERE key = 'n_triples'", value)
    with pytest.raises(KnowledgeBaseError, match="kblam kb verify tells what is wrong; restore it from a backup"):
        open_kb(folder)
    (line,) = problems_at(folder)
    assert line.startswith(f"{folder}: damaged: n_triples of its record") and "kb verify" not in line


def test_problems_of_a_folder(folder, tmp_path):
    assert problems_at(folder, encoder=HashingEncoder()) == []
    with pytest.raises(FileNotFoundError):
        problems_at(tmp_path / "none")
    (folder / "kb.sqlite").write_bytes(b"no database" * 1_000)
    (line,) = problems_at(folder)
    assert "damaged, or not a knowledge base" in line and "kb verify" not in line


def test_an_encoder_that_is_not_here_is_no_damage(folder):
    with sqlite3.connect(folder / "kb.sqlite") as connection:
        connection.execute("UPDATE meta SET value = 'of somebody' WHERE key = 'encoder_name'")
    connection.close()
    assert problems_at(folder) == []
    with KnowledgeBase.open(folder) as kb:
        with pytest.raises(KBLaMError):
            kb.search("seat")


def test_a_triple_without_its_name_can_be_taken_out(folder):
    edit(folder, "DELETE FROM names WHERE text = 'Borealis'")
    with open_kb(folder) as kb:
        for read in (lambda: list(kb), lambda: kb.triple(5)):
            with pytest.raises(KnowledgeBaseError, match="row with id 5, .* remove it .*kblam kb remove --id 5"):
                read()
        with pytest.raises(KnowledgeBaseError, match="damaged: a triple has no name"):
            kb.stats()
        assert kb.remove(ids=[5]) == 1 and list(kb) == PLACED[:2]


def test_an_id_that_never_was_is_not_blamed_on_a_compaction(folder):
    with open_kb(folder) as kb:
        with pytest.raises(KnowledgeBaseError, match="got 99, and there has been none with it"):
            kb.triple(99)
        kb.compact()
        with pytest.raises(KnowledgeBaseError, match="got 3: there was one, and a compaction has dropped it"):
            kb.triple(3)


@pytest.mark.parametrize(
    ("statement", "use"),
    [
        ("UPDATE triples SET slot = 99999 WHERE id = 1", lambda kb: kb.compact()),
        ("UPDATE triples SET value_slot = 'x' WHERE id = 1", lambda kb: kb.compact()),
        ("UPDATE revisions SET action = x'00ff' WHERE revision = 2", lambda kb: kb.revisions()),
        ("UPDATE revisions SET n_triples = 'many' WHERE revision = 2", lambda kb: kb.revisions()),
        ("UPDATE triples SET added = 'x' WHERE id = 1", lambda kb: kb.history("Acme")),
        ("DELETE FROM properties WHERE text = 'founder'", lambda kb: kb.stats()),
        ("UPDATE names SET text = x'00ff' WHERE text = 'Acme'", lambda kb: kb.stats()),
    ],
)
def test_damaged_rows_are_errors_of_this_package(folder, statement, use):
    edit(folder, statement)
    with open_kb(folder) as kb:
        before = list(kb.ids())
        with pytest.raises(KnowledgeBaseError, match="damaged: "):
            use(kb)
        assert kb.ids() == before
