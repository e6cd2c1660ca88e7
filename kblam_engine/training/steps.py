"""The optimiser steps of a stage: from where it was cut off to the best of its validations."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kblam_engine.training.answer_trainer import AnswerExample
from kblam_engine.training.checkpoints import Checkpoints
from kblam_engine.training.config import TrainConfig
from kblam_engine.training.divergence import TrainingError, save_batch
from kblam_engine.training.progress import Progress
from kblam_engine.training.stages import Report, StageResult


@dataclass(frozen=True)
class Steps:
    """What the steps of a stage are taken with.

    Attributes:
        name: of the stage, for reports and errors.
        n: optimiser steps in all.
        config: the run.
        held: batches that validate.
        checkpoints: where the stage goes on if it was cut off.
        report: told about progress.
    """

    name: str
    n: int
    config: TrainConfig
    held: Sequence[Sequence[Any]]
    checkpoints: Checkpoints
    report: Report

    def take(self, progress: Progress, batches: Iterator[Sequence[Any]], begun: float) -> StageResult:
        """Take the steps that are left, and leave the adapter as it was at the best validation.

        Args:
            progress: restored already, so that ``batches`` are drawn as in a run that nothing cut off.
            batches: of examples, for ever.
            begun: ``time.perf_counter()`` at the begin of the stage, which is part of its time.

        Raises:
            TrainingError: the loss became NaN or ran away, and the batch is saved beside the checkpoint; or a validation is not finite.
        """
        trainer, before = progress.trainer, progress.seconds
        for step, batch in zip(range(progress.step + 1, self.n + 1), batches, strict=False):
            loss = trainer.step(batch)
            why = progress.watch.look(loss, trainer.gradient)
            if why is not None:
                self._stop(why, step, loss, batch, is_main=trainer.processes.is_main)
            numbers = {"loss": loss}
            if step % self.config.validate_every == 0 or step == self.n:
                numbers["validation"] = trainer.validate(self.held)
                # NaN is below nothing: the untrained start would be kept as the best.
                if not math.isfinite(numbers["validation"]):
                    raise TrainingError(
                        f"{self.name}, step {step}: expected a finite validation loss, got {numbers['validation']}; "
                        "lower the learning rate, or compute in float32"
                    )
                if numbers["validation"] < progress.best:
                    progress.best = numbers["validation"]
                    progress.keep()
            progress.step, progress.seconds = step, before + time.perf_counter() - begun
            self.report(self.name, step, self.n, numbers)
            if self.checkpoints.due(step) and step < self.n:
                progress.save(self.checkpoints)
        trainer.adapter.load_state_dict(progress.kept)
        return StageResult({"validation": progress.best}, progress.seconds)

    def _stop(self, why: str, step: int, loss: float, batch: Sequence[AnswerExample], *, is_main: bool) -> None:
        path = self.checkpoints.path
        path = path.with_name(f"{path.name.partition('.')[0]}.step-{step}.batch.json")
        if is_main:
            save_batch(path, why, step, self.config.seed, loss, batch)
        raise TrainingError(f"{self.name}, step {step}: {why}; look at the batch in {path}")
