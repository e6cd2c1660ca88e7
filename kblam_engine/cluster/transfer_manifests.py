"""Manifests of shards at a store: how they name what lies there, how they are read, and what pushes have left beside.

At a store the folder of a shard is named after the checksums of its files; here after what it was made from. So a shard
that was made again from the same triples, whose files differ all the same, takes the place of no other one there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from kblam_engine.cluster.folder import LOCK, PARTS
from kblam_engine.cluster.manifest import (
    FILE,
    FOLDER,
    Manifest,
    digest_of_texts,
    folder_of,
    read_manifest,
    write_manifest,
)
from kblam_engine.cluster.transfer_store import Store
from kblam_engine.errors import KnowledgeBaseError, KnowledgeBaseNotFoundError

JOURNAL = re.compile(r"pushed-[0-9a-f]{12}\.json")
"""The manifest of a push, there from before its first file until the next push has ended."""
FOREIGN = re.compile(rf"{re.escape(LOCK)}|{re.escape(PARTS)}/.*|{FOLDER.pattern}\.(json|added)")
"""What lies in a folder in which shards are built or pulled, and is never pushed."""
DRAFT = re.compile(rf"\.({re.escape(FILE)}|{JOURNAL.pattern})\.part")
"""What a push leaves on a filesystem with folders if it breaks off while it writes a manifest."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST = 256 << 20
"""Bytes of a manifest; one of 100,000 shards has a third of that."""


def as_stored(manifest: Manifest) -> Manifest:
    """Return a manifest with the names that its shards have at a store."""
    return _renamed(manifest, [digest_of_texts(*(f"{n} {d}" for n, d in sorted(s.files.items()))) for s in manifest.shards])


def as_built(manifest: Manifest) -> Manifest:
    """Return a manifest with the names that its shards have where they were built."""
    return _renamed(manifest, [shard.source for shard in manifest.shards])


def _renamed(manifest: Manifest, digests: list[str]) -> Manifest:
    named = zip(manifest.shards, digests, strict=True)
    return replace(manifest, shards=tuple(replace(one, folder=folder_of(one.number, digest)) for one, digest in named))


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return what is in the file of a manifest."""
    with TemporaryDirectory() as folder:
        write_manifest(Path(folder), manifest)
        return (Path(folder) / FILE).read_bytes()


def journal_of(manifest: Manifest) -> str:
    """Return the name of the file that says what a push of a manifest sends."""
    return f"pushed-{hashlib.sha256(manifest_bytes(manifest)).hexdigest()[:12]}.json"


def stored_files(manifests: Iterable[Manifest]) -> set[str]:
    """Return the names of all files that manifests name at a store."""
    return {f"{shard.folder}/{name}" for manifest in manifests for shard in manifest.shards for name in shard.files}


def stored_manifest(store: Store) -> Manifest:
    """Return the manifest of the shards at a store, after a look at all in it that could do harm.

    Raises:
        KnowledgeBaseNotFoundError: there is none.
        KnowledgeBaseError: it is damaged, forged or of another format, or the store refuses.
    """
    try:
        return _parsed(store.read(FILE, _LARGEST))
    except KnowledgeBaseNotFoundError:
        raise KnowledgeBaseNotFoundError(
            f"{store.url}: expected shards, found no {FILE}; put them there: kblam cluster push FOLDER {store.url}"
        ) from None
    except ValueError as error:
        raise KnowledgeBaseError(
            f"{store.url}/{FILE}: expected a manifest of shards, got {error}; delete it and push the shards again"
        ) from None


def journaled(store: Store, names: Iterable[str]) -> list[Manifest]:
    """Return the manifests that pushes have left under these names, without those that are damaged."""
    found = []
    for name in names:
        try:
            found.append(_parsed(store.read(name, _LARGEST)))
        except (KnowledgeBaseNotFoundError, ValueError):
            continue
    return found


def check_same(place: str, there: Manifest, wanted: Manifest) -> None:
    """Refuse to put shards in the place of others, as a build does.

    Raises:
        KnowledgeBaseError: they are others.
    """
    for what, known, found in (
        ("shards", len(there.shards), len(wanted.shards)),
        ("sentence encoder", there.encoder_fingerprint, wanted.encoder_fingerprint),
        ("length of embeddings", there.embed_dim, wanted.embed_dim),
    ):
        if known != found:
            raise KnowledgeBaseError(f"{place}: expected the {what} of what is there, {known}, got {found}; choose another place")


def _parsed(content: bytes) -> Manifest:
    """Return a manifest from elsewhere.

    Raises:
        ValueError: something in it is wrong, or made to do harm.
    """
    with TemporaryDirectory() as folder:
        (Path(folder) / FILE).write_bytes(content)
        try:
            manifest = read_manifest(folder)  # which looks at the names of folders and files
        except (KnowledgeBaseError, RecursionError) as error:
            raise ValueError(str(error.__cause__ or error)) from None
    texts = manifest.source, manifest.encoder, manifest.encoder_fingerprint
    _expect(all(isinstance(text, str) for text in texts), "source and encoder", texts)
    _expect(type(manifest.embed_dim) is int and manifest.embed_dim >= 0, "embed_dim", manifest.embed_dim)
    _expect(manifest.index in ("exact", "tree", "ann"), "index", manifest.index)
    for shard in manifest.shards:
        _expect(isinstance(shard.source, str) and bool(_SHA256.fullmatch(shard.source)), "source", shard.source)
        _expect(isinstance(shard.files, dict), "files", shard.files)
        for name, digest in shard.files.items():
            _expect(isinstance(digest, str) and bool(_SHA256.fullmatch(digest)), f"checksum of {name}", digest)
            # A journal or log of SQLite's: no shard that was closed has one, and SQLite would do what it says.
            _expect(not name.startswith("kb.sqlite-"), "files", name)
    return manifest


def _expect(sound: bool, part: str, found: object) -> None:
    if not sound:
        raise ValueError(f"{part}: {found!r}"[:200])
