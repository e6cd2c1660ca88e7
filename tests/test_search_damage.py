"""An index on disk that is damaged, foreign, linked or half replaced is told with the remedy, and never searched."""

import builtins
import errno
import io
import json
import os
from dataclasses import asdict

import numpy as np
import pytest

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import KnowledgeBaseError
from kblam_engine.search import build, files, tree_files
from kblam_engine.search.build import build_index, open_index
from kblam_engine.search.files import (
    RECORD,
    contents_problem,
    index_problems,
    read_record,
    remove_index,
)

N = 400
REMEDY = "make a new index: kblam kb index --kb"


def triples(what, start, stop):
    return [Triple(f"{what} {n // 2}", ("founder", "price")[n % 2], f"value {n}") for n in range(start, stop)]


@pytest.fixture
def kb(tmp_path, hashing_encoder):
    with KnowledgeBase.open(tmp_path / "big.kb", encoder=hashing_encoder) as kb:
        kb.add(triples("Orca", 0, N))
        yield kb


@pytest.fixture
def tree(kb):
    """The record of a tree over all keys."""
    return build_index(kb.snapshot())


def write_record(kb, record):
    (kb.path / RECORD).write_text(json.dumps({"format": files.FORMAT, **asdict(record)}), "utf-8")


def change_record(kb, **changes):
    written = json.loads((kb.path / RECORD).read_text("utf-8"))
    (kb.path / RECORD).write_text(json.dumps({**written, **changes}), "utf-8")


def forge(kb, record, name, data):
    """Put other bytes, or another array, into a file, with the size and checksum of them in the record."""
    path = kb.path / record.folder / name
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        np.save(path, data)
    record.files[name] = path.stat().st_size, files.checksum(path)
    write_record(kb, record)


def is_told(kb, match=REMEDY):
    with pytest.raises(KnowledgeBaseError, match=match) as caught:
        open_index(kb.snapshot())
    assert "kblam kb index --kb" in str(caught.value)


@pytest.mark.parametrize("name", ["inters_means.npy", "root_of.npy", "leaf_slots.npy", "coarse_steps.npy"])
def test_a_damaged_file_is_told(kb, tree, name):
    path = kb.path / tree.folder / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert f"{name} is not as it was written" in index_problems(kb.path)[0]
    is_told(kb, name)


def test_changed_leaves_are_told(kb, tree):
    path = kb.path / tree.folder / "leaves.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    is_told(kb, "leaves.npy")


def test_cut_leaves_are_told_and_changed_ones_of_a_large_tree_are_by_their_contents(kb, tree, monkeypatch):
    monkeypatch.setattr(files, "CHECKED_WHOLE", 0)
    path = kb.path / tree.folder / "leaves.npy"
    data = path.read_bytes()
    assert contents_problem(kb.path, tree) is None
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert open_index(kb.snapshot()) is not None, "the contents of the leaves are for a thread beside the searches"
    told = contents_problem(kb.path, tree)
    assert "leaves.npy is not as it was written" in told and REMEDY in told
    assert "leaves.npy is not as it was written" in index_problems(kb.path)[0]
    path.write_bytes(data[:-2])
    is_told(kb, "leaves.npy")
    assert "leaves.npy is missing or has been cut" in contents_problem(kb.path, tree)


def test_the_contents_of_an_index_that_was_replaced_are_nobodys_problem(kb, tree):
    build_index(kb.snapshot(), seed=1)
    assert contents_problem(kb.path, tree) is None
    (kb.path / RECORD).unlink()
    assert contents_problem(kb.path, tree) is None


FORGED = {
    "root_of.npy": [lambda a: a + 1_000, lambda a: a - 1_000, lambda a: a + 0.5, lambda a: a[:-1], lambda a: a[None]],
    "leaf_slots.npy": [
        lambda a: np.where(a == 7, 8, a).astype(np.int32),
        lambda a: np.where(a == 7, 1 << 30, a).astype(np.int32),
        lambda a: -a,
        lambda a: a.astype(np.float64),
        lambda a: a[:-1],
        lambda a: a.astype(">i4"),
    ],
    "leaves.npy": [lambda a: a.astype(np.int16), lambda a: a[:, :-1], lambda a: a[:-1], np.asfortranarray],
    "roots_means.npy": [lambda a: a[:, :5], lambda a: a[:, 0], lambda a: a.astype(np.float32)],
    "inters_sizes.npy": [
        lambda a: np.concatenate([[a[0] + a[1] + 1_000, -1_000], a[2:]]),
        lambda a: np.concatenate([[a[0] + 2**40, a[1] - 2**40], a[2:]]),
        lambda a: a + 1,
        lambda a: a.astype(np.float64),
    ],
    "inters_lengths.npy": [lambda a: a * np.nan, lambda a: a * 0, lambda a: -a, lambda a: a[:3]],
    "coarse_directions.npy": [lambda a: a.astype(np.complex64), lambda a: a[:7], lambda a: a * np.inf],
    "coarse_steps.npy": [lambda a: a * 0, lambda a: a[:, None], lambda a: a[:0]],
}


@pytest.mark.parametrize(("name", "number"), [(name, n) for name, changes in FORGED.items() for n in range(len(changes))])
def test_arrays_that_are_no_tree_of_these_keys_are_told(kb, tree, name, number):
    """Even if their checksums are right."""
    array = np.load(kb.path / tree.folder / name)
    forge(kb, tree, name, FORGED[name][number](array))
    is_told(kb, name.removesuffix(".npy") if name != "coarse_steps.npy" else "coarse_")


def header(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY\x01\x00v\x00" + b"\xff({[" * 40,
        header((2**42,)),
        header((2**60,)),
        header((-1,)),
        b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 117 + b"\n",
    ],
)
@pytest.mark.parametrize("name", ["inters_lengths.npy", "leaves.npy"])
def test_a_header_that_numpy_cannot_read_or_that_promises_too_much_is_told(kb, tree, name, data):
    forge(kb, tree, name, data)
    is_told(kb)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beam": None},
        {"beam": {"roots": 0, "inters": 0}},
        {"beam": {"roots": 6.5, "inters": 128.5}},
        {"beam": {"roots": "a", "inters": "b"}},
        {"beam": {"roots": True, "inters": 128}},
        {"beam": {"roots": 6, "inters": 128, "leaves": 3}},
    ],
)
def test_a_beam_that_cannot_be_is_told(kb, tree, options):
    change_record(kb, options=options)
    is_told(kb)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "kblam-index/9"},
        {"format": "kblam-index/2"},
        {"folder": "../elsewhere"},
        {"surplus": 1},
        {"files": {"../kb.sqlite": [1, 2]}},
        {"files": []},
        {"n_slots": "x"},
        {"n_slots": 0},
        {"n_slots": True},
        {"recall": "x"},
        {"time_ratio": float("nan")},
        {"options": []},
        {"keys": None},
    ],
)
def test_a_record_that_cannot_be_trusted_is_told(kb, tree, change):
    change_record(kb, **change)
    is_told(kb, "expected the record of an index")
    assert "expected the record of an index" in index_problems(kb.path)[0]


@pytest.mark.parametrize("data", [b"[" * 100_000, b"[]", b"\xff\xfe", b"", b" " * (2 << 20) + b"{}", b"7", b"1" * 9_999])
def test_a_record_that_is_none_is_told(kb, tree, data):
    (kb.path / RECORD).write_bytes(data)
    is_told(kb, "expected the record of an index")
    assert "expected the record of an index" in index_problems(kb.path)[0]


def test_an_unknown_kind_is_told(kb, tree):
    change_record(kb, kind="forest")
    is_told(kb, "forest")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes in folders")
@pytest.mark.parametrize("what", ["pipe", "link", "folder"])
def test_a_record_that_is_no_file_of_its_own_is_told_and_a_pipe_not_waited_for(kb, tree, tmp_path, what):
    path = kb.path / RECORD
    path.rename(tmp_path / "elsewhere.json")
    if what == "pipe":
        os.mkfifo(path)
    elif what == "link":
        path.symlink_to(tmp_path / "elsewhere.json")
    else:
        path.mkdir()
    is_told(kb, "got a link, or no file")
    assert index_problems(kb.path)


def test_a_linked_folder_or_file_is_not_followed_and_its_index_replaced(kb, tree, tmp_path):
    folder = kb.path / tree.folder
    file = folder / "root_of.npy"
    file.rename(tmp_path / "root_of.npy")
    file.symlink_to(tmp_path / "root_of.npy")
    is_told(kb, "root_of.npy")
    assert "root_of.npy" in index_problems(kb.path)[0]
    file.unlink()
    (tmp_path / "root_of.npy").rename(file)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    is_told(kb, "got a link")
    assert "is a link" in index_problems(kb.path)[0]
    record = build_index(kb.snapshot())
    assert [path.name for path in kb.path.glob("index-*")] == [record.folder]
    assert len(list((tmp_path / "elsewhere").iterdir())) == len(tree.files), "what a link points to stays"


def test_a_linked_lock_is_refused_and_what_it_points_to_stays(kb, tmp_path):
    (tmp_path / "precious").write_text("data")
    (kb.path / "index.lock").symlink_to(tmp_path / "precious")
    for act in (lambda: build_index(kb.snapshot()), lambda: remove_index(kb.path)):
        (kb.path / "index-0123456789ab").mkdir(exist_ok=True)
        with pytest.raises(KnowledgeBaseError, match="got a link"):
            act()
    assert (tmp_path / "precious").read_text() == "data"


@pytest.mark.parametrize("name", [RECORD, f"{RECORD}.part"])
def test_a_folder_in_the_place_of_the_record_is_told_before_anything_is_built(kb, name, monkeypatch):
    (kb.path / name).mkdir()
    monkeypatch.setattr(build, "find_clusters", lambda *_, **__: pytest.fail("built in vain"))
    with pytest.raises(KnowledgeBaseError, match="got a folder; move it away"):
        build_index(kb.snapshot())
    assert not list(kb.path.glob("*index-*"))


def test_a_record_that_cannot_be_written_leaves_the_index_before(kb, tree, monkeypatch):
    replaced = os.replace

    def full(source, target):
        if os.fspath(target).endswith(RECORD):
            raise OSError(errno.ENOSPC, "No space left on device")
        replaced(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        build_index(kb.snapshot(), seed=1)
    assert read_record(kb.path) == tree and [path.name for path in kb.path.glob("*index-*")] == [tree.folder]


class Disk:
    """What is left of a disk."""

    def __init__(self, room):
        self.room = room

    def open(self, path, mode="r", *args, **kwargs):
        file = builtins.open(path, mode, *args, **kwargs)
        return _OnDisk(file, self) if "x" in mode else file


class _OnDisk:
    def __init__(self, file, disk):
        self._file, self._disk = file, disk

    def write(self, data):
        self._disk.room -= len(data)
        if self._disk.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def test_a_full_disk_is_told_whatever_is_written_to_it(kb, tree, monkeypatch):
    """Written through a mapping, it would end the process."""
    leaves, _ = tree.files["leaves.npy"]
    for room in (10, leaves // 2, tree.size_bytes - leaves // 2):
        disk = Disk(room)
        with monkeypatch.context() as patched:
            patched.setattr(tree_files.Path, "open", lambda path, mode="r", disk=disk: disk.open(path, mode))
            with pytest.raises(OSError, match="No space left"):
                build_index(kb.snapshot(), seed=1)
        assert read_record(kb.path) == tree and [path.name for path in kb.path.glob("*index-*")] == [tree.folder]
    assert open_index(kb.snapshot()) is not None


def test_no_file_of_a_tree_is_written_through_a_mapping(kb, monkeypatch):
    """A mapped file has holes until it is filled: a disk that has no room for them is noticed by a signal alone."""
    mapped = np.lib.format.open_memmap

    def to_read(*args, mode="r+", **options):
        assert mode in ("r", "c")
        return mapped(*args, mode=mode, **options)

    monkeypatch.setattr(np.lib.format, "open_memmap", to_read)
    monkeypatch.setattr(np, "save", lambda *_: pytest.fail("numpy does not always see the last write fail"))
    assert open_index(kb.snapshot()) is None and build_index(kb.snapshot()).n_slots == N
    assert open_index(kb.snapshot()) is not None
