"""Arrays that look up only what is asked for, and the numbering of ids."""

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kblam_engine import Triple
from kblam_engine.knowledge_base import numbering, slots
from kblam_engine.knowledge_base.numbering import Numbering, Places, among, hits
from kblam_engine.knowledge_base.rows import Column, SelectedRows
from tests.kb_parts import assert_consistent, open_kb

NUMBERS = np.array([7, 3, 9, 1, 4])
ROWS = np.arange(12, dtype=np.float16).reshape(4, 3)
CHOSEN = np.array([3, 0, 2])


@pytest.mark.parametrize(
    "index",
    [0, -1, np.int64(2), slice(1, None), slice(None, None, -1), [2, 0], np.array([-1, 1]), np.array([], np.int64),
     np.array([True, False, True])],
)  # fmt: skip
def test_they_read_like_the_arrays_that_they_stand_for(index):
    rows, column = SelectedRows(ROWS, CHOSEN), Column(3, np.int32, lambda at: NUMBERS[at])
    for lazy, array in ((rows, ROWS[CHOSEN]), (column, NUMBERS[:3].astype(np.int32))):
        np.testing.assert_array_equal(lazy[index], array[index])
        assert np.asarray(lazy[index]).dtype == lazy.dtype == array.dtype and lazy.shape == array.shape
    np.testing.assert_array_equal(rows[index, 1:], np.asarray(rows)[index, 1:])


def test_all_of_them_is_an_array_of_their_type():
    rows, column = SelectedRows(ROWS, CHOSEN), Column(3, np.int32, lambda at: NUMBERS[at])
    assert column.tolist() == [7, 3, 9] and column.tobytes() == NUMBERS[:3].astype(np.int32).tobytes()
    assert np.asarray(column).dtype == np.int32 and column.astype(np.int64).dtype == np.int64
    np.testing.assert_array_equal(np.asarray(rows, np.float32), ROWS[CHOSEN].astype(np.float32))


@pytest.mark.parametrize("index", [3, -4, [0, 3], np.array([-4])])
def test_a_position_that_is_not_there_is_refused(index):
    for lazy in (SelectedRows(ROWS, CHOSEN), Column(3, np.int32, lambda at: NUMBERS[at])):
        with pytest.raises(IndexError):
            lazy[index]


def test_numbers_leave_out_what_has_no_triple():
    numbering = Numbering.of(np.array([5, 2, 0, 5, 7], np.int32))
    assert numbering.all().tolist() == [2, 5, 7] and len(numbering) == 3
    assert numbering.numbers(np.array([7, 2, 5])).tolist() == [2, 0, 1]
    assert numbering.used(np.array([0, 1, 2, 7, 8])).tolist() == [False, False, True, True, False]


def test_a_changed_numbering_is_that_of_the_changed_ids():
    rng = np.random.default_rng(0)
    used, numbering = set[int](), Numbering.of(np.zeros(0, np.int32))
    for _ in range(200):
        come = rng.integers(1, 30, rng.integers(0, 4))
        gone = np.array(sorted(id for id in used - set(come.tolist()) if rng.random() < 0.2), np.int64)
        used = used - set(gone.tolist()) | set(come.tolist())
        numbering = numbering.changed(come, gone)
        assert numbering.all().tolist() == sorted(used)
        ids = np.array(sorted(used), np.int64)
        assert numbering.ids(numbering.numbers(ids)).tolist() == ids.tolist()


def test_places_are_the_same_by_a_pass_and_by_order(monkeypatch):
    monkeypatch.setattr(numbering, "_BLOCK", 64)  # several blocks, and a part of one
    ids = np.random.default_rng(1).integers(0, 20, 300).astype(np.int32)
    places = Places(ids)
    for id in [*range(25)] * 3:
        assert places.of(id).tolist() == np.flatnonzero(ids == id).tolist()


def test_a_change_makes_no_whole_column(tmp_path, monkeypatch):
    kb = open_kb(tmp_path / "kb")
    kb.add([Triple(f"thing {i // 3}", f"property {i % 3}", f"value {i}") for i in range(600)])
    before = kb.snapshot()
    assert_consistent(before, kb.encoder)  # its values are embedded, its names sorted
    monkeypatch.setattr(slots.SlotTable, "_made_anew", lambda *_: pytest.fail("made anew"))
    kb.set("thing 7", "property 1", "another")
    kb.remove("thing 9")
    kb.set("something new", "property 0", "a value")
    kb.remove("thing 3", "property 2")
    kb.set("thing 9", "a property of its own", "back")
    after = kb.snapshot()
    assert after._table.columns is before._table.columns
    assert_consistent(after, kb.encoder)
    assert len(before) == 600 and before.n_names == 200 and after.n_names == 201
    kb.close()


def test_a_snapshot_that_nobody_has_is_let_go_at_once(tmp_path):
    with open_kb(tmp_path / "kb") as kb:
        kb.add([Triple("Acme", "founder", "Lena Hoffmann")])
        snapshot = kb.snapshot()
        assert snapshot.name_index[0] == snapshot.property_index[0] == 0 and len(snapshot.value_embeddings())
        seen = weakref.ref(snapshot)
        kb.set("Acme", "founder", "Tomás Rivera")
        kb.snapshot()
        del snapshot
        assert seen() is None


@given(st.lists(st.integers(0, 40), unique=True), st.lists(st.integers(-3, 60)), st.sampled_from([0, 5000]))
def test_numbers_are_found_among_others_whether_few_or_many_are_wanted(numbers, wanted, far):
    ascending = np.array(sorted([*numbers, far]), np.int64)
    ascending = ascending[np.r_[True, ascending[1:] != ascending[:-1]]]
    asked = np.array(wanted, np.int64)
    expected = [number in set(ascending.tolist()) for number in wanted]
    assert among(np.array([*numbers, far]), asked).tolist() == expected
    places, at = hits(ascending, asked)
    assert [place.tolist() for place in places] == [[place for place, found in enumerate(expected) if found]]
    assert ascending[at].tolist() == asked[places].tolist()
    in_pairs = np.stack([asked, asked[::-1]])
    np.testing.assert_array_equal(in_pairs[hits(ascending, in_pairs)[0]], ascending[hits(ascending, in_pairs)[1]])


def test_nothing_is_among_nothing():
    assert among(np.zeros(0, np.int64), np.array([-1, 0, 1])).tolist() == [False] * 3
