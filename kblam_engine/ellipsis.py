"""Turns that only name something: "And the Orca 3?" asks of the Orca 3 what was asked before.

Such a turn says no property, so neither its embedding nor its words tell which triple is meant. The question before it
does, with the new name in the place of the old one or of a pronoun.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kblam_engine.evidence import Examiner
from kblam_engine.key_table import KeyTable
from kblam_engine.mentions import COMMON_NAMES, names_mentioned
from kblam_engine.word_evidence import turn_words
from kblam_engine.wording import FUNCTION_WORDS, stem, stems_of, words

MAX_WORDS = 8
"""A turn with more words says more than a name."""
MAX_TURNS = 3
"""User turns looked at: "And the Orca 3?", "and the 4?" go back to the first of three."""
LEAST_SHARE = 0.5
"""Of a name's words that a question has, for it to be what it asks about."""
_BEFORE = re.compile(
    r"^(?:(?:and|but|so|ok|okay|alright|thanks|thank you|or|also|then|well|hm+)\b[\s,.!:;-]*)*(?:(?:what|how) about\b|for\b)?[\s,:]*",
    re.IGNORECASE,
)
_PRONOUN = re.compile(r"\b(?:it|its|he|him|his|she|her|hers|they|them|their|this|that)\b", re.IGNORECASE)
_OWNS = frozenset(("its", "his", "her", "their"))


@dataclass(frozen=True, slots=True)
class Completed:
    """A turn that says what it asks.

    Attributes:
        text: the turn itself, or the question before it about what the turn names.
        stands_alone: whether that question has the whole of a name, so that nothing before it is needed.
    """

    text: str
    stands_alone: bool = False


def completed(turns: Sequence[str], table: KeyTable, examiner: Examiner) -> Completed:
    """Return the last turn, or where it only names something, the question before it about that.

    Args:
        turns: what the user has said, oldest first.
        table: the KB whose names count.
        examiner: masks names, and knows how telling words are.
    """
    turn = turns[-1]
    named = _name_alone(turn, table, examiner) if len(turns) > 1 else None
    if named is None:
        return Completed(turn)
    before = _BEFORE.sub("", completed(turns[-MAX_TURNS:-1], table, examiner).text, count=1)
    question = _about(before, named.text, table, examiner)
    return Completed(question, named.stands_alone) if question else Completed(turn)


def _name_alone(turn: str, table: KeyTable, examiner: Examiner) -> Completed | None:
    """Return what a turn says of a name of the KB, and whether that is all of it; None if it says anything else."""
    said = _BEFORE.sub("", turn.strip(), count=1).rstrip(" ?!.,;")
    own = [w for w in words(said) if w not in FUNCTION_WORDS]
    if not own or len(words(said)) > MAX_WORDS:
        return None
    names = _names(table, said, examiner)
    if said.casefold().startswith("the ") or said[0].isupper():  # "the Pro" names something, "pro" may not
        names += _texts(table, [name for w in own for name in table.names_with_word(w, COMMON_NAMES)][:COMMON_NAMES])
    alike = {name: turn_words(said).alike_any(words(name)) for name in names}
    fitting = [name for name, found in alike.items() if all(w in found for w in own)]
    stems = {stem(w) for w in own}
    if not fitting or any(not stems.isdisjoint(stems_of(each)) for each in table.properties):
        return None
    return Completed(said, any(all(turn_words(said).alike(w) for w in words(name)) for name in fitting))


def _about(question: str, named: str, table: KeyTable, examiner: Examiner) -> str:
    """Return a question with a name in the place of the one that it asks about, or of a pronoun; "" if it has neither."""
    said = turn_words(question)
    best, most = "", LEAST_SHARE
    for name in _names(table, question, examiner):
        own = [w for w in words(name) if w not in FUNCTION_WORDS]
        share = sum(bool(said.alike(w)) for w in own) / max(1, len(own))
        if share >= most and (share > most or not best):
            best, most = name, share
    if best:
        return examiner.mask_name(question, best, by=re.sub(r"^(?:the|a|an)\s+", "", named, flags=re.IGNORECASE))
    pronoun = _PRONOUN.search(question)
    if pronoun is None:
        return ""
    bare = re.sub(r"['’]s$", "", named)
    owner = f"{bare}'s" if pronoun.group().casefold() in _OWNS else bare
    return question[: pronoun.start()] + owner + question[pronoun.end() :]


def _names(table: KeyTable, text: str, examiner: Examiner) -> list[str]:
    return _texts(table, names_mentioned(table, text, examiner.rarity))


def _texts(table: KeyTable, names: Sequence[int]) -> list[str]:
    first = [int(table.positions_of_name(name)[0]) for name in dict.fromkeys(map(int, names))]
    return [triple.name for triple in table.triples(first)]
