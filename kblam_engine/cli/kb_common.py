"""What the commands of `kblam kb` share: options, opening, tables and JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kblam_engine.cli._options import a_folder, a_time, as_usage
from kblam_engine.cli._printing import new_console, print_exact, say, styled
from kblam_engine.errors import KnowledgeBaseError

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import AddResult, KnowledgeBase
    from kblam_engine.sentence_encoder import SentenceEncoder
    from kblam_engine.triples import Provenance, Triple

KBOption = Annotated[Path, typer.Option("--kb", callback=a_folder, help="Directory of the knowledge base.", show_default=False)]
JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
EncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", help="Sentence encoder of a new knowledge base.", show_default=False),
]
MultiOption = Annotated[
    bool, typer.Option("--multi", help="Keep several values of one name and property from now on.")
]
NameArgument = Annotated[str, typer.Argument(help="What the triple is about.", show_default=False)]
PropertyArgument = Annotated[str, typer.Argument(help="Which property of it.", show_default=False)]
ValueArgument = Annotated[str, typer.Argument(help="The value.", show_default=False)]
MetaOption = Annotated[
    list[str] | None, typer.Option("--meta", help="KEY=VALUE to keep beside the triple; repeatable.")
]
LARGEST = 2**31 - 1
"""For options that count or name triples: no knowledge base has more, and beyond 2^63 SQLite fails."""
_LONGEST_WAIT = 86_400
_SHOWN_EVERY = 200
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", help='Only this namespace; "" for triples of none.')
]
TagOption = Annotated[list[str] | None, typer.Option("--tag", help="Only triples with this tag; repeatable.")]
SourceOption = Annotated[str | None, typer.Option("--source", help="Only from this document or URI.")]
AtOption = Annotated[
    str | None, typer.Option("--at", callback=a_time, help="Only what holds at this time, as 2024-03-05.")
]
NewNamespaceOption = Annotated[str, typer.Option("--namespace", help="Namespace of what is added.", show_default=False)]
NewTagOption = Annotated[list[str] | None, typer.Option("--tag", help="Tag of what is added; repeatable.")]
NewFromOption = Annotated[
    str, typer.Option("--from", callback=a_time, help="What is added holds from this time on.", show_default=False)
]
NewToOption = Annotated[
    str, typer.Option("--to", callback=a_time, help="What is added holds until this time.", show_default=False)
]
RevisionOption = Annotated[int | None, typer.Option("--revision", help="As of an earlier revision.")]
_SPAN = re.compile(r"(\d{1,15})-(\d{1,15})", re.ASCII)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _LONGEST_WAIT:  # not a number is not in there either
        raise typer.BadParameter(f"expected seconds, 0 to {_LONGEST_WAIT}, got {text!r}")
    return seconds


TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        parser=_seconds,
        metavar="SECONDS",
        help="How long to wait for another writer; default: 60.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Part:
    """What the options above choose of a knowledge base; without any, all of it."""

    namespace: str | None = None
    tags: tuple[str, ...] = ()
    source: str | None = None
    at: str | None = None
    revision: int | None = None

    @classmethod
    def of(
        cls,
        namespace: str | None = None,
        tag: list[str] | None = None,
        source: str | None = None,
        at: str | None = None,
        revision: int | None = None,
    ) -> Part:
        """Return what the command line says, option by option."""
        return cls(namespace, tuple(tag or ()), source, at, revision)

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return self == Part()

    def view(self, base: KnowledgeBase) -> KnowledgeBase:
        """Return the view that the options ask for, or the knowledge base itself where they ask for none.

        Raises:
            ConfigurationError: there is no such revision, or no longer.
        """
        if self.is_all:
            return base
        return base.view(
            namespace=self.namespace, tags=self.tags, source=self.source, at=self.at, revision=self.revision
        )


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr that something takes its time, where it is a terminal; what it gives changes the words."""
    console = new_console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(styled(what)) as status:
        yield lambda now: status.update(styled(now))


def counted(triples: Iterable[Triple], what: str) -> Iterator[Triple]:
    """Hand triples on, and show on stderr how many there have been so far, where it is a terminal."""
    with working(what) as tell:
        for n, triple in enumerate(triples, start=1):
            if n % _SHOWN_EVERY == 0:
                tell(f"{what}: {n:,} triples")
            yield triple


def open_kb(
    path: Path,
    *,
    create: bool = False,
    encoder: str | None = None,
    multi: bool = False,
    timeout: float | None = None,
) -> KnowledgeBase:
    """Open a knowledge base; a new one is made once its sentence encoder is there, and not before.

    Raises:
        KnowledgeBaseError: there is none, or there are shards.
    """
    from kblam_engine.knowledge_base import KnowledgeBase
    from kblam_engine.knowledge_base.connections import TIMEOUT

    loaded = _encoder_of_new(encoder) if create and _is_free(path) else encoder
    try:
        return KnowledgeBase.open(
            path, encoder=loaded, create=create, multi=multi, timeout=TIMEOUT if timeout is None else timeout
        )
    except KnowledgeBaseError:
        from kblam_engine.cluster import is_sharded

        if not is_sharded(path):
            raise
        raise KnowledgeBaseError(
            f"{path}: expected one knowledge base, got a folder of shards; kblam ask and chat take it, kblam cluster info "
            "describes it, and each folder in it is a knowledge base"
        ) from None


def _encoder_of_new(name: str | None) -> SentenceEncoder:
    """Load the encoder of a knowledge base that is to be made: one that is missing must not leave an empty folder."""
    from kblam_engine.knowledge_base.embedder import DEFAULT_ENCODER
    from kblam_engine.sentence_encoder import load_sentence_encoder

    with working("loading the sentence encoder"):
        return load_sentence_encoder(name or DEFAULT_ENCODER)


def _is_free(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def metadata_of(pairs: list[str] | None) -> dict[str, str]:
    """Return the metadata of `--meta KEY=VALUE`."""
    metadata = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"expected KEY=VALUE, got {pair!r}", param_hint="--meta")
        metadata[key] = value
    return metadata


def provenance_of(
    document: str, uri: str = "", span: str = "", extractor: str = "", confidence: float | None = None
) -> Provenance | None:
    """Return where a triple comes from, as said on the command line; `span` as START-END.

    Raises:
        BadParameter: a part is not usable.
    """
    from kblam_engine.triples import Provenance

    if not (document or uri):
        if span or extractor or confidence is not None:
            raise typer.BadParameter(
                "expected --source or --uri beside it, which say of what", param_hint="--span, --extractor, --confidence"
            )
        return None
    ends = _SPAN.fullmatch(span)
    if span and ends is None:
        raise typer.BadParameter(f"expected START-END in characters, as 120-164, got {span!r}", param_hint="--span")
    between = None if ends is None else (int(ends[1]), int(ends[2]))
    with as_usage():
        return Provenance(document, uri, between, extractor, confidence)


def as_known(base: KnowledgeBase, triple: Triple) -> Triple:
    """Return a triple with what a knowledge base says beside the same one and the command line does not.

    Where the value is from above all: who adds again what is there has not said that it is from nowhere.
    """
    known = base.view(namespace=triple.namespace).get_all(triple.name, triple.property)
    same = next((old for old in known if old.value == triple.value), None)
    if same is None:
        return triple
    said = triple.provenance is not None  # page and line are of the place that was said before
    return replace(
        triple,
        metadata=triple.metadata if said else {**same.metadata, **triple.metadata},
        provenance=triple.provenance if said else same.provenance,
        tags=triple.tags or same.tags,
        valid_from=triple.valid_from or same.valid_from,
        valid_to=triple.valid_to or same.valid_to,
    )


def show_result(
    base: KnowledgeBase, result: AddResult, as_json: bool, *, n_removed: int | None = None, **more: Any
) -> None:
    """Say what was added, and what was removed for it where something could be; `more` are fields of the JSON alone."""
    counts = {"added": result.added, "replaced": result.replaced, "unchanged": result.unchanged}
    if n_removed is not None:
        counts["removed"] = n_removed
    if as_json:
        print_json({**counts, "n_triples": len(base), "revision": base.revision, **more})
    else:
        told = ", ".join(f"{n} {what}" for what, n in counts.items())
        say(f"{told}; {many(len(base), 'triple')} in {base.path}")


def many(n: int, what: str, several: str = "") -> str:
    """Return a number with the word for what it counts: 1 triple, 2,000 triples."""
    return f"{n:,} {what if n == 1 else several or f'{what}s'}"


def tell_none() -> None:
    """Say that nothing was found, beside what a program may read."""
    say("no triples match", err=True)


def record_of(id: int, triple: Triple, **more: Any) -> dict[str, Any]:
    """Return a triple of a knowledge base as a JSON object; metadata of the names of other fields stays apart."""
    first = {"id": id, **more}
    if first.keys().isdisjoint(triple.metadata):
        return {**first, **triple.to_dict()}
    parts = {"name": triple.name, "property": triple.property, "value": triple.value}
    return {**first, **parts, **triple.context(), "metadata": dict(triple.metadata)}


def print_json(data: Any) -> None:
    """Print JSON."""
    print_exact(json.dumps(data, ensure_ascii=False, indent=2))
