"""Checkpoints of a stage that is under way: a run that was cut off goes on as if it had not been."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kblam_engine.errors import ConfigurationError

logger = logging.getLogger(__name__)

EVERY = 50
"""Optimiser steps between two checkpoints, unless told otherwise. It does not decide what a run gives."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file so that a reader sees all of it or the file that was there before.

    Args:
        path: of the file; its folder is made.
        tensors: any device.
        metadata: texts by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(path)
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, unfinished, metadata)
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)


class Checkpoints:
    """The checkpoint of one stage: one file, replaced as the stage goes on, gone when it is finished."""

    def __init__(self, path: Path, key: str, every: int = EVERY) -> None:
        """Name the file; nothing is read or written yet.

        Args:
            path: of the file.
            key: of everything that decides the stage's result.
            every: optimiser steps between two checkpoints.

        Raises:
            ConfigurationError: ``every`` is below 1.
        """
        if every < 1:
            raise ConfigurationError(f"checkpoint_every: expected at least 1, got {every}")
        self.path, self._key, self._every = path, key, every

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is to be written after this step (from 1)."""
        return step % self._every == 0

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replace the checkpoint, atomically.

        Args:
            tensors: any device.
            state: the rest, as JSON objects.
        """
        text = json.dumps(state)
        metadata = {"key": self._key, "state": text, "digest": checksum(tensors, text)}
        write_tensors(self.path, tensors, metadata)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors (on the CPU) and the state, or None where there is no checkpoint that can be used."""
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata["key"] != self._key:
                    raise ValueError("it is of another run")
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            if metadata["digest"] != checksum(tensors, metadata["state"]):
                raise ValueError("its content does not fit its checksum")
            return tensors, json.loads(metadata["state"])
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, RuntimeError, KeyError, ValueError) as error:
            self.ignore(f"{type(error).__name__}: {error}")
            return None

    def ignore(self, why: str) -> None:
        """Warn that the checkpoint is not used."""
        logger.warning("checkpoint %s cannot be used, the stage starts again (%s)", self.path, why)

    def remove(self) -> None:
        """Remove the checkpoint, if there is one."""
        self.path.unlink(missing_ok=True)
        _unfinished(self.path).unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.unfinished")


def checksum(tensors: Mapping[str, Tensor], told: str) -> str:
    """Return a checksum of tensors and of the text beside them.

    safetensors notices a file that is cut off, and no other damage.
    """
    digest = hashlib.sha256(told.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def random_state(random: Random) -> dict[str, Any]:
    """Return the states of ``random`` and of torch's generator on the CPU, as JSON objects."""
    return {"python": random.getstate(), "torch": torch.get_rng_state().numpy().tobytes().hex()}


def restore_random(random: Random, state: Mapping[str, Any]) -> None:
    """Give ``random`` and torch's generator the states that ``random_state`` returned."""
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["torch"])), dtype=torch.uint8))
