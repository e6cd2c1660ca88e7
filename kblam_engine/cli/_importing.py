"""What `kblam kb import` has for a file, folder or URI of any kind: options, reading all of it, candidates for review."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kblam_engine.cli._options import as_usage
from kblam_engine.cli._printing import say
from kblam_engine.cli.kb_common import counted, many
from kblam_engine.errors import ConfigurationError, ImportFileError

if TYPE_CHECKING:
    from kblam_engine.knowledge_base import KnowledgeBase
    from kblam_engine.triples import Triple

SourceArgument = Annotated[
    str,
    typer.Argument(help="A file, folder or URI: tables, JSON, RDF, documents ...; - for stdin.", show_default=False),
]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", help="What the file is, whatever its name: csv, jsonl, ttl ...; needed for stdin.", show_default=False),
]
ReviewOption = Annotated[
    bool, typer.Option("--review", help="Write candidates to NAME.review.csv to edit; import that file then.")
]
SourceOptions = Annotated[
    list[str] | None,
    typer.Option("--option", help="KEY=VALUE for the source, as in docs/sources.md; repeatable."),
]
ReconcileOption = Annotated[
    bool, typer.Option("--reconcile", help="Spell names as the knowledge base does, and by the aliases it knows.")
]
AliasesOption = Annotated[
    Path | None,
    typer.Option("--aliases", help="A table with the columns name and alias; names are spelled by it too.", show_default=False),
]
ReplaceOption = Annotated[
    bool,
    typer.Option("--replace", help="Remove what was read from it before and is not there any more, in the same revision."),
]
LLMOption = Annotated[
    str | None,
    typer.Option(
        "--llm",
        metavar="MODEL",
        help="Chat model that reads documents, beside their structure: a name, a folder, a Hugging Face id, or "
        "module:function of your own.",
        show_default=False,
    ),
]
_LLM_TOKENS = 1024
"""Longest reply of a model on this machine to a chunk of 2,000 characters."""
_BEGINNING = 65_536
_LISTS = ("extractors", "languages", "labels", "skip")
_MAPPINGS = ("properties", "inverse")
_FLAGS = ("both_directions",)
_NUMBERS = ("min_confidence", "max_mb", "max_files")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a source says."""

    uri: str
    triples: list[Triple]
    skipped: dict[str, int]
    """How many triples it left out, by reason."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What `--namespace`, `--tag`, `--from` and `--to` say of everything that is imported; empty says nothing."""

    namespace: str = ""
    tags: tuple[str, ...] = ()
    valid_from: str = ""
    valid_to: str = ""

    def put_on(self, triples: Iterable[Triple]) -> list[Triple]:
        """Return triples with these labels: beside their own tags, in the place of their own namespace and times.

        Raises:
            TripleError: a label is not usable, or a triple would end before it begins.
        """
        named = {"namespace": self.namespace, "valid_from": self.valid_from, "valid_to": self.valid_to}
        parts: dict[str, Any] = {part: text for part, text in named.items() if text}
        if not parts and not self.tags:
            return list(triples)
        return [replace(triple, **parts, tags=(*triple.tags, *self.tags)) for triple in triples]


def read_source(
    source: str, options: list[str] | None, llm: str | None = None, format: str | None = None
) -> Reading:
    """Read a source whole, so that nothing is added of one that is damaged; say what it left out.

    Args:
        source: a file, folder or URI; "-" for standard input.
        options: of `--option`.
        llm: the chat model that reads documents too, by name or as module:function.
        format: what the file is, if its name does not say so.

    Raises:
        ImportFileError: it is damaged, or no source reads it.
        ConfigurationError: it has no such option, or there is no such format or chat model.
        ModelNotFoundError: there is no such base model.
    """
    from kblam_engine.sources import open_source

    if Path(source).is_dir() and not source.endswith("/"):
        raise ImportFileError(source, 0, f"expected a file, got a folder; {source}/ imports every file in it")
    told = source_options(options)
    if llm is not None:
        told = _with_llm(source, told, llm, format)
    with as_usage():
        opened = open_source(source, format=format, **told)
    triples = list(counted(opened, f"reading {source}"))
    if not triples and _is_blank(Path(source)):  # some formats take it for a file that says nothing
        raise ImportFileError(source, 0, "expected triples, got an empty file; write it again")
    if opened.skipped:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in opened.skipped.items())
        say(f"left out - {reasons}", err=True)
    return Reading(opened.uri, triples, dict(opened.skipped))


def _is_blank(path: Path) -> bool:
    """Say whether a file has nothing but white space in it; of a large one the beginning tells."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return not file.read(_BEGINNING).strip()


def _with_llm(source: str, options: dict[str, Any], llm: str, format: str | None) -> dict[str, Any]:
    """Return options of a source in which a chat model is one of the extractors: where "llm" stands, else the last."""
    from kblam_engine.sources.registry import option_names

    names = option_names(Path(source), format)
    if names is not None and "extractors" not in names:
        raise typer.BadParameter(f"expected a document, got {source}, which is read as it is; leave it out", param_hint="--llm")
    from kblam_engine.local_chat import load_chat
    from kblam_engine.sources.extractors import LLMExtractor

    extractor = LLMExtractor(load_chat(llm, max_new_tokens=_LLM_TOKENS, role="--llm"))
    named = options.get("extractors", ["structured"])
    listed = named if "llm" in named else [*named, "llm"]
    return {**options, "extractors": [extractor if which == "llm" else which for which in listed]}


def source_options(pairs: list[str] | None) -> dict[str, Any]:
    """Return the options of `--option KEY=VALUE`; lists are separated by commas, and are a:b,c:d where they map."""
    options: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise typer.BadParameter(f"expected KEY=VALUE, got {pair!r}", param_hint="--option")
        if key in _MAPPINGS:
            renamed = dict(part.partition(":")[::2] for part in value.split(","))
            options[key] = {column: prop or column for column, prop in renamed.items()}
        elif key in _LISTS:
            options[key] = [part.strip() for part in value.split(",")]
        elif key in _FLAGS:
            if value.lower() not in ("true", "false"):
                raise typer.BadParameter(f"{key}: expected true or false, got {value!r}", param_hint="--option")
            options[key] = value.lower() == "true"
        elif key in _NUMBERS:
            try:
                options[key] = int(value) if key == "max_files" else float(value)
            except ValueError:
                raise typer.BadParameter(f"{key}: expected a number, got {value!r}", param_hint="--option") from None
        else:
            options[key] = value
    return options


def reconciled(triples: list[Triple], base: KnowledgeBase | None, aliases: Path | None) -> list[Triple]:
    """Return triples with each name spelled as aliases have it: a table's, else a knowledge base's, else their own.

    Says on stderr how many changed.

    Raises:
        ConfigurationError: the file holds no aliases, or an alias leads to another.
        ImportFileError: the file is damaged.
    """
    from kblam_engine.sources import open_source
    from kblam_engine.sources.names import aliases_in, new_aliases, read_aliases, reconcile, settled

    told = {} if aliases is None else read_aliases(open_source(aliases))
    if aliases is not None and not told:
        raise ConfigurationError(f"{aliases}: expected a table with the columns name and alias, found no alias in it")
    known = {} if base is None else aliases_in(base)
    names = [] if base is None else base.snapshot().names
    found = list(reconcile(triples, aliases=settled(told, known, new_aliases(triples, names)), known=names))
    n_changed = sum(new.name != old.name for new, old in zip(found, triples, strict=True))
    if n_changed:
        have = "has another spelling of its name" if n_changed == 1 else "have another spelling of their names"
        say(f"{many(n_changed, 'triple')} {have}", err=True)
    return found


def last_said(triples: Iterable[Triple], *, multi: bool) -> tuple[list[Triple], int]:
    """Return triples of one source without those that a later one takes the place of, and how many values that loses.

    Of several values of one name and property a knowledge base keeps the last, unless it is `multi`; what says the same
    value again takes the place of the first in any.
    """
    last: dict[tuple[str, ...], Triple] = {}
    n_overruled = 0
    for triple in triples:
        key = (triple.namespace, triple.name, triple.property, *((triple.value,) if multi else ()))
        before = last.pop(key, None)
        n_overruled += before is not None and before.value != triple.value
        last[key] = triple
    return list(last.values()), n_overruled


def write_candidates(source: str, triples: list[Triple]) -> Path:
    """Write candidates beside their document, where no review is yet.

    Raises:
        ConfigurationError: there is one, which may hold somebody's work; or there is no document to write it beside.
    """
    from kblam_engine.sources.given_format import STDIN
    from kblam_engine.sources.review import review_path, write_review

    if source == STDIN:
        raise typer.BadParameter(
            "expected a file to write the candidates beside, got stdin; save it to a file", param_hint="--review"
        )
    path = review_path(source)
    try:
        write_review(path, triples)
    except FileExistsError:
        raise ConfigurationError(
            f"{path}: expected no review yet, got one that may hold somebody's work; import it, or move it away"
        ) from None
    return path
