"""Conditions on triples, as SQL with its parameters; a statement that uses one calls the table of triples `t`."""

from __future__ import annotations

import operator

from kblam_engine.errors import ConfigurationError

Condition = tuple[str, list[object]]


def matching(name: str | None, prop: str | None = None, value: str | None = None) -> Condition:
    """Return the condition that triples have these parts.

    Raises:
        ConfigurationError: one is no text.
    """
    parts: tuple[tuple[str, str | None], ...] = (
        ("t.name_id = (SELECT id FROM names WHERE text = ?)", name),
        ("t.property_id = (SELECT id FROM properties WHERE text = ?)", prop),
        ("t.value = ?", value),
    )
    given: list[Condition] = [(condition, [_stripped(text)]) for condition, text in parts if text is not None]
    return all_of(*given)


def _stripped(text: object) -> str:
    if not isinstance(text, str):
        raise ConfigurationError(f"expected the text of a name, property or value, got {text!r}")
    return text.strip()


def checked_count(what: str, number: object) -> int:
    """Return how many of something a user asks for.

    Raises:
        ConfigurationError: it is no whole number, or below 1.
    """
    if checked_number(what, number) < 1:
        raise ConfigurationError(f"{what}: expected at least 1, got {number!r}")
    return checked_number(what, number)


def checked_number(what: str, number: object) -> int:
    """Return a number that a user says.

    Raises:
        ConfigurationError: it is no whole number.
    """
    try:
        return operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigurationError(f"{what}: expected a whole number, got {number!r}") from None


def all_of(*conditions: Condition) -> Condition:
    """Return the condition that all of these hold."""
    where = " AND ".join(where for where, _ in conditions) or "1"
    return where, [each for _, parameters in conditions for each in parameters]
