"""Dealing triples out to shards, by name: all triples of one name are in one shard, so that it alone knows its siblings."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kblam_engine.cluster.folder import PARTS, discard
from kblam_engine.cluster.manifest import digest_of_texts
from kblam_engine.errors import ImportFileError
from kblam_engine.models.registry import sha256_of

if TYPE_CHECKING:
    from kblam_engine.sources import Source

_AT_ONCE = 100_000
"""Triples held before they are written to the files of their shards."""


@dataclass(frozen=True, slots=True)
class SplitTask:
    """One file of triples to deal out; `folder` is that of the shards."""

    path: str
    n_shards: int
    folder: str


@dataclass(frozen=True, slots=True)
class Split:
    """A file of triples that has been dealt out.

    Attributes:
        folder: of its parts, one file for each shard that it has triples for.
        digest: of the file's name and contents.
        n_triples: in it.
        skipped: how many were left out, by reason.
        sizes: how many triples each shard has of them; a shard without any is left out.
    """

    folder: str
    digest: str
    n_triples: int
    skipped: dict[str, int]
    sizes: dict[int, int]

    def part(self, shard: int) -> Path:
        """Return where the triples of a shard are; there is no such file where it has none."""
        return Path(self.folder) / part_name(shard)


def shard_of(name: str, n_shards: int) -> int:
    """Return the shard that a name belongs to; the same in every process, for ever."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % n_shards


def part_name(shard: int) -> str:
    """Return the name of the file with a shard's part of the triples of one file."""
    return f"{shard:05d}.jsonl"


def parts_name(digest: str, n_shards: int) -> str:
    """Return the name of the folder with all parts of a file that has this digest."""
    return digest_of_texts(digest, str(n_shards))[:16]


def digest_of_input(path: str) -> str:
    """Return the digest of a file's name and contents: triples say which file they are from.

    Raises:
        ImportFileError: it is no file.
        OSError: it cannot be read.
    """
    if Path(path).is_dir():
        raise ImportFileError(path, 0, f"expected a file of triples, got a folder; name its files: {path}/*")
    return digest_of_texts(path, sha256_of(Path(path)))


def split(task: SplitTask) -> Split:
    """Write a file's triples to one file for each shard, in their order; what is there already is not done again.

    Raises:
        ImportFileError: the file is damaged, or no source reads it.
        MissingDependencyError: its format needs a package that is not installed.
        OSError: it cannot be read, or the parts cannot be written.
    """
    from kblam_engine.sources import open_source

    digest = digest_of_input(task.path)
    place = Path(task.folder) / PARTS / parts_name(digest, task.n_shards)
    known = _known(place)
    if known is not None:
        return Split(str(place), digest, *known)
    # Not the process id: two machines may have the same.
    draft = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    draft.mkdir(parents=True)
    try:
        done = _dealt_out(open_source(task.path), task.n_shards, draft)
        (draft / "done.json").write_text(json.dumps(done), "utf-8")
        os.rename(draft, place)
    except OSError:
        discard(draft)
        if _known(place) is None:  # else the same file is named twice, and another worker was first
            raise
    except BaseException:
        discard(draft)
        raise
    return Split(str(place), digest, *_checked(done))


def _dealt_out(source: Source, n_shards: int, draft: Path) -> list[Any]:
    """Write the triples of a source to the files of their shards; return how many, what was skipped, and how many each got."""
    waiting: dict[int, list[str]] = defaultdict(list)
    sizes: Counter[int] = Counter()
    n = 0
    for triple in source:
        shard = shard_of(triple.name, n_shards)
        waiting[shard].append(json.dumps(triple.to_dict(), ensure_ascii=False))
        sizes[shard] += 1
        n += 1
        if n % _AT_ONCE == 0:
            _append(draft, waiting)
    _append(draft, waiting)
    return [n, dict(source.skipped), sorted(sizes.items())]


def _append(folder: Path, waiting: dict[int, list[str]]) -> None:
    for shard, lines in waiting.items():
        # One after the other: there may be more shards than a process may have files open.
        with (folder / part_name(shard)).open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    waiting.clear()


def _known(place: Path) -> tuple[int, dict[str, int], dict[int, int]] | None:
    """Return what is written of a file that has been dealt out; None if it has not."""
    try:
        return _checked(json.loads((place / "done.json").read_text("utf-8")))
    except (OSError, ValueError):
        return None


def _checked(done: list[Any]) -> tuple[int, dict[str, int], dict[int, int]]:
    n, skipped, sizes = done
    return n, skipped, dict(sizes)
