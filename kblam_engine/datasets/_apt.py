"""Get data files of Debian packages through apt, once, into the user's cache; nothing is installed.

What is unpacked is recorded with its checksums beside it, so that a cache that lost a file, or a part of one, is noticed
and downloaded again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kblam_engine.datasets._files import DatasetError
from kblam_engine.errors import MissingDependencyError

logger = logging.getLogger(__name__)

RECORD = "kblam.json"
"""In a folder of the cache: the sha256 of each file that was unpacked there."""


@dataclass(frozen=True, slots=True)
class DebianPackage:
    """A Debian package and the folder in it that holds the data.

    Attributes:
        name: Name of the package.
        folder: The folder of the data, relative to the root of the file system.
        probe: A file in it, to see that it is there.
        cached: Name of the folder in the cache.
        file: The .deb file this was written for.
        sha256: Its checksum.
        others: The other files in the folder that are read.
    """

    name: str
    folder: str
    probe: str
    cached: str
    file: str
    sha256: str
    others: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The files that are read."""
        return (self.probe, *self.others)

    @property
    def install(self) -> str:
        """The command that installs the package."""
        return f"apt-get update && apt-get install {self.name}"


def package_folder(package: DebianPackage) -> Path:
    """Return the folder of the data: the installed one, or else the cache's, downloading it if need be.

    A folder of the cache whose files are not as they were unpacked is downloaded again, once.

    Raises:
        MissingDependencyError: The package is neither installed nor to be had from apt; the message says how to.
        DatasetError: The downloaded package has the wrong checksum or not the expected files, the cache cannot be
            written, or it is damaged and apt cannot help.
    """
    installed = Path("/", package.folder)
    if not _missing(package, installed):
        return installed
    from kblam_engine.models import cache_dir

    target = cache_dir() / "datasets" / package.cached
    found = target.exists()
    wrong = spoilt_files(package, target) if found else list(package.files)
    if not wrong:
        return target
    if found:
        logger.warning("%s: damaged or missing: %s; downloading %s again", target, ", ".join(wrong), package.name)
    try:
        download(package, target)
    except MissingDependencyError as error:
        if not found:
            raise
        raise DatasetError(
            f"Expected the files of {package.name} in {target}; damaged or missing: {', '.join(wrong)}. Remove that folder. "
            f"Downloading them again failed: {error}"
        ) from error
    except OSError as error:
        raise DatasetError(
            f"Cannot write {target}: {error.strerror or error}. KBLAM_CACHE names another folder than {cache_dir()}."
        ) from error
    return target


def damaged(package: DebianPackage, folder: Path, why: str) -> DatasetError:
    """Return the error for files that cannot be read as the package's, with what helps.

    Args:
        package: Whose files they are.
        folder: Where they are: the installed folder, or the cache's.
        why: What was expected and found.
    """
    if folder == Path("/", package.folder):
        remedy = f"Run: apt-get install --reinstall {package.name}"
    else:
        remedy = f"Remove the folder {folder}, so that it is downloaded again."
    return DatasetError(f"The files of {package.name} in {folder} are damaged: {why}. {remedy}")


def spoilt_files(package: DebianPackage, folder: Path) -> list[str]:
    """Return the files of a folder of the cache that are missing or not as they were unpacked."""
    try:
        told = json.loads((folder / RECORD).read_text(encoding="utf-8"))["sha256"]
        return sorted(name for name in {*told, *package.files} if _sha256(folder / name) != told.get(name, ""))
    except FileNotFoundError:
        # Copied there by hand, or by an earlier version: what is in them is known only when they are read.
        return _missing(package, folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [RECORD]


def _missing(package: DebianPackage, folder: Path) -> list[str]:
    return [name for name in package.files if not (folder / name).is_file() or not (folder / name).stat().st_size]


def _sha256(path: Path) -> str | None:
    from kblam_engine.models.registry import sha256_of

    try:
        return sha256_of(path)
    except OSError:
        return None


def download(package: DebianPackage, target: Path) -> None:
    """Put the package's data into `target`, in place of what is there if that is damaged; raises as `package_folder` does."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise MissingDependencyError(
                f"This data set comes from the Debian package {package.name}, and {tool} is not on this machine. "
                f"Copy the files of its folder /{package.folder} ({package.probe} among them) into {target}."
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        run(["apt-get", "download", package.name], scratch, remedy=package.install)
        path = next(Path(scratch).glob(f"{package.name}_*.deb"), None)
        if path is None:
            raise MissingDependencyError(f"apt-get downloaded no {package.name}. Run: {package.install}")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.name != package.file:
            logger.warning("%s is not the version this was written for; its checksum is unknown.", path.name)
        elif digest != package.sha256:
            raise DatasetError(
                f"Expected sha256 {package.sha256} of {path.name}, got {digest}. Run: apt-get clean"
            )
        run(["dpkg-deb", "-x", path.name, "unpacked"], scratch, remedy=package.install)
        unpacked = Path(scratch, "unpacked", package.folder)
        if missing := _missing(package, unpacked):
            raise DatasetError(
                f"Expected {', '.join(missing)} in {path.name}, but they are not there. This was written for {package.file}."
            )
        _record(path.name, unpacked)
        _put(package, unpacked, target, Path(scratch, "damaged"))


def _record(origin: str, folder: Path) -> None:
    """Write the checksums of a folder's files beside them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    told = {"package": origin, "sha256": {path.relative_to(folder).as_posix(): _sha256(path) for path in files}}
    (folder / RECORD).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _put(package: DebianPackage, unpacked: Path, target: Path, aside: Path) -> None:
    """Rename a folder to `target`; what is damaged there is moved `aside`."""
    # Renames: another process sees all files or none. Losing a race to one is fine: what it has put there is whole.
    if target.exists() and not spoilt_files(package, target):
        return
    with suppress(FileNotFoundError):
        os.rename(target, aside)
    try:
        os.rename(unpacked, target)
    except OSError:
        if spoilt_files(package, target):
            raise


def run(command: list[str], folder: str | None = None, *, remedy: str) -> str:
    """Run a program of the package manager and return its output; MissingDependencyError if it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=300, check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingDependencyError(f"{' '.join(command)} failed: {error}. Run: {remedy}") from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MissingDependencyError(f"{' '.join(command)} failed: {reason}. Run: {remedy}")
    return done.stdout
