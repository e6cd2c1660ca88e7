"""What the commands of `kblam kb` share: triples as tables, in which those that differ look different."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kblam_engine.cli._printing import new_console
from kblam_engine.cli._tables import print_table
from kblam_engine.cli.kb_common import tell_none

if TYPE_CHECKING:
    from kblam_engine.triples import Triple

WIDE = 80
"""Columns of a terminal that hold more than the triples themselves."""
_LONGEST = 60
"""Characters of one thing by which two triples of the same words differ."""


def print_triples(ids: Sequence[int], triples: Sequence[Triple], scores: Sequence[float] = ()) -> None:
    """Print triples as a table, or that there are none; with ids and, if any has one, sources where it is wide enough."""
    if not triples:
        tell_none()
        return
    columns = {name: [str(getattr(triple, name)) for triple in triples] for name in ("name", "property", "value")}
    columns |= label_columns(triples)
    if new_console().width >= WIDE:
        columns = {"id": list(map(str, ids)), **columns}
        sources = [t.provenance.place if t.provenance else "" for t in triples]
        columns |= {"source": sources} if any(sources) else {}
    if scores:
        columns = {"score": [f"{score:.2f}" for score in scores], **columns}
    print_columns(columns)


def label_columns(triples: Sequence[Triple]) -> dict[str, list[str]]:
    """Return namespaces, tags and times as columns of a table, each where any of these triples has one."""
    columns = {
        "namespace": [triple.namespace for triple in triples],
        "tags": [", ".join(triple.tags) for triple in triples],
        "holds": [_times(triple) for triple in triples],
    }
    return {title: cells for title, cells in columns.items() if any(cells)}


def _times(triple: Triple) -> str:
    if triple.valid_from and triple.valid_to:
        return f"{triple.valid_from} to {triple.valid_to}"
    return f"from {triple.valid_from}" if triple.valid_from else f"to {triple.valid_to}" if triple.valid_to else ""


def beside_columns(triples: Sequence[Triple]) -> dict[str, list[str]]:
    """Return a column with what else differs between triples that look the same; none where all look different."""
    alike: dict[tuple[str, ...], list[dict[str, str]]] = {}
    known = [(_look(triple), _beside(triple)) for triple in triples]
    for look, parts in known:
        alike.setdefault(look, []).append(parts)
    cells = [
        ", ".join(
            f"{key}={_short(text)}" for key, text in parts.items() if any(other.get(key) != text for other in alike[look])
        )
        for look, parts in known
    ]
    return {"beside": cells} if any(cells) else {}


def _look(triple: Triple) -> tuple[str, ...]:
    return triple.name, triple.property, triple.value, triple.namespace, ", ".join(triple.tags), _times(triple)


def _beside(triple: Triple) -> dict[str, str]:
    """Return what else is known of a triple, as texts."""
    origin = triple.provenance.to_dict() if triple.provenance is not None else {}
    parts = {**triple.metadata, **{"source" if key == "document" else key: part for key, part in origin.items()}}
    return {key: part if isinstance(part, str) else json.dumps(part, ensure_ascii=False) for key, part in parts.items()}


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def print_columns(columns: dict[str, list[str]]) -> None:
    """Print a table that is given by its columns, all of one length."""
    print_table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)])
