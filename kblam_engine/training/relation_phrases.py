"""How people ask for a property that came out of a graph: the lexicon's kind of phrases, made from the noun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kblam_engine.training.lexicon import PropertyPhrases

_PEOPLE = frozenset(
    """native resident citizen spouse child parent sibling friend relative colleague acquaintance neighbour boss coach chair
    ceo cto cfo president king queen prince head mayor minister chancellor student alumnus graduate subordinate
    employee descendant ancestor grandchild grandparent cousin heir host guest tenant candidate champion chief
    representative participant applicant assistant accountant nominee trainee nurse judge star composer""".split()
)
_THINGS = frozenset(
    """number order letter chapter layer cover motor factor colour color sensor river container computer server parameter
    diameter power paper matter border center centre quarter winter summer water member charter register identifier
    filter trigger buffer pointer vector floor door sector error behaviour flavour transfer predecessor successor
    inhibitor meter cluster carrier tower corner flower answer offer user owner customer partner destination""".split()
)
_NO_PLURALS = frozenset("series species means headquarters news lens gas bus address access process class".split())
_COMMON_NEAR = ("nickname", "serial number", "date of the last change", "colour")
"""Stand in where a graph has no second property that could be confused with the first."""
_MAX_NEAR = 6
_MAX_VALUES = 8


def is_person_noun(noun: str) -> bool:
    """Return whether who bears this noun is a person, as far as its last word shows."""
    last = _head_word(noun)
    if last in _PEOPLE:
        return True
    return last not in _THINGS and len(last) > 4 and last.endswith(("er", "or", "ist", "ian", "ee"))


def is_plural(noun: str) -> bool:
    """Return whether a noun looks like a plural."""
    last = _head_word(noun)
    return last.endswith("s") and not last.endswith(("ss", "us", "is", "ics")) and last not in _NO_PLURALS


def _head_word(noun: str) -> str:
    return noun.split(" of ")[0].split()[-1].casefold()


def questions_for(noun: str, asked: Sequence[str] = ()) -> tuple[str, ...]:
    """Return questions with ``{n}``: those that the relation itself has, then those that the noun allows."""
    if is_person_noun(noun):
        formed = (f"Who is the {noun} of {{n}}?", f"Who is {{n}}'s {noun}?", f"Do you know who the {noun} of {{n}} is?")
    elif is_plural(noun):
        formed = (f"What are the {noun} of {{n}}?", f"What are {{n}}'s {noun}?", f"Which {noun} does {{n}} have?")
    else:
        formed = (f"What is the {noun} of {{n}}?", f"What is {{n}}'s {noun}?", f"Which {noun} does {{n}} have?")
    return tuple(dict.fromkeys((*asked, *formed, f"{{n}}: {noun}?")))


def phrases_for(
    noun: str, asked: Sequence[str], near: Mapping[str, str], values: Sequence[str]
) -> PropertyPhrases:
    """Return the phrases of a property.

    Args:
        noun: the property.
        asked: questions that its relation has, with ``{n}``.
        near: other properties of the graph, most easily confused first, each with a question.
        values: some of its values.
    """
    person = is_person_noun(noun)
    near = dict(list(near.items())[:_MAX_NEAR]) or {
        other: f"What is the {other} of {{n}}?" for other in _COMMON_NEAR if other != noun
    }
    return PropertyPhrases(
        property=noun,
        about=("entity",),
        value_kind="person" if person else "short",
        questions=questions_for(noun, asked),
        follow_ups=(
            f"And the {noun}?",
            f"What about the {noun}?",
            f"and its {noun}?",
            f"Who is its {noun}?" if person else f"What is its {noun}?",
            f"Do you know the {noun} as well?",
        ),
        answers=(f"The {noun} of {{n}} is {{v}}", f"{{v}} is the {noun} of {{n}}.", f"{{n}}'s {noun}: {{v}}"),
        near=tuple(near),
        near_questions=tuple(near.values()),
        values=tuple(dict.fromkeys(values))[:_MAX_VALUES],
    )
