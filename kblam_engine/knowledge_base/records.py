"""What the methods of a knowledge base return."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from kblam_engine.triples import Triple


@dataclass(frozen=True, slots=True)
class AddResult:
    """What one `add` did, in triples."""

    added: int
    replaced: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class DocumentsResult:
    """What became of documents that were added."""

    ids: list[str]
    """Of those that say something."""
    empty: list[str]
    """Ids of those in which no triple was found."""
    removed: list[str]
    """Ids of earlier documents from the same sources that are not among them, and are gone."""
    n_triples: int
    """How many triples they say, each once."""
    skipped: dict[str, int]
    """How many candidates the extractors left out, by reason."""


@dataclass(frozen=True, slots=True)
class KBDocument:
    """A document that triples came from."""

    id: str
    source: str
    """Its path or URL; empty if nobody said one."""
    n_triples: int


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What became of the triples of the names that were merged into another."""

    moved: int
    """They have the kept name now."""
    same: int
    """The kept name said the same already."""
    overruled: list[Triple]
    """The kept name has another value of this property, and keeps it; these are in the history only."""

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and triples as a JSON object."""
        return {"moved": self.moved, "same": self.same, "overruled": [t.to_dict() for t in self.overruled]}


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A triple that was looked for.

    `score` is the cosine of its key and the searched text (-1 to 1) where it was found by meaning, and BM25 where it
    was found by words.
    """

    id: int
    triple: Triple
    score: float


@dataclass(frozen=True, slots=True)
class TripleVersion:
    """What a name's property was from one revision to another."""

    id: int
    triple: Triple
    added: int
    """The revision that added it."""
    removed: int | None
    """The revision that removed or replaced it, None while it is there."""
    added_at: datetime | None
    """None where an older version of this package did not note the time."""
    removed_at: datetime | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        times = {"added_at": _iso(self.added_at), "removed_at": _iso(self.removed_at)}
        own = {"id": self.id, "added": self.added, "removed": self.removed, **times}
        said = self.triple.to_dict()
        if own.keys().isdisjoint(self.triple.metadata):
            return {"id": self.id, **said, **own}
        # One of the metadata's keys is the name of a field: as in `Triple.to_dict`, the metadata go apart.
        parts = {part: said[part] for part in said if part not in self.triple.metadata}
        return {"id": self.id, **parts, "metadata": dict(self.triple.metadata), **own}


@dataclass(frozen=True, slots=True)
class Revision:
    """One change of a knowledge base."""

    number: int
    time: datetime | None
    action: str
    n_added: int
    n_removed: int
    n_triples: int
    """After it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {**asdict(self), "time": _iso(self.time)}


@dataclass(frozen=True, slots=True)
class KBDiff:
    """What is in one revision and not in another; a changed value is in both lists."""

    added: list[Triple]
    removed: list[Triple]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)

    def to_dict(self) -> dict[str, Any]:
        """Return the triples as JSON objects."""
        return {
            "added": [triple.to_dict() for triple in self.added],
            "removed": [triple.to_dict() for triple in self.removed],
        }


@dataclass(frozen=True, slots=True)
class CompactResult:
    """What a compaction freed."""

    n_dropped: int
    """Triples that had been removed and are now gone for good."""
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What a repair made anew, and what it could not."""

    keys: int
    """Key embeddings."""
    values: int
    """Value embeddings; those without a place in the file are made when something next asks for them."""
    properties: int
    """Property embeddings."""
    labels: int
    """Triples whose namespace, tags, sources or times are listed again."""
    words: int
    """1 if the index of words was, else 0."""
    left: list[str]
    """What `verify` still finds: nothing else tells what was there. Restore a backup, or export into a new knowledge base."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


Counts = list[tuple[str, int]]
"""Texts and how many triples each has, most first."""


@dataclass(frozen=True, slots=True)
class KBStats:
    """What most of a knowledge base is about, where it comes from, and how it grew."""

    n_triples: int
    n_names: int
    n_properties: int
    n_sources: int
    names: Counts
    """Those with the most triples, like the others."""
    properties: Counts
    namespaces: Counts
    tags: Counts
    sources: Counts
    growth: list[Revision]
    """At most a few dozen revisions, spread over all up to the one that is shown, oldest first. A part by namespace, tag,
    source or time has none: a revision counts all triples."""
    n_revisions: int
    """Of how many revisions the growth is."""

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as a JSON object."""
        kinds = ("names", "properties", "namespaces", "tags", "sources")
        counts = {kind: dict(getattr(self, kind)) for kind in kinds}
        sizes = ("n_triples", "n_names", "n_properties", "n_sources", "n_revisions")
        numbers = {part: getattr(self, part) for part in sizes}
        return {**numbers, **counts, "growth": [step.to_dict() for step in self.growth]}


@dataclass(frozen=True, slots=True)
class KBInfo:
    """A knowledge base at a glance; `encoder` and `embed_dim` are None until the first triple."""

    path: str
    n_triples: int
    n_names: int
    n_properties: int
    n_removed: int
    revision: int
    fingerprint: str
    multi: bool
    encoder: str | None
    encoder_fingerprint: str | None
    embed_dim: int | None
    schema_version: int
    size_bytes: int
    oldest_revision: int = 0
    """The earliest that can still be read."""
    n_namespaces: int = 0
    n_sources: int = 0
    """Documents and URIs that triples name."""
    n_tags: int = 0
    read_only: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def moment(seconds: float | None) -> datetime | None:
    """Return a stored time, None where it is none or beyond what a calendar holds."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="seconds")
