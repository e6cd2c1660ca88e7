"""Adapter folders: ``adapter_config.json``, ``adapter.safetensors`` (trained tensors only, bf16) and a card."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from kblam_engine.adapter import AdapterConfig, KnowledgeAdapter
from kblam_engine.errors import CheckpointError, ModelNotFoundError

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter.safetensors", "README.md"


def save_adapter(adapter: KnowledgeAdapter, folder: str | os.PathLike[str], card: str | None = None) -> Path:
    """Write an adapter folder; files are replaced one by one, each atomically.

    Args:
        adapter: what to write, as bf16.
        folder: made if it is not there.
        card: text of README.md; None leaves an existing card.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in adapter.state_dict().items()}
    temporary = path / f"{WEIGHTS}.tmp"
    temporary.write_bytes(save(tensors))  # save_file would hide it from everybody else
    os.replace(temporary, path / WEIGHTS)
    _write(path / CONFIG, json.dumps(adapter.config.to_dict(), indent=2) + "\n")
    if card is not None:
        _write(path / CARD, card)
    return path


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def load_adapter(
    folder: str | os.PathLike[str], *, base_fingerprint: str, encoder_fingerprint: str
) -> KnowledgeAdapter:
    """Read an adapter folder made for this base model and this sentence encoder.

    Raises:
        CheckpointError: the folder is not an adapter, or is one for another model, encoder or version.
    """
    path = Path(folder)
    config = read_config(path)
    for what, expected, got in (
        ("base model", config.base_fingerprint, base_fingerprint),
        ("sentence encoder", config.encoder_fingerprint, encoder_fingerprint),
    ):
        if expected != got:
            raise CheckpointError(
                f"{path}: made for the {what} {expected}, got {got}; use that one, or train another adapter"
            )
    adapter = KnowledgeAdapter(config)
    try:
        tensors = load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path / WEIGHTS}: cannot be read ({error})") from error
    expected_shapes = {k: tuple(v.shape) for k, v in adapter.state_dict().items()}
    found_shapes = {k: tuple(v.shape) for k, v in tensors.items()}
    if expected_shapes != found_shapes:
        wrong = sorted(set(expected_shapes.items()) ^ set(found_shapes.items()))[:3]
        raise CheckpointError(
            f"{path / WEIGHTS}: its tensors do not fit {CONFIG}; first differences: {wrong}"
        )
    adapter.load_state_dict({k: v.float() for k, v in tensors.items()})
    return adapter.eval().requires_grad_(False)


def read_config(folder: str | os.PathLike[str]) -> AdapterConfig:
    """Read the configuration of an adapter folder.

    Raises:
        CheckpointError: there is none, or it cannot be understood.
    """
    path = Path(folder) / CONFIG
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{folder}: not an adapter folder, {CONFIG} cannot be read ({error.strerror})"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return AdapterConfig.from_dict(data)


def shipped_adapter(base_model: str) -> Path:
    """Return the folder of the adapter that ships in this package for a base model.

    Raises:
        ModelNotFoundError: none ships for it.
    """
    folder = Path(str(resources.files("kblam_engine"))) / "adapters" / base_model
    if not (folder / CONFIG).is_file():
        raise ModelNotFoundError(
            f"no adapter ships for {base_model!r}: train one with `kblam train --model {base_model} --output FOLDER` "
            "and pass it with --adapter FOLDER"
        )
    return folder
