"""What lies in a folder of shards: `shards.json`, and a record beside each shard that is complete.

A shard's folder is named after what it was made from, so that two builds of the same triples mean the same folder, and
one of other triples never touches what readers of the manifest use. A record is written when its shard is closed and
synced: a shard without one was cut off. What a build replaces stays until another one is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kblam_engine.errors import KnowledgeBaseError, KnowledgeBaseNotFoundError
from kblam_engine.models.registry import sha256_of

FILE = "shards.json"
FORMAT = "kblam-shards/1"
_RECORD_FORMAT = "kblam-shard/1"
FOLDER = re.compile(r"shard-\d{5}-[0-9a-f]{12}")
"""What the folder of a shard is called."""
_FILE = re.compile(r"(index-[0-9a-f]{12}/)?[\w-][\w.-]*")
_DIGEST = re.compile(r"[0-9a-f]+")
# What a knowledge base keeps beside its contents while it is open.
_PASSING = {"kb.sqlite-wal", "kb.sqlite-shm", "writer", "index.lock", "encoding.sqlite"}


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A shard that is complete.

    Attributes:
        number: which one, from 0.
        folder: its name beside the manifest.
        source: digest of the triples and settings that it was made from.
        n_triples: in it.
        revision: of its knowledge base.
        digest: of its contents, as the fingerprint of any knowledge base (sums up to that of all shards).
        files: name -> SHA-256.
        size_bytes: of these files.
        replaced: how many of the triples that it was given a later one of the same name and property overruled.
        unchanged: how many said what another one had said.
    """

    number: int
    folder: str
    source: str
    n_triples: int
    revision: int
    digest: str
    files: Mapping[str, str]
    size_bytes: int
    replaced: int = 0
    unchanged: int = 0

    def __post_init__(self) -> None:
        """Check what a record from elsewhere could do harm with."""
        _expect(bool(FOLDER.fullmatch(self.folder)), "folder", self.folder)
        numbers = self.number, self.n_triples, self.revision, self.size_bytes, self.replaced, self.unchanged
        _expect(all(isinstance(n, int) and n >= 0 for n in numbers), "numbers", numbers)
        _expect(self.folder == folder_of(self.number, self.folder[-12:]), "folder of another shard", self.folder)
        _expect(bool(_DIGEST.fullmatch(self.digest)), "digest", self.digest)
        for name in self.files:
            _expect(bool(_FILE.fullmatch(name)), "files", name)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The shards of one knowledge base, in order.

    Attributes:
        source: digest of everything that the build was given: the same again means that nothing is to be done.
        encoder: name of the sentence encoder.
        encoder_fingerprint: of it.
        embed_dim: length of its embeddings.
        index: how keys are searched in each shard: exact, tree or ann.
        shards: one record each.
    """

    source: str
    encoder: str
    encoder_fingerprint: str
    embed_dim: int
    index: str
    shards: tuple[ShardRecord, ...]

    @property
    def n_triples(self) -> int:
        """In all shards."""
        return sum(shard.n_triples for shard in self.shards)


def folder_of(number: int, source: str) -> str:
    """Return the name of a shard's folder from its number and the digest of what it is made from."""
    return f"shard-{number:05d}-{source[:12]}"


def is_sharded(folder: str | os.PathLike[str]) -> bool:
    """Say whether a folder holds shards."""
    return (Path(folder) / FILE).is_file()


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of a folder of shards.

    Raises:
        KnowledgeBaseNotFoundError: there is none.
        KnowledgeBaseError: it is damaged, or of another format.
    """
    path = Path(folder) / FILE
    try:
        loaded = _read(path, FORMAT)
        shards = tuple(ShardRecord(**shard) for shard in loaded.pop("shards"))
        manifest = Manifest(shards=shards, **loaded)
        _expect(len(shards) > 0, "shards", "none")
        _expect([shard.number for shard in shards] == list(range(len(shards))), "shards", "other numbers")
    except FileNotFoundError:
        raise KnowledgeBaseNotFoundError(
            f"{folder}: expected a folder of shards, found no {FILE}; make one: "
            f"kblam cluster build TRIPLES --output {folder} --shards N"
        ) from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise KnowledgeBaseError(
            f"{path}: expected a manifest of shards, got {error}; delete it and build the shards again"
        ) from error
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put a manifest in the place of the one before, as a whole."""
    _write(folder / FILE, {"format": FORMAT, **asdict(manifest)})


def read_record(folder: Path, name: str) -> ShardRecord | None:
    """Return the record of the shard in the folder `name`; None where it is not complete, or the record is damaged."""
    try:
        return ShardRecord(**_read(folder / f"{name}.json", _RECORD_FORMAT))
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None


def write_record(folder: Path, record: ShardRecord) -> None:
    """Take it that a shard is complete: its files are closed and synced."""
    _write(folder / f"{record.folder}.json", {"format": _RECORD_FORMAT, **asdict(record)})


def checked(record: ShardRecord, shard: Path) -> ShardRecord:
    """Return a record with the checksums of the files that are in the shard's folder now."""
    paths = sorted(path for path in shard.rglob("*") if path.is_file() and path.name not in _PASSING)
    files = {path.relative_to(shard).as_posix(): sha256_of(path) for path in paths}
    return replace(record, files=files, size_bytes=sum(path.stat().st_size for path in paths))


def problems(folder: Path, record: ShardRecord) -> list[str]:
    """Return what is wrong with a shard's files, one line each; reads all of them."""
    found = []
    for name, expected in record.files.items():
        path = folder / record.folder / name
        if not path.is_file() or path.is_symlink():
            found.append(f"{record.folder}/{name}: missing")
        elif sha256_of(path) != expected:
            found.append(f"{record.folder}/{name}: not as it was written")
    return found


def digest_of_texts(*texts: str) -> str:
    """Return one SHA-256 of several texts, in order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _read(path: Path, form: str) -> dict[str, Any]:
    loaded = json.loads(path.read_text("utf-8"))
    found = loaded.pop("format", None)
    if found != form:
        raise ValueError(f"format {found!r}, expected {form!r}")
    return dict(loaded)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    written = path.with_name(f".{path.name}.part")
    with written.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(written, path)


def _expect(sound: bool, part: str, found: object) -> None:
    if not sound:
        raise ValueError(f"{part}: {found!r}")
