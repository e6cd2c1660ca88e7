"""Score the extraction rules on texts beside which stands what a person reads in them.

    python tests/extraction/score.py tests/extraction/gold.jsonl
    python tests/extraction/score.py semantic-parsing-test-data-with-refs-en.xml --first 18

A line of the file is a text and its triples: {"text": "...", "triples": [["name", "property", "value"], ...]}. A file of the
WebNLG challenge (.xml) is read as it is: the first text of each entry, its modified triples, "_" as a space. Each text is read
by itself. A pair of name and value is right if each shares most of its words with those of one expected triple (word F1
of at least .6, as in the WebNLG challenge's partial match), which is then taken; property names are not scored.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kblam_engine.sources.documents import text_document
from kblam_engine.sources.extractors import RuleExtractor
from kblam_engine.sources.extractors.base import Extractor, confidence_of

ALIKE = 0.6
"""Word F1 from which two texts say the same."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text and the triples that it says."""

    text: str
    triples: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Score:
    """How many triples were expected, how many found, how many of those are right."""

    n_texts: int
    wanted: int
    found: int
    right: int

    @property
    def precision(self) -> float:
        """The share of what was found that is right."""
        return self.right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        """The share of what was expected that was found."""
        return self.right / self.wanted if self.wanted else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.right / (self.found + self.wanted) if self.found + self.wanted else 0.0

    def __str__(self) -> str:
        counts = f"{self.n_texts} texts, {self.wanted} triples, {self.found} found, {self.right} right"
        return f"{counts}: precision {self.precision:.2f}, recall {self.recall:.2f}, F1 {self.f1:.2f}"


def read_examples(path: str | Path) -> list[Example]:
    """Read a file of examples, JSONL or WebNLG's XML.

    Raises:
        ValueError: a line is no example; names it.
    """
    if Path(path).suffix == ".xml":
        return [_webnlg_example(entry) for entry in ET.parse(path).iter("entry")]
    examples = []
    for number, line in enumerate(Path(path).read_text("utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            triples = tuple((str(name), str(prop), str(value)) for name, prop, value in record["triples"])
            examples.append(Example(record["text"], triples))
        except (KeyError, TypeError, ValueError) as error:
            form = '{"text": "...", "triples": [["name", "property", "value"], ...]}'
            raise ValueError(f"{path}, line {number}: expected {form}, got {line[:60]!r} ({error})") from None
    return examples


def _webnlg_example(entry: ET.Element) -> Example:
    """Return an entry of WebNLG: `Alan_Bean | birthPlace | "Wheeler"` is (Alan Bean, birthPlace, Wheeler)."""
    triples = [(triple.text or "").replace("_", " ").split(" | ") for triple in entry.iter("mtriple")]
    expected = tuple((name.strip(), prop, value.strip(' "')) for name, prop, value in triples)
    return Example(entry.findtext("lex") or "", expected)


def score(examples: Iterable[Example], extractor: Extractor, *, min_confidence: float = 0.5) -> Score:
    """Count what an extractor finds in the texts; `min_confidence` is that of `open_source`."""
    n_texts = wanted = found = right = 0
    for example in examples:
        candidates = extractor(text_document(f"{example.text}\n", "text.txt"))
        pairs = [(triple.name, triple.value) for triple in candidates if confidence_of(triple) >= min_confidence]
        n_texts, wanted, found = n_texts + 1, wanted + len(example.triples), found + len(pairs)
        right += n_right(pairs, example.triples)
    return Score(n_texts, wanted, found, right)


def n_right(pairs: Iterable[tuple[str, str]], expected: Iterable[tuple[str, str, str]]) -> int:
    """Return how many pairs of name and value say what is expected, each of that once."""
    left = list(expected)
    n_expected = len(left)
    for name, value in pairs:
        match = next((three for three in left if alike(name, three[0]) and alike(value, three[2])), None)
        if match is not None:
            left.remove(match)
    return n_expected - len(left)


def alike(one: str, other: str) -> bool:
    """Say whether two texts share most of their words."""
    mine, others = _words(one), _words(other)
    return 2 * (mine & others).total() >= ALIKE * (mine.total() + others.total())


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the score of the rules on a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="examples, one a line, or WebNLG's XML")
    parser.add_argument("--first", type=int, help="of them, the first so many")
    arguments = parser.parse_args(argv)
    sys.stdout.write(f"{score(read_examples(arguments.file)[: arguments.first], RuleExtractor())}\n")


if __name__ == "__main__":
    main()
