"""How many threads torch gets beside other programs."""

from __future__ import annotations

import os

import pytest
import torch

from kblam_engine import threads
from kblam_engine.threads import BusyCores, OtherPrograms, threads_beside, usable_cores

HEAD = "cpu  9 9 9 9 9 9 9 9 9 9\n"
TAIL = "intr 1 2 3\nctxt 4\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Two cores of three are ours; what they have done is written to a file."""
    monkeypatch.setattr(threads, "STATISTICS", tmp_path / "stat")
    monkeypatch.setattr(threads, "_TICKS", 100)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2}, raising=False)
    clock = {"now": 0.0, "own": 0.0}
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(threads.time, "process_time", lambda: clock["own"])

    def at(now: float, own: float, cores: list[str]) -> None:
        clock.update(now=now, own=own)
        (tmp_path / "stat").write_text(HEAD + "".join(f"cpu{n} {line}\n" for n, line in enumerate(cores)) + TAIL)

    return at


def test_what_others_do_on_our_cores(machine):
    machine(10, 5, ["100 0 0 900 0 0 0 0 0 0", "0 0 0 0 0 0 0 0 0 0", "0 0 0 0 0 0 0 0 0 0"])
    others = OtherPrograms()
    # Two seconds later: 1.5 s of user and 0.5 s of system time on core 0, 0.4 s stolen on core 2, of which 1.0 s were ours. What
    # waits (iowait), guests (counted as user time already) and the core that is not ours do not count.
    machine(12, 6, ["250 0 50 900 70 0 0 0 30 0", "200 0 0 0 0 0 0 0 0 0", "0 0 0 160 0 0 0 40 0 0"])
    assert others.cores() == pytest.approx((1.5 + 0.5 + 0.4 - 1.0) / 2)


def test_a_machine_that_tells_nothing(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "STATISTICS", tmp_path / "none")
    assert OtherPrograms().cores() == 0.0


@pytest.mark.parametrize(
    ("others", "cores", "expected"),
    [(0.0, 2, 2), (0.4, 2, 2), (0.6, 2, 1), (1.9, 2, 1), (5.0, 2, 1), (0.0, 1, 1), (1.2, 8, 7), (3.6, 8, 4)],
)
def test_a_thread_for_each_core_that_is_mostly_free(others, cores, expected):
    assert threads_beside(others, cores) == expected


@pytest.fixture
def two_threads(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_follow_what_others_do(machine, two_threads):
    machine(0, 0, ["0 0 0 0 0 0 0 0"] * 3)
    busy = BusyCores()

    def after(others: float) -> str | None:
        machine(0, 0, ["0 0 0 0 0 0 0 0"] * 3)
        busy.watch()
        machine(10, 0, [f"{round(others * 1000)} 0 0 0 0 0 0 0", *["0 0 0 0 0 0 0 0"] * 2])
        return busy.adjust()

    assert after(0.2) is None and torch.get_num_threads() == 2
    assert after(1.3) == "other programs keep 1.3 of 2 cores busy: computing with 1 (otherwise 2: OMP_NUM_THREADS=2)"
    assert torch.get_num_threads() == 1
    assert after(1.9) is None and torch.get_num_threads() == 1
    assert after(0.1) == "other programs keep 0.1 of 2 cores busy: computing with 2 again"
    assert torch.get_num_threads() == 2


def test_a_moment_is_too_short_to_tell(machine, two_threads):
    machine(0, 0, ["0 0 0 0 0 0 0 0"] * 3)
    busy = BusyCores()
    machine(0.01, 0, ["1 0 0 0 0 0 0 0", "0 0 0 0 0 0 0 0", "1 0 0 0 0 0 0 0"])
    assert busy.adjust() is None and torch.get_num_threads() == 2


def test_what_the_user_has_set_stays(machine, two_threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    machine(0, 0, ["0 0 0 0 0 0 0 0"] * 3)
    busy = BusyCores()
    machine(10, 0, ["1900 0 0 0 0 0 0 0"] * 3)
    assert busy.adjust() is None and torch.get_num_threads() == 2


def test_torch_never_gets_more_than_it_had(machine, two_threads):
    torch.set_num_threads(1)
    machine(0, 0, ["0 0 0 0 0 0 0 0"] * 3)
    busy = BusyCores()
    machine(10, 0, ["0 0 0 0 0 0 0 0"] * 3)
    assert busy.adjust() is None and torch.get_num_threads() == 1


def test_this_machine_has_cores():
    assert usable_cores() and all(isinstance(number, int) for number in usable_cores())
