"""Shards on an object store: pushed from the machine that built them, pulled by those that ask them.

A push may break off anywhere and readers of the store notice nothing: a shard lies in a folder that is named after its
contents, so that nothing is ever written over, and `shards.json` is replaced when all that it names is there. What
lies there is a folder of shards as any other. Each push also leaves its manifest as `pushed-....json`, before it sends
anything: so it is known which files a push has made, and these alone are ever deleted.

A pull gathers shards among the drafts of the folder, checks every file while it is written, and puts them in their
places, under the names that a build gives them, when all are there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kblam_engine.cluster.build import Progress
from kblam_engine.cluster.folder import LOCK, PARTS, check_folder, clear_shards, place_of
from kblam_engine.cluster.manifest import (
    FILE,
    Manifest,
    ShardRecord,
    is_sharded,
    problems,
    read_manifest,
    read_record,
    write_manifest,
    write_record,
)
from kblam_engine.cluster.transfer_files import Count, Fetch, fetch, is_sound, link, side_by_side
from kblam_engine.cluster.transfer_manifests import (
    DRAFT,
    FOREIGN,
    JOURNAL,
    as_built,
    as_stored,
    check_same,
    journal_of,
    journaled,
    manifest_bytes,
    stored_files,
    stored_manifest,
)
from kblam_engine.cluster.transfer_store import Store, open_store
from kblam_engine.errors import KnowledgeBaseError, KnowledgeBaseLockedError

_DRAFTS = "pulled"
"""Below `PARTS`: the shards that a pull is gathering. A build that comes in between deletes them."""


@dataclass(frozen=True, slots=True)
class PushReport:
    """What a push did.

    Attributes:
        url: where the shards are now.
        manifest: as it is there.
        n_files: of all shards.
        sent: names of the files that were sent; all others were there.
        sent_bytes: of these.
        removed: names of the files of earlier pushes that were deleted.
    """

    url: str
    manifest: Manifest
    n_files: int
    sent: tuple[str, ...]
    sent_bytes: int
    removed: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "url": self.url,
            "n_triples": self.manifest.n_triples,
            "n_shards": len(self.manifest.shards),
            "n_files": self.n_files,
            "sent": len(self.sent),
            "sent_bytes": self.sent_bytes,
            "removed": len(self.removed),
        }


@dataclass(frozen=True, slots=True)
class PullReport:
    """What a pull did.

    Attributes:
        folder: where the shards are now.
        manifest: as it is there.
        n_files: of all shards.
        fetched: names of the files that were fetched, in the store; all others were in the folder.
        fetched_bytes: of these.
    """

    folder: Path
    manifest: Manifest
    n_files: int
    fetched: tuple[str, ...]
    fetched_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "folder": str(self.folder),
            "n_triples": self.manifest.n_triples,
            "n_shards": len(self.manifest.shards),
            "n_files": self.n_files,
            "fetched": len(self.fetched),
            "fetched_bytes": self.fetched_bytes,
        }


def push_shards(
    folder: str | os.PathLike[str],
    url: str,
    *,
    everything: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress = lambda *_: None,
) -> PushReport:
    """Put a folder of shards on an object store, or what is missing of it there.

    A file that is there under the name of its contents, with as many bytes, is not sent again. What earlier pushes have
    sent and `shards.json` does not name any more is deleted once the new one is in place. One push to an address at a time.

    Args:
        folder: of the shards.
        url: any that fsspec knows, such as s3://bucket/path; the package of its filesystem has to be installed.
        everything: send every file, where one there was damaged.
        storage_options: of the filesystem; default what the environment says.
        progress: told how far it is.

    Raises:
        KnowledgeBaseNotFoundError: there are no shards in the folder, or there is no such bucket.
        KnowledgeBaseLockedError: another process is building, pushing or pulling there.
        KnowledgeBaseError: a shard is damaged; something else lies at the address, or other shards than these; the store
            refuses.
        ConfigurationError: it is no such address.
        MissingDependencyError: the package of its filesystem is not installed.
    """
    place = place_of(Path(folder))
    read_manifest(place)  # before a lock is made in a folder that has nothing to do with shards
    store = open_store(url, storage_options)
    with _locked(place):
        return _push(place, store, everything, progress)


def _push(folder: Path, store: Store, everything: bool, progress: Progress) -> PushReport:
    built = read_manifest(folder)
    _check_sound(folder, built, progress)
    manifest = as_stored(built)
    there = store.sizes()
    before = stored_manifest(store) if FILE in there else None
    _check_store(store, there, before, manifest)
    files = {
        f"{stored.folder}/{name}": folder / record.folder / name
        for record, stored in zip(built.shards, manifest.shards, strict=True)
        for name in record.files
    }
    sizes = {name: path.stat().st_size for name, path in files.items()}
    missing = [name for name, size in sizes.items() if everything or there.get(name) != size]
    content, journal = manifest_bytes(manifest), journal_of(manifest)
    if missing or journal not in there:
        store.write(journal, content)
    count = Count("sending (MB)", sum(sizes[name] for name in missing), progress)

    def send(name: str) -> None:
        store.send(files[name], name)
        count.add(sizes[name])

    side_by_side(send, missing, count)
    count.finish()
    there = store.sizes()
    lost = next((name for name, size in sizes.items() if there.get(name) != size), None)
    if lost is not None:
        raise KnowledgeBaseError(
            f"{store.url}/{lost}: expected {sizes[lost]:,} bytes as they were sent, got {there.get(lost, 'no file')}; is "
            "another push to this address going on? Push again when it has ended"
        )
    if before != manifest:
        store.write(FILE, content)
    removed = _clear(store, there, manifest)
    return PushReport(store.url, manifest, len(files), tuple(missing), count.done, removed)


def _check_sound(folder: Path, manifest: Manifest, progress: Progress) -> None:
    """Refuse to push what is not as it was built.

    Raises:
        KnowledgeBaseError: a file is missing or damaged.
    """
    progress("checking shards", 0, len(manifest.shards))
    for at, record in enumerate(manifest.shards, start=1):
        wrong = problems(folder, record)
        if wrong:
            raise KnowledgeBaseError(f"{folder}: expected shards as they were built, got {wrong[0]}; build them again first")
        progress("checking shards", at, len(manifest.shards))


def _check_store(store: Store, there: Iterable[str], before: Manifest | None, manifest: Manifest) -> None:
    """Refuse an address at which there is something else than what pushes have left.

    Raises:
        KnowledgeBaseError: there is a folder in which shards are built or pulled, other shards, or anything else.
    """
    foreign = next((name for name in sorted(there) if FOREIGN.fullmatch(name)), None)
    if foreign is not None:
        raise KnowledgeBaseError(
            f"{store.url}: expected an address for pushes alone, got a folder in which shards are built or pulled ({foreign}); "
            "choose another one"
        )
    if before is not None:
        check_same(store.url, before, manifest)
        return
    journals = [name for name in there if JOURNAL.fullmatch(name)]
    sent = stored_files(journaled(store, journals))
    ours = sent.union(journals, filter(DRAFT.fullmatch, there))
    strange = next((name for name in sorted(there) if name not in ours), None)
    if strange is not None:
        raise KnowledgeBaseError(f"{store.url}: expected shards or nothing, got {strange or 'a file'}; choose another address")


def _clear(store: Store, there: Iterable[str], manifest: Manifest) -> tuple[str, ...]:
    """Delete what earlier pushes have sent and the manifest does not name; return the names of these files."""
    journals = [name for name in there if JOURNAL.fullmatch(name) and name != journal_of(manifest)]
    sent = stored_files(journaled(store, journals))
    gone = sorted(sent.intersection(there) - stored_files([manifest]))
    store.remove(gone)
    store.remove(journals)  # last: until then they say what is left to be deleted
    return tuple(gone)


def pull_shards(
    url: str,
    folder: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress = lambda *_: None,
) -> PullReport:
    """Get a folder of shards from an object store, or what is missing of it here.

    Files that are here already are not fetched again, nor are those that an earlier pull has fetched before it broke off. The
    shards that are in the folder can be asked until the new ones are all there, and lie there until the pull of others
    after this one, for whoever has them open.

    Args:
        url: where they were pushed to.
        folder: where they go; made if it is missing.
        storage_options: of the filesystem; default what the environment says.
        progress: told how far it is.

    Raises:
        KnowledgeBaseNotFoundError: there are no shards at the address.
        KnowledgeBaseLockedError: another process is building, pushing or pulling in the folder.
        KnowledgeBaseError: the folder holds something else, or other shards than these; a file is not as it was pushed;
            the store refuses.
        ConfigurationError: it is no such address.
        MissingDependencyError: the package of its filesystem is not installed.
    """
    place = place_of(Path(folder))
    check_folder(place)
    store = open_store(url, storage_options)
    manifest = stored_manifest(store)
    place.mkdir(parents=True, exist_ok=True)
    with _locked(place):
        try:
            return _pull(place, store, manifest, progress)
        except KnowledgeBaseError as error:
            if _is_replaced(store, manifest):
                raise KnowledgeBaseError(f"{store.url}: others were pushed while they were pulled; pull again, which goes on") from error
            raise


def _pull(folder: Path, store: Store, stored: Manifest, progress: Progress) -> PullReport:
    before = read_manifest(folder) if is_sharded(folder) else None
    manifest = as_built(stored)
    if before is not None:
        check_same(str(folder), before, manifest)
    incomplete, wanted, total = [], [], 0
    progress("checking shards", 0, len(manifest.shards))
    for at, (record, remote) in enumerate(zip(manifest.shards, stored.shards, strict=True), start=1):
        lacking = _lacking(folder / record.folder, record)
        if lacking:
            missing = _gathered(folder, record, lacking)
            incomplete.append(record)
            wanted += [
                Fetch(f"{remote.folder}/{name}", record.files[name], record.size_bytes, _draft_of(folder, record) / name)
                for name in missing
            ]
            have = record.files.keys() - set(missing)
            total += record.size_bytes - sum((_draft_of(folder, record) / name).stat().st_size for name in have)
        progress("checking shards", at, len(manifest.shards))
    count = Count("fetching (MB)", max(total, 0), progress)
    side_by_side(lambda one: fetch(store, one, count), wanted, count)
    count.finish()
    for record in incomplete:
        _put_in_place(folder, record)
    for record in manifest.shards:
        if read_record(folder, record.folder) != record:
            write_record(folder, record)
    if incomplete or before != manifest:
        write_manifest(folder, manifest)
    if before is None or before.source != manifest.source:  # as after a build: readers of the one before may be left
        clear_shards(folder, [manifest] if before is None else [before, manifest])
    shutil.rmtree(folder / PARTS / _DRAFTS, ignore_errors=True)
    with suppress(OSError):  # a build that failed has left something there
        (folder / PARTS).rmdir()
    n_files = sum(len(record.files) for record in manifest.shards)
    return PullReport(folder, manifest, n_files, tuple(one.name for one in wanted), count.done)


def _lacking(place: Path, record: ShardRecord) -> list[str]:
    """Return the names of a shard's files that are not in its folder as they should be."""
    return [name for name, digest in record.files.items() if not is_sound(place / name, digest)]


def _draft_of(folder: Path, record: ShardRecord) -> Path:
    """Return where a shard is gathered."""
    return folder / PARTS / _DRAFTS / record.folder


def _gathered(folder: Path, record: ShardRecord, lacking: list[str]) -> list[str]:
    """Put into a shard's draft what is here of it, and nothing else; return the names of the files that have to be fetched."""
    draft = _draft_of(folder, record)
    for path in list(draft.rglob("*")):
        if (path.is_file() or path.is_symlink()) and path.relative_to(draft).as_posix() not in record.files:
            path.unlink()
    missing = _lacking(draft, record)
    for name in missing:
        if name not in lacking:
            link(folder / record.folder / name, draft / name)
    return [name for name in missing if name in lacking]


def _put_in_place(folder: Path, record: ShardRecord) -> None:
    """Give a shard that has been gathered its place; one of that name, which is damaged or was made apart, goes first."""
    place, draft = folder / record.folder, _draft_of(folder, record)
    (folder / f"{record.folder}.json").unlink(missing_ok=True)
    if place.is_symlink() or place.exists():
        gone = draft.with_name(f"{record.folder}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(place, gone)
    os.rename(draft, place)


def _is_replaced(store: Store, manifest: Manifest) -> bool:
    """Say whether a store has another manifest by now."""
    try:
        return stored_manifest(store) != manifest
    except KnowledgeBaseError:
        return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep builds, pushes and pulls in one folder apart.

    Raises:
        KnowledgeBaseLockedError: one is going on.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise KnowledgeBaseLockedError(f"{folder}: another process is building, pushing or pulling shards there; wait for it") from None
    try:
        yield
    finally:
        lock.release()
