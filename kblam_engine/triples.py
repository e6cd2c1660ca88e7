"""A triple (name, property, value), where and when it holds. Standard library only; `triple_files` reads and writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from kblam_engine.errors import TripleError

# Characters. A value has to fit a prompt; a name or property of this size is a parsing mistake upstream.
MAX_LENGTHS = {"name": 500, "property": 500, "value": 10_000}
MAX_LABEL = 2_000
"""Characters of a namespace, a tag, and each text of a provenance."""
MAX_TAGS = 64
MAX_METADATA = 65_536
"""Characters of the metadata as JSON."""
_RESERVED = frozenset({"name", "property", "value", "metadata"})
_TYPED = frozenset({"provenance", "namespace", "tags", "valid_from", "valid_to"})
_PARTIAL_DATE = re.compile(r"\d{4}(-\d\d)?")
# The data sets published with the KBLaM paper call the same parts by other names.
_ALIASES = {"description_type": "property", "description": "value"}


# Inside the class the field `property` hides the builtin.
_computed = property


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a triple was read.

    Raises:
        TripleError: a text is none or over-long, the span is not `0 <= start <= end`, the confidence not 0 to 1.
    """

    document: str = ""
    """The document's id, as the application names it."""
    uri: str = ""
    """Where the document lies."""
    span: tuple[int, int] | None = None
    """Characters of the document, from the first up to and without the second."""
    extractor: str = ""
    """What read it."""
    confidence: float | None = None
    """0 to 1, the extractor's own."""

    def __post_init__(self) -> None:
        for part in ("document", "uri", "extractor"):
            object.__setattr__(self, part, _checked_label(f"provenance.{part}", getattr(self, part)))
        if self.span is not None:
            ends = list(self.span) if isinstance(self.span, list | tuple) else []
            if not (len(ends) == 2 and all(type(end) is int for end in ends) and 0 <= ends[0] <= ends[1]):
                raise TripleError("provenance.span", f"expected start and end, got {self.span!r}")
            object.__setattr__(self, "span", tuple(ends))
        if self.confidence is not None:
            if type(self.confidence) not in (int, float) or not 0 <= self.confidence <= 1:
                raise TripleError("provenance.confidence", f"expected 0 to 1, got {self.confidence!r}")
            object.__setattr__(self, "confidence", float(self.confidence))

    @property
    def place(self) -> str:
        """Where it was read, for people: the URI, or else the document's id."""
        return self.uri or self.document

    def to_dict(self) -> dict[str, Any]:
        """Return what is known as a JSON object."""
        parts = {
            "document": self.document or None,
            "uri": self.uri or None,
            "span": None if self.span is None else list(self.span),
            "extractor": self.extractor or None,
            "confidence": self.confidence,
        }
        return {part: known for part, known in parts.items() if known is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | str) -> Provenance:
        """Build one from a JSON object, or from the document's id alone.

        Raises:
            TripleError: a part is wrong or unknown.
        """
        if isinstance(data, str):
            return cls(document=data)
        if not isinstance(data, Mapping):
            raise TripleError("provenance", f"expected an object, got {type(data).__name__}")
        if not data.keys() <= {"document", "uri", "span", "extractor", "confidence"}:
            raise TripleError("provenance", f"unknown parts in {sorted(map(str, data))}; put them in the metadata")
        return cls(**data)


@dataclass(frozen=True, slots=True, repr=False)
class Triple:
    """One piece of knowledge: the `property` of `name` is `value`.

    Text is stripped of surrounding white space. `metadata` is anything JSON can hold, kept beside the triple
    (its source, say) and never shown to the model; so are the fields after it, by which a view of a knowledge
    base selects. Times are ISO 8601, "2024" to "2024-03-05T10:00:00Z", or a `date` or `datetime` (UTC unless it
    says otherwise); the triple holds from `valid_from` up to, and no longer at, `valid_to`.

    Raises:
        TripleError: a part is not text, empty, over-long (`MAX_LENGTHS`) or not encodable; `.field` names it.
    """

    name: str
    property: str
    value: str
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    provenance: Provenance | None = None
    namespace: str = ""
    """The same name and property in two namespaces are two keys."""
    tags: tuple[str, ...] = ()
    """Any iterable of texts; kept sorted, each once."""
    valid_from: str = ""
    valid_to: str = ""

    def __post_init__(self) -> None:
        for part in ("name", "property", "value"):
            object.__setattr__(self, part, _checked_text(part, getattr(self, part)))
        object.__setattr__(self, "metadata", _checked_metadata(self.metadata))
        if self.provenance is not None and not isinstance(self.provenance, Provenance):
            raise TripleError("provenance", f"expected a Provenance, got {type(self.provenance).__name__}")
        if self.provenance is not None and not self.provenance.to_dict():
            object.__setattr__(self, "provenance", None)
        if self.namespace != "":
            object.__setattr__(self, "namespace", _checked_label("namespace", self.namespace))
        if self.tags != ():
            object.__setattr__(self, "tags", _checked_tags(self.tags))
        if self.valid_from != "" or self.valid_to != "":
            self._check_times()

    def __repr__(self) -> str:
        known = {part: getattr(self, part) for part in ("name", "property", "value", "metadata", *sorted(_TYPED))}
        shown = (f"{part}={text!r}" for part, text in known.items() if part not in _TYPED or text)
        return f"Triple({', '.join(shown)})"

    def _check_times(self) -> None:
        for part in ("valid_from", "valid_to"):
            if getattr(self, part) != "":
                object.__setattr__(self, part, _checked_time(part, getattr(self, part)))
        if self.valid_from and self.valid_to and instant(self.valid_from) >= instant(self.valid_to):
            raise TripleError("valid_to", f"expected a time after {self.valid_from}, got {self.valid_to}")

    @_computed
    def key_text(self) -> str:
        """The text whose sentence embedding is the triple's key (KBLaM, section 3)."""
        return f"the {self.property} of {self.name}"

    @_computed
    def statement(self) -> str:
        """The triple as one English sentence."""
        stop = "" if self.value.endswith(".") else "."
        return f"The {self.property} of {self.name} is {self.value}{stop}"

    def to_dict(self) -> dict[str, Any]:
        """Return the triple as one flat JSON object: its three parts, what is known of the others, its metadata."""
        parts = {"name": self.name, "property": self.property, "value": self.value, **self.context()}
        if _TYPED.isdisjoint(self.metadata):
            return {**parts, **self.metadata}
        return {**parts, "metadata": dict(self.metadata)}  # one of its keys is the name of a part

    def context(self) -> dict[str, Any]:
        """Return namespace, tags, times and provenance as a JSON object, without those that are not known."""
        parts = {
            "provenance": self.provenance.to_dict() if self.provenance is not None else None,
            "namespace": self.namespace,
            "tags": list(self.tags),
            "valid_from": self.valid_from,
            "valid_to": self.valid_to,
        }
        return {part: known for part, known in parts.items() if known}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Triple:
        """Build a triple from a JSON object; keys other than its parts become metadata.

        Raises:
            TripleError: a part is missing or wrong.
        """
        if not isinstance(data, Mapping):
            raise TripleError("triple", f"expected an object, got {type(data).__name__}")
        parts = dict(data)
        for alias, part in _ALIASES.items():
            if part not in parts and alias in parts:
                parts[part] = parts.pop(alias)
        for part in ("name", "property", "value"):
            if part not in parts:
                raise TripleError(part, "is missing")
        name, prop, value = parts.pop("name"), parts.pop("property"), parts.pop("value")
        nested = parts.pop("metadata", {})
        if not isinstance(nested, Mapping):
            raise TripleError("metadata", f"expected an object, got {type(nested).__name__}")
        typed = {part: parts.pop(part) for part in _TYPED & parts.keys()}
        if "provenance" in typed:
            typed["provenance"] = Provenance.from_dict(typed["provenance"])
        return cls(name, prop, value, {**parts, **nested}, **typed)


def instant(time: str | date | datetime) -> int:
    """Return a time as seconds since 1970 in UTC; "2024" is its first second, and so on.

    Raises:
        TripleError: it is no ISO 8601 time.
    """
    text = _checked_time("time", time)
    if _PARTIAL_DATE.fullmatch(text):
        text = f"{text}-01-01"[:10]
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _checked_text(part: str, text: object) -> str:
    if not isinstance(text, str):
        raise TripleError(part, f"expected text, got {type(text).__name__}")
    text = text.strip()
    if not text:
        raise TripleError(part, "expected text, got nothing but white space")
    longest = MAX_LENGTHS.get(part, MAX_LABEL)
    if len(text) > longest:
        raise TripleError(part, f"expected at most {longest} characters, got {len(text)}")
    if "\0" in text:
        raise TripleError(part, "expected text, got a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TripleError(part, f"expected text, got half a character at position {error.start}") from None
    return text


def _checked_metadata(metadata: object) -> dict[str, Any]:
    if not isinstance(metadata, Mapping):
        raise TripleError("metadata", f"expected a mapping, got {type(metadata).__name__}")
    if not metadata:
        return {}
    for key in metadata:
        if not isinstance(key, str):
            raise TripleError("metadata", f"expected text keys, got {key!r}")
        if key in _RESERVED:
            raise TripleError("metadata", f"the key {key!r} is a part of the triple itself")
    try:
        text = json.dumps(dict(metadata), allow_nan=False, ensure_ascii=False)
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise TripleError("metadata", f"expected what JSON can hold: {error}") from None
    if len(text) > MAX_METADATA:
        raise TripleError("metadata", f"expected at most {MAX_METADATA} characters of JSON, got {len(text)}")
    return dict(metadata)


def _checked_label(part: str, text: object) -> str:
    if text == "":
        return ""
    if not isinstance(text, str):
        raise TripleError(part, f"expected text, got {type(text).__name__}")
    return "" if not text.strip() else _checked_text(part, text)


def _checked_tags(tags: object) -> tuple[str, ...]:
    if isinstance(tags, str):  # as in a cell of a table
        tags = [tag for tag in tags.split(",") if tag.strip()]
    if not isinstance(tags, Iterable):
        raise TripleError("tags", f"expected texts, got {type(tags).__name__}")
    checked = tuple(sorted({_checked_label("tags", tag) for tag in tags} - {""}))
    if len(checked) > MAX_TAGS:
        raise TripleError("tags", f"expected at most {MAX_TAGS}, got {len(checked)}")
    if any("," in tag for tag in checked):
        raise TripleError("tags", f"expected tags without a comma, got {checked}")
    return checked


def _checked_time(part: str, time: object) -> str:
    if isinstance(time, datetime):
        aware = time if time.tzinfo else time.replace(tzinfo=UTC)
        return aware.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(time, date):
        return time.isoformat()
    if not isinstance(time, str):
        raise TripleError(part, f"expected a time, got {type(time).__name__}")
    text = time.strip()
    try:
        datetime.fromisoformat(f"{text}-01-01"[:10] if _PARTIAL_DATE.fullmatch(text) else text)
    except ValueError:
        raise TripleError(part, f"expected a time such as 2024-03-05 or 2024-03-05T10:00Z, got {time!r}") from None
    return text

