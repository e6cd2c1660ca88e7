"""One index through the changes of its knowledge base: opened, measured and built again, and nothing kept for ever."""

import json
import logging
import shutil

import numpy as np
import pytest

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.search import files, following
from kblam_engine.search.build import build_index
from kblam_engine.search.exact import ExactIndex, scan
from kblam_engine.search.files import building, read_record
from kblam_engine.search.indexes import Indexes
from kblam_engine.search.interface import Found
from kblam_engine.search.snapshot_search import SnapshotSearch

PARTS = ("battery life", "founder", "price", "colour")


def triples(start, stop):
    return [Triple(f"Orca {n // 4} {chr(97 + n // 4 % 26)}", PARTS[n % 4], f"value {n}") for n in range(start, stop)]


def opened(folder, encoder, n=400):
    kb = KnowledgeBase.open(folder, encoder=encoder)
    kb.add(triples(0, n))
    return kb


@pytest.fixture
def kb(tmp_path, hashing_encoder):
    with opened(tmp_path / "big.kb", hashing_encoder) as kb:
        yield kb


@pytest.fixture
def builds(monkeypatch):
    """The slots of every index that is built in the background."""
    built = []

    def build(snapshot, kind, **options):
        built.append(snapshot.n_slots)
        return build_index(snapshot, kind, **options)

    monkeypatch.setattr(following, "build_index", build)
    return built


def queries(encoder, *texts):
    return encoder.encode(texts or ["the price of Orca 7 h", "the colour of Orca 33 h"])


def as_exact(snapshot, search, asked, k=5):
    """Say whether a search finds what scoring every key does."""
    found, truth = search.search(asked, k), SnapshotSearch(snapshot).search(asked, k)
    return np.allclose(found.scores, truth.scores, atol=2e-3)


def record_with(kb, **facts):
    """Write other facts into the record of an index."""
    path = kb.path / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def remove(kb, n, first=0):
    kb.remove(ids=[int(each) for each in kb.snapshot().ids[first : first + n]])


def compacted_elsewhere(kb, encoder):
    """Have another process drop some triples, which does not know what snapshots this one has."""
    with KnowledgeBase.open(kb.path, encoder=encoder) as other:
        remove(other, 20)
        other.compact()


@pytest.mark.parametrize("kind", ["tree", "ann"])
def test_a_snapshot_older_than_the_index_does_not_keep_newer_ones_from_it(kb, hashing_encoder, kind, builds):
    old = kb.snapshot()
    kb.add([Triple("Narwhal", "depth", "900 m")])
    build_index(kb.snapshot(), kind)
    indexes, asked = Indexes(kind), queries(hashing_encoder, "the depth of Narwhal")
    assert indexes.of(old).kind == "exact" and as_exact(old, indexes.of(old), asked)
    assert indexes.of(kb.snapshot()).kind == kind and as_exact(kb.snapshot(), indexes.of(kb.snapshot()), asked, 1)
    # Open now, it serves the old one too, which shows nothing of what came later.
    found = indexes.of(old).search(asked, 3)
    assert indexes.of(old).kind == kind and 0 <= found.at.min() and found.at.max() < len(old) == 400
    assert as_exact(old, indexes.of(old), asked, 1)
    indexes.wait()
    assert not builds, "the index is as good as one can be"


def test_what_a_snapshot_shows_is_found_after_a_compaction_has_moved_it(kb, hashing_encoder):
    build_index(kb.snapshot())
    indexes = Indexes("tree", background=False)
    kb.add([Triple("Narwhal", "depth", "900 m")])
    old = kb.snapshot()
    search = indexes.of(old)
    assert search.kind == "tree" and search.n_unindexed == 1
    compacted_elsewhere(kb, hashing_encoder)
    with pytest.raises(FileNotFoundError):
        old.key_segment()
    assert as_exact(old, search, queries(hashing_encoder, "the depth of Narwhal", "the price of Orca 7 h"))
    assert indexes.of(old).kind == indexes.of(kb.snapshot()).kind == "exact"


def test_another_process_that_builds_is_no_failure(kb, builds, caplog, monkeypatch):
    indexes = Indexes("tree")
    with building(kb.path), caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert indexes.of(kb.snapshot()).kind == "exact"
            indexes.wait()
        assert builds == [400] and not caplog.records, "asked once, not by every question, and not told"
    build_index(kb.snapshot())  # the other process is done
    assert indexes.of(kb.snapshot()).kind == "tree"
    kb.add(triples(400, 600))
    assert indexes.ready(kb.snapshot()).n_unindexed == 0 and builds == [400, 600]


def test_a_builder_that_is_waited_for_is_asked_again_after_a_while(kb, builds, monkeypatch):
    monkeypatch.setattr(following, "BUSY_S", 0.0)
    indexes = Indexes("tree")
    with building(kb.path):
        indexes.of(kb.snapshot())
        indexes.wait()
    assert indexes.ready(kb.snapshot()).kind == "tree" and builds == [400, 400]


@pytest.mark.parametrize("change", ["time", "index"])
def test_a_build_that_failed_is_tried_again_when_it_may_succeed(kb, monkeypatch, change):
    indexes = Indexes("tree")
    with monkeypatch.context() as failing:
        failing.setattr(following, "build_index", lambda *_, **__: 1 / 0)
        assert indexes.ready(kb.snapshot()).kind == "exact"
    assert indexes.ready(kb.snapshot()).kind == "exact", "it would fail again"
    if change == "time":
        now = following.time.monotonic()
        monkeypatch.setattr(following.time, "monotonic", lambda: now + following.FAILED_S + 1)
    else:
        build_index(kb.snapshot(), "ann")
    assert indexes.ready(kb.snapshot()).kind == "tree"


def test_nothing_is_built_of_slots_that_a_compaction_has_replaced(kb, hashing_encoder, builds):
    with KnowledgeBase.open(kb.path, encoder=hashing_encoder) as other:  # as in another process
        old = other.snapshot()
        remove(kb, 20)
        kb.compact()
        indexes = Indexes("tree")
        assert indexes.ready(old).kind == "exact" and not builds and read_record(kb.path) is None
        assert indexes.ready(kb.snapshot()).kind == "tree"
        assert indexes.ready(old).kind == "exact" and builds == [380]
        assert as_exact(old, indexes.of(old), queries(hashing_encoder))
        assert indexes.of(kb.snapshot()).kind == "tree" and read_record(kb.path).generation == kb.snapshot().generation


def test_a_build_stops_when_a_compaction_makes_it_useless(kb, hashing_encoder, monkeypatch, caplog):
    told = []

    def build(snapshot, kind, *, progress):
        progress("pass 1 of 2", 0, 1)
        compacted_elsewhere(kb, hashing_encoder)
        told.append("compacted")
        progress("pass 2 of 2", 0, 1)
        told.append("went on")

    monkeypatch.setattr(following, "build_index", build)
    indexes = Indexes("tree")
    snapshot = kb.snapshot()
    with caplog.at_level(logging.WARNING):
        indexes.of(snapshot)
        indexes.wait()
    assert told == ["compacted"] and not caplog.records


def test_an_index_of_a_restored_copy_is_not_used_and_built_again(tmp_path, hashing_encoder, builds):
    with opened(tmp_path / "kb", hashing_encoder) as kb:
        kb.backup(tmp_path / "copy")
        kb.add([Triple(f"Walrus {n}", "weight", f"{n} kg") for n in range(100)])
        build_index(kb.snapshot())
        indexes = Indexes("tree")
        assert indexes.of(kb.snapshot()).kind == "tree"
        indexes.wait()
    for path in [path for path in (tmp_path / "kb").iterdir() if path.is_file() and not path.name.startswith("index")]:
        path.unlink()
    for path in (tmp_path / "copy").iterdir():
        shutil.copy(path, tmp_path / "kb")
    with KnowledgeBase.open(tmp_path / "kb", encoder=hashing_encoder) as kb:
        kb.add([Triple(f"Narwhal {n}", "depth", f"{n} m") for n in range(100)])
        asked = queries(hashing_encoder, "the depth of Narwhal 7")
        assert indexes.of(kb.snapshot()).kind == "exact" and as_exact(kb.snapshot(), indexes.of(kb.snapshot()), asked)
        assert indexes.ready(kb.snapshot()).kind == "tree" and builds == [500]
        assert as_exact(kb.snapshot(), indexes.of(kb.snapshot()), asked, 1)


def test_contents_that_are_damaged_are_told_once_and_the_index_is_built_again(kb, caplog, builds, monkeypatch):
    monkeypatch.setattr(files, "CHECKED_WHOLE", 0)  # as large files are: by their length when they are opened
    record = build_index(kb.snapshot())
    leaves = kb.path / record.folder / "leaves.npy"
    leaves.write_bytes(leaves.read_bytes()[:-500] + bytes(500))
    indexes = Indexes("tree", background=False)
    with caplog.at_level(logging.WARNING):
        indexes.of(kb.snapshot())  # opened by its length
        indexes.wait()
        assert indexes.of(kb.snapshot()).kind == indexes.of(kb.snapshot()).kind == "exact" and not builds
    assert len(caplog.records) == 1 and "leaves.npy is not as it was written" in caplog.text
    indexes.background = True
    assert indexes.ready(kb.snapshot()).kind == "tree" and builds == [400] and len(caplog.records) == 1


# What is removed.


class Half:
    """An index that finds every second of the best."""

    kind, n_slots = "tree", 400

    def __init__(self, segment):
        self._segment = segment

    def search(self, queries, k, alive=None):
        found = scan(self._segment, queries, k, alive)
        at = np.where(np.arange(k) % 2, -1, found.at)
        return Found(at, np.where(at < 0, -np.inf, found.scores), found.log_normaliser)


def test_recall_is_measured_on_what_is_left(kb):
    remove(kb, 150)
    snapshot, seen = kb.snapshot(), []

    class Seeing(ExactIndex):
        def search(self, queries, k, alive=None):
            seen.append(alive)
            return super().search(queries, k, alive)

    segment = snapshot.key_segment()
    assert following.shown_recall(Seeing(segment), snapshot, segment) == 1
    assert np.count_nonzero(seen[0]) == 250 and not seen[0][:150].any()
    assert following.shown_recall(Half(segment), snapshot, segment) == pytest.approx(0.5, abs=0.05)
    view = kb.view().snapshot()
    assert following.shown_recall(Seeing(segment), view, segment) == 1 and seen[1] is None


@pytest.fixture
def measured(monkeypatch):
    """What measuring finds, one after another, the last for ever; and how often it was asked."""

    class Measured(list):
        asked = 0

    recalls = Measured([1.0])

    def recall(index, snapshot, segment):
        recalls.asked += 1
        return recalls.pop(0) if len(recalls) > 1 else recalls[0]

    monkeypatch.setattr(following, "shown_recall", recall)
    return recalls


def test_an_index_that_finds_less_of_what_is_left_is_built_again(kb, builds, measured):
    build_index(kb.snapshot())
    indexes = Indexes("tree")
    remove(kb, 30)
    indexes.ready(kb.snapshot())
    assert measured.asked == 0, "less than a tenth of it"
    remove(kb, 20)
    assert indexes.ready(kb.snapshot()).kind == "tree" and measured.asked == 1 and not builds
    remove(kb, 20)
    indexes.ready(kb.snapshot())
    assert measured.asked == 1, "not for every change"
    measured[:] = [0.9]
    remove(kb, 30)
    assert indexes.ready(kb.snapshot()).kind == "tree" and builds == [400] and measured.asked == 2
    indexes.ready(kb.snapshot())
    assert builds == [400] and measured.asked == 2, "built with these gone already"


@pytest.mark.parametrize("finds", [1.0, 0.5])
def test_where_more_than_half_is_removed_the_index_serves_if_it_finds_enough(kb, builds, measured, finds, caplog):
    build_index(kb.snapshot())
    remove(kb, 230)
    assert Indexes("tree", background=False).of(kb.snapshot()).kind == "exact", "nobody has measured it"
    measured[:] = [0.5, finds]
    indexes = Indexes("tree")
    assert indexes.of(kb.snapshot()).kind == "exact"
    with caplog.at_level(logging.WARNING):
        assert indexes.ready(kb.snapshot()).kind == ("tree" if finds == 1 else "exact")
        for _ in range(3):
            indexes.ready(kb.snapshot())
    assert builds == [400] and measured.asked == 2
    assert [("kblam kb compact" in record.getMessage()) for record in caplog.records] == [True] * (finds < 1)


def test_what_is_left_of_a_knowledge_base_is_searched_by_the_index(kb, hashing_encoder):
    build_index(kb.snapshot())
    remove(kb, 230)
    indexes = Indexes("tree")
    search = indexes.ready(kb.snapshot())
    assert search.kind == "tree" and as_exact(kb.snapshot(), search, queries(hashing_encoder, "the price of Orca 90 m"))


def test_an_earlier_revision_or_a_view_is_no_reason_to_measure(kb, builds, measured):
    early = kb.revision
    kb.add(triples(400, 1000))
    build_index(kb.snapshot())
    newest, indexes = kb.snapshot(), Indexes("tree")
    assert indexes.ready(newest).kind == "tree"
    assert indexes.ready(kb.snapshot(early)).kind == "exact"
    assert indexes.ready(kb.view(source="elsewhere").snapshot()).kind == "exact"
    assert measured.asked == 0 and not builds


def test_auto_scores_every_key_once_an_index_finds_much_less(kb, monkeypatch, measured):
    monkeypatch.setattr("kblam_engine.search.indexes.seconds_per_key", lambda snapshot: 1.0)
    monkeypatch.setattr(following, "build_index", lambda *_, **__: 1 / 0)
    build_index(kb.snapshot())
    record_with(kb, recall=0.99, time_ratio=0.2)
    indexes = Indexes("auto", lambda: 1.0)
    assert indexes.of(kb.snapshot()).kind == "tree"
    measured[:] = [0.8]
    remove(kb, 60)
    assert indexes.ready(kb.snapshot()).kind == "exact"


# What a compaction leaves.


def test_a_compaction_deletes_the_index_that_it_makes_useless(kb):
    build_index(kb.snapshot())
    kb.compact()
    assert read_record(kb.path) is not None, "nothing was removed, and no slot has moved"
    remove(kb, 20)
    kb.compact()
    assert not [path.name for path in kb.path.iterdir() if path.name.startswith("index") and path.name != "index.lock"]


@pytest.mark.parametrize("folder", ["../outside", "index-0123456789ab", 7])
def test_a_compaction_deletes_nothing_that_a_stranger_names(kb, tmp_path, folder):
    build_index(kb.snapshot())
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").touch()
    (kb.path / "index-0123456789ab").symlink_to(outside)
    record_with(kb, folder=folder)
    remove(kb, 20)
    kb.compact()
    assert (outside / "mine").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"generation": "x"}', "[" * 100_000])
def test_a_compaction_passes_over_a_record_that_is_none(kb, text):
    (kb.path / "index.json").write_text(text)
    remove(kb, 20)
    assert kb.compact().n_dropped == 20 and (kb.path / "index.json").exists()
