"""What in a folder of shards is a build's own: nothing else may lie there at first, and nothing else is ever deleted."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterable
from pathlib import Path

from kblam_engine.cluster.manifest import FILE, FOLDER, Manifest, is_sharded
from kblam_engine.errors import ConfigurationError, KnowledgeBaseError

LOCK = "build.lock"
PARTS = ".kblam-parts"
"""Where triples lie after they were dealt out and until their shards are made; nobody else calls a folder so."""
_BESIDE = re.compile(rf"\.?({FOLDER.pattern})\.(json|added)(\.part)?")


def place_of(output: Path) -> Path:
    """Return the absolute path of a folder to build in; `..` is worked out, so that nothing on the way is made."""
    place = output.absolute()
    return place.resolve() if ".." in place.parts else place


def check_folder(folder: Path) -> None:
    """Refuse to build where something else lies.

    Raises:
        KnowledgeBaseError: it is a file, or a folder without shards that is not empty.
    """
    if folder.exists() and not folder.is_dir():
        raise KnowledgeBaseError(f"{folder}: expected a folder, or nothing, got a file; choose another one")
    if not folder.is_dir() or is_sharded(folder):
        return
    strange = next((path.name for path in sorted(folder.iterdir()) if not _is_ours(path.name)), None)
    if strange is not None:
        raise KnowledgeBaseError(
            f"{folder}: expected shards or an empty folder, got a folder with {strange}; choose another one"
        )


def check_inputs(folder: Path, paths: Iterable[str]) -> None:
    """Refuse files of triples that are not there, or lie where the shards go.

    Raises:
        ConfigurationError: there is one.
    """
    within = folder.resolve()
    for path in paths:
        if not Path(path).exists():
            raise ConfigurationError(f"{path}: expected a file of triples, found nothing there")
        if Path(path).resolve().is_relative_to(within):
            raise ConfigurationError(
                f"{path}: expected files of triples outside the folder of the shards, {folder}; move it, or choose another folder"
            )


def clear_shards(folder: Path, kept: Iterable[Manifest]) -> None:
    """Delete the shards that no manifest names any more, and what was left of those that were cut off."""
    named = {shard.folder for manifest in kept for shard in manifest.shards}
    for path in list(folder.iterdir()):
        beside = _BESIDE.fullmatch(path.name)
        if FOLDER.fullmatch(path.name) and path.name not in named and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif beside and beside[1] not in named and not path.is_dir():
            path.unlink(missing_ok=True)


def clear_parts(folder: Path, kept: Collection[str] = ()) -> None:
    """Delete what earlier builds have dealt out, but for the parts whose names are `kept`."""
    for path in list((folder / PARTS).iterdir()) if (folder / PARTS).is_dir() else []:
        if path.name not in kept:
            discard(path)
    if not kept:
        shutil.rmtree(folder / PARTS, ignore_errors=True)


def discard(draft: Path) -> None:
    """Delete a folder into which a worker that was given up may still be writing.

    It loses its name first: what comes later finds no folder, and never puts half a draft in the place of a whole one.
    """
    gone = draft.with_name(f".gone-{uuid.uuid4().hex}")
    try:
        os.rename(draft, gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def _is_ours(name: str) -> bool:
    return name in (PARTS, LOCK, FILE, f".{FILE}.part") or bool(FOLDER.fullmatch(name) or _BESIDE.fullmatch(name))
