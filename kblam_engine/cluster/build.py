"""Building a folder of shards: deal the triples out, make every shard that is not complete, then write the manifest.

Two rounds of tasks, one after the other: no task waits for another one, so that no number of workers can deadlock.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kblam_engine.cluster.manifest import (
    FILE,
    Manifest,
    ShardRecord,
    digest_of_texts,
    is_sharded,
    problems,
    read_manifest,
    write_manifest,
)
from kblam_engine.cluster.shard_building import ShardTask, make_shard
from kblam_engine.cluster.splitting import PARTS, SplitTask, digest_of_input, split
from kblam_engine.cluster.workers import Here, Workers
from kblam_engine.errors import ConfigurationError, KnowledgeBaseError, KnowledgeBaseLockedError

_LOCK = "build.lock"
MAX_SHARDS = 100_000
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many of it are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build.

    Attributes:
        triples: files of triples (JSONL, Parquet, CSV ...), in the order in which they are added.
        output: folder of the shards; all workers have to see it, and the triples, under the same path.
        n_shards: how many shards.
        encoder: name of the sentence encoder.
        multi: keep several values of a name and property side by side.
        index: how keys are searched in each shard: exact, tree or ann.

    Raises:
        ConfigurationError: there are no files, or a number or word that cannot work.
    """

    triples: tuple[str, ...]
    output: Path
    n_shards: int
    encoder: str = "all-minilm-l6-v2"
    multi: bool = False
    index: str = "exact"

    def __post_init__(self) -> None:
        """Check what is asked for."""
        if not self.triples:
            raise ConfigurationError("expected files of triples, got none")
        if not isinstance(self.n_shards, int) or isinstance(self.n_shards, bool) or not 0 < self.n_shards <= MAX_SHARDS:
            raise ConfigurationError(f"shards: expected 1 to {MAX_SHARDS:,}, got {self.n_shards!r}")
        if self.index not in ("exact", "tree", "ann"):
            raise ConfigurationError(f"index: expected exact, tree or ann, got {self.index!r}")


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did.

    Attributes:
        manifest: of all shards.
        made: numbers of the shards that were made now; all others were complete.
        n_read: triples in the files, the same name and property again each time counted.
        skipped: triples that were left out, by reason.
    """

    manifest: Manifest
    made: tuple[int, ...]
    n_read: int
    skipped: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        shards = [
            {name: value for name, value in asdict(shard).items() if name != "files"} for shard in self.manifest.shards
        ]
        return {
            "n_triples": self.manifest.n_triples,
            "n_shards": len(self.manifest.shards),
            "made": list(self.made),
            "n_read": self.n_read,
            "skipped": self.skipped,
            "encoder": self.manifest.encoder,
            "index": self.manifest.index,
            "size_bytes": sum(shard.size_bytes for shard in self.manifest.shards),
            "shards": shards,
        }


@dataclass(frozen=True, slots=True)
class _Settings:
    """The sentence encoder, and the digest of all that decides what shards look like."""

    encoder: str
    fingerprint: str
    embed_dim: int
    digest: str


def build_shards(
    request: BuildRequest, workers: Workers | None = None, progress: Progress = lambda *_: None
) -> BuildReport:
    """Build a folder of shards, or what of it is missing.

    A shard that is complete, by its checksums, is not made again; one that was cut off is. Where the triples are others
    than before, the shards whose triples have changed are made anew; the old ones serve until all are complete.

    Args:
        request: what to build.
        workers: who does it; default this process alone.
        progress: told how far it is.

    Raises:
        KnowledgeBaseLockedError: another process is building there.
        KnowledgeBaseError: the folder holds something else, or other shards than these; a file of triples is damaged.
        ModelNotFoundError: there is no such sentence encoder.
    """
    workers = workers or Here()
    folder = request.output.absolute()
    _check_folder(folder)
    settings = _settings_of(request)
    paths = [str(Path(path).absolute()) for path in request.triples]
    missing = next((path for path in paths if not Path(path).exists()), None)
    if missing is not None:
        raise ConfigurationError(f"{missing}: expected a file of triples, found nothing there")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            return _build(request, folder, paths, settings, workers, progress)
    except Timeout:
        raise KnowledgeBaseLockedError(f"{folder}: another process is building shards there; wait for it") from None


def _build(
    request: BuildRequest, folder: Path, paths: list[str], settings: _Settings, workers: Workers, progress: Progress
) -> BuildReport:
    before = read_manifest(folder) if is_sharded(folder) else None
    if before is not None:
        _check_before(folder, before, request, settings)
    inputs = dict(_told(workers.map(_input_digest, paths), "reading files", len(paths), progress))
    source = digest_of_texts(settings.digest, str(request.n_shards), *(inputs[path] for path in paths))
    if before is not None and before.source == source:
        checks = [(str(folder), shard) for shard in before.shards]
        if not any(_told(workers.map(_is_damaged, checks), "checking shards", len(checks), progress)):
            return BuildReport(before, (), 0)
    splits = _dealt_out(paths, request.n_shards, folder, workers, progress)
    tasks = [
        ShardTask(
            number=number,
            parts=tuple(str(one.part(number)) for one in splits if one.part(number).exists()),
            folder=str(folder),
            encoder=settings.encoder,
            encoder_fingerprint=settings.fingerprint,
            settings=settings.digest,
            multi=request.multi,
            index=request.index,
        )
        for number in range(request.n_shards)
    ]
    done = sorted(
        _told(workers.map(make_shard, tasks), "making shards", len(tasks), progress), key=lambda one: one.record.number
    )
    manifest = Manifest(
        source=source,
        encoder=settings.encoder,
        encoder_fingerprint=settings.fingerprint,
        embed_dim=settings.embed_dim,
        index=request.index,
        shards=tuple(one.record for one in done),
    )
    write_manifest(folder, manifest)
    _clear(folder, manifest)
    skipped: Counter[str] = Counter()
    for one in splits:
        skipped.update(one.skipped)
    made = tuple(one.record.number for one in done if not one.was_complete)
    return BuildReport(manifest, made, sum(one.n_triples for one in splits), dict(skipped))


def _dealt_out(paths: list[str], n_shards: int, folder: Path, workers: Workers, progress: Progress) -> list[Any]:
    """Return the split of each file, in the order of the files: later triples replace earlier ones."""
    tasks = [SplitTask(path, n_shards, str(folder)) for path in dict.fromkeys(paths)]
    by_path = dict(_told(workers.map(_split, tasks), "dealing out triples", len(tasks), progress))
    return [by_path[path] for path in paths]


def _split(task: SplitTask) -> tuple[str, Any]:
    return task.path, split(task)


def _input_digest(path: str) -> tuple[str, str]:
    return path, digest_of_input(path)


def _is_damaged(check: tuple[str, ShardRecord]) -> bool:
    folder, record = check
    return bool(problems(Path(folder), record))


def _settings_of(request: BuildRequest) -> _Settings:
    from kblam_engine.sentence_encoder import load_sentence_encoder

    encoder = load_sentence_encoder(request.encoder)
    digest = digest_of_texts(encoder.fingerprint, str(request.multi), request.index)
    return _Settings(encoder.name, encoder.fingerprint, encoder.embed_dim, digest)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir() or is_sharded(folder):
        if folder.exists() and not folder.is_dir():
            raise KnowledgeBaseError(f"{folder}: expected a folder, or nothing, got a file")
        return
    strange = [path.name for path in folder.iterdir() if not _is_ours(path.name)]
    if strange:
        raise KnowledgeBaseError(
            f"{folder}: expected shards or an empty folder, got a folder with {strange[0]}; choose another one"
        )


def _is_ours(name: str) -> bool:
    return name in (PARTS, _LOCK, FILE, f".{FILE}.part") or name.lstrip(".").startswith("shard-")


def _check_before(folder: Path, before: Manifest, request: BuildRequest, settings: _Settings) -> None:
    for what, there, wanted in (
        ("shards", len(before.shards), request.n_shards),
        ("sentence encoder", before.encoder_fingerprint, settings.fingerprint),
    ):
        if there != wanted:
            raise KnowledgeBaseError(
                f"{folder}: expected the {what} that it was built with, {there}, got {wanted}; choose another folder"
            )


def _clear(folder: Path, manifest: Manifest) -> None:
    """Remove what no manifest names any more; a reader keeps what it has mapped."""
    named = {shard.folder for shard in manifest.shards}
    for path in folder.glob("shard-*"):
        if path.name.removesuffix(".json") not in named:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _told(results: Any, what: str, n: int, progress: Progress) -> Sequence[Any]:
    """Return all results, and tell how many there are as they come."""
    progress(what, 0, n)
    found = []
    for result in results:
        found.append(result)
        progress(what, len(found), n)
    return found
