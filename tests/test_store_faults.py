"""The store under kills, cuts, flipped bits, older and newer formats, links, two writers and compactions."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing, contextmanager

import numpy as np
import pytest
from kb_parts import ACME, assert_consistent, contents, edit, kb_fixture, make_version_1, open_kb  # noqa: F401

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import KnowledgeBaseError, KnowledgeBaseLockedError, ReadOnlyError
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Provenance

KILLS = int(os.environ.get("KBLAM_KILLS", "6"))
"""How often the writer is killed; `make test-kills` is the long run."""
WRITER = """
    import sys
    from kblam_engine import KnowledgeBase, Triple
    from kblam_engine.knowledge_base import bulk, changes, words
    from kblam_engine.sentence_encoder import HashingEncoder
    if sys.argv[2] == "large":  # every change takes the way of large imports: threads, blocks, more memory
        bulk.LARGE = changes.LARGE = words._MANY = 1
        changes._BLOCK = 3
    kb = KnowledgeBase.open(sys.argv[1], encoder=HashingEncoder())
    start = kb.revision
    print("ready", start, flush=True)
    for n in range(start + 1, start + 500):
        if n % 7 == 0:
            kb.rollback(n - 3)
            kb.set("counter", "is", str(n))
        elif n % 11 == 0:
            kb.compact(keep_from=max(0, n - 5))
            kb.set("counter", "is", str(n))
        else:
            kb.add([Triple("counter", "is", str(n))] + [Triple(f"name {n % 5}", f"p {i}", f"{n}") for i in range(n % 9)])
        print("done", kb.revision, kb.info().fingerprint, flush=True)
"""


def test_a_writer_killed_at_any_time_loses_nothing_it_acknowledged(tmp_path):
    path, rng = tmp_path / "kb", random.Random(5)
    open_kb(path).close()
    for number in range(KILLS):
        way = "large" if number % 2 else "usual"
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), way]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline().startswith("ready")
        time.sleep(rng.random() * 0.4)
        process.send_signal(signal.SIGKILL)
        said = [line.split() for line in process.stdout.read().splitlines() if line.startswith("done")]
        process.wait()
        with open_kb(path) as kb:
            assert kb.verify() == []
            whole = [words for words in said if len(words) == 3 and len(words[2]) > 24]
            for _, revision, fingerprint in whole[-1:]:
                assert kb.revision >= int(revision), "an acknowledged write is there"
                if int(revision) >= kb.info().oldest_revision:
                    assert kb.snapshot(int(revision)).fingerprint == fingerprint
            snapshot = kb.snapshot()
            assert len(snapshot) == len(kb) == len(list(kb))
            assert_consistent(snapshot, HashingEncoder())


# Damage


@pytest.mark.parametrize("kind", ["keys", "values"])
def test_a_flipped_bit_is_found(tmp_path, kind):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
    file = tmp_path / "kb" / f"{kind}-000001.f16"
    for place, what in ((64 + 130, "are not as they were written"), (20, "another header")):
        data = bytearray(file.read_bytes())
        data[place] ^= 1  # the lowest bit of a number: too small a change to see in its length
        file.write_bytes(data)
        with open_kb(tmp_path / "kb") as kb:
            assert any(line.startswith(f"{kind}: ") and what in line for line in kb.verify())


@pytest.mark.parametrize("kind", ["keys", "values"])
def test_a_compaction_does_not_hide_a_flipped_bit(tmp_path, kind):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
        kb.snapshot().value_embeddings()
        kb.remove("Borealis")
    file = tmp_path / "kb" / f"{kind}-000001.f16"
    data = bytearray(file.read_bytes())
    data[64 + 130] ^= 1
    file.write_bytes(data)
    with open_kb(tmp_path / "kb") as kb:
        found = kb.verify()
        with pytest.raises(KnowledgeBaseError, match=f"{kind}: .* are not as they were written"):
            kb.compact()
        assert kb.verify() == found and kb.info().n_removed == 1  # nothing has changed


def test_a_compaction_repairs_the_words_as_verify_says(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
    edit(tmp_path / "kb", "INSERT INTO words (words) VALUES ('delete-all')")
    with open_kb(tmp_path / "kb") as kb:
        (line,) = kb.verify()
        assert "kblam kb compact rebuilds it" in line and not kb.find("Berlin")
        kb.compact()
        assert kb.verify() == [] and kb.find("Berlin")


def test_another_encoder_of_the_same_name_is_found(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
    edit(tmp_path / "kb", "UPDATE meta SET value = 'hashing:other' WHERE key = 'encoder_fingerprint'")
    with KnowledgeBase.open(tmp_path / "kb") as kb:  # nobody has named or loaded an encoder
        assert [line for line in kb.verify() if line.startswith("sentence encoder: ")]


def test_a_missing_segment_is_named(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
    (tmp_path / "kb" / "keys-000001.f16").unlink()
    with open_kb(tmp_path / "kb") as kb:
        with pytest.raises(KnowledgeBaseError, match="keys-000001.f16: the embeddings are missing"):
            kb.snapshot()
        assert any("keys" in line for line in kb.verify()) and kb.get("Acme", "seat").value == "Berlin"


def test_verify_finds_what_does_not_belong(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
        with kb._store.writing() as connection:
            connection.execute("UPDATE names SET text = 'Bcme' WHERE text = 'Acme'")
            connection.execute("INSERT INTO labelled VALUES (9, 99)")
            connection.execute("CREATE TRIGGER evil AFTER INSERT ON names BEGIN DELETE FROM triples; END")
        found = "\n".join(kb.verify())
        for what in ("digest", "labels: 1 of no triple", "a trigger 'evil'", "words: the full-text index"):
            assert what in found


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious" * 100)
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME[:1])
    keys = tmp_path / "kb" / "keys-000001.f16"
    keys.unlink()
    keys.symlink_to(outside)
    with open_kb(tmp_path / "kb") as kb, pytest.raises(KnowledgeBaseError, match="got a link"):
        kb.add(ACME[1:])
    assert outside.read_bytes() == b"precious" * 100


# Versions


def test_the_first_format_is_brought_up_to_date(tmp_path):
    plain = [ACME[0], ACME[2]]
    make_version_1(tmp_path / "kb", plain)
    with pytest.raises(ReadOnlyError, match="older version"):
        open_kb(tmp_path / "kb", read_only=True)
    with open_kb(tmp_path / "kb") as kb:
        assert list(kb) == plain and kb.info().schema_version == 2 and kb.revision == 1
        assert kb.find("lena") and kb.verify() == []
        kb.add([Triple("Acme", "seat", "Bonn", provenance=Provenance("atlas"))])
        assert_consistent(kb.snapshot(), HashingEncoder())
        assert len(kb.diff(1).added) == 1 and kb.rollback(1) == 3
        kb.compact()
        assert_consistent(kb.snapshot(), HashingEncoder())
        assert kb.verify() == [] and list(kb) == plain
    with open_kb(tmp_path / "kb", read_only=True) as kb:
        assert list(kb) == plain


# Writers and readers


def test_the_second_writer_is_told_who_is_first(tmp_path):
    with open_kb(tmp_path / "kb") as one, open_kb(tmp_path / "kb", timeout=0.2) as two:
        one.add(ACME)
        with one._store.writing():
            with pytest.raises(KnowledgeBaseLockedError, match=rf"process {os.getpid()} has been writing for 0.2 s"):
                two.add([Triple("New", "thing", "x")])
            assert len(two) == 3, "readers do not wait"
        two.add([Triple("New", "thing", "x")])
        assert len(one) == 4


HOLDER = """
    import sys
    from kblam_engine import KnowledgeBase
    from kblam_engine.sentence_encoder import HashingEncoder
    with KnowledgeBase.open(sys.argv[1], encoder=HashingEncoder()) as kb, kb._store.writing():
        print("writing", flush=True)
        sys.stdin.readline()
"""


@contextmanager
def another_process_writes(path):
    """Hold the writer lock in a process of its own; yield the process and what makes it let go."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "writing\n"
        yield process
    finally:
        process.communicate("", timeout=60)


def test_a_writer_waits_for_another_process_up_to_the_timeout(tmp_path):
    with open_kb(tmp_path / "kb", timeout=0.5) as kb:
        kb.add(ACME)
        with another_process_writes(tmp_path / "kb") as holder:
            start = time.monotonic()
            with pytest.raises(KnowledgeBaseLockedError) as caught:
                kb.add([Triple("New", "thing", "x")])
            assert time.monotonic() - start >= 0.5, "no less than it was told to"
            assert str(caught.value) == (
                f"{tmp_path / 'kb'}: process {holder.pid} has been writing for 0.5 s; try again, or wait longer (timeout)"
            )
            assert list(kb) == ACME, "readers do not wait"
        assert kb.add([Triple("New", "thing", "x")]).added == 1 and kb.verify() == []


def test_a_writer_goes_on_when_another_process_lets_go_in_time(tmp_path):
    with open_kb(tmp_path / "kb", timeout=60) as kb:
        kb.add(ACME)
        with another_process_writes(tmp_path / "kb") as holder:
            added = []
            worker = threading.Thread(target=lambda: added.append(kb.add([Triple("New", "thing", "x")])))
            worker.start()
            worker.join(timeout=0.3)
            assert worker.is_alive() and not added, "it waits"
            holder.stdin.write("\n")
            holder.stdin.flush()
            worker.join(timeout=60)
            assert [result.added for result in added] == [1]
        assert len(kb) == 4 and kb.verify() == []


def test_a_killed_writer_holds_nobody_up(tmp_path):
    with open_kb(tmp_path / "kb", timeout=10) as kb:
        kb.add(ACME)
        with another_process_writes(tmp_path / "kb") as holder:
            holder.kill()
            holder.wait()
            assert kb.add([Triple("New", "thing", "x")]).added == 1 and kb.verify() == []


def test_two_threads_of_one_knowledge_base_wait_for_each_other_as_long(tmp_path):
    with open_kb(tmp_path / "kb", timeout=0.1) as kb:
        kb.add(ACME)
        failures = []

        def write():
            try:
                kb.remove("Acme")
            except KnowledgeBaseLockedError as error:
                failures.append(error)

        with kb._store.writing():
            worker = threading.Thread(target=write)
            worker.start()
            worker.join(timeout=30)
        assert len(failures) == 1 and len(kb) == 3


def test_read_only_refuses_changes_and_answers_all_the_same(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
        kb.set("Acme", "seat", "Bonn")  # its value has not been embedded yet
    with open_kb(tmp_path / "kb", read_only=True) as kb:
        assert kb.read_only and kb.info().read_only and kb.find("bonn") and kb.verify() == []
        assert_consistent(kb.snapshot(), HashingEncoder())
        with pytest.raises(ReadOnlyError, match="for reading only"):
            kb.set("Acme", "seat", "Ulm")


def test_a_folder_that_cannot_be_written_opens_for_reading(tmp_path, monkeypatch):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
    before = sorted(os.listdir(tmp_path / "kb"))
    # Permissions do not stop the user that tests may run as.
    monkeypatch.setattr("kblam_engine.knowledge_base.connections.os.access", lambda *_: False)
    with open_kb(tmp_path / "kb") as kb:
        assert kb.read_only and list(kb) == ACME
        assert_consistent(kb.snapshot(), HashingEncoder())
    assert sorted(os.listdir(tmp_path / "kb")) == before, "nothing is written beside it"


def test_a_clock_that_jumps_changes_no_order(kb, monkeypatch):
    for number, seconds in enumerate((4e9, 1e6, -5.0, 1e12)):
        monkeypatch.setattr("kblam_engine.knowledge_base.changes.time.time", lambda at=seconds: at)
        kb.set("Acme", "seat", f"place {number}")
    assert [v.triple.value for v in kb.history("Acme", "seat")] == [f"place {i}" for i in range(4)]
    assert kb.revisions()[0].time is None, "beyond any calendar"
    assert kb.rollback(2) == 5 and kb.get("Acme", "seat").value == "place 1"


# Compaction and backup


def test_compaction_gives_space_back_and_changes_nothing(kb):
    kb.add([Triple(f"name {i}", "property", f"value {i}") for i in range(100)])
    for i in range(0, 100, 3):
        kb.remove(f"name {i}")
    before = list(kb), kb.ids(), kb.snapshot().fingerprint
    result = kb.compact()
    assert result.n_dropped == 34 and (list(kb), kb.ids(), kb.snapshot().fingerprint) == before
    assert_consistent(kb.snapshot(), HashingEncoder())
    assert kb.verify() == [] and kb.info().n_removed == 0 and kb.compact().n_dropped == 0
    assert kb.find("43") and not kb.find("33")
    new = kb.set("name 1", "property", "again")
    assert new > max(before[1]), "no id is used twice"
    assert_consistent(kb.snapshot(), HashingEncoder())


def test_compaction_spares_what_is_in_use_and_what_is_asked_for(kb):
    kb.add(ACME)
    kb.set("Acme", "seat", "Bonn")
    past, view = kb.snapshot(1), kb.view(namespace="", revision=1).snapshot()
    kb.set("Acme", "seat", "Ulm")
    assert kb.compact().n_dropped == 0
    assert contents(past) == contents(view) == sorted(ACME, key=lambda t: (t.name, t.property))
    del past, view
    assert kb.compact(keep_from=2).n_dropped == 1 and kb.get("Acme", "seat").value == "Ulm"
    assert {t.value for t in kb.snapshot(2).triples(range(3))} == {"Lena Hoffmann", "Bonn", "Tomás Rivera"}
    assert_consistent(kb.snapshot(2), HashingEncoder())
    assert kb.verify() == []


def test_another_handle_reads_across_a_compaction(tmp_path):
    with open_kb(tmp_path / "kb") as writer, open_kb(tmp_path / "kb") as reader:
        writer.add([Triple(f"name {i}", "property", f"value {i}") for i in range(50)])
        old = reader.snapshot()
        keys = np.array(old.key_embeddings)
        writer.remove("name 7")
        writer.compact()
        np.testing.assert_array_equal(old.key_embeddings, keys)
        assert old.triple(8).name == "name 8"
        with pytest.raises(KnowledgeBaseError, match="a compaction has dropped it"):
            old.triple(7)
        assert len(reader.snapshot()) == 49
        assert_consistent(reader.snapshot(), HashingEncoder())
        writer.add([Triple("later", "property", "x")])
        assert_consistent(reader.snapshot(), HashingEncoder())


def test_a_backup_in_use_is_one_revision(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
        stop = threading.Event()

        def write():
            number = 0
            while not stop.is_set():
                number += 1
                kb.add([Triple("pair", "left", str(number)), Triple("pair", "right", str(number))])

        worker = threading.Thread(target=write)
        worker.start()
        try:
            for i in range(3):
                kb.backup(tmp_path / f"copy {i}")
        finally:
            stop.set()
            worker.join()
    for i in range(3):
        with open_kb(tmp_path / f"copy {i}", create=False) as copy:
            assert copy.verify() == [] and len(list(copy)) >= 3
            both = {copy.get("pair", side) and copy.get("pair", side).value for side in ("left", "right")}
            assert len(both) == 1, "never half a change"


def test_a_backup_from_memory_goes_to_disk(tmp_path):
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as kb:
        kb.add(ACME)
        kb.backup(tmp_path / "copy")
    with open_kb(tmp_path / "copy", create=False) as copy:
        assert list(copy) == ACME and copy.verify() == []
        assert_consistent(copy.snapshot(), HashingEncoder())


def test_a_writer_that_has_ended_is_not_named(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(ACME)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    (tmp_path / "kb" / "writer").write_text(f"process {ended.pid}")
    with closing(sqlite3.connect(tmp_path / "kb" / "kb.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with open_kb(tmp_path / "kb", timeout=0.1) as kb, pytest.raises(KnowledgeBaseLockedError, match="another process has been writing"):
            kb.remove("Acme")
