"""A disk without room, for all that writes beside imports: compaction, backup, rollback, and formats brought up to date.

A limit on the size of files stands in for it: a write beyond fails as on a full disk, in a process of its own.
"""

import os
import subprocess
import sys
import textwrap

import pytest
from kb_parts import assert_consistent, make_version_1, open_kb

from kblam_engine import Triple
from kblam_engine.sentence_encoder import HashingEncoder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")

N = 3_000
FIRST = [Triple(f"name {i}", "property", f"value {i}") for i in range(N)]
LIMITED = """
    import resource, signal, sys
    from kblam_engine import KnowledgeBase
    from kblam_engine.sentence_encoder import HashingEncoder
    path, action, room = sys.argv[1], sys.argv[2], int(sys.argv[3])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    def opened():
        return KnowledgeBase.open(path, encoder=HashingEncoder())
    kb = None if action == "open" else opened()
    limit(room)
    try:
        if action == "open":
            kb = opened()
        elif action == "rollback":
            kb.rollback(1)
        elif action == "compact":
            kb.compact()
        else:
            kb.backup(path + " copy")
        print("done")
    except Exception as error:
        print(type(error).__name__, error)
    limit(resource.RLIM_INFINITY)
    kb = kb or opened()
    print(len(kb), kb.info().fingerprint, kb.verify())
"""


def without_room(path, action, room):
    """Do something with little room; return what was said of it, and of the knowledge base afterwards."""
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(path), action, str(room)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def is_clear(told, path):
    """Say whether an error names the knowledge base, and a reason that a user can act on."""
    kind = told.startswith(("OSError", "KnowledgeBaseError"))
    return kind and str(path) in told and any(words in told for words in ("File too large", "is the disk full", "No space"))


# The first fails at once, the others on the way: some after the change has been committed, which then must hold.
ROOMS = [0, 250_000, 800_000]


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("action", ["rollback", "compact", "backup"])
def test_no_room_loses_nothing(tmp_path, action, room):
    path = tmp_path / "kb"
    with open_kb(path) as kb:
        kb.add(FIRST)
        kb.add([Triple(f"name {i}", "property", f"other {i}") for i in range(0, N, 2)])
        kb.remove(ids=kb.ids()[: N // 3])
        before, was = list(kb), kb.snapshot(1).fingerprint
        fingerprint = kb.info().fingerprint
    told, state = without_room(path, action, room)
    if room == 0:
        assert told != "done"
    assert told == "done" or is_clear(told, path), told
    if action == "rollback" and told == "done":
        assert state == f"{N} {was} []"
    else:
        assert state == f"{len(before)} {fingerprint} []"
    if action == "backup" and told != "done":
        assert sorted(os.listdir(tmp_path)) == ["kb"], "no half of a copy is left"
    with open_kb(path) as kb:  # there is room again
        kb.rollback(1) if action == "rollback" else kb.compact() if action == "compact" else kb.backup(tmp_path / "copy 2")
        if action == "rollback":
            assert set(kb) == set(FIRST)
        else:
            assert list(kb) == before
        assert_consistent(kb.snapshot(), HashingEncoder())
        assert kb.verify() == []


@pytest.mark.parametrize("room", [0, 100_000])
def test_no_room_to_bring_a_knowledge_base_up_to_date(tmp_path, room):
    path = tmp_path / "kb"
    make_version_1(path, FIRST)
    told, state = without_room(path, "open", room)
    assert is_clear(told, path), told
    assert state.startswith(f"{N} ") and state.endswith(" []"), "with room again it is brought up to date"
    with open_kb(path) as kb:
        assert list(kb) == FIRST and kb.info().schema_version == 2 and kb.find('"name 17"')
