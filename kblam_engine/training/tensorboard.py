"""Curves of a run for TensorBoard; the only module that imports it."""

from __future__ import annotations

from pathlib import Path

from kblam_engine.errors import MissingDependencyError

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise MissingDependencyError(
        'curves need the package tensorboard: pip install "kblam-engine[tensorboard]" (or leave out --tensorboard)'
    ) from error


class TensorBoard:
    """A ``Report`` that writes what ``metrics.jsonl`` holds: loss and validation by step, a folder per stage."""

    def __init__(self, folder: str | Path) -> None:
        """Name the folder of the run; nothing is written yet."""
        self._folder = Path(folder)
        self._writers: dict[str, SummaryWriter] = {}

    def __call__(self, stage: str, done: int, total: int, numbers: dict[str, float]) -> None:
        """Take a report."""
        if not numbers:
            return
        if stage not in self._writers:
            # Steps that a run takes again after a checkpoint hide those of the session that was cut off.
            folder = self._folder / stage.replace(" ", "-")
            self._writers[stage] = SummaryWriter(folder, purge_step=done)
        writer = self._writers[stage]
        for name, number in numbers.items():
            writer.add_scalar(name, number, done)
        writer.flush()
