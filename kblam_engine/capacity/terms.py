"""Numbers that remember how they came about: arithmetic on them writes the formula that is shown beside the result."""

from __future__ import annotations

from dataclasses import dataclass

_SUM, _PRODUCT, _POWER, _ATOM = range(4)


@dataclass(frozen=True, slots=True)
class Known:
    """A number that an estimate starts from.

    Attributes:
        symbol: what it is called in formulas.
        value: the number.
        unit: of the number; empty for a count.
        source: where it comes from: a file of results and the field in it, a rule of the code, what was asked for, or
            "assumed".
    """

    symbol: str
    value: float
    unit: str
    source: str


@dataclass(frozen=True, slots=True)
class Term:
    """A value, the formula that gave it, and the numbers that it starts from.

    What is shown cannot differ from what was computed, because both are made by the same operation.
    """

    value: float
    text: str
    knowns: tuple[Known, ...] = ()
    rank: int = _ATOM

    def __add__(self, other: Term | Known | float) -> Term:
        """Return the sum."""
        return _joined(self, "+", term(other), _SUM)

    def __sub__(self, other: Term | Known | float) -> Term:
        """Return the difference."""
        return _joined(self, "-", term(other), _SUM)

    def __mul__(self, other: Term | Known | float) -> Term:
        """Return the product."""
        return _joined(self, "*", term(other), _PRODUCT)

    def __rmul__(self, other: float) -> Term:
        """Return the product with a number in front."""
        return _joined(term(other), "*", self, _PRODUCT)

    def __truediv__(self, other: Term | Known | float) -> Term:
        """Return the quotient."""
        return _joined(self, "/", term(other), _PRODUCT)

    def __pow__(self, other: Term | Known | float) -> Term:
        """Return the power."""
        return _joined(self, "^", term(other), _POWER)


def term(number: Term | Known | float) -> Term:
    """Make a term of a number with a source, or of one that is part of the formula."""
    if isinstance(number, Term):
        return number
    if isinstance(number, Known):
        return Term(float(number.value), number.symbol, (number,))
    return Term(float(number), f"{number:g}" if abs(number) < 1e6 else f"{number:.12g}")


def named(symbol: str, made: Term, unit: str = "") -> Term:
    """Return a term under a name of its own, where its formula has been shown before."""
    return term(Known(symbol, made.value, unit, "above"))


def _joined(left: Term, sign: str, right: Term, rank: int) -> Term:
    a, b = left.value, right.value
    if sign == "+":
        value = a + b
    elif sign == "-":
        value = a - b
    elif sign == "*":
        value = a * b
    elif sign == "/":
        value = a / b
    else:
        value = float(a**b)
    # Of equal rank the right side keeps its brackets wherever they matter: a - (b + c), a / (b * c), a ^ (b ^ c).
    left_text = f"({left.text})" if left.rank < rank or (rank == _POWER and left.rank == _POWER) else left.text
    bare = right.rank > rank or (right.rank == rank and sign in "+*" and right.rank != _POWER)
    text = f"{left_text} {sign} {right.text if bare else f'({right.text})'}"
    return Term(value, text, tuple(dict.fromkeys((*left.knowns, *right.knowns))), rank)
