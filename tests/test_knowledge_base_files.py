"""The knowledge base across reopening, processes, crashes and encoders; what a change costs."""

import errno
import os
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from kb_parts import ACME, CountingEncoder, assert_consistent, contents, kb_fixture, open_kb  # noqa: F401

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import (
    EncoderMismatchError,
    ImportFileError,
    KnowledgeBaseError,
    KnowledgeBaseNotFoundError,
)
from kblam_engine.knowledge_base import AddResult
from kblam_engine.knowledge_base import segments as segments_module
from kblam_engine.knowledge_base.schema import Meta
from kblam_engine.knowledge_base.segments import FileSegment
from kblam_engine.knowledge_base.slot_reading import read_changes
from kblam_engine.knowledge_base.slots import Changes, SlotTable
from kblam_engine.sentence_encoder import HashingEncoder


def test_reopen_gives_the_same_snapshot(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
        kb.remove("Acme", "founder")
        first = kb.snapshot()
        keys = first.key_embeddings.copy()
        kb_id = first.kb_id
    with open_kb(tmp_path / "kb", create=False) as kb:
        second = kb.snapshot()
        assert (second.kb_id, second.fingerprint, second.revision) == (kb_id, first.fingerprint, 2)
        assert second.ids.tolist() == first.ids.tolist() and second.uid != first.uid
        np.testing.assert_array_equal(second.key_embeddings, keys)
        assert kb.verify() == []


def test_reopening_loads_no_encoder(tmp_path, monkeypatch):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
    monkeypatch.setattr("kblam_engine.sentence_encoder.load_sentence_encoder", None)
    with KnowledgeBase.open(tmp_path / "kb") as kb:
        assert contents(kb.snapshot()) == sorted(ACME, key=lambda t: (t.name, t.property))
        kb.set("Acme", "seat", "Bonn")
        assert kb.remove("Borealis") == 1 and kb.snapshot().embed_dim == 64


def test_reopening_finds_the_encoder_by_its_name(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
    with KnowledgeBase.open(tmp_path / "kb") as kb:
        kb.add([Triple("Acme", "motto", "onwards")])
        assert_consistent(kb.snapshot(), HashingEncoder())


@pytest.mark.parametrize("other", [HashingEncoder(32), "hashing-32"])
def test_another_encoder_is_refused(tmp_path, other):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
    with pytest.raises(EncoderMismatchError, match=r"expected .* hashing .*, got hashing-32"):
        KnowledgeBase.open(tmp_path / "kb", encoder=other)


def test_another_encoder_is_refused_when_two_open_an_empty_one(tmp_path):
    with open_kb(tmp_path / "kb") as first, KnowledgeBase.open(tmp_path / "kb", encoder=HashingEncoder(32)) as second:
        first.add(ACME)
        with pytest.raises(EncoderMismatchError):
            second.add([Triple("a", "b", "c")])
        assert len(second) == 3


def test_a_broken_encoder_adds_nothing(tmp_path):
    class NaNEncoder(HashingEncoder):
        def encode(self, texts, *, progress=False):
            return super().encode(texts) * np.nan

    with KnowledgeBase.open(tmp_path / "kb", encoder=NaNEncoder()) as kb:
        with pytest.raises(KnowledgeBaseError, match="expected finite embeddings"):
            kb.add(ACME)
        assert len(kb) == 0


def test_opening_what_is_not_there(tmp_path):
    with pytest.raises(KnowledgeBaseNotFoundError, match="no knowledge base there"):
        KnowledgeBase.open(tmp_path / "missing", create=False)
    assert not (tmp_path / "missing").exists()
    (tmp_path / "kb.jsonl").write_text("{}")
    with pytest.raises(KnowledgeBaseError, match="kblam kb import"):
        KnowledgeBase.open(tmp_path / "kb.jsonl")
    with pytest.raises(KnowledgeBaseError, match="folder of other files"):
        KnowledgeBase.open(tmp_path)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "kb.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(KnowledgeBaseError, match="damaged, or not a knowledge base"):
        KnowledgeBase.open(tmp_path / "damaged")


def test_a_newer_format_is_refused(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        with kb._store.writing() as connection:
            connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema_version'")
    with pytest.raises(KnowledgeBaseError, match="expected a knowledge base of format 2, got 99"):
        open_kb(tmp_path / "kb")


def test_use_after_close_says_so(tmp_path):
    kb = open_kb(tmp_path / "kb")
    kb.add(ACME)
    kb.close()
    for call in (kb.snapshot, lambda: kb.add(ACME), lambda: list(kb)):
        with pytest.raises(KnowledgeBaseError, match="closed"):
            call()


# Durability


def test_an_uncommitted_tail_is_ignored_and_overwritten(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
    with open(tmp_path / "kb" / "keys-000001.f16", "ab") as file:
        file.write(b"\xff" * 333)  # a crash between append and commit, in the middle of a row
    with open_kb(tmp_path / "kb") as kb:
        assert kb.verify() == []
        assert_consistent(kb.snapshot(), HashingEncoder())
        kb.add([Triple("New", "thing", "x")])
        assert_consistent(kb.snapshot(), HashingEncoder())
        assert kb.verify() == []
    assert (tmp_path / "kb" / "keys-000001.f16").stat().st_size == 64 + 4 * 64 * 2


def test_a_process_killed_before_its_commit_leaves_nothing(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
    script = f"""
        import os
        from kblam_engine import KnowledgeBase, Triple
        from kblam_engine.knowledge_base.segments import FileSegment
        append = FileSegment.append
        def killed(self, start, rows):
            append(self, start, rows)
            os._exit(9)
        FileSegment.append = killed
        KnowledgeBase.open({str(tmp_path / "kb")!r}).add([Triple("New", "thing", str(i)) for i in range(3)])
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False).returncode == 9
    with open_kb(tmp_path / "kb") as kb:
        assert list(kb) == ACME and kb.revision == 1 and kb.verify() == []
        kb.add([Triple("Next", "thing", "x")])
        assert_consistent(kb.snapshot(), HashingEncoder())


def test_a_full_disk_rolls_back(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
        with monkeypatch.context() as patch:
            patch.setattr(segments_module.os, "fsync", full)
            with pytest.raises(OSError) as caught:
                kb.add([Triple("New", "thing", "x")])
        assert caught.value.errno == errno.ENOSPC and caught.value.filename.endswith("keys-000001.f16")
        assert list(kb) == ACME and kb.verify() == []
        kb.add([Triple("New", "thing", "x")])
        assert_consistent(kb.snapshot(), HashingEncoder())


def test_an_interrupted_add_rolls_back(kb, monkeypatch):
    kb.add(ACME)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("kblam_engine.knowledge_base.changes.ChangeSet.finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kb.add([Triple("New", "thing", "x")])
    assert list(kb) == ACME and kb.revision == 1


def test_verify_reports_damage(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
        with kb._store.writing() as connection:
            connection.execute("UPDATE triples SET value = 'forged' WHERE id = 1")
        assert any("digest" in line for line in kb.verify())
    keys = tmp_path / "kb" / "keys-000001.f16"
    keys.write_bytes(keys.read_bytes()[:-2])
    with open_kb(tmp_path / "kb") as kb:
        assert any("has been cut" in line for line in kb.verify())
        with pytest.raises(KnowledgeBaseError, match="has been cut"):
            _ = kb.snapshot().key_embeddings


# Several connections, processes, threads


def test_a_snapshot_sees_another_connection_s_commit(tmp_path):
    with open_kb(tmp_path / "kb") as one, open_kb(tmp_path / "kb") as two:
        one.add(ACME)
        before = two.snapshot()
        assert contents(before) == contents(one.snapshot())
        one.set("Acme", "seat", "Bonn")
        one.remove("Borealis")
        assert contents(before) == sorted(ACME, key=lambda t: (t.name, t.property))
        after = two.snapshot()
        assert contents(after) == contents(one.snapshot()) and after.names == ["Acme"]
        assert_consistent(after, HashingEncoder())


def test_a_snapshot_sees_another_process_s_commit(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
        kb.snapshot()
        script = f"""
            from kblam_engine import KnowledgeBase, Triple
            with KnowledgeBase.open({str(tmp_path / "kb")!r}) as kb:
                kb.add([Triple("New", "thing", "x")])
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
        assert "New" in kb.snapshot().names
        assert_consistent(kb.snapshot(), HashingEncoder())


def test_a_second_writer_waits_and_readers_do_not(tmp_path):
    with open_kb(tmp_path / "kb") as one, open_kb(tmp_path / "kb") as two:
        one.add(ACME)
        done = threading.Event()

        def write():
            two.add([Triple("New", "thing", "x")])
            done.set()

        with one._store.writing():
            worker = threading.Thread(target=write)
            worker.start()
            time.sleep(0.2)
            assert not done.is_set() and len(two.snapshot()) == 3
        worker.join(timeout=30)
        assert done.is_set() and len(one.snapshot()) == 4


def test_many_threads_write_and_read(kb):
    kb.add(ACME)
    failures = []

    def work(number):
        try:
            for i in range(8):
                kb.add([Triple(f"name {number}", f"property {i}", "x"), Triple("shared", "counter", f"{number} {i}")])
                snapshot = kb.snapshot()
                assert len(snapshot.triples(range(len(snapshot)))) == len(snapshot.key_embeddings)
                assert f"name {number}" in snapshot.names
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures and len(kb) == 3 + 4 * 8 + 1 and kb.revision == 33
    assert_consistent(kb.snapshot(), HashingEncoder())
    assert kb.verify() == []


# Cost


def test_one_new_triple_appends_one_row_and_embeds_itself_alone(tmp_path):
    encoder = CountingEncoder()
    with KnowledgeBase.open(tmp_path / "kb", encoder=encoder) as kb:
        kb.add([Triple(f"name {i}", "property", f"value {i}") for i in range(500)])
        kb.snapshot()
        encoder.texts.clear()
        size = (tmp_path / "kb" / "keys-000001.f16").stat().st_size
        kb.add([Triple("one more", "property", "x")])
        assert encoder.texts == ["the property of one more", "x"]
        assert (tmp_path / "kb" / "keys-000001.f16").stat().st_size == size + 2 * 64
        _, changes = read_changes(kb._store, replace(SlotTable.empty(), revision=1, last_id=500))
        assert len(changes.added) == 1 and len(changes.removed) == 0


def test_keys_are_mapped_not_copied(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add([Triple(f"name {i}", "property", f"value {i}") for i in range(200)])
        kb.remove("name 17")
        keys = kb.snapshot().key_embeddings
        base = keys
        while isinstance(base, np.ndarray) and base.base is not None:
            base = base.base
        assert not isinstance(base, np.ndarray) and len(keys) == 199
        keys[0] = 0  # even a careless write stays in this process
        assert kb.verify() == []


def test_many_removals_fall_back_to_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(segments_module, "_MAX_PATCHES", 3)
    with open_kb(tmp_path / "kb") as kb:
        kb.add([Triple(f"name {i}", "property", f"value {i}") for i in range(30)])
        for i in range(0, 20, 2):
            kb.remove(f"name {i}")
        assert_consistent(kb.snapshot(), HashingEncoder())


def test_values_are_embedded_once(tmp_path):
    encoder = CountingEncoder()
    with KnowledgeBase.open(tmp_path / "kb", encoder=encoder) as kb:
        kb.add(ACME)
        kb.snapshot().value_embeddings()
        encoder.texts.clear()
        kb.set("Acme", "seat", "Bonn")
        kb.snapshot().value_embeddings()
        assert encoder.texts == ["Bonn"] and kb.revision == 2
    with KnowledgeBase.open(tmp_path / "kb", encoder=encoder) as kb:
        encoder.texts.clear()
        kb.snapshot().value_embeddings()
        assert encoder.texts == []
        assert_consistent(kb.snapshot(), HashingEncoder())


# Files


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_export_and_import(tmp_path, suffix):
    with open_kb(":memory:") as source, open_kb(tmp_path / "kb") as target:
        source.add(ACME)
        assert source.export_file(tmp_path / f"all.{suffix}") == 3
        assert target.import_file(tmp_path / f"all.{suffix}") == AddResult(3, 0, 0)
        assert list(target) == ACME and target.snapshot().fingerprint == source.snapshot().fingerprint


def test_import_is_all_or_nothing(kb, tmp_path):
    lines = ['{"name":"a","property":"b","value":"c"}'] * 5 + ['{"name":"a","property":"b"}']
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    with pytest.raises(ImportFileError, match=r"line 6: value: is missing"):
        kb.import_file(tmp_path / "bad.jsonl")
    assert len(kb) == 0 and kb.revision == 0


def test_segment_of_the_wrong_length_is_not_extended(tmp_path):
    segment = FileSegment(tmp_path / "rows.f16", 4)
    segment.append(0, np.ones((2, 4), np.float16))
    with pytest.raises(KnowledgeBaseError, match="expected at least 3 embeddings, got 2"):
        segment.append(3, np.ones((1, 4), np.float16))


def test_ids_of_more_than_32_bits_are_told_beside_smaller_ones():
    def changes(revision, n_slots, first_id, slots):
        added = np.array([(slot, first_id + i, 1, 1) for i, slot in enumerate(slots)], np.int64)
        return Changes(Meta(revision=revision, n_slots=n_slots), int(added[-1, 1]), np.zeros((0, 2), np.int64), added)

    most = 2**31 - 1
    table = SlotTable.empty().changed(changes(1, 200, most - 199, range(200)))
    assert table.columns.ids.dtype == np.int32 and table.last_id == most
    patched = table.changed(changes(2, 201, most + 1, [200]))
    whole = patched.changed(changes(3, 300, most + 2, range(201, 300)))
    assert len(patched.patch.slots) == 1 and whole.columns.ids.dtype == np.int64
    slots = np.array([200, 0, 199])
    for each in (patched, whole):
        assert each.ids(slots).tolist() == [most + 1, most - 199, most] and each.ids(slots).dtype == np.int64
        assert each.ids_after(most - 1).tolist()[:2] == [most, most + 1]
    assert table.ids(slots[1:]).dtype == np.int64
