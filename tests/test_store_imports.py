"""Large imports: in one commit, with words and embeddings, and with nothing encoded twice after a kill."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from kb_parts import CountingEncoder, assert_consistent, kb_fixture, open_kb  # noqa: F401

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.knowledge_base import AddResult, bulk, changes, embedder, showing
from kblam_engine.knowledge_base.drafts import FILE
from kblam_engine.knowledge_base.rows import round_into
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Provenance

MANY = [Triple(f"name {i // 3}", f"property {i % 3}", f"value {i % 7}") for i in range(300)]


@pytest.fixture
def all_is_large(monkeypatch):
    """Take the way of large imports for a few triples."""
    monkeypatch.setattr(changes, "LARGE", 1)
    monkeypatch.setattr(bulk, "LARGE", 1)
    monkeypatch.setattr(changes, "_BLOCK", 64)
    monkeypatch.setattr("kblam_engine.knowledge_base.words._MANY", 1)
    monkeypatch.setattr("kblam_engine.knowledge_base.meeting._PAGE", 7)


def test_a_large_import_is_one_revision_with_everything(kb, all_is_large):
    assert kb.add(MANY) == AddResult(300, 0, 0) and kb.revision == 1
    kb._embedder._encoder.texts.clear()
    assert_consistent(kb.snapshot(), HashingEncoder())
    assert kb._embedder._encoder.texts == [], "values come in the same commit"
    assert kb.verify() == [] and len(kb.find('"name 17"')) == 3
    assert kb.snapshot().positions_with_words("name 17").tolist() == [51, 52, 53]


def test_a_second_import_adds_replaces_and_leaves(kb, all_is_large):
    kb.add(MANY)
    again = [Triple(t.name, t.property, t.value + (" now" if i % 3 == 0 else "")) for i, t in enumerate(MANY)]
    more = [Triple(f"new {i}", "property 1", "x", provenance=Provenance("doc")) for i in range(50)]
    kb._embedder._encoder.texts.clear()
    assert kb.add([*again, *more, more[0]]) == AddResult(50, 100, 201)
    assert sorted(kb._embedder._encoder.texts) == sorted(
        [*(t.key_text for t in more), "x", *{f"value {i} now" for i in range(7)}]
    )
    assert_consistent(kb.snapshot(), HashingEncoder())
    assert len(kb.view(source="doc")) == 50 and kb.verify() == []
    assert kb.rollback(1) == 3 and set(kb) == set(MANY) and kb.verify() == []


def test_repeats_within_one_import(kb, all_is_large):
    twice = [Triple("a", "b", "one"), Triple("a", "b", "two"), Triple("a", "b", "two"), Triple("a", "b", "one")]
    assert kb.add(twice) == AddResult(1, 2, 1)
    assert [t.value for t in kb] == ["one"] and kb.verify() == [] and kb.find("two") == []
    assert_consistent(kb.snapshot(), HashingEncoder())


def test_repeats_with_everything_a_triple_may_say(kb, all_is_large):
    """Rows that are gone again before anybody has seen them leave nothing: no words, no labels, no hash."""
    one = Triple("a", "b", "one", {"page": 1}, Provenance("doc"), "sales", ("x",), "2020")
    two = Triple("a", "b", "two", {"page": 2}, Provenance("other"), "sales", ("y",), "2021")
    kb.add([Triple("a", "b", "plain"), one, two, Triple("c", "b", "plain")])
    assert set(kb) == {Triple("a", "b", "plain"), two, Triple("c", "b", "plain")} and kb.verify() == []
    assert kb.find("one") == [] and len(kb.view(source="doc")) == len(kb.view(tags="x")) == 0
    assert list(kb.view(tags="y", at="2022")) == [two]
    same = KnowledgeBase.open(":memory:", encoder=HashingEncoder())
    for triple in kb:
        same.add([triple])
    assert same.info().fingerprint == kb.info().fingerprint


def test_what_another_writer_changes_during_the_encoding_is_seen(tmp_path, all_is_large):
    """What a batch met when its texts were looked up holds as long as the revision does."""
    other = open_kb(tmp_path / "kb")
    other.add([Triple("a", "b", "old"), Triple("gone", "b", "x")])

    class Interrupted(HashingEncoder):
        def encode(self, texts, *, progress=False):
            if "new" in texts:
                other.add([Triple("a", "b", "between"), Triple("new name", "b", "between"), Triple("a", "c", "between")])
                other.remove("gone")
                other.compact()
            return super().encode(texts, progress=progress)

    batch = [Triple("a", "b", "new"), Triple("new name", "b", "new"), Triple("a", "c", "new"), Triple("gone", "b", "x")]
    with KnowledgeBase.open(tmp_path / "kb", encoder=Interrupted()) as kb:
        assert kb.add(batch) == AddResult(1, 3, 0)
        assert set(kb) == set(batch) and kb.verify() == []
        assert_consistent(kb.snapshot(), HashingEncoder())
    other.close()


def test_rounding_by_torch_gives_the_bits_of_numpy(monkeypatch):
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    parts = [np.float32(2) ** rng.uniform(-28, 15, 20_000) * rng.choice([-1, 1], 20_000), rng.normal(0, 0.05, 20_000)]
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)  # every one, and what lies between
    numbers = np.concatenate([*parts, halves, (halves[:-1] + halves[1:]) / 2]).astype(np.float32)[: 4 * 25_000].reshape(-1, 4)
    by_torch, by_numpy = np.empty(numbers.shape, np.float16), np.empty(numbers.shape, np.float16)
    round_into(by_torch, numbers)
    monkeypatch.delitem(sys.modules, "torch")
    round_into(by_numpy, numbers)
    np.testing.assert_array_equal(by_torch.view(np.uint16), by_numpy.view(np.uint16))


def test_a_full_disk_in_the_thread_that_writes_embeddings(tmp_path, all_is_large, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with open_kb(tmp_path / "kb") as kb:
        kb.add(MANY[:100])
        with monkeypatch.context() as patch:
            patch.setattr("kblam_engine.knowledge_base.segments.os.fsync", full)
            with pytest.raises(OSError, match="No space left"):
                kb.add(MANY)
        assert len(kb) == 100 and kb.verify() == []
        kb.add(MANY)
        assert_consistent(kb.snapshot(), HashingEncoder())


# Encoding that goes on after a kill

SLOW = """
    import os, signal, sys, time
    from kblam_engine import KnowledgeBase, Triple
    from kblam_engine.knowledge_base import embedder
    from kblam_engine.sentence_encoder import HashingEncoder
    embedder._CHUNK, embedder._KEEP_EVERY = 50, 0.0
    class Slow(HashingEncoder):
        done = 0
        def encode(self, texts, *, progress=False):
            if self.done >= 400:
                os.kill(os.getpid(), signal.SIGKILL)
            self.done += len(texts)
            return super().encode(texts)
    kb = KnowledgeBase.open(sys.argv[1], encoder=Slow())
    kb.add([Triple(f"name {i}", "property", f"value {i}") for i in range(300)])
"""


def killed(path):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(SLOW), str(path)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_encoding_goes_on_where_a_kill_stopped_it(tmp_path):
    killed(tmp_path / "kb")
    batch = [Triple(f"name {i}", "property", f"value {i}") for i in range(300)]
    encoder = CountingEncoder()
    with KnowledgeBase.open(tmp_path / "kb", encoder=encoder) as kb:
        assert len(kb) == 0 and kb.verify() == []
        kb.add([Triple("in", "between", "x")])
        encoder.texts.clear()
        assert (tmp_path / "kb" / FILE).exists()
        assert kb.add(batch) == AddResult(300, 0, 0)
        assert 200 <= len(encoder.texts) <= 201, "of 600 texts, and one property"
        assert_consistent(kb.snapshot(), HashingEncoder())
        assert kb.verify() == []
    assert not any(name.startswith("encoding") for name in os.listdir(tmp_path / "kb"))


def test_drafts_of_another_encoder_or_damaged_ones_are_not_used(tmp_path):
    killed(tmp_path / "kb")
    encoder = CountingEncoder(32)
    batch = [Triple(f"name {i}", "property", f"value {i}") for i in range(300)]
    with KnowledgeBase.open(tmp_path / "kb", encoder=encoder) as kb:
        kb.add(batch)
        assert len(encoder.texts) == 601
    killed(tmp_path / "other")
    (tmp_path / "other" / FILE).write_bytes(b"no database" * 999)
    with open_kb(tmp_path / "other") as kb:
        kb.add(batch)
        assert_consistent(kb.snapshot(), HashingEncoder())


def test_compaction_drops_what_nobody_went_on_with(tmp_path):
    killed(tmp_path / "kb")
    with open_kb(tmp_path / "kb") as kb:
        kb.add([Triple("a", "b", "c")])
        kb.compact()
        assert not (tmp_path / "kb" / FILE).exists() and kb.verify() == []


def test_drafts_follow_no_link(tmp_path):
    killed(tmp_path / "kb")
    draft, outside = tmp_path / "kb" / FILE, tmp_path / "outside"
    draft.rename(outside)
    before = outside.read_bytes()
    draft.symlink_to(outside)
    encoder = CountingEncoder()
    with KnowledgeBase.open(tmp_path / "kb", encoder=encoder) as kb:
        kb.add([Triple(f"name {i}", "property", f"value {i}") for i in range(300)])
    assert len(encoder.texts) == 601 and outside.read_bytes() == before


def test_a_short_encoding_leaves_no_draft(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr("kblam_engine.knowledge_base.drafts.Drafts.keep", lambda *given: kept.append(given))
    monkeypatch.setattr(embedder, "_CHUNK", 50)
    with open_kb(tmp_path / "kb") as kb:
        kb.add(MANY)
        assert kept == [] and kb.snapshot().key_embeddings.dtype == np.float16


@pytest.mark.parametrize(("after", "shown"), [(0.0, True), (60.0, False)])
def test_progress_is_shown_once_it_takes_a_while(monkeypatch, capsys, after, shown):
    class Slow(CountingEncoder):
        steps = []

        def encode(self, texts, **options):
            self.steps.append(len(texts))
            time.sleep(0.2)
            return super().encode(texts, **options)

    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setattr(showing, "SHOWN_AFTER", after)
    encoder = Slow()
    encoder.steps.clear()
    with KnowledgeBase.open(":memory:", encoder=encoder) as kb:
        kb.add([Triple(f"name {i}", "property", "value") for i in range(600)], progress=True)
    assert encoder.steps == [1, 512, 89], "the property, then keys and a value, step by step"
    assert ("encoding" in capsys.readouterr().err) is shown
    assert threading.active_count() == 1 or not [t for t in threading.enumerate() if isinstance(t, threading.Timer)]


@pytest.mark.parametrize(("after", "shown"), [(0.0, True), (60.0, False)])
def test_writing_is_shown_once_it_takes_a_while(tmp_path, monkeypatch, capsys, after, shown):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(showing, "SHOWN_AFTER", after)
    put = changes.ChangeSet.put
    monkeypatch.setattr(changes.ChangeSet, "put", lambda *given, **named: time.sleep(0.2) or put(*given, **named))
    with open_kb(tmp_path / "kb") as kb:
        kb.add(MANY[:3])
        assert "writing" not in capsys.readouterr().err  # nobody asked
        kb.add(MANY[3:8], progress=True)
    assert ("writing 5 triples" in capsys.readouterr().err) is shown


# A disk without room, a folder without permission: in processes of their own

WITHOUT_PERMISSION = """
    import os, sys
    from kblam_engine import KnowledgeBase, Triple
    from kblam_engine.sentence_encoder import HashingEncoder
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as kb:  # what is imported late is there now
        kb.add([Triple("a", "b", "c")])
    if os.getuid() == 0:
        os.setuid(65534)  # permissions do not bind root
    for path in sys.argv[1:]:
        try:
            kb = KnowledgeBase.open(path, encoder=HashingEncoder())
            print(len(kb), kb.read_only)
            kb.add([Triple("a", "b", "c")])
        except Exception as error:
            print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_folder_without_permission():
    with tempfile.TemporaryDirectory() as folder:  # under no folder that is closed to others, as tmp_path is
        top = Path(folder)
        places = [top / "kb", top / "empty", top / "new"]
        with open_kb(places[0]) as kb:
            kb.add(MANY)
        places[1].mkdir()
        closed = [top, *places[:2]]
        try:
            for each in closed:
                each.chmod(0o555)
            command = [sys.executable, "-c", textwrap.dedent(WITHOUT_PERMISSION), *map(str, places)]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        finally:
            for each in closed:
                each.chmod(0o755)
    assert told[0] == f"{len(MANY)} True"
    assert told[1] == f"ReadOnlyError {places[0]}: open for reading only; make the folder writable, or work on a copy"
    assert told[2].startswith(f"KnowledgeBaseError {places[1]}: cannot be read or written")
    assert told[3].startswith("PermissionError") and str(places[2]) in told[3]


LIMITED = """
    import resource, signal, sys
    from kblam_engine import KnowledgeBase, Triple
    from kblam_engine.sentence_encoder import HashingEncoder
    kb = KnowledgeBase.open(sys.argv[1], encoder=HashingEncoder())
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    try:
        kb.add([Triple(f"more {i}", "property", f"value {i}") for i in range(20_000)])
    except Exception as error:
        print(type(error).__name__, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(len(kb), kb.verify())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
@pytest.mark.parametrize("room", [200_000, 1_000_000])
def test_no_more_room(tmp_path, room):
    with open_kb(tmp_path / "kb") as kb:
        kb.add(MANY)
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path / "kb"), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told, state = done.stdout.splitlines()
    assert told.startswith(("OSError", "KnowledgeBaseError")) and str(tmp_path / "kb") in told, told
    assert any(words in told for words in ("File too large", "disk I/O error", "No space left")), told
    assert state == "300 []", "nothing is lost, and nothing is half there"
    with open_kb(tmp_path / "kb") as kb:
        assert set(kb) == set(MANY)
        kb.add([Triple("now", "there is", "room")])
        assert_consistent(kb.snapshot(), HashingEncoder())
