"""An index of a knowledge base on disk: built, opened, measured, followed through changes, replaced, restored."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import ConfigurationError, KnowledgeBaseLockedError
from kblam_engine.search import build
from kblam_engine.search.build import build_index, fits, open_index
from kblam_engine.search.exact import scan
from kblam_engine.search.files import RECORD, building, index_problems, read_record, remove_index
from kblam_engine.search.snapshot_search import SnapshotSearch
from kblam_engine.search.tree import Beam

N = 600


def triples(start, stop):
    parts = ("battery life", "founder", "price", "colour")
    return [Triple(f"Orca {n // 4} {chr(97 + n // 4 % 26)}", parts[n % 4], f"value {n}") for n in range(start, stop)]


@pytest.fixture
def kb(tmp_path, hashing_encoder):
    with KnowledgeBase.open(tmp_path / "big.kb", encoder=hashing_encoder) as kb:
        kb.add(triples(0, N))
        yield kb


@pytest.fixture
def queries(hashing_encoder):
    return hashing_encoder.encode([f"What is the {p} of Orca {n} {chr(97 + n)}?" for n, p in enumerate(("founder", "price") * 5)])


def opened(kb):
    snapshot = kb.snapshot()
    found = open_index(snapshot)
    return SnapshotSearch(snapshot, None if found is None else found[1])


def same_as_exact(kb, queries, k=8):
    """Compare scores, not places: equal keys are equally right."""
    search = opened(kb)
    found, truth = search.search(queries, k), SnapshotSearch(kb.snapshot()).search(queries, k)
    np.testing.assert_allclose(found.scores, truth.scores, atol=0.01 if search.kind == "ann" else 1e-5)
    rows = kb.snapshot().key_embeddings
    for query, at, scores in zip(queries, found.at, found.scores, strict=True):
        np.testing.assert_allclose(rows[at].astype(np.float32) @ query, scores, atol=1e-5)
    return search


@pytest.mark.parametrize("kind", ["tree", "ann"])
def test_an_index_is_recorded_and_finds_what_scoring_every_key_finds(kb, queries, kind):
    record = build_index(kb.snapshot(), kind)
    assert record == read_record(kb.path)
    assert record.kind == kind and record.n_slots == N and record.recall > 0.95 and record.build_s > 0
    assert record.size_bytes == sum(f.stat().st_size for f in (kb.path / record.folder).iterdir())
    assert same_as_exact(kb, queries, 4).kind == kind
    assert index_problems(kb.path) == [] and kb.verify() == []


@pytest.mark.parametrize("kind", ["tree", "ann"])
def test_changes_are_seen_at_once_without_a_new_index(kb, queries, hashing_encoder, kind):
    build_index(kb.snapshot(), kind)
    gone = [hit.triple for hit in kb.search("the founder of Orca 1 b", 1)]
    kb.remove(gone[0].name, gone[0].property)
    kb.set("Narwhal 7", "depth", "900 m")
    kb.set("Orca 3 d", "battery life", "another value")
    query = hashing_encoder.encode(["the depth of Narwhal 7"])
    search = opened(kb)
    assert search.kind == kind and search.n_unindexed >= 1
    assert kb.snapshot().triple(int(search.search(query, 1).at[0, 0])).value == "900 m"
    names = {t.key_text for t in kb.snapshot().triples(search.search(queries, 8).at[0])}
    assert gone[0].key_text not in names
    same_as_exact(kb, queries, 4)


def test_earlier_revisions_and_views_are_searched_by_the_same_index(kb, queries):
    first = kb.revision
    kb.remove("Orca 1 b")
    kb.add([Triple("Orca 1 b", "weight", "3 t", namespace="other"), *triples(N, N + 40)])
    build_index(kb.snapshot())
    index = replace(open_index(kb.snapshot())[1], beam=Beam(10_000, 10_000))
    for snapshot in (kb.snapshot(first), kb.view(namespace="other").snapshot(), kb.snapshot()):
        found, truth = SnapshotSearch(snapshot, index).search(queries, 3), scan(snapshot.key_embeddings, queries, 3)
        np.testing.assert_allclose(found.scores, truth.scores, atol=1e-5)
        np.testing.assert_array_equal(found.at < 0, truth.at < 0)


def test_a_revision_is_searched_without_a_map_of_every_slot(kb, queries):
    """At a million slots such a map takes as long as the search."""
    build_index(kb.snapshot())
    for n in range(12):
        kb.remove(f"Orca {n} {chr(97 + n)}")
    kb.set("Narwhal 7", "depth", "900 m")
    search = same_as_exact(kb, queries)
    moved = kb.snapshot().moved()
    assert len(moved.positions) == len(moved.slots) > 0
    # Every position by its slot, the moved ones too.
    np.testing.assert_array_equal(search._slots.positions(kb.snapshot(), kb.snapshot().slots()), np.arange(len(kb)))
    assert search._slots.positions(kb.snapshot(), np.array([-1])) == [-1] and search._slots._positions is None


def test_a_rollback_brings_triples_back_into_the_index(kb, queries):
    before = kb.revision
    kb.remove("Orca 1 b")
    build_index(kb.snapshot())
    kb.rollback(before)
    same_as_exact(kb, queries)


def test_a_compaction_puts_the_index_out_of_use(kb):
    record = build_index(kb.snapshot())
    written = (kb.path / RECORD).read_bytes()
    kb.remove("Orca 1 b")
    with KnowledgeBase.open(kb.path, create=False) as other:
        before = other.snapshot()
        kb.compact()
        (kb.path / RECORD).write_bytes(written)  # as a compaction leaves it that breaks off
        assert record.generation == before.generation
        for snapshot in (kb.snapshot(), before):
            assert not fits(record, snapshot) and open_index(snapshot) is None


def test_a_crash_while_building_leaves_the_old_index(kb, queries, monkeypatch):
    old = build_index(kb.snapshot())
    monkeypatch.setattr(build, "write_tree", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_index(kb.snapshot())
    assert read_record(kb.path) == old and index_problems(kb.path) == []
    same_as_exact(kb, queries)


def test_what_a_killed_build_left_is_removed_by_the_next(kb):
    (kb.path / ".index-0123456789ab.part").mkdir()
    (kb.path / "index-0123456789ab").mkdir()
    record = build_index(kb.snapshot())
    assert sorted(p.name for p in kb.path.glob("*index-*")) == [record.folder]


def test_a_new_index_replaces_the_old_while_that_is_read(kb, queries):
    build_index(kb.snapshot())
    search = opened(kb)
    truth = search.search(queries, 5)
    record = build_index(kb.snapshot(), seed=1)
    np.testing.assert_array_equal(search.search(queries, 5).scores, truth.scores)
    assert [p.name for p in kb.path.glob("index-*")] == [record.folder]


def test_two_builds_do_not_meet(kb):
    with building(kb.path), pytest.raises(KnowledgeBaseLockedError, match="building an index"):
        build_index(kb.snapshot())
    assert read_record(kb.path) is None


def test_an_index_of_another_knowledge_base_is_not_taken(kb, tmp_path, hashing_encoder):
    record = build_index(kb.snapshot())
    with KnowledgeBase.open(tmp_path / "other.kb", encoder=hashing_encoder) as other:
        other.add(triples(0, 10))
        shutil.copytree(kb.path / record.folder, other.path / record.folder)
        shutil.copy(kb.path / RECORD, other.path / RECORD)
        assert open_index(other.snapshot()) is None


def test_an_index_can_be_removed(kb):
    build_index(kb.snapshot())
    assert remove_index(kb.path) and not remove_index(kb.path)
    assert open_index(kb.snapshot()) is None and not list(kb.path.glob("index-*"))


def test_a_backup_has_no_index_and_works_without(kb, tmp_path):
    build_index(kb.snapshot())
    kb.backup(tmp_path / "copy.kb")
    with KnowledgeBase.open(tmp_path / "copy.kb") as copy:
        assert open_index(copy.snapshot()) is None


def test_what_cannot_be_indexed_is_refused(kb, memory_kb):
    with pytest.raises(ConfigurationError, match="on disk"):
        build_index(memory_kb.snapshot())
    with pytest.raises(ConfigurationError, match="tree"):
        build_index(kb.snapshot(), "forest")


def test_a_snapshot_from_before_the_index_is_not_searched_by_it(kb):
    before = kb.snapshot()
    kb.add(triples(N, N + 40))
    record = build_index(kb.snapshot())
    assert fits(record, kb.snapshot()) and open_index(kb.snapshot())[0] == record
    assert not fits(record, before) and open_index(before) is None


def test_an_index_of_keys_that_a_restored_copy_does_not_have_is_not_taken(kb, tmp_path, hashing_encoder):
    """The same knowledge base and generation, and other keys in the same slots."""
    place = kb.path
    kb.close()
    shutil.copytree(place, tmp_path / "copy")
    with KnowledgeBase.open(place, encoder=hashing_encoder) as later:
        later.add(triples(N, N + 100))
        record = build_index(later.snapshot())
    for path in place.iterdir():
        if path.is_file() and not path.name.startswith("index"):
            path.unlink()
    shutil.copytree(tmp_path / "copy", place, dirs_exist_ok=True)
    with KnowledgeBase.open(place, encoder=hashing_encoder) as restored:
        restored.add(triples(N + 4_000, N + 4_150))
        snapshot = restored.snapshot()
        assert (record.kb_id, record.generation) == (snapshot.kb_id, snapshot.generation) and record.n_slots < snapshot.n_slots
        assert not fits(record, snapshot) and open_index(snapshot) is None


@pytest.mark.parametrize("at", [0, 137, N - 1])
def test_the_check_of_the_keys_sees_the_last_and_some_of_everywhere(kb, at):
    segment = np.array(kb.snapshot().key_segment())
    spread = np.linspace(0, N - 1, 64).astype(int)
    at = int(spread[np.abs(spread - at).argmin()])
    checked = build.keys_check(segment, N)
    assert build.keys_check(np.concatenate([segment, segment]), N) == checked
    segment[at] += 1
    assert build.keys_check(segment, N) != checked
    assert build.keys_check(segment[:1], 1) != checked


def test_an_index_that_is_replaced_while_it_is_opened_is_opened_anew(kb, monkeypatch):
    first = build_index(kb.snapshot())
    read, records = build.read_record, []

    def stale(folder):
        record = read(folder)
        if not records:
            build_index(kb.snapshot(), seed=5)
        records.append(record)
        return record

    monkeypatch.setattr(build, "read_record", stale)
    record, _ = open_index(kb.snapshot())
    assert records[0] == first and record == read(kb.path) != first


def test_an_index_that_is_removed_while_it_is_opened_is_none(kb, monkeypatch):
    build_index(kb.snapshot())
    read = build.read_record

    def stale(folder):
        record = read(folder)
        remove_index(folder)
        return record

    monkeypatch.setattr(build, "read_record", stale)
    assert open_index(kb.snapshot()) is None


def test_an_index_is_not_removed_while_another_is_put_to_use(kb):
    record = build_index(kb.snapshot())
    with building(kb.path), pytest.raises(KnowledgeBaseLockedError, match="building an index"):
        remove_index(kb.path)
    assert read_record(kb.path) == record and index_problems(kb.path) == []


def test_where_there_is_no_index_none_is_removed_and_nothing_is_written(kb):
    before = sorted(path.name for path in kb.path.iterdir())
    assert not remove_index(kb.path)
    assert sorted(path.name for path in kb.path.iterdir()) == before
