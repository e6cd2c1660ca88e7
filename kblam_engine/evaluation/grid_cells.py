"""The cells of a grid, one size with one seed each: what they are asked, and how a finished one is kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from kblam_engine.evaluation.baselines import PromptOptions
from kblam_engine.evaluation.questions import Question
from kblam_engine.evaluation.results import EvaluationResult, ScoredAnswer
from kblam_engine.evaluation.runner import SYSTEM, Answered, result_of, sample_questions
from kblam_engine.triples import Triple

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a grid asks of whom; every cell sees the same plan."""

    kb_triples: list[Triple]
    questions: list[Question]
    distractors: list[Triple]
    baselines: tuple[str, ...]
    limit: int | None
    prompts: PromptOptions
    answer_options: dict[str, Any]
    labels: dict[str, Any]
    by_layer: bool = False
    batch_size: int = 1

    @property
    def told(self) -> dict[str, Any]:
        """All that decides a cell's answers besides its size and seed, and the version, as JSON values."""
        return {
            "kb": [[t.name, t.property, t.value] for t in self.kb_triples],
            "distractors": [[t.name, t.property, t.value] for t in self.distractors],
            "questions": [[q.messages, q.kind, q.answers, q.supports] for q in self.questions],
            "asked": [self.baselines, self.limit, self.answer_options],
            "prompts": {**asdict(self.prompts), "seed": None},
            "labels": self.labels,
            "version": version("kblam-engine"),
            **({"by_layer": True} if self.by_layer else {}),
            **({"batch_size": self.batch_size} if self.batch_size > 1 else {}),
        }

    def mark(self) -> Mark:
        """Return what tells this plan from another; it takes a while, for it reads every triple."""
        told = self.told
        parts = {f"contents of {name}": told[name] for name in ("kb", "distractors", "questions")}
        parts |= dict(zip(("baselines", "limit", "options"), told["asked"], strict=True))
        parts |= {name: value for name, value in told.items() if name not in ("kb", "distractors", "questions", "asked", "labels")}
        parts |= self.labels
        return Mark(_digest(told), {name: _digest(value)[:12] for name, value in sorted(parts.items())})


class Mark(NamedTuple):
    """What tells a plan from another."""

    fingerprint: str
    parts: dict[str, str]
    """Digests of what it is made of, to say in what two plans differ."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The answers at one size with one seed."""

    size: int
    seed: int
    asked: list[Question]
    answered: Answered
    settings: dict[str, Any]
    warnings: list[str]

    def result(self) -> EvaluationResult:
        """Return the cell as a single run."""
        return result_of(self.asked, self.answered, self.settings, self.warnings)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _file(folder: Path, size: int, seed: int) -> Path:
    return folder / f"{size}-triples-seed-{seed}.json"


def keep(folder: Path | None, mark: Mark, cell: Cell) -> None:
    """Write a cell in the form of a single run, whole or not at all."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    told = {**cell.result().to_dict(), "fingerprint": mark.fingerprint, "plan": mark.parts}
    target = _file(folder, cell.size, cell.seed)
    unfinished = target.with_suffix(".part")
    unfinished.write_text(json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(unfinished, target)


def kept(folder: Path | None, plan: Plan, mark: Mark, size: int, seed: int) -> Cell | None:
    """Return a finished cell of an equal plan; None where there is none, or it cannot be read.

    Args:
        folder: where cells are kept.
        plan: of this command.
        mark: of the plan.
        size: of the cell.
        seed: of the cell.
    """
    if folder is None or not _file(folder, size, seed).is_file():
        return None
    path = _file(folder, size, seed)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["fingerprint"] != mark.fingerprint:
            logger.warning("%s is of another command and is run again and overwritten: %s", path, _what_differs(told, mark))
            return None
        asked = sample_questions(plan.questions, plan.limit, seed)
        parts: list[Mapping[str, Any]] = told["answers"]
        found = {SYSTEM: [ScoredAnswer(**part["system"]) for part in parts]}
        info = {SYSTEM: told["system"]["info"]}
        for name in plan.baselines:
            found[name] = [ScoredAnswer(**part["baselines"][name]) for part in parts]
            info[name] = told["baselines"][name]["info"]
        if len(parts) != len(asked):
            raise ValueError(f"expected {len(asked)} answers, got {len(parts)}")
        dropped = {"format", "warnings", "definitions", "system", "baselines", "answers", "fingerprint", "plan"}
        settings = {key: value for key, value in told.items() if key not in dropped}
        return Cell(size, seed, asked, Answered(found, info), settings, list(told["warnings"]))
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        logger.warning("%s cannot be used and is run again: %s", path, error)
        return None


def _what_differs(told: Mapping[str, Any], mark: Mark) -> str:
    """Return which parts of a kept cell's plan are not those of this one."""
    before = told.get("plan")
    if not isinstance(before, dict):
        return "an earlier version wrote it, without saying what of the command is in it"
    return "other " + ", ".join(name for name in sorted({*before, *mark.parts}) if before.get(name) != mark.parts.get(name))
