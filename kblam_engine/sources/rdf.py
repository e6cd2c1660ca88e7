"""RDF files by pyoxigraph: addresses become names, one language is chosen, blank nodes become values.

The file is read once into a graph of plain texts and then told, so it has to fit memory: some 500 bytes a
statement. Named graphs are read as one. Nothing is fetched: not the contexts of JSON-LD, not imported ontologies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from xml.parsers import expat

from kblam_engine.errors import ConfigurationError
from kblam_engine.sources.rdf_telling import (
    ALIAS,
    IRI,
    LABELS,
    SAME,
    Blank,
    Graph,
    Literal,
    Node,
    Telling,
    Told,
)
from kblam_engine.sources.source import FileSource, missing
from kblam_engine.triples import Triple

_MAX_ENTITY = 300
_HEAD = 4096  # bytes: the document type comes before the first element


class RDFFile(FileSource):
    """An RDF file: Turtle, N-Triples, N-Quads, TriG, N3, JSON-LD or RDF/XML, by its suffix.

    The name of a thing is its label, in the first of `languages` that it has; else the last part of its address.
    Two things with one label are told apart by that part, in parentheses; blank nodes, which have none, by a number,
    unless the same is said of both. Further labels, and those of what it is `owl:sameAs`, are its aliases ("also known
    as"). The addresses of web pages are values as they stand. Several values of one property become one value, joined
    by "; ", or one triple each. The address of a thing is kept as `iri`, a type other than text as `datatype`, the
    language as `language`.

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
        form = self._format()
        graph = self._graph(form)
        is_json_ld = form.media_type == "application/ld+json"
        telling = Telling(graph, self.languages, self.labels, self.skipped, is_json_ld=is_json_ld)
        names = {*self.labels, ALIAS, SAME}
        for subject, properties in graph.subjects.items():
            if isinstance(subject, Blank) and telling.label(subject) is None:
                if subject not in graph.inner:
                    self.skipped["blank node without a name"] += len(properties)
                continue
            name = telling.name(subject)
            told = [(p, telling.values(p, objects)) for p, objects in properties.items() if p not in names]
            for predicate, values in [*told, (ALIAS, telling.aliases(subject))]:
                prop = telling.property(predicate)
                for value, details in self._several(values):
                    iri = {"iri": subject.value} if isinstance(subject, IRI) else {}
                    triple = self.checked(name, prop, value, {**iri, **details})
                    if triple is not None:
                        yield triple
        for node in telling.untold():
            self.skipped["blank node without a name"] += len(graph.subjects[node])

    def _several(self, values: Iterable[Told]) -> Iterable[Told]:
        """Return the values of a property as one, where they are to be joined."""
        told = list(values)
        if self.several == "join" and len(told) > 1:
            return [("; ".join(dict.fromkeys(value for value, _ in told)), {})]
        return told

    def _format(self) -> Any:
        try:
            import pyoxigraph
        except ImportError:
            raise missing("pyoxigraph", "rdf", "Reading RDF") from None
        suffix = self.path.suffix.lower().lstrip(".")
        form = pyoxigraph.RdfFormat.from_extension({"owl": "rdf", "json": "jsonld"}.get(suffix, suffix))
        if form is None:
            raise self.error(0, f"expected an RDF file, got .{suffix}")
        return form

    def _graph(self, form: Any) -> Graph:
        import pyoxigraph

        if form == pyoxigraph.RdfFormat.RDF_XML:
            self._check_entities()
        base = self.base or self.path.absolute().as_uri()
        graph = Graph()
        texts: dict[str, str] = {}  # the same text is kept once
        try:
            parser = pyoxigraph.parse(path=str(self.path), format=form, base_iri=base)
            for quad in parser:
                subject, obj = _node(quad.subject, texts), _node(quad.object, texts)
                if subject is None or obj is None:
                    self.skipped["statement about a statement"] += 1
                    continue
                predicate = quad.predicate.value
                graph.add(subject, texts.setdefault(predicate, predicate), obj)
            graph.prefixes = parser.prefixes
        except SyntaxError as error:
            if "LoadDocumentCallback" in error.msg:
                remedy = "write the context into the file, in the place of its address"
                raise self.error(0, f"remote contexts are not fetched; {remedy}") from None
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
