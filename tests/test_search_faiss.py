"""Keys in an index of faiss: any number and width of them, what fills up its lists, and a file that is damaged."""

import json
import sys
import zlib
from dataclasses import asdict

import numpy as np
import pytest

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import KnowledgeBaseError, MissingDependencyError
from kblam_engine.search import faiss_index, files
from kblam_engine.search.build import build_index, open_index
from kblam_engine.search.exact import scan
from kblam_engine.search.files import RECORD, contents_problem, index_problems, read_record

FILE = "keys.faiss"


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def kb(tmp_path, hashing_encoder):
    with KnowledgeBase.open(tmp_path / "big.kb", encoder=hashing_encoder) as kb:
        kb.add([Triple(f"Orca {n // 3}", ("founder", "price", "colour")[n % 3], f"value {n}") for n in range(1_500)])
        yield kb


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
    index = faiss_index._mapped(tmp_path / FILE)
    assert isinstance(faiss.downcast_InvertedLists(index.invlists), faiss.OnDiskInvertedLists)


@pytest.mark.parametrize("some_removed", [False, True])
def test_what_fills_up_the_lists_takes_no_place_of_a_key(tmp_path, some_removed):
    """It has the code 0, and beside a query that is like it all of it scores higher than any key."""
    faiss = pytest.importorskip("faiss")
    keys = unit(np.random.default_rng(0).standard_normal((4_000, 16))).astype(np.float16)
    index, _ = faiss_index.write_faiss(tmp_path, keys, 0, lambda *_: None)
    index.n_probes = index._index.nlist
    pq = index._index.pq
    zero = faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)[:, 0].reshape(1, -1)
    near = scan(keys, unit(zero).astype(np.float32), 20).at[0]
    queries = np.concatenate([unit(zero), keys[near]]).astype(np.float32)
    alive = np.arange(len(keys)) != near[-1] if some_removed else None
    found, truth = index.search(queries, 8, alive), scan(keys, queries, 8, alive)
    np.testing.assert_allclose(found.scores[:, 0], truth.scores[:, 0], atol=1e-3)
    assert np.mean([len(set(a) & set(b)) / 8 for a, b in zip(found.at, truth.at, strict=True)]) > 0.9


def test_without_faiss_the_command_to_install_it_is_told(kb, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=r"kblam-engine\[ann\]"):
        faiss_index.write_faiss(kb.path, kb.snapshot().key_segment(), 0, lambda *_: None)
    assert files.read_record(kb.path) is None


def test_a_file_that_faiss_cannot_write_is_told_and_nothing_stays(kb, monkeypatch):
    faiss = pytest.importorskip("faiss")

    def full(*_):
        raise RuntimeError("Error in write_InvertedLists: write error: No space left on device")

    monkeypatch.setattr(faiss, "write_index", full)
    with pytest.raises(KnowledgeBaseError, match="expected room for an index of 1,500 keys"):
        build_index(kb.snapshot(), "ann")
    assert read_record(kb.path) is None and not list(kb.path.glob("*index-*"))


def test_a_file_whose_end_faiss_has_lost_is_told(kb, monkeypatch):
    """It writes through a buffer, and does not look whether the last of it could be written."""
    faiss = pytest.importorskip("faiss")
    write = faiss.write_index

    def short(index, path):
        write(index, path)
        with open(path, "r+b") as file:
            file.truncate(file.seek(0, 2) - 100)

    monkeypatch.setattr(faiss, "write_index", short)
    with pytest.raises(KnowledgeBaseError, match="expected room for an index of 1,500 keys"):
        build_index(kb.snapshot(), "ann")
    assert read_record(kb.path) is None and not list(kb.path.glob("*index-*"))


def changed(kb, record, data=None, **options):
    """Put other bytes into the file, with the checksum of them in the record, and other options."""
    path = kb.path / record.folder / FILE
    if data is not None:
        path.write_bytes(data)
    record.files[FILE] = path.stat().st_size, files.checksum(path)
    record.options.update(options)
    (kb.path / RECORD).write_text(json.dumps({"format": files.FORMAT, **asdict(record)}), "utf-8")


@pytest.mark.parametrize("at", [0, 4, 8, 16, 40, 60, 200])
def test_a_damaged_beginning_is_told_before_faiss_reads_it(kb, at, monkeypatch):
    record = build_index(kb.snapshot(), "ann")
    path = kb.path / record.folder / FILE
    data = bytearray(path.read_bytes())
    data[at : at + 8] = bytes(byte ^ 0xFF for byte in data[at : at + 8])
    path.write_bytes(data)
    monkeypatch.setattr(files, "CHECKED_WHOLE", 0)
    monkeypatch.setattr(faiss_index, "_mapped", lambda _: pytest.fail("faiss was given the file"))
    with pytest.raises(KnowledgeBaseError, match="expected the beginning as it was written.* kblam kb index --kb"):
        open_index(kb.snapshot())


@pytest.mark.parametrize("keep", [0, 100, 20_000])
def test_a_file_that_faiss_cannot_read_is_told_with_the_remedy(kb, keep):
    """Even if its checksum is right: a forged one, or the disk lost some of it before it was computed."""
    record = build_index(kb.snapshot(), "ann")
    data = (kb.path / record.folder / FILE).read_bytes()[:keep]
    changed(kb, record, data, head_bytes=max(1, keep), head_check=zlib.crc32(data))
    with pytest.raises(KnowledgeBaseError, match="kblam kb index --kb"):
        open_index(kb.snapshot())


def test_lists_that_reach_beyond_their_file_are_told(kb):
    record = build_index(kb.snapshot(), "ann")
    data = (kb.path / record.folder / FILE).read_bytes()
    changed(kb, record, data[: record.options["head_bytes"] + 1_000])
    with pytest.raises(KnowledgeBaseError, match="kblam kb index --kb"):
        open_index(kb.snapshot())


@pytest.mark.parametrize("n_probes", [0, -1, 10**9, 10**30, 2.5, "4", None, True])
def test_a_number_of_lists_that_cannot_be_is_told(kb, n_probes):
    record = build_index(kb.snapshot(), "ann")
    changed(kb, record, n_probes=n_probes)
    with pytest.raises(KnowledgeBaseError, match="n_probes: expected 1 to"):
        open_index(kb.snapshot())


@pytest.mark.parametrize(("n_keys", "widths"), [(1_499, 1), (1_500, 2)])
def test_an_index_of_other_keys_is_told(kb, tmp_path, n_keys, widths):
    record = build_index(kb.snapshot(), "ann")
    keys = np.random.default_rng(0).standard_normal((n_keys, widths * kb.snapshot().embed_dim)).astype(np.float16)
    (tmp_path / "other").mkdir()
    _, options = faiss_index.write_faiss(tmp_path / "other", keys, 0, lambda *_: None)
    changed(kb, record, (tmp_path / "other" / FILE).read_bytes(), **options)
    with pytest.raises(KnowledgeBaseError, match="got another index"):
        open_index(kb.snapshot())


def test_damaged_lists_of_a_large_index_are_told_by_their_contents_and_harm_no_search(kb, hashing_encoder, monkeypatch):
    record = build_index(kb.snapshot(), "ann")
    assert contents_problem(kb.path, record) is None
    path, head = kb.path / record.folder / FILE, record.options["head_bytes"]
    data = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, len(data) - head, np.uint8)
    path.write_bytes(data[:head] + noise.tobytes())
    with pytest.raises(KnowledgeBaseError, match="kblam kb index --kb"):
        open_index(kb.snapshot())
    monkeypatch.setattr(files, "CHECKED_WHOLE", 0)
    queries = hashing_encoder.encode(["the founder of Orca 7", "the price of Orca 300"])
    for alive in (None, np.arange(1_500) % 7 > 0):
        found = open_index(kb.snapshot())[1].search(queries, 8, alive)
        assert (found.at < 1_500).all()
    assert f"{FILE} is not as it was written" in contents_problem(kb.path, record)
    assert FILE in index_problems(kb.path)[0]
