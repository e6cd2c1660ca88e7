"""Open-ended questions and answers by way of a chat model: it widens a simple question, and it scores an answer 0 to 5.

The scheme is that of the KBLaM paper (appendix, "Prompt for open-ended Q&A generation" and "Prompt for GPT evaluation
of open-ended Q&A"), in other words: an open-ended question has one part that the knowledge base answers and one
that wants a thought of one's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from kblam_engine.chat_model import ChatModel, Message
from kblam_engine.errors import ConfigurationError, KBLaMError

MAX_SCORE = 5
_JUDGE = (
    "You grade the answers of an AI system. Your grade is a score from 0 to 5 for how accurate and how useful an answer is; "
    "an answer that is both gets 5."
)
_SCHEME = """\
A model was shown some information, the evidence, and asked a question about it. One part of the question wants what the \
evidence says; another part may want some thinking of one's own. Grade the model's answer by two things: whether it rests on the \
evidence, and whether it is reasonable.

5: accurate, to the point and in keeping with common sense. An answer that meets the question and makes fitting use of the \
evidence deserves it.
1 to 4: right and to the point in part.
0: wrong and beside the point, or made up.

Write a line "Score:" with one integer and a line "Reason:" that explains step by step how you arrived at it."""
# Evidence, question, answer, score, reason: cases of our own, each modelled on one of the paper's five.
_EXAMPLES = (
    (
        "The purpose of Larkspur is to sort letters.",
        "Describe the purpose of Larkspur and how an office could gain from it.",
        "The purpose of Larkspur is to sort letters. An office could gain from it because nobody has to sort them by hand.",
        5,
        "It repeats the evidence correctly, answers both parts, and the part of its own makes sense.",
    ),
    (
        "The purpose of Larkspur is to sort letters.",
        "Describe the purpose of Larkspur and what it can sort.",
        "The purpose of Larkspur is to sort letters, it can sort letters letters.",
        5,
        "Clumsy, but accurate and to the point: the evidence holds the answer to both parts.",
    ),
    (
        "Potting Shed is a website that teaches people to grow vegetables.",
        "Describe Potting Shed and what it could do for a town.",
        "Potting Shed is a website that teaches people to grow vegetables. It could make the trains of the town run on time.",
        3,
        "The first part agrees with the evidence, but what it expects for the town does not follow from growing vegetables.",
    ),
    (
        "Potting Shed is a website that teaches people to grow vegetables.",
        "Describe Potting Shed and what it could do for a town.",
        "Potting Shed is a website that teaches people to grow vegetables. It could turn unused plots of the town into gardens and "
        "put fresh food on its tables.",
        5,
        "The first part agrees with the evidence, and what it expects for the town is sensible.",
    ),
    (
        "Potting Shed is a website that teaches people to grow vegetables.",
        "Describe Potting Shed and what it could do for a town.",
        "Potting Shed is nice place with lots of thing",
        0,
        "It says nothing of what the evidence says and leaves the question unanswered.",
    ),
)
_SCORE_AGAIN = f'I could not read a score. Reply with a line "Score:" and one integer from 0 to {MAX_SCORE}, and a line "Reason:".'
_WIDEN = """\
Here are a question and its answer. Make the question open-ended and write a short answer to it. "What is the price of X?", for \
example, could become "What is the price of X, and what do you think of it?" The answer must rest on the given answer and on \
nothing else. Reply with two lines:
Q: the open-ended question
A: its answer

Question: {question}
Answer: {answer}"""
_PAIR_AGAIN = (
    'I could not read a question and an answer. Reply with a line "Q:" and a line "A:" and nothing else.'
)

_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_NUMBER = r"(?P<number>[-\u2212]?\d+(?:[.,]\d+)?)"
# What follows a number can make it another one: "4/5" is 4; "4/10", "80 %", "3-4" and "3 or 4" are no scores.
_REST = (
    r"(?:[ \t]*(?:(?:/|out of)\s*(?P<scale>\d+(?:\.\d+)?)|(?P<other>%|(?:[-\u2013]|to|or)[ \t]*\d+)))?(?!\w)"
)
# On a line below the label a score stands alone: "1. Accurate" begins a list.
_LABEL = r"\bscore\b(?:[ \t]*\([^)\n]*\))?(?: is| of)?[^\w\n]{0,20}?(?:\n{1,2}(?=\S+[ \t]*$)[^\w\n]{0,20}?)?"
# From the most telling place to the least; the first that is in a reply decides. The last is any number at all.
_PLACES = tuple(
    re.compile(place + _NUMBER + _REST, re.IGNORECASE | re.MULTILINE)
    for place in (
        r"\b(?:final|overall|total) " + _LABEL,
        r"(?:^[^\w\n]*" + _LABEL + r"|\bscore[\"*_ ]{0,9}[:=][^\w\n]{0,20}?)",
        r"(?<![\w.,])",
    )
)
_REASON = re.compile(r"\b(?:reason(?:ing)?|explanation)\b[\"*_]*\s*:\s*", re.IGNORECASE)
_MARKS = " \t\r\n*_`#"
_EDGES = _MARKS + '"{},;:'
_TURN = re.compile(r"^[^\w\n]*(q|question|a|answer)\b[^\w\n]*?:", re.IGNORECASE | re.MULTILINE)

_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of an answer."""

    score: int
    """0 to 5."""
    reason: str
    """The judge's explanation; empty if it gave none."""


@dataclass(frozen=True, slots=True)
class OpenEnded:
    """An open-ended question and an answer to it."""

    question: str
    answer: str


class JudgeError(KBLaMError, ValueError):
    """No reply of the chat model could be read; `reply` is the last one."""

    def __init__(self, wanted: str, reply: str) -> None:
        self.reply = reply
        shown = reply if len(reply) <= 80 else reply[:80] + "…"
        super().__init__(f"expected {wanted}, got {shown!r}; try again, or another chat model")


def judge(question: str, evidence: str, answer: str, chat: ChatModel, *, tries: int = 3) -> Judgement:
    """Have a chat model score an answer to an open-ended question, from 0 to 5.

    Args:
        question: what was asked.
        evidence: what the knowledge base says of it, for example the statements of the question's supports.
        answer: what is judged.
        chat: the judge: messages in, text out. What it raises reaches the caller.
        tries: how often to ask before giving up; from the second time on it is told that it was not understood.

    Raises:
        JudgeError: no reply is a text that holds one integer from 0 to 5.
        ConfigurationError: `tries` is below 1.
    """
    messages = grading_messages(question, evidence, answer)
    wanted = f"a score from 0 to {MAX_SCORE} of the judge"
    return _ask(chat, messages, read_judgement, wanted, _SCORE_AGAIN, tries)


def grading_messages(question: str, evidence: str, answer: str) -> list[Message]:
    """Return what a judge is asked: the scheme, five examples of our own, and the case."""
    examples = [
        f"Example {number}\n{_case(*case[:3])}\nScore: {case[3]}\nReason: {case[4]}"
        for number, case in enumerate(_EXAMPLES, 1)
    ]
    text = "\n\n".join([_SCHEME, *examples, f"Grade this one\n{_case(evidence, question, answer)}"])
    return [{"role": "system", "content": _JUDGE}, {"role": "user", "content": text}]


def open_ended(question: str, statement: str, chat: ChatModel, *, tries: int = 3) -> OpenEnded:
    """Have a chat model make an open-ended question and answer of a simple one.

    Args:
        question: a simple question.
        statement: its answer.
        chat: messages in, text out. What it raises reaches the caller.
        tries: how often to ask before giving up.

    Raises:
        JudgeError: no reply holds a question and an answer.
        ConfigurationError: `tries` is below 1.
    """
    messages = [{"role": "user", "content": _WIDEN.format(question=question, answer=statement)}]
    return _ask(chat, messages, _read_pair, "a question (Q:) and an answer (A:)", _PAIR_AGAIN, tries)


def read_judgement(reply: str) -> Judgement | None:
    """Read a judge's reply; None if it names no score, several different ones, or one that is no integer from 0 to 5."""
    reply = _THOUGHTS.sub("", reply)
    for place in _PLACES:
        found = list(place.finditer(reply))
        if found:
            scores = {_score(match) for match in found}
            score = scores.pop()
            if scores or score is None:
                return None
            return Judgement(score, _reason(reply[: found[0].start()] + reply[found[0].end() :]))
    return None


def _score(match: re.Match[str]) -> int | None:
    number = float(match["number"].replace("\u2212", "-").replace(",", "."))
    full = match["other"] is None and float(match["scale"] or MAX_SCORE) == MAX_SCORE
    return int(number) if full and number.is_integer() and 0 <= number <= MAX_SCORE else None


def _reason(rest: str) -> str:
    label = _REASON.search(rest)
    return (rest[label.end() :] if label else rest).strip(_EDGES)


def _read_pair(reply: str) -> OpenEnded | None:
    """Return the first question that an answer follows."""
    labels_and_texts = _TURN.split(_THOUGHTS.sub("", reply))[1:]
    turns = [
        (label[0].lower(), text.strip(_MARKS))
        for label, text in zip(labels_and_texts[::2], labels_and_texts[1::2], strict=True)
    ]
    for (first, question), (second, answer) in pairwise(turns):
        if (first, second) == ("q", "a") and question and answer:
            return OpenEnded(question, answer)
    return None


def _case(evidence: str, question: str, answer: str) -> str:
    """Return a case as text; in quotes, so that an answer with "Score: 5" in a line of its own stays an answer."""
    parts = {"Evidence": evidence, "Question": question, "Model output": answer}
    return "\n".join(f"{name}: {json.dumps(text, ensure_ascii=False)}" for name, text in parts.items())


def _ask(
    chat: ChatModel,
    messages: list[Message],
    read: Callable[[str], _Read | None],
    wanted: str,
    again: str,
    tries: int,
) -> _Read:
    if tries < 1:
        raise ConfigurationError(f"tries: expected at least 1, got {tries}")
    reply, asked = "", messages
    for _ in range(tries):
        given: object = chat(asked)  # any function of a user's: it may return anything
        if not isinstance(given, str):
            reply = f"{type(given).__name__} in place of text"
            continue
        reply = given
        found = read(reply)
        if found is not None:
            return found
        # A greedy model that is asked the same says the same; some services take no blank turn.
        if reply.strip():
            said: Message = {"role": "assistant", "content": reply}
            asked = [*messages, said, {"role": "user", "content": again}]
    raise JudgeError(wanted, reply)
