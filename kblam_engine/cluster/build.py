"""Building a folder of shards: deal the triples out, make every shard that is not complete, then write the manifest.

Two rounds of tasks, one after the other: no task waits for another one, so that no number of workers can deadlock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kblam_engine.cluster.folder import LOCK, check_folder, check_inputs, clear_parts, clear_shards, place_of
from kblam_engine.cluster.manifest import (
    Manifest,
    ShardRecord,
    digest_of_texts,
    is_sharded,
    problems,
    read_manifest,
    read_record,
    write_manifest,
)
from kblam_engine.cluster.shard_building import MAX_TRIPLES, ShardTask, make_shard
from kblam_engine.cluster.splitting import Split, SplitTask, digest_of_input, parts_name, split
from kblam_engine.cluster.workers import Here, Workers
from kblam_engine.errors import ConfigurationError, KnowledgeBaseError, KnowledgeBaseLockedError

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
        empty: the files in which there was no triple.
    """

    manifest: Manifest
    made: tuple[int, ...]
    n_read: int
    skipped: dict[str, int] = field(default_factory=dict)
    empty: tuple[str, ...] = ()

    @property
    def replaced(self) -> int:
        """Triples that a later one of the same name and property overruled, in all shards."""
        return sum(shard.replaced for shard in self.manifest.shards)

    @property
    def unchanged(self) -> int:
        """Triples that said what another one had said, in all shards."""
        return sum(shard.unchanged for shard in self.manifest.shards)

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
            "replaced": self.replaced,
            "unchanged": self.unchanged,
            "skipped": self.skipped,
            "empty": list(self.empty),
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
    than before, the shards whose triples have changed are made anew; the old ones serve until all are complete, and stay
    until the next build of other triples, so that whoever has them open can read on.

    Args:
        request: what to build.
        workers: who does it; default this process alone.
        progress: told how far it is.

    Raises:
        KnowledgeBaseLockedError: another process is building there.
        KnowledgeBaseError: the folder holds something else, or other shards than these; a file of triples is damaged, or
            there is no triple in any.
        ConfigurationError: a file of triples is not there or lies in the folder; a shard would have too many triples.
        ModelNotFoundError: there is no such sentence encoder.
    """
    workers = workers or Here()
    folder = place_of(request.output)
    check_folder(folder)
    paths = [str(Path(path).absolute()) for path in request.triples]
    check_inputs(folder, paths)
    settings = _settings_of(request)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
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
    if before is not None and before.source == source and _is_as_recorded(folder, before):
        checks = [(str(folder), shard) for shard in before.shards]
        if not any(_told(workers.map(_is_damaged, checks), "checking shards", len(checks), progress)):
            return BuildReport(before, (), 0)
    # Of builds that failed: their drafts, and what they dealt out of other files.
    clear_parts(folder, {parts_name(digest, request.n_shards) for digest in inputs.values()})
    splits = _dealt_out(paths, request.n_shards, folder, workers, progress)
    _check_sizes(folder, paths, splits, request.n_shards)
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
    if before is None or before.source != source:  # a repair is no new generation: readers of the one before may be left
        clear_shards(folder, [manifest] if before is None else [before, manifest])
    clear_parts(folder)
    skipped: Counter[str] = Counter()
    for one in splits:
        skipped.update(one.skipped)
    made = tuple(one.record.number for one in done if not one.was_complete)
    empty = tuple(path for path, one in zip(paths, splits, strict=True) if not one.n_triples)
    return BuildReport(manifest, made, sum(one.n_triples for one in splits), dict(skipped), empty)


def _dealt_out(paths: list[str], n_shards: int, folder: Path, workers: Workers, progress: Progress) -> list[Split]:
    """Return the split of each file, in the order of the files: later triples replace earlier ones."""
    tasks = [SplitTask(path, n_shards, str(folder)) for path in dict.fromkeys(paths)]
    by_path = dict(_told(workers.map(_split, tasks), "dealing out triples", len(tasks), progress))
    return [by_path[path] for path in paths]


def _split(task: SplitTask) -> tuple[str, Split]:
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


def _check_before(folder: Path, before: Manifest, request: BuildRequest, settings: _Settings) -> None:
    for what, there, wanted in (
        ("shards", len(before.shards), request.n_shards),
        ("sentence encoder", before.encoder_fingerprint, settings.fingerprint),
        ("length of embeddings", before.embed_dim, settings.embed_dim),
    ):
        if there != wanted:
            raise KnowledgeBaseError(
                f"{folder}: expected the {what} that it was built with, {there}, got {wanted}; choose another folder"
            )


def _is_as_recorded(folder: Path, manifest: Manifest) -> bool:
    """Say whether a manifest says of its shards what they say themselves."""
    return all(read_record(folder, shard.folder) == shard for shard in manifest.shards)


def _check_sizes(folder: Path, paths: Sequence[str], splits: Sequence[Split], n_shards: int) -> None:
    """Refuse to make shards of nothing, or too large ones, before anything is encoded.

    Raises:
        KnowledgeBaseError: there is no triple in any file.
        ConfigurationError: a shard would have more triples than a knowledge base may.
    """
    sizes: Counter[int] = Counter()
    for one in splits:
        sizes.update(one.sizes)
    if not sizes:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        stays = "; the shards stay as they were" if is_sharded(folder) else ""
        raise KnowledgeBaseError(f"{paths[0]}{more}: expected files of triples, got none in them{stays}")
    shard, n = sizes.most_common(1)[0]
    if n > MAX_TRIPLES:
        enough = -(-n * n_shards * 11 // (10 * MAX_TRIPLES))  # a tenth more, because names are not spread evenly
        raise ConfigurationError(
            f"shard {shard}: expected at most {MAX_TRIPLES:,} triples, got {n:,}; take more shards: --shards {enough}"
        )


def _told(results: Any, what: str, n: int, progress: Progress) -> Sequence[Any]:
    """Return all results, and tell how many there are as they come."""
    progress(what, 0, n)
    found = []
    for result in results:
        found.append(result)
        progress(what, len(found), n)
    return found
