"""Synthetic knowledge bases in the manner of KBLaM's authors (paper, appendix): a writer invents things and describes them.

For every pair of a kind of object and a source of ideas a writer names things of that kind after that idea, and gives each a
description, objectives and a purpose that its name does not tell. What comes out is checked: no name twice, no text
that repeats its name. Whether names and texts are more alike than chance is measured and told (``likeness``). The writer
is a chat model of any make (``ChatWriter``) or a grammar that needs none (``OfflineWriter``).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np

from kblam_engine.errors import ImportFileError, TripleError
from kblam_engine.sentence_encoder import SentenceEncoder
from kblam_engine.triples import Triple
from kblam_engine.wording import words

logger = logging.getLogger(__name__)

IDEAS = tuple(
    """greek letters; fiction characters; famous rock bands; birds; animals; natural phenomena; physical locations; artist names;
    classical music; musical instruments; music genres; art styles; ancient Roman concepts; Hindu myths; Cthulhu Mythos;
    real-world company names; mythological creatures; planets and stars; historical figures; literary genres; botanical names;
    famous landmarks; scientific concepts; space missions; inventions; philosophical terms; chemical elements; famous scientists;
    marine life; mythological places""".replace("\n   ", "").split("; ")
)
OBJECTS = tuple(
    """education company; tech company; car company; entertainment company; construction company; retail company; finance company;
    healthcare company; restaurant; hotel; github repo; project; meeting room; building; lab; airline; textbook; website;
    personal blog; gaming company; consulting firm; biotech company; app; software tool; bookstore; e-commerce site;
    social media platform; fitness brand; fashion brand; non-profit organization""".replace("\n   ", "").split("; ")
)
"""The 30 sources of ideas and 30 kinds of objects of the paper's appendix."""

PROPERTIES = ("description", "objectives", "purpose")
N_NAMES = 50
"""Things per pair in the paper."""
MOST_COMPARED = 500
"""Names whose values ``likeness`` compares: each with each other's."""


@dataclass(frozen=True)
class Thing:
    """One invented thing."""

    name: str
    description: str
    objectives: str
    purpose: str

    def triples(self) -> list[Triple]:
        """Return its three triples.

        Raises:
            TripleError: a field is empty, too long or no text.
        """
        return [Triple(self.name, prop, getattr(self, prop)) for prop in PROPERTIES]


class Writer(Protocol):
    """Whoever invents the things of one pair; a text ``described`` may tell what decides them (see ``described``)."""

    def __call__(self, object_type: str, idea_type: str, n_names: int, /) -> list[Thing]:
        """Return about ``n_names`` things; what it raises other than ``SynthesisError`` ends the run."""


class SynthesisError(ValueError):
    """A writer's reply could not be read; the pair is left for the next run."""


@dataclass(frozen=True)
class Synthesis:
    """What a run made.

    Attributes:
        triples: three for every thing that passed the checks, of all pairs in the file.
        n_pairs: pairs that are finished, from earlier runs too.
        failed: pairs whose replies could not be read, with the reason; running again tries them again.
        dropped: how many things failed a check, by reason.
        likeness: of names and their own values, see the function of that name; .5 is chance. None: not measured, or
            there is nothing to compare.
    """

    triples: tuple[Triple, ...]
    n_pairs: int
    failed: tuple[tuple[str, str, str], ...]
    dropped: dict[str, int]
    likeness: float | None = None


def pairs(random: Random, n: int | None = None) -> list[tuple[str, str]]:
    """Return ``n`` pairs of an object and an idea in random order (None: all 900)."""
    every = [(object_type, idea) for object_type in OBJECTS for idea in IDEAS]
    random.shuffle(every)
    return every[:n]


def synthesize(
    writer: Writer,
    path: str | Path | None,
    wanted: Sequence[tuple[str, str]],
    *,
    n_names: int = N_NAMES,
    report: Callable[[int, int], None] = lambda done, total: None,
    encoder: SentenceEncoder | None = None,
) -> Synthesis:
    """Have things invented for the pairs and return their triples.

    Args:
        writer: invents the things of a pair.
        path: a JSONL file with one finished pair a line, and what made it: the writer and ``n_names``. A run that was
            cut off, or that wants more pairs, goes on behind the last of them. None keeps nothing on disk.
        wanted: pairs of an object and an idea.
        n_names: things per pair.
        report: told how many pairs are done, and of how many.
        encoder: measures the likeness of names and values; None: it is not measured.

    Raises:
        ImportFileError: a line of the file, other than a torn last one, is not a finished pair, or is one of another
            writer or number of names.
        OSError: the file cannot be written.
    """
    path = None if path is None else Path(path)
    made_by = {"writer": described(writer), "n_names": n_names}
    done = {} if path is None else _finished(path, made_by)
    failed: list[tuple[str, str, str]] = []
    for number, pair in enumerate(wanted, 1):
        if pair not in done:
            try:
                things = writer(*pair, n_names)
            except SynthesisError as error:
                logger.warning("%s after %s: %s", *pair, error)
                failed.append((*pair, str(error)))
            else:
                done[pair] = things
                if path is not None:
                    _append(path, pair, things, made_by)
        report(number, len(wanted))
    triples, dropped = triples_of(thing for things in done.values() for thing in things)
    told = None if encoder is None or len(triples) <= len(PROPERTIES) else likeness(triples, encoder)
    return Synthesis(tuple(triples), len(done), tuple(failed), dropped, told)


def triples_of(things: Iterable[Thing]) -> tuple[list[Triple], dict[str, int]]:
    """Return the triples of the things that pass the checks, and how many things do not, by reason."""
    kept: list[Triple] = []
    dropped = {"name twice": 0, "not a triple": 0, "text repeats the name": 0, "text twice": 0}
    names: set[str] = set()
    texts: set[str] = set()
    for thing in things:
        try:
            triples = thing.triples()
        except TripleError:
            dropped["not a triple"] += 1
            continue
        folded = " ".join(words(thing.name))
        said = {" ".join(words(t.value)) for t in triples}
        if folded in names:
            dropped["name twice"] += 1
        elif any(gives_away(thing.name, t.value) for t in triples):
            dropped["text repeats the name"] += 1
        elif said & texts or len(said) < len(triples):
            dropped["text twice"] += 1
        else:
            kept += triples
            names.add(folded)
            texts |= said
    return kept, dropped


def gives_away(name: str, text: str) -> bool:
    """Return whether a text uses half of the telling words of a name (those of more than three letters)."""
    telling = {word for word in words(name) if len(word) > 3} or set(words(name))
    return len(telling & set(words(text))) * 2 >= len(telling)


def likeness(triples: Sequence[Triple], encoder: SentenceEncoder, most: int = MOST_COMPARED) -> float:
    """Return how often a name is closer to its own value than to another one of the property; .5 is chance.

    Args:
        triples: the KB; properties with a single triple do not count.
        encoder: measures closeness (cosine).
        most: of more names than this, a sample is compared: every name is held against every value.

    Raises:
        ValueError: no property has two triples.
    """
    names = list(dict.fromkeys(triple.name for triple in triples))
    names = names if len(names) <= most else Random(0).sample(names, most)
    rows = dict(zip(names, encoder.encode(names), strict=True))
    by_property: dict[str, list[Triple]] = {}
    for triple in (triple for triple in triples if triple.name in rows):
        by_property.setdefault(triple.property, []).append(triple)
    shares: list[float] = []
    for group in by_property.values():
        if len(group) < 2:
            continue
        cosines = np.stack([rows[t.name] for t in group]) @ encoder.encode([t.value for t in group]).T
        own = np.diagonal(cosines)[:, None]
        others = ~np.eye(len(group), dtype=bool)
        shares += list(((own > cosines) + 0.5 * (own == cosines))[others])
    if not shares:
        raise ValueError("likeness: expected a property with at least two triples, got none; add triples")
    return float(np.mean(shares))


def described(writer: Any) -> str:
    """Return what tells a writer, or a chat model, from others: what it says of itself, or else its name.

    Args:
        writer: any; what it says of itself is a text ``described``, or ``name`` (``_name`` of a ``LocalChat``).
    """
    told = (getattr(writer, name, None) for name in ("described", "name", "_name", "__qualname__"))
    return next((text for text in told if isinstance(text, str)), type(writer).__qualname__)


def _finished(path: Path, made_by: Mapping[str, Any]) -> dict[tuple[str, str], list[Thing]]:
    """Read the finished pairs of this run; a last line that a crash tore is cut off the file.

    Args:
        path: of the file; there may be none.
        made_by: what decides the lines of this run.
    """
    if not path.exists():
        return {}
    done: dict[tuple[str, str], list[Thing]] = {}
    unknown = 0
    *lines, torn = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            item = json.loads(line)
            done[item["object"], item["idea"]] = [Thing(**thing) for thing in item["things"]]
        except (ValueError, KeyError, TypeError) as error:
            reason = f"not a finished pair ({error}); move the file away to begin anew"
            raise ImportFileError(path, number, reason) from error
        unknown += not made_by.keys() & item.keys()
        found = {name: item.get(name, told) for name, told in made_by.items()}
        if found != made_by:
            reason = (
                f"expected pairs of {_told(made_by)}, got one of {_told(found)}: "
                "go on with the settings of that run, or name another file"
            )
            raise ImportFileError(path, number, reason)
    # Not before every line has turned out to be of this run: whatever else the file is, it stays as it is.
    if torn:
        if not torn.startswith(_BEGIN[: len(torn)]):
            raise ImportFileError(path, len(lines) + 1, "not a finished pair; move the file away to begin anew")
        with path.open("rb+") as file:
            file.truncate(file.seek(0, 2) - len(torn))
    if unknown:
        # Files of earlier versions: what a chat model was paid for is not thrown away.
        logger.warning("%s: %d pairs do not say what made them, and are taken for pairs of %s", path, unknown, _told(made_by))
    return done


def _told(made_by: Mapping[str, Any]) -> str:
    return f"{made_by['writer']} with n_names={made_by['n_names']}"


_BEGIN = b'{"object": '
"""How each line begins."""


def _append(path: Path, pair: tuple[str, str], things: list[Thing], made_by: Mapping[str, Any]) -> None:
    item = {"object": pair[0], "idea": pair[1], **made_by, "things": [asdict(thing) for thing in things]}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(item, ensure_ascii=False) + "\n")


THING_FIELDS = tuple(field.name for field in fields(Thing))


def thing_from(item: Any) -> Thing | None:
    """Return what a JSON object describes; None if a field is missing or no text."""
    if not isinstance(item, dict) or not all(isinstance(item.get(name), str) for name in THING_FIELDS):
        return None
    return Thing(**{name: " ".join(item[name].split()) for name in THING_FIELDS})
