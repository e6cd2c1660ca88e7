"""RDF files by pyoxigraph: addresses become names, one language is chosen, blank nodes become values.

The file is read once into a graph of plain texts and then told, so it has to fit memory: some 500 bytes a
statement. Named graphs are read as one. Nothing is fetched: not the contexts of JSON-LD, not imported ontologies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote
from xml.parsers import expat

from kblam_engine.errors import ConfigurationError
from kblam_engine.sources.source import FileSource, missing
from kblam_engine.sources.values import readable
from kblam_engine.triples import Triple

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
RDFS = "http://www.w3.org/2000/01/rdf-schema#"
SKOS = "http://www.w3.org/2004/02/skos/core#"
XSD = "http://www.w3.org/2001/XMLSchema#"
LABELS = (
    f"{SKOS}prefLabel",
    f"{RDFS}label",
    "https://schema.org/name",
    "http://schema.org/name",
    "http://xmlns.com/foaf/0.1/name",
    "http://purl.org/dc/terms/title",
    "http://purl.org/dc/elements/1.1/title",
)
"""Properties that hold a name, the one that wins first."""

_WORDS = {
    f"{RDF}type": "type",
    f"{RDFS}comment": "description",
    f"{RDFS}subClassOf": "subclass of",
    f"{RDFS}subPropertyOf": "subproperty of",
    f"{RDFS}seeAlso": "see also",
    f"{SKOS}altLabel": "also known as",
    f"{SKOS}broader": "broader term",
    f"{SKOS}narrower": "narrower term",
    f"{SKOS}related": "related term",
}
_BINARY = {f"{XSD}base64Binary", f"{XSD}hexBinary"}
_PLAIN = {f"{XSD}string", f"{RDF}langString"}
_FLOATS = {f"{XSD}double", f"{XSD}float"}
_MAX_DEPTH = 8
_MAX_ENTITY = 300
_HEAD = 4096  # bytes: the document type comes before the first element


class IRI(NamedTuple):
    """An address."""

    value: str


class Blank(NamedTuple):
    """A blank node."""

    value: str


class Literal(NamedTuple):
    """A text with the address of its type and its language."""

    value: str
    datatype: str
    language: str | None


Node = IRI | Blank | Literal


@dataclass(slots=True)
class Graph:
    """What is said of each node: property → objects, in the order of the file."""

    subjects: dict[Node, dict[str, list[Node]]] = field(default_factory=dict)
    inner: set[Blank] = field(default_factory=set)
    """Blank nodes that something points to."""

    def add(self, subject: Node, predicate: str, obj: Node) -> None:
        """Add a statement; the same again adds nothing."""
        objects = self.subjects.setdefault(subject, {}).setdefault(predicate, [])
        if obj not in objects[-50:]:
            objects.append(obj)
        if isinstance(obj, Blank):
            self.inner.add(obj)


class RDFFile(FileSource):
    """An RDF file: Turtle, N-Triples, N-Quads, TriG, N3, JSON-LD or RDF/XML, by its suffix.

    The name of a thing is its label, in the first of `languages` that it has; else the last part of its address.
    Two things with one label are told apart by that part, in parentheses. Several values of one property become
    one value, joined by "; ", or one triple each. The address of a thing is kept as `iri`, a type other than
    text as `datatype`, the language as `language`.

    Args:
        path: the file.
        languages: which to take, the best first; texts in none of them are left out if there is another, and
            counted in `skipped`.
        labels: addresses of further properties that hold names, before the known ones.
        several: "join" values of one property, or "each" of them a triple.
        base: address that relative ones in the file refer to; default the file's own.
        uri: what triples name as their source; default the path as given.
        max_mb: larger files are refused.
    """

    extractor = "rdf"

    def __init__(
        self,
        path: Any,
        *,
        languages: Sequence[str] = ("en",),
        labels: Sequence[str] = (),
        several: str = "join",
        base: str | None = None,
        uri: str | None = None,
        max_mb: float = 1000,
    ) -> None:
        super().__init__(path, uri=uri, max_mb=max_mb)
        if several not in ("join", "each"):
            raise ConfigurationError(f"several: expected 'join' or 'each', got {several!r}")
        if isinstance(languages, str):
            languages = (languages,)
        self.languages = [language.lower() for language in languages]
        self.labels = (*labels, *LABELS)
        self.several = several
        self.base = base

    def _read(self) -> Iterator[Triple]:
        graph = self._graph()
        telling = _Telling(graph, self.languages, self.labels, self.skipped)
        for subject, properties in graph.subjects.items():
            if isinstance(subject, Blank) and (subject in graph.inner or not telling.has_label(subject)):
                if subject not in graph.inner:
                    self.skipped["blank node without a name"] += len(properties)
                continue
            name = telling.name(subject)
            for predicate, objects in properties.items():
                for value, details in self._values(telling, predicate, objects):
                    iri = {"iri": subject.value} if isinstance(subject, IRI) else {}
                    triple = self.checked(name, telling.property(predicate), value, {**iri, **details})
                    if triple is not None:
                        yield triple

    def _values(
        self, telling: _Telling, predicate: str, objects: list[Node]
    ) -> Iterator[tuple[str, dict[str, str]]]:
        if predicate in self.labels or predicate == "http://www.w3.org/2002/07/owl#sameAs":
            return
        told = list(telling.values(objects))
        if self.several == "join" and len(told) > 1:
            yield "; ".join(dict.fromkeys(value for value, _ in told)), {}
        else:
            yield from told

    def _graph(self) -> Graph:
        try:
            import pyoxigraph
        except ImportError:
            raise missing("pyoxigraph", "rdf", "Reading RDF") from None
        suffix = self.path.suffix.lower().lstrip(".")
        form = pyoxigraph.RdfFormat.from_extension({"owl": "rdf", "json": "jsonld"}.get(suffix, suffix))
        if form is None:
            raise self.error(0, f"expected an RDF file, got .{suffix}")
        if form == pyoxigraph.RdfFormat.RDF_XML:
            self._check_entities()
        base = self.base or self.path.absolute().as_uri()
        graph = Graph()
        texts: dict[str, str] = {}  # the same text is kept once
        try:
            for quad in pyoxigraph.parse(path=str(self.path), format=form, base_iri=base):
                subject, obj = _node(quad.subject, texts), _node(quad.object, texts)
                if subject is None or obj is None:
                    self.skipped["statement about a statement"] += 1
                    continue
                predicate = quad.predicate.value
                graph.add(subject, texts.setdefault(predicate, predicate), obj)
        except SyntaxError as error:
            raise self.error(error.lineno or 0, f"not {form.name}: {error.msg}") from None
        except ValueError as error:
            raise self.error(0, str(error)) from None
        return graph

    def _check_entities(self) -> None:
        """Refuse XML whose entities name others: a few lines of it can unpack to more than memory holds.

        Ontologies shorten their addresses by entities; those are texts without references.
        """
        parser = expat.ParserCreate()
        begun = False

        def declared(name: str, is_parameter: bool, value: str | None, *_: str | None) -> None:
            if is_parameter or (value is not None and ("&" in value or len(value) > _MAX_ENTITY)):
                raise self.error(
                    parser.CurrentLineNumber,
                    f"expected entities that are texts of at most {_MAX_ENTITY} characters, got {name!r}; write them out",
                )

        def element(*_: object) -> None:
            nonlocal begun
            begun = True

        parser.EntityDeclHandler, parser.StartElementHandler = declared, element
        try:
            with open(self.path, "rb") as file:
                while not begun and (part := file.read(_HEAD)):
                    parser.Parse(part)
        except expat.ExpatError as error:
            if not begun:
                raise self.error(error.lineno, f"not RDF/XML: {expat.ErrorString(error.code)}") from None


class _Telling:
    """Names, properties and values of the nodes of one graph."""

    def __init__(self, graph: Graph, languages: list[str], labels: Sequence[str], skipped: Any) -> None:
        self._graph = graph
        self._languages = languages
        self._labels = labels
        self._skipped = skipped
        self._names: dict[Node, str] = {}
        self._owners: dict[str, Node] = {}

    def has_label(self, node: Node) -> bool:
        return self._label(node) is not None

    def name(self, node: Node) -> str:
        """Return the name of an address or a blank node, for no two of them the same."""
        if node not in self._names:
            label = self._label(node)
            local = local_name(node.value) if isinstance(node, IRI) else ""
            name = label or local or node.value
            if self._owners.setdefault(name.casefold(), node) != node:
                name = f"{name} ({local})" if label and local and local != label else f"{name} ({node.value})"
                self._owners.setdefault(name.casefold(), node)
            self._names[node] = name
        return self._names[node]

    def property(self, predicate: str) -> str:
        """Return a property as words."""
        label = self._label(IRI(predicate))
        return label or _WORDS.get(predicate) or readable(local_name(predicate)) or predicate

    def values(self, objects: Iterable[Node], depth: int = 0) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the values of a property as texts, with what is known of them."""
        objects = list(objects)
        tagged = [node for node in objects if isinstance(node, Literal) and node.language]
        chosen = min(tagged, key=lambda node: self._rank(node.language), default=None)
        for node in objects:
            if isinstance(node, Literal):
                if chosen is not None and not self._in_language_of(chosen, node):
                    self._skipped["text in another language"] += 1
                elif node.datatype in _BINARY:
                    self._skipped["binary value"] += 1
                else:
                    yield _text(node), _details(node)
            elif isinstance(node, IRI):
                if node.value != f"{RDF}nil":
                    yield self.name(node), {"value_iri": node.value}
            elif (text := self._told(node, depth)) is not None:
                yield text, {}

    def _told(self, node: Blank, depth: int) -> str | None:
        """Return a blank node as a value: its label, the items of a list, its value, or what is said of it."""
        properties = self._graph.subjects.get(node, {})
        label = self._label(node)
        if label is not None:
            return label
        if f"{RDF}first" in properties:
            return ", ".join(text for item in self._items(node) for text, _ in self.values([item], depth + 1))
        if depth >= _MAX_DEPTH or not properties:
            self._skipped["blank node that says nothing or leads in circles"] += 1
            return None
        if f"{RDF}value" in properties:
            properties = {f"{RDF}value": properties[f"{RDF}value"]}
        parts = []
        for predicate, objects in properties.items():
            text = ", ".join(text for text, _ in self.values(objects, depth + 1))
            if text:
                parts.append(text if predicate == f"{RDF}value" else f"{self.property(predicate)}: {text}")
        return "; ".join(parts) or None

    def _items(self, node: Node) -> list[Node]:
        """Return the items of a list; a list that leads back into itself ends there."""
        items: list[Node] = []
        seen: set[Node] = set()
        while isinstance(node, Blank) and node not in seen:
            seen.add(node)
            properties = self._graph.subjects.get(node, {})
            items += properties.get(f"{RDF}first", [])[:1]
            node = next(iter(properties.get(f"{RDF}rest", [])), IRI(f"{RDF}nil"))
        return items

    def _label(self, node: Node) -> str | None:
        """Return the label in the best language, of the first property that has one."""
        properties = self._graph.subjects.get(node, {})
        for predicate in self._labels:
            found = [o for o in properties.get(predicate, ()) if isinstance(o, Literal) and o.value.strip()]
            if found:
                return " ".join(min(found, key=lambda literal: self._rank(literal.language)).value.split())
        return None

    def _in_language_of(self, chosen: Literal, literal: Literal) -> bool:
        """Say whether a text is in no language, or in that of the chosen one."""
        if literal.language is None or literal.language == chosen.language:
            return True
        rank = self._rank(literal.language)
        return rank < len(self._languages) and rank == self._rank(chosen.language)

    def _rank(self, language: str | None) -> int:
        """Return how good a language is, 0 best: a wanted one or a regional form of it, none at all, another."""
        if language is None:
            return len(self._languages)
        folded = language.lower()
        for rank, wanted in enumerate(self._languages):
            if folded == wanted or folded.startswith(f"{wanted}-"):
                return rank
        return len(self._languages) + 1


def local_name(iri: str) -> str:
    """Return the last part of an address as words: ".../Ada_Lovelace" is "Ada Lovelace"."""
    path = iri.split("?")[0].rstrip("/#")
    last = re.split(r"[/#]|:(?!//)", path)[-1]
    return " ".join(unquote(last).replace("_", " ").split())


def _node(term: Any, texts: dict[str, str]) -> Node | None:
    """Return a term of pyoxigraph as a node; None for a statement (RDF-star)."""
    kind = type(term).__name__
    if kind not in ("NamedNode", "BlankNode", "Literal"):
        return None
    value = texts.setdefault(term.value, term.value)
    if kind == "Literal":
        datatype = term.datatype.value
        return Literal(value, texts.setdefault(datatype, datatype), term.language)
    return IRI(value) if kind == "NamedNode" else Blank(value)


def _text(literal: Literal) -> str:
    """Return the text of a literal as written; only doubles that JSON-LD wrote as "3.5E0" read "3.5"."""
    if literal.datatype in _FLOATS and re.fullmatch(r"[+-]?\d(\.\d+)?[Ee]-?\d+", literal.value):
        number = float(literal.value)
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    return literal.value


def _details(literal: Literal) -> dict[str, str]:
    details = {}
    if literal.language:
        details["language"] = literal.language
    if literal.datatype not in _PLAIN:
        details["datatype"] = literal.datatype.replace(XSD, "xsd:")
    return details
