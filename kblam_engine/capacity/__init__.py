"""Capacity planning: what a knowledge base of a given size takes, from measured constants."""

from kblam_engine.capacity.estimates import Estimate
from kblam_engine.capacity.planner import INDEXES, Plan, PlanRequest, plan
from kblam_engine.capacity.shapes import SHAPES, ModelShape, shape_of_model
from kblam_engine.capacity.terms import Known, Term

__all__ = ["INDEXES", "SHAPES", "Estimate", "Known", "ModelShape", "Plan", "PlanRequest", "Term", "plan", "shape_of_model"]
