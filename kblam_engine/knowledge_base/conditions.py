"""Conditions on triples, as SQL with its parameters; a statement that uses one calls the table of triples `t`."""

from __future__ import annotations

Condition = tuple[str, list[object]]


def matching(name: str | None, prop: str | None = None, value: str | None = None) -> Condition:
    """Return the condition that triples have these parts."""
    parts: tuple[tuple[str, str | None], ...] = (
        ("t.name_id = (SELECT id FROM names WHERE text = ?)", name),
        ("t.property_id = (SELECT id FROM properties WHERE text = ?)", prop),
        ("t.value = ?", value),
    )
    given: list[Condition] = [(condition, [text.strip()]) for condition, text in parts if text is not None]
    return all_of(*given)


def all_of(*conditions: Condition) -> Condition:
    """Return the condition that all of these hold."""
    where = " AND ".join(where for where, _ in conditions) or "1"
    return where, [each for _, parameters in conditions for each in parameters]
