"""Losses that say that training cannot go on, and the batch that was at fault."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kblam_engine.errors import KBLaMError
from kblam_engine.training.answer_trainer import AnswerExample

FAR = 5.0
"""A loss above this multiple of the running mean is far above it."""
FLOOR = 0.1
"""Nats; a mean below counts as this, because near nothing a single hard batch is any multiple."""
PATIENCE = 5
"""Steps in a row with a loss far above the mean that stop the run."""
SETTLING = 20
"""Steps, those of the warm-up, after which the running mean means something; and its memory."""


class TrainingError(KBLaMError):
    """Training cannot go on: the loss is not a number, or it has run away."""


@dataclass
class LossWatch:
    """The running mean of the loss, and for how many steps in a row the loss has been far above it.

    Attributes:
        mean: the running mean, of the losses that were not far above it.
        seen: losses in the mean, ``SETTLING`` at most.
        far: steps in a row.
    """

    mean: float = 0.0
    seen: int = 0
    far: int = 0

    def look(self, loss: float, gradient: float) -> str | None:
        """Take the numbers of a step and return why training cannot go on, or None.

        Args:
            loss: nats per answer token.
            gradient: length of the gradient before it was clipped.
        """
        if (why := not_a_number(loss, gradient)) is not None:
            return why
        if self.seen == SETTLING and loss > FAR * max(self.mean, FLOOR):
            self.far += 1
            if self.far < PATIENCE:
                return None
            return (
                f"the loss has been above {FAR:g} times its running mean of {self.mean:.3f} for {PATIENCE} steps "
                f"in a row and is {loss:.3f}"
            )
        self.far = 0
        self.seen = min(self.seen + 1, SETTLING)
        self.mean += (loss - self.mean) / self.seen
        return None


def not_a_number(loss: float, gradient: float = 0.0) -> str | None:
    """Return which of the numbers of a step is NaN or infinite, as a reason to stop, or None."""
    for name, number in (("loss", loss), ("gradient", gradient)):
        if not math.isfinite(number):
            return f"the {name} is not a number"
    return None


def check_step(name: str, step: int, loss: float, gradient: float = 0.0) -> None:
    """Stop training whose loss is not a number, at once: every further step would spoil the tensors some more.

    For loops whose losses differ too much from batch to batch to say that one has run away.

    Args:
        name: what is trained.
        step: optimiser step, from 1.
        loss: of the step.
        gradient: length of its gradient, where that is known.

    Raises:
        TrainingError: loss or gradient are NaN or infinite.
    """
    why = not_a_number(loss, gradient)
    if why is not None:
        raise TrainingError(
            f"{name}, step {step}: {why}: expected finite numbers, got loss {loss} and gradient {gradient}; "
            "look at the data and at the sentence encoder's embeddings, or try another seed"
        )


def save_batch(
    path: Path, why: str, step: int, seed: int, loss: float, batch: Sequence[AnswerExample]
) -> Path:
    """Write a batch as JSON, to look at or to try again, and return the path.

    Args:
        path: of the file; its folder is made.
        why: what was wrong.
        step: optimiser step, from 1.
        seed: of the run.
        loss: of the batch; null in the file if it is not a number.
        batch: the examples.
    """
    told = {
        "why": why,
        "step": step,
        "seed": seed,
        "loss": loss if math.isfinite(loss) else None,
        "examples": [example.to_dict() for example in batch],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
