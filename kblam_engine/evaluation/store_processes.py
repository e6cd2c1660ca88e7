"""What `bench_store` measures in processes of their own: opening a knowledge base, and seeing what another process changes.

Run as `python -m kblam_engine.evaluation.store_processes opening|following FOLDER`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KBSnapshot


def read(snapshot: KBSnapshot) -> None:
    """Read all that retrieval needs of a snapshot before it searches the keys."""
    snapshot.value_embeddings()
    _ = snapshot.name_index, snapshot.property_index, snapshot.property_embeddings
    snapshot.positions_of_name(0)


def opened(path: Path) -> dict[str, Any]:
    """Return what a fresh process takes to open a knowledge base: `open_ms`, `snapshot_ms`, and `memory_mb` on Linux."""
    done = subprocess.run(_command("opening", path), capture_output=True, text=True, check=True)
    numbers: dict[str, Any] = json.loads(done.stdout)
    return numbers


def followed_ms(kb: KnowledgeBase, path: Path, triples: Sequence[Triple]) -> list[float]:
    """Change triples one by one; return the milliseconds until another process had read each change.

    That process has the knowledge base open, and is told of each change through a pipe, which is part of the time.

    Args:
        kb: the knowledge base, open to write.
        path: where it lies.
        triples: some of it, whose values are changed.

    Raises:
        RuntimeError: the other process did not see a change.
    """
    times = []
    with subprocess.Popen(
        _command("following", path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        other.stdout.readline()  # it is ready
        for triple in triples:
            value = f"{triple.value} as of {kb.revision}"
            begun = time.perf_counter()
            kb.set(triple.name, triple.property, value)
            _say([triple.name, triple.property], other.stdin)
            seen = other.stdout.readline()
            times.append(1e3 * (time.perf_counter() - begun))
            if json.loads(seen or "null") != value:
                raise RuntimeError(f"another process did not see {value!r}, but {seen!r}")
        other.stdin.close()
    return times


def _command(work: str, path: Path) -> list[str]:
    return [sys.executable, "-m", __spec__.name, work, str(path)]


def _opening(path: str) -> None:
    before, begun = _anonymous_mb(), time.perf_counter()
    kb = KnowledgeBase.open(path, create=False)
    kb.get("nothing", "at all")
    first_look_up = time.perf_counter()
    snapshot = kb.snapshot()
    _ = snapshot.name_index, snapshot.property_index
    ready = time.perf_counter()
    snapshot.value_embeddings()
    snapshot.positions_with_words("word1")
    kb.find("word1")
    after = _anonymous_mb()
    memory = None if before is None or after is None else after - before
    numbers = {"open_ms": 1e3 * (first_look_up - begun), "snapshot_ms": 1e3 * (ready - first_look_up)}
    _say({**numbers, "memory_mb": memory}, sys.stdout)


def _following(path: str) -> None:
    kb = KnowledgeBase.open(path, create=False)
    read(kb.snapshot())
    _say("ready", sys.stdout)
    for line in sys.stdin:
        read(kb.snapshot())
        found = kb.get(*json.loads(line))
        _say(None if found is None else found.value, sys.stdout)


def _say(what: Any, to: IO[str]) -> None:
    to.write(f"{json.dumps(what)}\n")
    to.flush()


def _anonymous_mb() -> float | None:
    try:
        lines = dict(line.split(":", 1) for line in open("/proc/self/status", encoding="ascii"))
        return int(lines["RssAnon"].split()[0]) / 1024
    except (OSError, KeyError):
        return None


if __name__ == "__main__":
    {"opening": _opening, "following": _following}[sys.argv[1]](sys.argv[2])
