"""Sentence encoders: text to a unit vector, for the keys, properties and values of triples and for questions.

Three kinds behind one protocol: BERT-like models run by a short forward pass of our own (`bert_encoder`, the
default is one), any other sentence-transformers model, and a hashing encoder that needs no weights.
"""

from __future__ import annotations

import os
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kblam_engine.errors import ConfigurationError, ModelNotFoundError
from kblam_engine.models.registry import DEFAULT_ENCODER, EMBEDDED, HUB_ID, folder_digest, unknown_model
from kblam_engine.triple_files import checked_path

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_BATCH = 64
_HASHING = re.compile(r"hashing(?:-([1-9]\d{0,3}))?")


class SentenceEncoder(Protocol):
    """What the engine asks of a sentence encoder; `fingerprint` names its weights, for a KB to remember."""

    @property
    def name(self) -> str:
        """Return the name that `load_sentence_encoder` takes."""
        ...

    @property
    def fingerprint(self) -> str:
        """Return a stable id of name and weights."""
        ...

    @property
    def embed_dim(self) -> int:
        """Return the length of a sentence embedding."""
        ...

    def encode(self, texts: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]:
        """Return one L2-normalised row for each text, float32 [len(texts), embed_dim].

        Equal texts are encoded once. Safe to call from several threads.
        """
        ...


def load_sentence_encoder(
    name: str | os.PathLike[str] = DEFAULT_ENCODER,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
) -> SentenceEncoder:
    """Load an encoder by name, from a sentence-transformers folder, or by Hugging Face id.

    An encoder is loaded once for each name, device and dtype, and then shared. `dtype` None is float32:
    sentence embeddings are kept and compared, so their rounding should not depend on the machine.

    Raises:
        ModelNotFoundError: there is no such encoder, or its weights are not the expected ones.
        MissingDependencyError: the package with the embedded encoder is not installed.
        ConfigurationError: `dtype` is not float32, bfloat16 or float16, or the name is neither a text nor a path.
    """
    checked_path("encoder", name, f"the name of a sentence encoder, such as {DEFAULT_ENCODER!r}, a folder, or a Hugging Face id")
    key = (os.fspath(name), str(device), str(dtype))
    with _loaded_lock:
        if key not in _loaded:
            _loaded[key] = _load(key[0], str(device), dtype)
        return _loaded[key]


_loaded: dict[tuple[str, str, str], SentenceEncoder] = {}
_loaded_lock = threading.Lock()


class HashingEncoder:
    """Words and their three-letter pieces hashed into a vector: deterministic, instant, no weights.

    Texts with the same words come out close, and so do inflections of a word. For tests and dry runs.
    """

    def __init__(self, embed_dim: int = 64) -> None:
        if embed_dim < 1:
            raise ConfigurationError(f"embed_dim: expected a positive number, got {embed_dim}")
        self.embed_dim = embed_dim
        self.name = "hashing" if embed_dim == 64 else f"hashing-{embed_dim}"
        self.fingerprint = f"hashing-{embed_dim}:v1"

    def encode(self, texts: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]:
        """Return the normalised hash vectors, float32 [len(texts), embed_dim]."""
        return encode_distinct(texts, self._encode, self.embed_dim)

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        rows = np.zeros((len(texts), self.embed_dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for feature, weight in self._features(text):
                digest = zlib.crc32(feature.encode("utf-8"))
                row[(digest >> 1) % self.embed_dim] += weight if digest & 1 else -weight
            if not row.any():  # no words at all, or features that cancel out
                row[0] = 1.0
        return rows

    @staticmethod
    def _features(text: str) -> Iterator[tuple[str, float]]:
        for word in re.findall(r"\w+", text.lower()):
            weight = 0.2 if len(word) <= 3 and word.isalpha() else 1.0  # "the", "of", "is"
            yield word, weight
            padded = f"<{word}>"
            for start in range(len(padded) - 2):
                yield padded[start : start + 3], 0.3 * weight


class TransformersEncoder:
    """Any sentence-transformers model, by way of that library."""

    def __init__(self, model: Any, *, name: str, fingerprint: str) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self._model = model
        # The tokenizer of transformers keeps its padding and truncation as state: one text at a time.
        self._lock = threading.Lock()
        self.embed_dim = int(self._encode(["probe"]).shape[1])

    def encode(self, texts: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]:
        """Return the normalised sentence embeddings, float32 [len(texts), embed_dim]."""
        return encode_distinct(texts, lambda distinct: self._encode(distinct, progress), self.embed_dim)

    def _encode(self, texts: list[str], progress: bool = False) -> NDArray[np.float32]:
        with self._lock:
            rows = self._model.encode(
                texts, batch_size=_BATCH, convert_to_numpy=True, show_progress_bar=progress
            )
        return np.asarray(rows, dtype=np.float32)


def encode_distinct(
    texts: Sequence[str], encode: Callable[[list[str]], NDArray[np.float32]], embed_dim: int
) -> NDArray[np.float32]:
    """Encode each distinct text once and return L2-normalised rows in the order of `texts`.

    Raises:
        ConfigurationError: `texts` is one string, or holds something else than strings.
    """
    if isinstance(texts, str):
        raise ConfigurationError("texts: expected a list of strings, got one string; put it in a list")
    positions: dict[str, int] = {}
    order = np.empty(len(texts), dtype=np.int64)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigurationError(f"texts: expected strings, got {type(text).__name__} at index {index}")
        order[index] = positions.setdefault(text, len(positions))
    if not positions:
        return np.empty((0, embed_dim), dtype=np.float32)
    rows = encode(list(positions))
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    result: NDArray[np.float32] = rows if len(positions) == len(order) else rows[order]
    return result


def _load(name: str, device: str, dtype: str | torch.dtype | None) -> SentenceEncoder:
    """Return the encoder that `name` means; the caller keeps it."""
    from kblam_engine.models.loading import parse_dtype

    hashing = _HASHING.fullmatch(name)
    if hashing:
        return HashingEncoder(int(hashing.group(1) or 64))
    number_type = parse_dtype("float32" if dtype is None else dtype)
    embedded = EMBEDDED.get(name)
    if embedded is not None and embedded.role == "sentence encoder":
        weights = embedded.require()
        embedded.verify(weights)
        return _from_folder(weights.parent, name, f"{name}:{embedded.sha256[:12]}", device, number_type)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "modules.json").is_file():
            raise ModelNotFoundError(
                f"{name}: a sentence-encoder folder needs a modules.json, found none; expected a folder "
                "that sentence-transformers saved"
            )
        fingerprint = f"{folder.resolve().name}:{folder_digest(folder)[:12]}"
        return _from_folder(folder, name, fingerprint, device, number_type)
    if HUB_ID.fullmatch(name):
        return _from_sentence_transformers(name, name, None, device, number_type)
    raise unknown_model(name, "sentence encoder")


def _from_folder(
    folder: Path, name: str, fingerprint: str, device: str, dtype: torch.dtype
) -> SentenceEncoder:
    """Return our own forward pass where it fits the model in the folder, else sentence-transformers."""
    from kblam_engine.bert_encoder import BertEncoder, read_recipe

    recipe = read_recipe(folder)
    if recipe is not None:
        return BertEncoder(folder, recipe, name=name, fingerprint=fingerprint, device=device, dtype=dtype)
    return _from_sentence_transformers(str(folder), name, fingerprint, device, dtype)


def _from_sentence_transformers(
    place: str, name: str, fingerprint: str | None, device: str, dtype: torch.dtype
) -> SentenceEncoder:
    """Load through sentence-transformers; its errors about the place become one line."""
    from sentence_transformers import SentenceTransformer

    from kblam_engine.models.loading import quiet_transformers

    options = {"dtype": dtype, "use_safetensors": True}
    try:
        with quiet_transformers():
            model = SentenceTransformer(place, device=device, model_kwargs=options, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelNotFoundError(
            f"cannot load the sentence encoder {name!r}: {reason} (check the id and the network, or give a "
            "folder that sentence-transformers saved with safetensors)"
        ) from error
    if fingerprint is None:
        fingerprint = f"{name}:{_parameter_digest(model)[:12]}"
    return TransformersEncoder(model, name=name, fingerprint=fingerprint)


def _parameter_digest(model: Any) -> str:
    """Return a digest of both ends of every parameter: the same for the same weights, wherever they lie."""
    import hashlib

    digest = hashlib.sha256()
    for name, parameter in sorted(model.state_dict().items()):
        flat = parameter.detach().flatten().float().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(flat[:256].numpy().tobytes())
        digest.update(flat[-256:].numpy().tobytes())
    return digest.hexdigest()
