"""Triples by way of a chat model of any make; what it says is checked against the text, and the rest is thrown away.

The model replies in JSON, a chunk of the document at a time. A triple is kept only if its name and its value are in that
chunk as whole words and whole numbers, letter for letter but for case, spaces, quotation marks and the way accents are coded;
so a model can overlook, and misread a relation, but not invent a name or a number, nor cut 3.50 down to 3. What is kept is
spelled as the text has it.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple
from unicodedata import category, normalize

from kblam_engine.chat_model import ChatModel, Message
from kblam_engine.errors import ConfigurationError, KBLaMError
from kblam_engine.sources.documents.document import Block, Document, one_line
from kblam_engine.sources.extractors.base import TripleMaker, is_abbreviated, sentences, unique
from kblam_engine.triples import Triple

logger = logging.getLogger(__name__)

TASK = """\
You turn text into triples for a knowledge base. A triple says one thing: the property of a name is a value.

Rules:
- Copy "name" and "value" from the text, letter for letter. Put the name that a pronoun stands for.
- "property" is one to four words, lower case, as in "the <property> of <name> is <value>": founder, height, date of birth.
- One triple for each value. Numbers keep their units.
- Only what the text says. Nothing that is denied, asked or only possible.

Reply with JSON and nothing else: {"triples": [{"name": "...", "property": "...", "value": "..."}]}"""
_EXAMPLE: tuple[tuple[str, str], ...] = (
    (
        "user",
        "Text about Larkspur:\n\nThe Larkspur sorts 9,000 letters an hour. It was built in Turku by Ines Vahl.",
    ),
    (
        "assistant",
        '{"triples": [{"name": "Larkspur", "property": "speed", "value": "9,000 letters an hour"}, '
        '{"name": "Larkspur", "property": "place of construction", "value": "Turku"}, '
        '{"name": "Larkspur", "property": "builder", "value": "Ines Vahl"}]}',
    ),
)
_AGAIN = 'I could not read that. Reply with JSON of the form {"triples": [...]} and nothing else.'
_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_MARKS = {ord(curly): plain for curly, plain in zip("‘’‚“”„«»−‑", "'''\"\"\"\"\"--", strict=True)}
# With its sign, decimals and thousands: 3.50, 12,500, 12 500, -5, and also 12:30, 1/2 and 3.1.2.
_NUMBER = re.compile(
    r"(?:(?<!\w)[-+±–])?"
    r"(?:(?<!\d)\d{1,3}(?:[ \xa0\u2009\u202f]\d{3})+(?!\d)(?:[.,]\d+)?|(?:(?<![\w.,])[.,])?\d+(?:[.,:/']\d+)*)"
)
_STOPS = ".!?…"
_SAME_SENTENCE, _APART = 0.85, 0.7
MAX_TRIPLES = 200
"""Triples of one reply; a model that repeats itself without end says no more."""


class _Chunk(NamedTuple):
    start: int
    end: int
    section: tuple[str, ...]
    page: int | None


class ChatModelError(KBLaMError, RuntimeError):
    """A chat model raised, or replied with no text; what it raised is the `__cause__`."""


class LLMExtractor:
    """Asks a chat model for the triples of a document, chunk by chunk.

    After a run `rejected` says how many candidates were thrown away, by reason: "name not in the text", "value not in
    the text", "no triple", "reply that could not be read", "said twice".

    Args:
        chat: messages in, text out. To try again what failed is up to it.
        chunk: characters of a chunk, at most; borders are between paragraphs, or else between sentences.
        tries: how often to ask for a chunk before its reply counts as unreadable.
        task: instructions in place of `TASK`; the form of the reply has to stay.

    Raises:
        ConfigurationError: `chunk` is below 200 or `tries` below 1.
    """

    name = "llm"

    def __init__(self, chat: ChatModel, *, chunk: int = 2000, tries: int = 2, task: str = TASK) -> None:
        if chunk < 200 or tries < 1:
            raise ConfigurationError(f"expected chunk of at least 200 and tries of at least 1, got {chunk} and {tries}")
        self._chat = chat
        self._chunk = chunk
        self._tries = tries
        self._task = task
        self._maker = TripleMaker(self.name)
        self.rejected: Counter[str] = self._maker.rejected

    def __call__(self, document: Document) -> Iterator[Triple]:
        """Yield the triples of a document.

        Raises:
            ChatModelError: the chat model raised, or returned no text.
        """
        self.rejected.clear()
        yield from unique(self._found(document), self.rejected)
        if self.rejected:
            reasons = ", ".join(f"{reason}: {n}" for reason, n in self.rejected.items())
            logger.info("%s: thrown away - %s", document.uri, reasons)

    def _found(self, document: Document) -> Iterator[Triple]:
        for chunk in chunks(document, self._chunk):
            wording = _Wording.of(document, chunk)
            for candidate in self._ask(document, chunk):
                triple = self._checked(document, chunk, wording, candidate)
                if triple is not None:
                    yield triple

    def _ask(self, document: Document, chunk: _Chunk) -> list[Any]:
        """Return what the model says of a chunk, nothing if it cannot be read."""
        about = chunk.section[-1] if chunk.section else document.title
        heading = f"Text about {about}:" if about else "Text:"
        text = document.text[chunk.start : chunk.end]
        messages: list[Message] = [
            {"role": "system", "content": self._task},
            *({"role": role, "content": content} for role, content in _EXAMPLE),
            {"role": "user", "content": f"{heading}\n\n{text}"},
        ]
        asked = messages
        for _ in range(self._tries):
            reply = self._reply(document, asked)
            found = read_reply(reply)
            if found is not None:
                if len(found) > MAX_TRIPLES:
                    self.rejected["triple beyond the first 200 of a reply"] += len(found) - MAX_TRIPLES
                return found[:MAX_TRIPLES]
            if reply.strip():  # some services take no blank turn
                said: Message = {"role": "assistant", "content": reply}
                asked = [*messages, said, {"role": "user", "content": _AGAIN}]
        self.rejected["reply that could not be read"] += 1
        return []

    def _reply(self, document: Document, messages: Sequence[Message]) -> str:
        where = f"chat model {_called(self._chat)}, reading {document.uri or 'a text'}"
        try:
            reply: object = self._chat(messages)
        except KBLaMError:
            raise  # says what to do about it
        except Exception as error:
            said = ": ".join(part for part in (type(error).__name__, one_line(str(error))) if part)
            raise ChatModelError(f"{where}: expected a reply, got {said}; read the document again when it answers") from error
        if not isinstance(reply, str):
            raise ChatModelError(
                f"{where}: expected the text of a reply, got {type(reply).__name__}; return it as a str"
            )
        return reply

    def _checked(
        self, document: Document, chunk: _Chunk, wording: _Wording, candidate: Any
    ) -> Triple | None:
        parts = [candidate.get(part) for part in ("name", "property", "value")] if isinstance(candidate, dict) else []
        # A model may write a number without quotation marks.
        texts = [
            one_line(str(part)) for part in parts if isinstance(part, str | int | float) and not isinstance(part, bool)
        ]
        if len(texts) != 3 or not all(texts):
            self.rejected["no triple"] += 1
            return None
        name, prop, value = texts
        names, values = wording.places(name), wording.places(value)
        spellings = [one_line(document.text[slice(*place)]) for place in names]
        spellings += [
            heading for heading in (*chunk.section[::-1], document.title) if _comparable(heading) == _comparable(name)
        ]
        if not spellings:
            self.rejected["name not in the text"] += 1
            return None
        if not values:
            self.rejected["value not in the text"] += 1
            return None
        name = name if name in spellings else spellings[0]
        value = one_line(document.text[slice(*values[0])])
        if _comparable(name) == _comparable(value):
            self.rejected["value that is the name"] += 1
            return None
        span, together = _sentence_of(document, chunk, names, values)
        confidence = _SAME_SENTENCE if together else _APART
        return self._maker.make(
            document, (name, prop, value), span, confidence, section=chunk.section, page=chunk.page
        )


def _called(chat: ChatModel) -> str:
    named = chat if hasattr(chat, "__qualname__") else type(chat)
    return f"{named.__module__}.{named.__qualname__}"


def chunks(document: Document, size: int) -> Iterator[_Chunk]:
    """Yield the parts of a document to read at once: whole blocks of one section, or else whole sentences."""
    begun: _Chunk | None = None
    for block, section in document.in_sections():
        if block.kind == "heading":
            continue
        if begun is not None and begun.section == section and block.end - begun.start <= size:
            begun = begun._replace(end=block.end)
            continue
        if begun is not None:
            yield begun
        begun = None
        for start, end in _pieces(document, block, size):
            if begun is not None:
                yield begun
            begun = _Chunk(start, end, section, block.page)
    if begun is not None:
        yield begun


def _pieces(document: Document, block: Block, size: int) -> Iterator[tuple[int, int]]:
    """Yield a block, or where it is too long as many of its sentences as fit; a longer sentence is cut."""
    if block.end - block.start <= size:
        yield block.start, block.end
        return
    first = block.start
    last = first
    for start, end in sentences(document.text, block.start, block.end):
        if end - first > size and last > first:
            yield first, last
            first = start
        while end - first > size:
            yield first, first + size
            first += size
        last = end
    if last > first:
        yield first, last


def read_reply(reply: str) -> list[Any] | None:
    """Return the list of triples in a reply, None if there is none.

    Taken are an object with "triples", a bare list, and one object a line, each also between other words or
    in a code fence.
    """
    reply = _THOUGHTS.sub("", reply)
    decoder = json.JSONDecoder()
    found: list[Any] = []
    place = 0
    while (match := re.compile(r"[\[{]").search(reply, place)) is not None:
        try:
            data, place = decoder.raw_decode(reply, match.start())
        except (ValueError, RecursionError):
            place = match.end()
            continue
        if isinstance(data, dict) and isinstance(data.get("triples"), list):
            return list(data["triples"])
        if isinstance(data, list) and (not data or any(isinstance(item, dict) for item in data)):
            return data
        if isinstance(data, dict) and "name" in data:
            found.append(data)
    return found or None


class _Wording(NamedTuple):
    """The text of a chunk as replies are compared with it."""

    text: str
    """Without composed characters: "é" is two, however the document has it."""
    borders: dict[int, int]
    """Where a character of the document begins in `text`, and its place in the document."""
    inside_numbers: frozenset[int]
    stops: frozenset[int]
    """Places in the document behind the ends of sentences."""

    @classmethod
    def of(cls, document: Document, chunk: _Chunk) -> _Wording:
        text = document.text[chunk.start : chunk.end]
        # Accents that are characters of their own belong to the letter before.
        starts = [place for place, char in enumerate(text) if not place or category(char)[0] != "M"]
        borders, plain, length = dict[int, int](), list[str](), 0
        for start, end in pairwise([*starts, len(text)]):
            borders[length] = chunk.start + start
            plain.append(_plain(text[start:end]))
            length += len(plain[-1])
        borders[length] = chunk.end
        joined = "".join(plain)
        inside = {place for number in _NUMBER.finditer(joined) for place in range(number.start() + 1, number.end())}
        stops = {end for _, end in sentences(document.text, chunk.start, chunk.end)}
        return cls(joined, borders, frozenset(inside), frozenset(stops))

    def places(self, wanted: str) -> list[tuple[int, int]]:
        """Return where the document has a text as words and numbers of their own, without the full stop of its sentence."""
        bare = wanted.rstrip(",;: ")
        unstopped = bare.rstrip(_STOPS)
        found = self._found(bare)
        if unstopped and unstopped != bare and not is_abbreviated(bare):
            inside = [place for place in found if place[1] not in self.stops]  # "Yahoo! is", "J. Tidal Sci. appears"
            return inside or self._found(unstopped)
        return found

    def _found(self, wanted: str) -> list[tuple[int, int]]:
        words = [re.escape(word) for word in _plain(wanted).split()]
        if not words:
            return []
        pattern = re.compile(r"(?<!\w)" + r"\s+".join(words) + r"(?!\w)", re.IGNORECASE)
        spans = [match.span() for match in pattern.finditer(self.text)]
        return [
            (self.borders[start], self.borders[end])
            for start, end in spans
            if {start, end} <= self.borders.keys() and not {start, end} & self.inside_numbers
        ]


def _plain(text: str) -> str:
    return normalize("NFD", text).translate(_MARKS)


def _comparable(text: str) -> str:
    return one_line(_plain(text)).casefold()


def _sentence_of(
    document: Document, chunk: _Chunk, names: list[tuple[int, int]], values: list[tuple[int, int]]
) -> tuple[tuple[int, int], bool]:
    """Return the first sentence with the name and the value, or else with the value; and whether it has both."""
    spans = list(sentences(document.text, chunk.start, chunk.end))
    with_value = [s for s in spans if any(s[0] <= a and b <= s[1] for a, b in values)]
    for start, end in with_value:
        if any(start <= a and b <= end for a, b in names):
            return (start, end), True
    return (with_value[0] if with_value else values[0]), False

