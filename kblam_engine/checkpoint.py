"""Adapter folders: ``adapter_config.json``, ``adapter.safetensors`` (trained tensors only, bf16) and a card."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

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
        CheckpointError: the folder is not an adapter, is one for another model, encoder or version, or is damaged.
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
    tensors = _tensors(path / WEIGHTS, config)
    adapter = KnowledgeAdapter(config)
    adapter.load_state_dict(tensors)
    return adapter.eval().requires_grad_(False)


def _tensors(path: Path, config: AdapterConfig) -> dict[str, torch.Tensor]:
    """Read the weights of an adapter, as float32.

    Nothing is allocated before the shapes are known to fit: a damaged configuration may ask for any amount of memory.

    Raises:
        CheckpointError: they cannot be read, do not fit the configuration, or are no finite numbers.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            _check_shapes(path, _shapes_of(config, len(names)), found)
            stored = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    whole = sorted(f"{name} ({tensor.dtype})" for name, tensor in stored.items() if not tensor.is_floating_point())
    if whole:
        raise CheckpointError(f"{path}: expected floating-point tensors, got {', '.join(whole[:3])}; train the adapter again")
    tensors = {name: tensor.float() for name, tensor in stored.items()}
    broken = sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all())
    if broken:
        raise CheckpointError(
            f"{path}: expected finite numbers, got NaN or infinity in {', '.join(broken[:3])} ({len(broken)} of "
            f"{len(tensors)} tensors); train the adapter again, or use an earlier one"
        )
    return tensors


def _shapes_of(config: AdapterConfig, n_tensors: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an adapter's tensors, without memory for them.

    Args:
        config: the adapter's.
        n_tensors: how many are stored: layers of which there are more than that need not be made to be refused.

    Raises:
        CheckpointError: no adapter can have this configuration.
    """
    sentence = config.sentence
    if sentence is not None and sentence.n_layers > sentence.kb_layer_stride * n_tensors:
        raise CheckpointError(
            f"{WEIGHTS}: its {n_tensors} tensors do not fit {CONFIG}, which tells of sentence tokens in every "
            f"{sentence.kb_layer_stride}. of {sentence.n_layers} layers"
        )
    try:
        with torch.device("meta"):
            return {k: tuple(v.shape) for k, v in KnowledgeAdapter(config).state_dict().items()}
    except (RuntimeError, OverflowError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{CONFIG}: no adapter can be of these sizes ({reason})") from error


def _check_shapes(path: Path, expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))[:3]
        raise CheckpointError(f"{path}: its tensors do not fit {CONFIG}; first differences: {wrong}")


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
            "and name its folder as adapter= (--adapter FOLDER)"
        )
    return folder
