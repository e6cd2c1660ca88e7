"""The numbers of a run, line by line, in a file that outlives it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
"""The name of the file, in the folder of a run's stages."""


@dataclass(frozen=True)
class Validation:
    """One validation of a run.

    Attributes:
        stage: what was being trained.
        step: optimiser steps taken.
        loss: mean nats per answer token on what training does not see.
    """

    stage: str
    step: int
    loss: float


class Metrics:
    """Writes ``metrics.jsonl``: a line per report that brings numbers.

    A line has run, stage, step, loss, validation (null where none was made) and seconds (of the stage, in all
    sessions). A run that goes on from a checkpoint takes some steps again: their lines are replaced. Lines of other
    runs are dropped when the first line is written.
    """

    def __init__(self, path: Path, run: str) -> None:
        """Name the file; nothing is read or written yet.

        Args:
            path: of the file.
            run: tells runs apart.
        """
        self._path, self._run = path, run
        self._last = time.perf_counter()  # of the newest report
        self._begun: dict[str, float] = {}  # by stage, when it would have begun in one session

    def __call__(self, stage: str, done: int, total: int, numbers: dict[str, float]) -> None:
        """Take a report."""
        now = time.perf_counter()
        if numbers:
            if stage not in self._begun:
                self._begun[stage] = self._last - self._cut_back(stage, done)
            line = {
                "run": self._run,
                "stage": stage,
                "step": done,
                "loss": numbers.get("loss"),
                "validation": numbers.get("validation"),
                "seconds": round(now - self._begun[stage], 3),
            }
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self._last = now

    def _cut_back(self, stage: str, step: int) -> float:
        """Leave the lines of this run that come before a step; return the seconds that the stage had taken."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = self._path.read_text(encoding="utf-8", errors="replace") if self._path.exists() else ""
        lines = [line for line in map(_parsed, text.splitlines()) if line is not None]
        own = [
            line
            for line in lines
            if line["run"] == self._run and (line["stage"] != stage or line["step"] < step)
        ]
        unfinished = self._path.with_name(f"{self._path.name}.unfinished")
        unfinished.write_text("".join(json.dumps(line) + "\n" for line in own), encoding="utf-8")
        os.replace(unfinished, self._path)
        return max((float(line["seconds"]) for line in own if line["stage"] == stage), default=0.0)


def validations(path: Path, run: str) -> list[Validation]:
    """Return the validations of a run from its ``metrics.jsonl``, in the order of the file; none without a file.

    Args:
        path: of the file.
        run: tells runs apart.
    """
    if not path.exists():
        return []
    lines = map(_parsed, path.read_text(encoding="utf-8", errors="replace").splitlines())
    own = [line for line in lines if line is not None and line["run"] == run and line.get("validation") is not None]
    return [Validation(line["stage"], line["step"], line["validation"]) for line in own]


def _parsed(text: str) -> dict[str, Any] | None:
    """Return a line, or None for one that a killed process left half written."""
    try:
        line = json.loads(text)
        return line if {"run", "stage", "step", "seconds"} <= line.keys() else None
    except (ValueError, AttributeError):
        return None
