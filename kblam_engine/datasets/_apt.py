"""Get data files of Debian packages through apt, once, into the user's cache; nothing is installed."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kblam_engine.datasets._files import DatasetError
from kblam_engine.errors import MissingDependencyError

logger = logging.getLogger(__name__)


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
    """

    name: str
    folder: str
    probe: str
    cached: str
    file: str
    sha256: str

    @property
    def install(self) -> str:
        """The command that installs the package."""
        return f"apt-get update && apt-get install {self.name}"


def package_folder(package: DebianPackage) -> Path:
    """Return the folder of the data: the installed one, or else the cache's, downloading it if need be.

    Raises:
        MissingDependencyError: The package is neither installed nor to be had from apt; the message says how to.
        DatasetError: The downloaded package has the wrong checksum.
    """
    installed = Path("/", package.folder)
    if (installed / package.probe).exists():
        return installed
    from kblam_engine.models import cache_dir

    target = cache_dir() / "datasets" / package.cached
    if not (target / package.probe).exists():
        download(package, target)
    return target


def download(package: DebianPackage, target: Path) -> None:
    """Put the package's data into `target`; raises as `package_folder` does."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise MissingDependencyError(
                f"This data set comes from the Debian package {package.name}, and {tool} is not on this machine. "
                f"Copy the files of its folder /{package.folder} ({package.probe} among them) into {target}."
            )
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
        # One rename: another process sees all files or none. Losing that race is fine.
        try:
            os.rename(Path(scratch, "unpacked", package.folder), target)
        except OSError:
            if not (target / package.probe).exists():
                raise


def run(command: list[str], folder: str | None = None, *, remedy: str) -> str:
    """Run a program of the package manager and return its output; MissingDependencyError if it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, encoding="utf-8", timeout=300, check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingDependencyError(f"{' '.join(command)} failed: {error}. Run: {remedy}") from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MissingDependencyError(f"{' '.join(command)} failed: {reason}. Run: {remedy}")
    return done.stdout
