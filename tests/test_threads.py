"""How many threads torch gets beside other programs."""

from __future__ import annotations

import os

import pytest
import torch

from kblam_engine import threads
from kblam_engine.cli._answering import leave_busy_cores
from kblam_engine.threads import OtherPrograms, threads_beside, usable_cores

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
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_fewer_threads_are_told(two_threads, capsys):
    leave_busy_cores(1.3)
    assert torch.get_num_threads() == 1
    assert "1.3 of 2 cores busy: computing with 1" in capsys.readouterr().err


def test_an_idle_machine_keeps_its_threads(two_threads, capsys):
    leave_busy_cores(0.2)
    assert torch.get_num_threads() == 2 and not capsys.readouterr().err


def test_what_the_user_has_set_stays(two_threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    leave_busy_cores(1.9)
    assert torch.get_num_threads() == 2


def test_this_machine_has_cores():
    assert usable_cores() and all(isinstance(number, int) for number in usable_cores())
