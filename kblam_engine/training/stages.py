"""Finished stages of a training run on disk: a run that was cut off goes on after the last of them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from kblam_engine import __version__
from kblam_engine.training.checkpoints import EVERY, Checkpoints, write_tensors
from kblam_engine.training.config import TrainConfig
from kblam_engine.training.distributed import Processes

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
        """
        path = self.folder / f"{name}.safetensors"
        kept = self._processes.from_main(lambda: self._kept(path, module))
        if kept is not None:
            logger.info("stage %s: taken from %s", name, path)
            result = kept
        else:
            result = work()
            self._keep(path, module, result)
        self._processes.broadcast(module)
        if self._processes.is_main:
            self.checkpoints(name).remove()  # also if the process was killed after the stage was kept
        return result

    def _keep(self, path: Path, module: nn.Module, result: StageResult) -> None:
        if self._processes.is_main:
            metadata = {"key": self.key, "numbers": json.dumps(result.numbers), "seconds": str(result.seconds)}
            write_tensors(path, module.state_dict(), metadata)

    def _kept(self, path: Path, module: nn.Module) -> StageResult | None:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self.key:
                    return None
                module.load_state_dict({k: file.get_tensor(k) for k in file.keys()})  # noqa: SIM118
                return StageResult(json.loads(metadata["numbers"]), float(metadata["seconds"]))
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, RuntimeError, KeyError, ValueError) as error:
            logger.warning("stage file %s cannot be used, the stage runs again (%s)", path, error)
            return None
