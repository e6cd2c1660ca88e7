"""One line of a plan: a number, its unit, its formula and what the formula starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kblam_engine.capacity.terms import Known, Term


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number of a plan.

    Attributes:
        section: what it belongs to.
        name: what it is of.
        value: the number.
        unit: "B" (bytes), "h", "ms" or empty for a count.
        formula: how it was computed, over the symbols of `knowns`; "^" is a power.
        knowns: what it starts from, each with its source.
        extrapolated: whether it goes beyond the largest size that was measured.
        is_total: whether it sums up others of its section.
    """

    section: str
    name: str
    value: float
    unit: str
    formula: str
    knowns: tuple[Known, ...]
    extrapolated: bool = False
    is_total: bool = False

    @classmethod
    def of(cls, section: str, name: str, made: Term, unit: str, extrapolated: bool = False) -> Estimate:
        """Make an estimate of a term."""
        return cls(section, name, made.value, unit, made.text, made.knowns, extrapolated)


def total(section: str, name: str, parts: Sequence[Estimate]) -> Estimate:
    """Sum those of the parts that have the unit of the first."""
    unit = parts[0].unit
    added = [part for part in parts if part.unit == unit]
    knowns = tuple(Known(part.name, part.value, unit, "above") for part in added)
    formula = " + ".join(f"[{part.name}]" for part in added)
    return Estimate(
        section,
        name,
        sum(part.value for part in added),
        unit,
        formula,
        knowns,
        any(part.extrapolated for part in added),
        True,
    )
