"""What an edge of a graph says of its triple beside the words: where it was read, in what namespace, when it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kblam_engine.errors import TripleError
from kblam_engine.triples import Provenance, Triple

__all__ = ["CONTEXT_ATTRIBUTES", "context_attributes", "with_context"]

_PREFIX = "kb_"
CONTEXT_ATTRIBUTES = frozenset(_PREFIX + part for part in ("provenance", "namespace", "tags", "valid_from", "valid_to"))
"""Names of edge attributes that are no metadata of the triple but parts of it."""


def context_attributes(triple: Triple) -> dict[str, str]:
    """Return provenance, namespace, tags and times of a triple, where known, as attributes of its edge.

    Each is a text, which every file format for graphs can hold: the provenance a JSON object, tags with commas between.
    """
    context = triple.context()
    if "provenance" in context:
        context["provenance"] = json.dumps(context["provenance"], ensure_ascii=False)
    if "tags" in context:
        context["tags"] = ",".join(context["tags"])
    return {_PREFIX + part: text for part, text in context.items()}


def with_context(triple: Triple) -> Triple:
    """Return a triple whose metadata are attributes of an edge with what they say of its context in its fields.

    Raises:
        TripleError: an attribute is no namespace, time or provenance.
    """
    if CONTEXT_ATTRIBUTES.isdisjoint(triple.metadata):
        return triple
    metadata = dict(triple.metadata)
    parts = {name.removeprefix(_PREFIX): metadata.pop(name) for name in CONTEXT_ATTRIBUTES & metadata.keys()}
    if "provenance" in parts:
        parts["provenance"] = _provenance(parts["provenance"])
    return replace(triple, metadata=metadata, **parts)


def _provenance(known: Any) -> Provenance:
    if isinstance(known, str):
        try:
            known = json.loads(known)
        except json.JSONDecodeError as error:
            raise TripleError("provenance", f"{_PREFIX}provenance: expected a JSON object, got {known!r} ({error})") from None
    if not isinstance(known, Mapping):
        raise TripleError("provenance", f"{_PREFIX}provenance: expected an object, got {type(known).__name__}")
    return Provenance.from_dict(known)
