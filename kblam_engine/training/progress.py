"""How far the steps of a stage are: everything that the steps to come depend on, to and from a file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor

from kblam_engine.training.answer_trainer import AnswerTrainer
from kblam_engine.training.checkpoints import Checkpoints, random_state, restore_random
from kblam_engine.training.divergence import LossWatch

_TRAINED, _KEPT, _OPTIMIZER = "trained.", "kept.", "optimizer."


@dataclass
class Progress:
    """The state of the stage after a step.

    Attributes:
        trainer: what is trained, optimiser and schedule.
        random: what the batches are drawn with.
        step: optimiser steps taken.
        seconds: time that they took, in all sessions.
        best: lowest validation loss so far.
        kept: the tensors that had it.
        watch: over the loss.
    """

    trainer: AnswerTrainer[Any, Any]
    random: Random
    step: int = 0
    seconds: float = 0.0
    best: float = float("inf")
    kept: dict[str, Tensor] = field(init=False)
    watch: LossWatch = field(default_factory=LossWatch)

    def __post_init__(self) -> None:
        """Keep the tensors as they begin."""
        self.keep()

    def keep(self) -> None:
        """Keep the tensors as they are now."""
        self.kept = copy.deepcopy(self.trainer.adapter.state_dict())

    def save(self, checkpoints: Checkpoints) -> None:
        """Write the checkpoint, of which the first process's is all there is to know."""
        if not self.trainer.processes.is_main:
            return
        optimizer = self.trainer.optimizer.state_dict()
        tensors = {
            **{_TRAINED + k: v for k, v in self.trainer.adapter.state_dict().items()},
            **{_KEPT + k: v for k, v in self.kept.items()},
            **{f"{_OPTIMIZER}{i}.{k}": v for i, own in optimizer["state"].items() for k, v in own.items()},
        }
        schedule = {k: v for k, v in self.trainer.schedule.state_dict().items() if k != "lr_lambdas"}
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "watch": asdict(self.watch),
            "schedule": schedule,
            "rates": [group["lr"] for group in optimizer["param_groups"]],
            "random": random_state(self.random),
        }
        checkpoints.save(tensors, state)

    def restore(self, checkpoints: Checkpoints) -> None:
        """Go on from the checkpoint if there is one that fits; otherwise stay at the beginning."""
        found = self.trainer.processes.from_main(checkpoints.load)
        if found is None:
            return
        tensors, state = found
        if not self._fit(tensors):
            checkpoints.ignore("its tensors are not those of this stage")
            return
        now = self.trainer.adapter.state_dict()
        self.trainer.adapter.load_state_dict(_part(tensors, _TRAINED))
        self.kept = {k: v.to(now[k].device) for k, v in _part(tensors, _KEPT).items()}
        optimizer = self.trainer.optimizer.state_dict()
        for name, tensor in _part(tensors, _OPTIMIZER).items():
            number, _, key = name.partition(".")
            optimizer["state"].setdefault(int(number), {})[key] = tensor
        for group, rate in zip(optimizer["param_groups"], state["rates"], strict=True):
            group["lr"] = rate
        self.trainer.optimizer.load_state_dict(optimizer)
        schedule: dict[str, Any] = self.trainer.schedule.state_dict()
        self.trainer.schedule.load_state_dict({**schedule, **state["schedule"]})
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.watch = LossWatch(**state["watch"])
        restore_random(self.random, state["random"])

    def _fit(self, tensors: Mapping[str, Tensor]) -> bool:
        now = {k: v.shape for k, v in self.trainer.adapter.state_dict().items()}
        parameters = [p for group in self.trainer.optimizer.param_groups for p in group["params"]]
        moments = {
            f"{i}.{k}": p.shape if k != "step" else torch.Size()
            for i, p in enumerate(parameters)
            for k in ("step", "exp_avg", "exp_avg_sq")
        }
        expected = {_TRAINED: now, _KEPT: now, _OPTIMIZER: moments}
        found = {prefix: {k: v.shape for k, v in _part(tensors, prefix).items()} for prefix in expected}
        return found == expected


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
