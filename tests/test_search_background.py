"""Work in threads beside the answers: one for each thing, and a program can end under it."""

import subprocess
import sys
import threading

import pytest

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.search import background as background_module
from kblam_engine.search.background import Background, Stopped, go_on

# A build that never ends by itself, as one of many millions of keys: it computes in torch and tells how far it is.
ENDLESS = """
import sys, time, torch
from kblam_engine import KnowledgeBase
from kblam_engine.search import build
from kblam_engine.search.indexes import Indexes

began = []

def endless(keys, *, progress, **options):
    rows = torch.randn(400, 400)
    while True:
        rows = torch.nn.functional.normalize(rows @ rows)
        began.append(1)
        progress("pass 1 of 2", 0, len(keys))

build.find_clusters = endless
kb = KnowledgeBase.open(sys.argv[1], encoder="hashing")
print(Indexes("tree").of(kb.snapshot()).kind)
while not began:
    time.sleep(0.01)
print("bye")
"""


def test_a_program_ends_while_an_index_is_built(tmp_path, hashing_encoder):
    folder = tmp_path / "big.kb"
    with KnowledgeBase.open(folder, encoder="hashing") as kb:
        kb.add([Triple(f"Orca {n}", "price", f"{n} euros") for n in range(50)])
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["exact", "bye"], "")
    assert not [path.name for path in folder.iterdir() if "part" in path.name or path.name.startswith("index-")]


def test_there_is_one_thread_for_each_key():
    work, going_on, ran = Background(), threading.Event(), []

    def wait():
        going_on.wait(30)
        ran.append(1)

    assert work.start("a", wait) and not work.start("a", wait) and work.start("b", wait)
    assert work.has("a") and not work.has("c")
    going_on.set()
    work.wait()
    assert len(ran) == 2 and not work.has("a")
    assert work.start("a", wait)
    work.wait()


def test_a_thread_that_computes_is_waited_for_even_where_a_daemon_starts_it():
    work, daemons = Background(), []

    def start():
        work.start("a", lambda: daemons.append(threading.current_thread().daemon))

    starter = threading.Thread(target=start, daemon=True)
    starter.start()
    starter.join()
    work.wait()
    assert daemons == [False]


def test_nothing_is_started_at_the_end_of_a_program(monkeypatch):
    go_on()
    monkeypatch.setattr(background_module, "_is_ending", lambda: True)
    work, ran = Background(), []
    assert not work.start("a", lambda: ran.append(1))
    work.wait()
    assert not ran
    with pytest.raises(Stopped):
        go_on()


def test_work_that_is_stopped_ends_in_silence(capsys):
    work = Background()

    def stop():
        raise Stopped

    work.start("a", stop)
    work.wait()
    assert not work.has("a") and capsys.readouterr().err == ""


def test_answers_do_without_a_thread_that_is_not_to_be_had(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    work = Background()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert not work.start("a", go_on) and not work.has("a")
