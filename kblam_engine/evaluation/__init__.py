"""Measure answers, retrieval, refusal and speed, beside baselines on the same base model.

Importing this package loads neither torch nor numpy.
"""

from __future__ import annotations

from kblam_engine.evaluation.baselines import BASELINES
from kblam_engine.evaluation.questions import Question, read_questions
from kblam_engine.evaluation.results import EvaluationResult, Metrics
from kblam_engine.evaluation.runner import run_evaluation

__all__ = ["BASELINES", "EvaluationResult", "Metrics", "Question", "read_questions", "run_evaluation"]
