"""What an RDF graph says as texts: names of nodes, words for properties, values; which of its addresses are web pages.

Knows no files and no parser.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple
from urllib.parse import unquote

from kblam_engine.sources.values import readable

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
RDFS = "http://www.w3.org/2000/01/rdf-schema#"
OWL = "http://www.w3.org/2002/07/owl#"
SKOS = "http://www.w3.org/2004/02/skos/core#"
XSD = "http://www.w3.org/2001/XMLSchema#"
ALIAS = f"{SKOS}altLabel"
SAME = f"{OWL}sameAs"
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
    ALIAS: "also known as",
    f"{SKOS}broader": "broader term",
    f"{SKOS}narrower": "narrower term",
    f"{SKOS}related": "related term",
}
_BINARY = {f"{XSD}base64Binary", f"{XSD}hexBinary"}
_PLAIN = {f"{XSD}string", f"{RDF}langString"}
_FLOATS = {f"{XSD}double", f"{XSD}float"}
_MAX_DEPTH = 8

_CANONICAL = re.compile(r"-?\d\.\d+E(-?\d{1,2})")
"""A number as JSON-LD has it, whatever it was written as: "3.5E0"."""
_LINKS = frozenset(
    "homepage page webpage website url link logo image img depiction photo picture thumbnail icon blog weblog feed".split()
)
"""Words of properties whose values are addresses on the web."""
_LINK_PROPERTIES = {f"{RDFS}seeAlso", f"{RDFS}isDefinedBy"}
_ADDRESS = re.compile(r"https?://([^/?#]*)([^?#]*)([?][^#]*)?(#.*)?", re.IGNORECASE | re.DOTALL)
_FILE = re.compile(r"\.(x?html?|php|aspx?|jsp|pdf|txt|csv|json|xml|png|jpe?g|gif|svg|webp|mp[34]|zip)", re.IGNORECASE)


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
Told = tuple[str, dict[str, str]]
"""A value and what is known of it."""
_Said = frozenset[tuple[str, frozenset[Node]]]


@dataclass(slots=True)
class Graph:
    """What is said of each node: property → objects, in the order of the file."""

    subjects: dict[Node, dict[str, list[Node]]] = field(default_factory=dict)
    inner: dict[Blank, None] = field(default_factory=dict)
    """Blank nodes that something points to, in the order of the file."""
    prefixes: dict[str, str] = field(default_factory=dict)
    """Prefix → beginning of addresses, as the file declares them."""

    def add(self, subject: Node, predicate: str, obj: Node) -> None:
        """Add a statement; the same again adds nothing."""
        objects = self.subjects.setdefault(subject, {}).setdefault(predicate, [])
        if obj not in objects[-50:]:
            objects.append(obj)
        if isinstance(obj, Blank):
            self.inner[obj] = None


class Telling:
    """Names, properties and values of the nodes of one graph.

    Args:
        graph: what is told.
        languages: which texts to take, the best first.
        labels: properties that hold a name, the one that wins first.
        skipped: where it counts what it leaves out.
        is_json_ld: numbers are as JSON-LD has them, not as they were written.
    """

    def __init__(
        self, graph: Graph, languages: Sequence[str], labels: Sequence[str], skipped: Counter[str], *, is_json_ld: bool
    ) -> None:
        self._graph = graph
        self._languages = languages
        self._labels = labels
        self._skipped = skipped
        self._is_json_ld = is_json_ld
        self._web = _Web(graph)
        self._names: dict[Node, str] = {}
        self._properties: dict[str, str] = {}
        self._owners: dict[str, Node] = {}
        self._blanks: dict[str, dict[_Said, str]] = {}
        self._told: set[Blank] = set()
        self._open: list[Blank] = []

    def label(self, node: Node) -> str | None:
        """Return the label in the best language, of the first property that has one."""
        properties = self._graph.subjects.get(node, {})
        for predicate in self._labels:
            found = [o for o in properties.get(predicate, ()) if isinstance(o, Literal) and o.value.strip()]
            if found:
                return " ".join(min(found, key=lambda literal: self._rank(literal.language)).value.split())
        return None

    def name(self, node: Node) -> str:
        """Return the name of an address or a blank node: for no two addresses the same.

        Blank nodes with one label are one thing if nothing else is said of them, or the same.
        """
        if node not in self._names:
            self._names[node] = self._name_of_blank(node) if isinstance(node, Blank) else self._name_of_address(node)
        return self._names[node]

    def property(self, predicate: str) -> str:
        """Return a property as words."""
        if predicate not in self._properties:
            label = self.label(IRI(predicate))
            words = label or _WORDS.get(predicate) or readable(local_name(predicate)) or predicate
            self._properties[predicate] = words
        return self._properties[predicate]

    def aliases(self, node: Node) -> list[Told]:
        """Return what else a node is called: its other labels, and those of nodes that are the same."""
        properties = self._graph.subjects.get(node, {})
        labels = [o for predicate in self._labels for o in properties.get(predicate, ()) if isinstance(o, Literal)]
        if len(labels) < 2 and ALIAS not in properties and SAME not in properties:  # most nodes
            return []
        found = {" ".join(text.split()): details for text, details in self.values(self._labels[0], labels)}
        found |= dict(self.values(ALIAS, properties.get(ALIAS, ())))
        for same in properties.get(SAME, ()):
            label = self.label(same)
            if label is None:
                self._skipped["the same as something of which the file says no name"] += 1
            else:
                found.setdefault(label, {})
        found.pop(self.label(node) or self.name(node), None)
        return list(found.items())

    def values(self, predicate: str, objects: Iterable[Node]) -> Iterator[Told]:
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
                    yield self._text(node), _details(node)
            elif isinstance(node, IRI):
                if node.value != f"{RDF}nil":
                    is_page = self._web.is_page(node, predicate)
                    yield node.value if is_page else self.name(node), {"value_iri": node.value}
            elif (text := self._value(node, predicate)) is not None:
                yield text, {}

    def untold(self) -> Iterator[Blank]:
        """Yield the blank nodes without a label that no value has told: they are said of nothing, or only of one another."""
        for node in self._graph.inner:
            if node not in self._told and node in self._graph.subjects and self.label(node) is None:
                yield node

    def _name_of_address(self, node: Node) -> str:
        label, local = self.label(node), local_name(node.value)
        name = label or local or node.value
        if self._owners.setdefault(name.casefold(), node) != node:
            name = f"{name} ({local})" if label and local and local != label else f"{name} ({node.value})"
            self._owners.setdefault(name.casefold(), node)
        return name

    def _name_of_blank(self, node: Blank) -> str:
        label = self.label(node) or node.value
        named, said = self._blanks.setdefault(label.casefold(), {}), self._said(node)
        if said not in named:
            owner = self._owners.get(label.casefold())
            if owner is None or not said or (isinstance(owner, Blank) and not self._said(owner)):
                name = label
                if said or owner is None:
                    self._owners[name.casefold()] = node
            else:
                number = len(named) + 1
                while (name := f"{label} ({number})").casefold() in self._owners:
                    number += 1
                self._owners[name.casefold()] = node
            named[said] = name
        return named[said]

    def _said(self, node: Blank) -> _Said:
        """Return what is said of a blank node beside its names, as far as two of them can be compared."""
        properties = self._graph.subjects.get(node, {})
        return frozenset(
            (predicate, frozenset(Blank(self.label(o) or "") if isinstance(o, Blank) else o for o in objects))
            for predicate, objects in properties.items()
            if predicate not in self._labels
        )

    def _value(self, node: Blank, predicate: str) -> str | None:
        """Return a blank node as a value: its label, the items of a list, its value, or what is said of it."""
        properties = self._graph.subjects.get(node, {})
        if self.label(node) is not None:
            return self.name(node)
        self._told.add(node)
        if node in self._open or len(self._open) >= _MAX_DEPTH or not properties:
            self._skipped["blank node that says nothing or leads in circles"] += 1
            return None
        self._open.append(node)
        try:
            if f"{RDF}first" in properties:
                return ", ".join(text for item in self._items(node) for text, _ in self.values(predicate, [item]))
            if f"{RDF}value" in properties:
                properties = {f"{RDF}value": properties[f"{RDF}value"]}
            parts = []
            for inner, objects in properties.items():
                text = ", ".join(text for text, _ in self.values(inner, objects))
                if text:
                    parts.append(text if inner == f"{RDF}value" else f"{self.property(inner)}: {text}")
            return "; ".join(parts) or None
        finally:
            self._open.pop()

    def _items(self, node: Node) -> list[Node]:
        """Return the items of a list; a list that leads back into itself ends there."""
        items: list[Node] = []
        seen: set[Node] = set()
        while isinstance(node, Blank) and node not in seen:
            seen.add(node)
            self._told.add(node)
            properties = self._graph.subjects.get(node, {})
            items += properties.get(f"{RDF}first", [])[:1]
            node = next(iter(properties.get(f"{RDF}rest", [])), IRI(f"{RDF}nil"))
        return items

    def _text(self, literal: Literal) -> str:
        """Return the text of a literal as written; only numbers that JSON-LD made "3.5E0" read "3.5"."""
        match = _CANONICAL.fullmatch(literal.value) if self._is_json_ld and literal.datatype in _FLOATS else None
        if match is None or abs(int(match[1])) > 20:
            return literal.value
        digits = f"{Decimal(literal.value):f}"
        return digits.rstrip("0").rstrip(".") if "." in digits else digits

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


class _Web:
    """Tells addresses of web pages, which are values as they stand, from addresses that only name a thing.

    What the file says something about is a thing. So is what lies where its subjects and properties do, or under one of
    its prefixes, unless the property asks for a page and it lies in another folder than they do.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        known = {node.value for node in graph.subjects if isinstance(node, IRI)}
        known.update(predicate for properties in graph.subjects.values() for predicate in properties)
        self._folders = {_folder(iri) for iri in known} | set(graph.prefixes.values())
        self._hosts = {match[1].lower() for folder in self._folders if (match := _ADDRESS.match(folder))}

    def is_page(self, node: IRI, predicate: str) -> bool:
        match = None if node in self._graph.subjects else _ADDRESS.fullmatch(node.value)
        if match is None:
            return False
        host, path, query, fragment = match.groups()
        if query or (path.strip("/") == "" and not fragment) or _FILE.search(path, path.rfind(".")):
            return True
        if predicate in _LINK_PROPERTIES or not _LINKS.isdisjoint(readable(local_name(predicate)).casefold().split()):
            return _folder(node.value) not in self._folders
        if fragment or predicate.startswith((RDF, RDFS, OWL)):  # part of a vocabulary; a class is no page either
            return False
        return host.lower() not in self._hosts


def local_name(iri: str) -> str:
    """Return the last part of an address as words: ".../Ada_Lovelace" is "Ada Lovelace"."""
    path = iri.split("?")[0].rstrip("/#")
    last = re.split(r"[/#]|:(?!//)", path)[-1]
    return " ".join(unquote(last).replace("_", " ").split())


def _folder(iri: str) -> str:
    """Return an address up to its last part."""
    return iri[: max(iri.rfind("/"), iri.rfind("#")) + 1]


def _details(literal: Literal) -> dict[str, str]:
    details = {}
    if literal.language:
        details["language"] = literal.language
    if literal.datatype not in _PLAIN:
        details["datatype"] = literal.datatype.replace(XSD, "xsd:")
    return details
