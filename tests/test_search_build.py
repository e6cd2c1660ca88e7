"""An index of a knowledge base on disk: built, opened, measured, followed through changes, damaged, replaced."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import (
    ConfigurationError,
    KnowledgeBaseError,
    KnowledgeBaseLockedError,
    MissingDependencyError,
)
from kblam_engine.search import build, faiss_index, files
from kblam_engine.search.build import build_index, open_index
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
    assert len(moved.positions) == len(moved.slots) > 0 and "_position_of" not in vars(search)
    # Every position by its slot, the moved ones too.
    np.testing.assert_array_equal(search._positions(kb.snapshot().slots()), np.arange(len(kb)))
    assert search._positions(np.array([-1])) == [-1]


def test_a_rollback_brings_triples_back_into_the_index(kb, queries):
    before = kb.revision
    kb.remove("Orca 1 b")
    build_index(kb.snapshot())
    kb.rollback(before)
    same_as_exact(kb, queries)


def test_a_compaction_puts_the_index_out_of_use(kb):
    build_index(kb.snapshot())
    kb.remove("Orca 1 b")
    kb.compact()
    assert read_record(kb.path) is not None and open_index(kb.snapshot()) is None


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


@pytest.mark.parametrize("name", ["inters_means.npy", "root_of.npy"])
def test_a_damaged_file_is_told(kb, name):
    record = build_index(kb.snapshot())
    path = kb.path / record.folder / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert name in index_problems(kb.path)[0]
    with pytest.raises(KnowledgeBaseError, match="make a new index"):
        open_index(kb.snapshot())


def test_cut_leaves_and_changed_leaves_are_told(kb):
    record = build_index(kb.snapshot())
    path = kb.path / record.folder / "leaves.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "leaves.npy is not as it was written" in index_problems(kb.path)[0]
    path.write_bytes(data[:-2])
    with pytest.raises(KnowledgeBaseError, match="leaves.npy"):
        open_index(kb.snapshot())


@pytest.mark.parametrize(
    "change", [{"format": "kblam-index/9"}, {"folder": "../elsewhere"}, {"surplus": 1}, {"files": {"../kb.sqlite": [1, 2]}}]
)
def test_a_record_that_cannot_be_trusted_is_told(kb, change):
    build_index(kb.snapshot())
    written = json.loads((kb.path / RECORD).read_text())
    (kb.path / RECORD).write_text(json.dumps({**written, **change}))
    with pytest.raises(KnowledgeBaseError, match="expected the record of an index"):
        open_index(kb.snapshot())


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


@pytest.mark.parametrize(("n_keys", "embed_dim"), [(1, 8), (40, 7), (600, 7), (1200, 16)])
def test_faiss_holds_any_number_of_keys_of_any_width(tmp_path, capfd, n_keys, embed_dim):
    keys = np.random.default_rng(0).standard_normal((n_keys, embed_dim)).astype(np.float16)
    index, options = faiss_index.write_faiss(tmp_path, keys, 0, lambda *_: None)
    assert capfd.readouterr() == ("", "") and index.n_slots == n_keys and options["n_probes"] <= options["n_lists"]
    queries = keys[:3].astype(np.float32)
    found, truth = index.search(queries, 5), scan(keys, queries, 5)
    np.testing.assert_array_equal(found.at[:, 0], truth.at[:, 0])
    np.testing.assert_allclose(found.scores[:, 0], truth.scores[:, 0], atol=1e-4)
    alive = np.arange(n_keys) != truth.at[0, 0]
    assert truth.at[0, 0] not in index.search(queries[:1], 5, alive).at


def test_lists_of_faiss_are_mapped_not_read(tmp_path):
    faiss = pytest.importorskip("faiss")
    keys = np.random.default_rng(0).standard_normal((2_000, 16)).astype(np.float16)
    faiss_index.write_faiss(tmp_path, keys, 0, lambda *_: None)
    index = faiss_index._mapped(tmp_path / "keys.faiss")
    assert isinstance(faiss.downcast_InvertedLists(index.invlists), faiss.OnDiskInvertedLists)


def test_an_index_of_8_bit_keys_that_an_earlier_version_made_is_read(kb, queries):
    faiss = pytest.importorskip("faiss")
    record = build_index(kb.snapshot(), "ann")
    rows = np.asarray(kb.snapshot().key_segment(), np.float32)
    earlier = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(rows.shape[1]), rows.shape[1], 4, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    earlier.train(rows)
    earlier.add(rows)
    path = kb.path / record.folder / "keys.faiss"
    faiss.write_index(earlier, str(path))
    record.files[path.name] = path.stat().st_size, files.checksum(path)
    written = {"format": files.FORMAT, **asdict(record)}
    (kb.path / files.RECORD).write_text(json.dumps(written), "utf-8")
    assert same_as_exact(kb, queries, 4).kind == "ann"


def test_without_faiss_the_command_to_install_it_is_told(kb, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=r"kblam-engine\[ann\]"):
        faiss_index.write_faiss(kb.path, kb.snapshot().key_segment(), 0, lambda *_: None)
    assert files.read_record(kb.path) is None
