"""Which file or URI is read by what. Standard library only; a reader is imported when it is opened."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from kblam_engine.errors import ConfigurationError, ImportFileError
from kblam_engine.sources.given_format import STDIN, GivenFormat
from kblam_engine.sources.source import Source

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://")
_HOW = "say what it is with format=, such as 'csv' (--format csv)"


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of source.

    Attributes:
        what: its name, for people.
        suffixes: of its files, lower case, with the dot; "/" for folders.
        schemes: of its URIs.
        opener: "module:name" in this package, or the callable itself: path or URI, then options → `Source`.
        extra: the extra of kblam-engine that it needs; empty for none.
    """

    what: str
    suffixes: tuple[str, ...]
    opener: str | Callable[..., Source]
    schemes: tuple[str, ...] = ()
    extra: str = ""


_FORMATS: list[Format] = [
    Format("review", (".review.csv", ".review.jsonl"), "review:ReviewFile"),
    Format("JSONL", (".jsonl", ".ndjson"), "tables:JSONLFile"),
    Format("CSV or TSV", (".csv", ".tsv", ".tab"), "tables:TableFile"),
    Format("JSON", (".json",), "json_files:JSONFile"),
    Format("Parquet", (".parquet", ".pq"), "parquet:ParquetFile", extra="parquet"),
    Format("SQLite", (".db", ".sqlite", ".sqlite3"), "databases:SQLiteSource", schemes=("sqlite",)),
    Format("RDF", (".ttl", ".nt", ".nq", ".trig", ".n3", ".jsonld", ".rdf", ".owl"), "rdf:RDFFile", extra="rdf"),
    Format("graph", (".graphml", ".gexf", ".gml", ".edgelist", ".edges"), "graph_files:GraphFile", extra="networkx"),
    Format("text document", (".txt", ".text", ".md", ".markdown"), "documents.source:DocumentSource"),
    Format("HTML", (".html", ".htm", ".xhtml"), "documents.source:DocumentSource", extra="html"),
    Format("PDF", (".pdf",), "documents.source:DocumentSource", extra="pdf"),
    Format("Word", (".docx",), "documents.source:DocumentSource", extra="docx"),
    Format("folder", ("/",), "folders:FolderSource"),
    Format("ZIP", (".zip",), "folders:ZipSource"),
]


def formats() -> tuple[Format, ...]:
    """Return the kinds of sources there are; one that was registered later comes first."""
    return tuple(_FORMATS)


def register(form: Format) -> None:
    """Add a kind of source. It takes its suffixes and schemes over from any kind that had them before."""
    _FORMATS.insert(0, form)


def open_source(path_or_uri: str | os.PathLike[str], *, format: str | None = None, **options: Any) -> Source:
    """Open a file, folder or URI as a source of triples, by its suffix or scheme. Nothing is read yet.

    Args:
        path_or_uri: a path, a `file://` URI, or a URI of a scheme that a source has; with a format also "-", standard input.
        format: what the file is, whatever it is called: a suffix such as "csv", or the name of a kind of source.
        options: of the source; see its class.

    Raises:
        ImportFileError: no source reads this.
        ConfigurationError: there is no such format, or the source has no such option, or not with that value.
        MissingDependencyError: the source needs a package that is not installed (some say so when they are read).
    """
    text = os.fspath(path_or_uri)
    match = _SCHEME.match(text)
    if match:
        scheme = match[1].lower()
        if scheme == "file":
            from urllib.parse import unquote, urlsplit

            text = unquote(urlsplit(text).path)
        else:
            form = next((form for form in _FORMATS if scheme in form.schemes), None)
            if form is None:
                remedy = "; download it first" if scheme in ("http", "https", "ftp") else ""
                raise ImportFileError(text, 0, f"no source reads {scheme}:// addresses{remedy}")
            if format is not None:
                raise ConfigurationError(f"format: expected with a file, got {text}; leave it out")
            return _open(form, text, options)
    if format is not None:
        return _open_as(format, text, options)
    form = _format_of(Path(text))
    if form is None:
        suffix = Path(text).suffix.lower()
        if text == STDIN or not suffix:
            what = "a format for standard input" if text == STDIN else "a suffix that says what is in the file"
            raise ImportFileError(text, 0, f"expected {what}, got none; {_HOW}")
        raise ImportFileError(text, 0, f"expected a file of {', '.join(_suffixes())}; got {suffix}. If it is one of them, {_HOW}")
    return _open(form, text, options)


def can_open(path: Path) -> bool:
    """Say whether a file has a suffix that a source reads."""
    return _format_of(path) is not None


def option_names(path: Path, format: str | None = None) -> set[str] | None:
    """Return the options of the source that reads a file, None if it takes any.

    Raises:
        ConfigurationError: there is no such format.
    """
    form = _format_of(path) if format is None else _named(format)[0]
    return None if form is None else _options(_opener(form))


def _format_of(path: Path) -> Format | None:
    """Return the first kind of source whose suffix a path has."""
    name = path.name.lower()
    for form in _FORMATS:
        for suffix in form.suffixes:
            if path.is_dir() if suffix == "/" else (name.endswith(suffix) and not path.is_dir()):
                return form
    return None


def _named(format: str) -> tuple[Format, str]:
    """Return the kind of source that a format names, and the suffix of its files.

    Raises:
        ConfigurationError: none is called so.
    """
    wanted = format.strip().lower()
    for form in _FORMATS:
        for suffix in form.suffixes:
            if suffix != "/" and wanted in (suffix, suffix[1:]):
                return form, suffix
    for form in _FORMATS:
        if wanted == form.what.lower() and form.suffixes and form.suffixes != ("/",):
            return form, form.suffixes[0]
    raise ConfigurationError(f"format: expected one of {', '.join(suffix[1:] for suffix in _suffixes())}; got {format!r}")


def _suffixes() -> list[str]:
    return sorted({suffix for form in _FORMATS for suffix in form.suffixes} - {"/"})


def _open_as(format: str, text: str, options: dict[str, Any]) -> Source:
    form, suffix = _named(format)
    if Path(text).is_dir():
        raise ConfigurationError(f"format: expected with a file, got the folder {text}; leave it out")
    if text != STDIN and Path(text).name.lower().endswith(suffix) and not Path(text).is_fifo():
        return _open(form, text, options)
    _check_options(form, options)
    opener = _opener(form)
    return GivenFormat(text, suffix, opener, options, _options(opener))


def _opener(form: Format) -> Callable[..., Source]:
    if isinstance(form.opener, str):
        module, _, name = form.opener.partition(":")
        opener: Callable[..., Source] = getattr(import_module(f"{__package__}.{module}"), name)
        return opener
    return form.opener


def _open(form: Format, text: str, options: dict[str, Any]) -> Source:
    _check_options(form, options)
    return _opener(form)(text, **options)


def _check_options(form: Format, options: dict[str, Any]) -> None:
    known = _options(_opener(form))
    unknown = None if known is None else next((option for option in options if option not in known), None)
    if unknown is not None:
        there = ", ".join(sorted(known or ())) or "none"
        raise ConfigurationError(f"{form.what} sources have no option {unknown!r}; they have {there}")


def _options(opener: Callable[..., Any]) -> set[str] | None:
    """Return the names of an opener's options, None if it takes any.

    A class that hands `**options` on to its base has the options of its base too, and those that it names in `more_options`.
    """
    if getattr(opener, "hands_options_on", False):
        return None
    known: set[str] = set(getattr(opener, "more_options", ()))
    for cls in inspect.getmro(opener) if inspect.isclass(opener) else (opener,):
        if inspect.isclass(cls) and "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(cls).parameters.values()
        known |= {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            return known
    return None
