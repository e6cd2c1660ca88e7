"""Finished stages of a training run on disk: a run that was cut off goes on after the last of them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kblam_engine import __version__
from kblam_engine.training.checkpoints import EVERY, Checkpoints, checksum, write_tensors
from kblam_engine.training.config import TrainConfig
from kblam_engine.training.distributed import Processes
from kblam_engine.training.divergence import TrainingError

logger = logging.getLogger(__name__)

Report = Callable[[str, int, int, dict[str, float]], None]
"""Called with stage, steps done, steps in all, and the newest numbers."""


@dataclass(frozen=True)
class StageResult:
    """What a stage leaves beside its tensors.

    Attributes:
        numbers: its measurements.
        seconds: how long it took.
    """

    numbers: dict[str, float]
    seconds: float


class Stages:
    """Keeps each stage's tensors in a folder, under a key of everything that decides the result.

    Attributes:
        folder: where the stages are kept.
        key: of everything that decides the result.
    """

    def __init__(
        self, folder: Path, config: TrainConfig, made_for: str, processes: Processes = Processes()
    ) -> None:
        """Open the folder (it is made when the first stage is kept).

        Args:
            folder: where the stages are kept.
            config: of the run.
            made_for: fingerprints of base model and encoder.
            processes: those of the run; the first reads and writes the folder.
        """
        self.folder, self._processes = folder, processes
        told = json.dumps([__version__, made_for, config.to_dict()], sort_keys=True)
        self.key = hashlib.sha256(told.encode()).hexdigest()

    def checkpoints(self, name: str, every: int = EVERY) -> Checkpoints:
        """Return where a stage keeps how far it is; ``run`` removes it when the stage is finished.

        Args:
            name: of the stage.
            every: optimiser steps between two checkpoints.

        Raises:
            ConfigurationError: ``every`` is below 1.
        """
        return Checkpoints(self.folder / f"{name}.checkpoint.safetensors", self.key, every)

    def run(self, name: str, module: nn.Module, work: Callable[[], StageResult]) -> StageResult:
        """Return the result of a stage, from the folder if it was finished with the same key.

        Args:
            name: of the stage, a file name.
            module: what the stage trains; filled from the folder, or kept there after ``work``. In the end it is
                the same in all processes.
            work: trains the module.

        Raises:
            TrainingError: ``work`` left a tensor that is not finite; nothing is kept.
        """
        path = self.folder / f"{name}.safetensors"
        kept = self._processes.from_main(lambda: self._kept(path, module))
        if kept is not None:
            logger.info("stage %s: taken from %s", name, path)
            result = kept
        else:
            result = work()
            spoilt = self._processes.from_main(lambda: _not_finite(module))
            if spoilt:
                raise TrainingError(
                    f"{name}: expected finite tensors after training, got NaN or infinity in {', '.join(spoilt)}; "
                    "look at the data, or lower the learning rate"
                )
            self._keep(path, module, result)
        self._processes.broadcast(module)
        if self._processes.is_main:
            self.checkpoints(name).remove()  # also if the process was killed after the stage was kept
        return result

    def _keep(self, path: Path, module: nn.Module, result: StageResult) -> None:
        if self._processes.is_main:
            tensors = module.state_dict()
            told = {"numbers": json.dumps(result.numbers), "seconds": str(result.seconds)}
            write_tensors(path, tensors, {"key": self.key, **told, "digest": _digest(tensors, told)})

    def _kept(self, path: Path, module: nn.Module) -> StageResult | None:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self.key:
                    return None
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            if metadata["digest"] != _digest(tensors, metadata):
                raise ValueError("its content does not fit its checksum")
            result = StageResult(json.loads(metadata["numbers"]), float(metadata["seconds"]))
            if _shapes(tensors) != _shapes(module.state_dict()):
                raise ValueError("its tensors are not those of this stage")
            # Last, when nothing can fail any more: a stage that runs again must begin with the module as it was.
            module.load_state_dict(tensors)
            return result
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, RuntimeError, KeyError, ValueError) as error:
            logger.warning("stage file %s cannot be used, the stage runs again (%s)", path, error)
            return None


def _not_finite(module: nn.Module) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity."""
    return [name for name, tensor in module.state_dict().items() if not torch.isfinite(tensor).all()]


def _digest(tensors: Mapping[str, Tensor], told: Mapping[str, str]) -> str:
    return checksum(tensors, f"{told['numbers']}\n{told['seconds']}")


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
