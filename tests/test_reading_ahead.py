"""Which bytes of a mapped file are asked for before they are read."""

import mmap

import numpy as np
import pytest

from kblam_engine.knowledge_base import reading_ahead
from kblam_engine.knowledge_base.reading_ahead import read_ahead, read_ahead_ranges
from kblam_engine.knowledge_base.rows import selected

HEADER, WIDTH = 64, 256
ROW = 2 * WIDTH
PAGE = mmap.ALLOCATIONGRANULARITY

pytestmark = pytest.mark.skipif(not hasattr(mmap, "MADV_WILLNEED"), reason="this system cannot be asked")


class Recording(mmap.mmap):
    """Keeps what it was asked for, as first byte and end."""

    def madvise(self, option, start, length):
        assert option == mmap.MADV_WILLNEED and start % PAGE == 0
        super().madvise(option, start, length)
        self.asked = [*getattr(self, "asked", []), (start, start + length)]


@pytest.fixture
def mapped(tmp_path):
    rows = np.arange(2_000 * WIDTH, dtype=np.float16).reshape(2_000, WIDTH)
    path = tmp_path / "rows"
    path.write_bytes(bytes(HEADER) + rows.tobytes())
    with path.open("rb") as file:
        mapping = Recording(file.fileno(), 0, access=mmap.ACCESS_COPY)
    array = np.frombuffer(mapping, np.float16, offset=HEADER).reshape(2_000, WIDTH)
    return mapping, array


def bytes_of(row):
    return HEADER + row * ROW, HEADER + (row + 1) * ROW


def covers(asked, row):
    first, end = bytes_of(row)
    return any(start <= first and end <= stop for start, stop in asked)


def test_rows_are_asked_for_and_near_ones_together(mapped):
    mapping, rows = mapped
    read_ahead(rows, np.array([1_900, 3, 5, 900]))
    assert all(covers(mapping.asked, row) for row in (3, 5, 900, 1_900))
    assert len(mapping.asked) == 3  # 3 and 5 are one part
    assert sum(stop - start for start, stop in mapping.asked) < 4 * (PAGE + ROW)


def test_ranges_that_overlap_or_touch_are_asked_for_once(mapped):
    mapping, rows = mapped
    read_ahead_ranges(rows, np.array([10, 400, 12]), np.array([200, 500, 20]))
    assert len(mapping.asked) == 2
    assert all(covers(mapping.asked, row) for row in (10, 199, 400, 499)) and not covers(mapping.asked, 300)


def test_parts_of_an_array_and_choices_of_its_rows_lead_to_their_bytes(mapped):
    mapping, rows = mapped
    read_ahead(rows[1_000:], np.array([700]))
    assert covers(mapping.asked, 1_700) and len(mapping.asked) == 1
    read_ahead(selected(rows, np.array([50, 1_200, 60])), np.array([1]))
    assert covers(mapping.asked, 1_200) and len(mapping.asked) == 2


def test_nothing_is_asked_for_rows_in_memory_or_no_rows(mapped):
    mapping, rows = mapped
    read_ahead(rows.copy(), np.array([3]))
    read_ahead(rows, np.zeros(0, np.int64))
    assert not hasattr(mapping, "asked")


def test_systems_that_cannot_be_asked_are_left_alone(mapped, monkeypatch):
    mapping, rows = mapped
    monkeypatch.setattr(reading_ahead, "_CAN_ASK", False)
    read_ahead(rows, np.array([3]))
    assert not hasattr(mapping, "asked")
