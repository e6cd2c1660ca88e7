"""Keys on a device: every one is scored there, and what does not fit is searched as before. Here the device is the CPU."""

import gc
import shutil
import weakref

import numpy as np
import pytest
import torch

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import ConfigurationError
from kblam_engine.search import device as device_module
from kblam_engine.search.device import DeviceIndex, DeviceKeys
from kblam_engine.search.exact import ExactIndex
from kblam_engine.search.indexes import Indexes
from kblam_engine.search.snapshot_search import SnapshotSearch

PLENTY = 1 << 30


def unit(rng, n, dim=32):
    rows = rng.standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def keys():
    return unit(np.random.default_rng(1), 3_000).astype(np.float16)


@pytest.fixture
def queries():
    return unit(np.random.default_rng(2), 3)


def triples(start, stop):
    parts = ("battery life", "founder", "price", "colour")
    return [Triple(f"Orca {n // 4} {chr(97 + n // 4 % 26)}", parts[n % 4], f"value {n}") for n in range(start, stop)]


@pytest.fixture
def kb(tmp_path, hashing_encoder):
    with KnowledgeBase.open(tmp_path / "big.kb", encoder=hashing_encoder) as kb:
        kb.add(triples(0, 400))
        yield kb


def asked(encoder):
    return encoder.encode(["the price of Orca 7 h", "the colour of Orca 33 h"])


def index_of(keys):
    return DeviceIndex((), torch.device("cpu")).with_slots(keys)


def assert_same(found, truth):
    np.testing.assert_array_equal(found.at, truth.at)
    np.testing.assert_allclose(found.scores, truth.scores, atol=1e-5)
    np.testing.assert_allclose(found.log_normaliser, truth.log_normaliser, atol=1e-4)
    assert found.scores.dtype == np.float32 and found.at.dtype == np.int64


def assert_as_scanned(indexes, snapshot, queries):
    """Scores of some keys of a knowledge base are equal; of those any may be found."""
    found, truth = indexes.of(snapshot).search(queries, 9), SnapshotSearch(snapshot).search(queries, 9)
    np.testing.assert_allclose(found.scores, truth.scores, atol=1e-5)
    np.testing.assert_allclose(found.log_normaliser, truth.log_normaliser, atol=1e-4)
    keys = np.asarray(snapshot.key_embeddings, np.float32)
    for query, row, scores in zip(queries, found.at, found.scores, strict=True):
        at = row[row >= 0]
        np.testing.assert_allclose(keys[at] @ query, scores[: len(at)], atol=1e-5)
        assert len(set(at.tolist())) == len(at) == min(9, len(snapshot))


@pytest.mark.parametrize("chunk", [7, 1_000, 65_536])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.0])
def test_it_finds_what_a_scan_finds(keys, queries, chunk, share, monkeypatch):
    monkeypatch.setattr(device_module, "CHUNK", chunk)
    alive = np.random.default_rng(3).random(len(keys)) < share
    assert_same(index_of(keys).search(queries, 16, alive), ExactIndex(keys).search(queries, 16, alive))
    assert_same(index_of(keys).search(queries, 16), ExactIndex(keys).search(queries, 16))


def test_fewer_keys_than_asked_for_leave_room(keys, queries):
    assert_same(index_of(keys[:4]).search(queries, 9), ExactIndex(keys[:4]).search(queries, 9))


def test_no_keys_find_nothing(keys, queries):
    assert (index_of(keys[:0]).search(queries, 4).at == -1).all()


def test_damaged_keys_count_for_nothing(keys, queries):
    queries[:] = queries[0]
    best = ExactIndex(keys).search(queries, 20).at[0]
    keys[best[3]], keys[best[7]] = np.nan, np.inf
    found = index_of(keys).search(queries, 18)
    assert_same(found, ExactIndex(keys).search(queries, 18))
    assert found.at[0].tolist() == [at for at in best.tolist() if at not in (best[3], best[7])]


def test_what_is_there_is_shared_with_an_index_that_grows(keys, queries):
    first = index_of(keys[:1_000])
    grown = first.with_slots(keys)
    assert (first.n_slots, grown.n_slots) == (1_000, 3_000)
    assert grown.n_bytes == keys.nbytes
    assert grown._chunks[0] is first._chunks[0]
    assert_same(grown.search(queries, 8), ExactIndex(keys).search(queries, 8))


def test_a_device_other_than_a_gpu_needs_a_limit():
    with pytest.raises(ConfigurationError, match="max_bytes: expected a number"):
        DeviceKeys("cpu")


@pytest.mark.parametrize("wanted", ["auto", "exact"])
def test_exact_and_auto_search_there(kb, hashing_encoder, wanted):
    indexes = Indexes(wanted, every_key=DeviceKeys("cpu", PLENTY))
    snapshot = kb.snapshot()
    search = indexes.of(snapshot)
    assert isinstance(search.index, DeviceIndex) and search.kind == "exact"
    assert_as_scanned(indexes, snapshot, asked(hashing_encoder))


@pytest.mark.parametrize("wanted", ["tree", "ann"])
def test_an_index_that_is_asked_for_by_name_is_taken(kb, wanted):
    assert Indexes(wanted, background=False, every_key=DeviceKeys("cpu", PLENTY)).of(kb.snapshot()).index is None


def test_a_source_of_the_applications_own_comes_first(kb):
    own = DeviceKeys("cpu", 0)
    assert Indexes(own, every_key=DeviceKeys("cpu", PLENTY)).of(kb.snapshot()).index is None


def test_keys_without_room_are_searched_as_before(kb, hashing_encoder):
    search = Indexes("exact", every_key=DeviceKeys("cpu", 1_000)).of(kb.snapshot())
    assert search.index is None
    assert search.search(asked(hashing_encoder), 3).at.min() >= 0


def test_a_full_gpu_is_told_and_not_used(kb, monkeypatch, caplog):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DeviceIndex, "with_slots", full)
    assert DeviceKeys("cpu", PLENTY).of(kb.snapshot()) is None
    assert "keys stay in main memory" in caplog.text


@pytest.mark.parametrize("tail", [10_000, 0])
def test_changes_are_seen_at_once(kb, hashing_encoder, tail, monkeypatch):
    monkeypatch.setattr(device_module, "TAIL", tail)
    indexes = Indexes("exact", every_key=DeviceKeys("cpu", PLENTY))
    before = kb.snapshot()
    first = indexes.of(before).index
    kb.remove("Orca 7 h", "price")
    kb.set("Orca 33 h", "colour", "teal")
    kb.add([Triple("Orca 999 z", "price", "4")])
    after = kb.snapshot()
    for snapshot in (before, after):
        assert_as_scanned(indexes, snapshot, asked(hashing_encoder))
    last = indexes.of(after).index
    assert (last is first) == bool(tail) and last.n_slots == (first.n_slots if tail else after.n_slots)


@pytest.mark.parametrize("namespace", ["", "other"])
def test_views_and_compactions_find_the_same(kb, hashing_encoder, namespace):
    kb.add([Triple("Orca 7 h", "price", "5", namespace="other")])
    indexes = Indexes("exact", every_key=DeviceKeys("cpu", PLENTY))
    queries, before = asked(hashing_encoder), kb.snapshot()
    kb.remove("Orca 9 j", "price")
    view = kb.view(namespace=namespace).snapshot()
    assert (indexes.of(view).index is None) == (namespace == "other")  # the few of a small view are scored as they are
    kb.compact()
    for snapshot in (before, view, kb.snapshot()):
        assert_as_scanned(indexes, snapshot, queries)


def test_a_copy_that_went_another_way_has_keys_of_its_own(kb, tmp_path, hashing_encoder):
    source = DeviceKeys("cpu", PLENTY)
    copied = tmp_path / "copy.kb"
    kb.close()
    shutil.copytree(kb.path, copied)
    found = []
    for folder, name in ((kb.path, "Whale"), (copied, "Dolphin")):
        with KnowledgeBase.open(folder, encoder=hashing_encoder) as one:
            one.add([Triple(name, "price", "9")])
            snapshot = one.snapshot()
            query = hashing_encoder.encode([f"the price of {name}"])
            search = SnapshotSearch(snapshot, source.of(snapshot))
            found.append(snapshot.triples(search.search(query, 1).at[0].tolist())[0].name)
    assert found == ["Whale", "Dolphin"]


def test_the_one_used_longest_ago_makes_room(tmp_path, hashing_encoder):
    kbs = [KnowledgeBase.open(tmp_path / f"{n}.kb", encoder=hashing_encoder) for n in range(3)]
    for kb in kbs:
        kb.add(triples(0, 40))
    one = kbs[0].snapshot().key_segment().nbytes
    source = DeviceKeys("cpu", 2 * one)
    first = weakref.ref(source.of(kbs[0].snapshot()))
    second = source.of(kbs[1].snapshot())
    assert source.of(kbs[0].snapshot()) is first()
    assert source.of(kbs[2].snapshot()) is not None
    gc.collect()
    assert first() is not None and source.of(kbs[1].snapshot()) is not second
    for kb in kbs:
        kb.close()
