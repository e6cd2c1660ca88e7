"""Read the question file of `kblam eval`: one JSON object a line, refused with file, line and reason.

    {"question": str | "messages": [{"role", "content"}, ...], "kind": str,
     "answers": [[accepted strings], ...], "supports": [[name, property], ...]}

Kind "unanswerable" has no answers and wants a refusal; its supports, if any, must be absent. Kind "open_ended" is
for a judge: its supports are the evidence, and answers are not needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kblam_engine.errors import ImportFileError

UNANSWERABLE = "unanswerable"
OPEN_ENDED = "open_ended"
_ROLES = ("system", "user", "assistant")
_FIELDS = ("question", "messages", "kind", "answers", "supports")
# Where the field that is meant is not there, these are taken for it, and would switch a score off without a word.
_MISSPELT = {"support": "supports", "answer": "answers", "message": "messages"}
_SHOWN = 3  # lines in a warning
_DEEPEST = 100  # levels of lists and objects in a further field


@dataclass(frozen=True, slots=True)
class Question:
    """One question, what counts as its answer, and the triples that hold it."""

    messages: tuple[dict[str, str], ...]
    """The conversation; a plain question is one user message."""
    kind: str = "question"
    """Any label; metrics are kept per kind. "unanswerable" wants a refusal, "open_ended" a judge."""
    answers: tuple[tuple[str, ...], ...] = ()
    """Groups of accepted strings: the answer needs one of each group."""
    supports: tuple[tuple[str, str], ...] = ()
    """The (name, property) pairs the answer rests on."""
    line: int = 0
    """Line in the file, from 1."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the line, kept as they are."""

    @property
    def answerable(self) -> bool:
        """Whether the knowledge base holds the answer."""
        return self.kind != UNANSWERABLE

    @property
    def text(self) -> str:
        """The last user message: what a retriever is asked."""
        return next(m["content"] for m in reversed(self.messages) if m["role"] == "user")


class _Refused(ValueError):
    """A line is not a question; the message says why."""


def read_questions(path: str | Path) -> list[Question]:
    """Read a question file whole.

    Raises:
        ImportFileError: a line is not a question (with its number), or the file is empty or not UTF-8.
        FileNotFoundError: there is no such file.
    """
    questions = []
    try:
        with open(path, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    questions.append(_parse(path, number, line))
    except UnicodeDecodeError as error:
        raise ImportFileError(
            path, 0, f"expected UTF-8 text, got bytes that are not ({error.reason})"
        ) from error
    if not questions:
        raise ImportFileError(path, 0, "expected one JSON question a line, got none")
    return questions


def _parse(path: str | Path, number: int, line: str) -> Question:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise ImportFileError(path, number, f"not JSON: {error.msg}, column {error.colno}") from error
    except RecursionError as error:
        raise ImportFileError(path, number, "not usable: nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise ImportFileError(path, number, f"not JSON: {error}") from error
    try:
        return question_from_dict(data, line=number)
    except ValueError as error:
        raise ImportFileError(path, number, str(error)) from error


def question_from_dict(data: Any, *, line: int = 0) -> Question:
    """Build a question from a decoded line; raises ValueError that says what is wrong."""
    if not isinstance(data, dict):
        raise _Refused(f"expected a JSON object, got {_type(data)}")
    for given, meant in _MISSPELT.items():
        if data.get(given) and meant not in data:
            raise _Refused(f'{given}: expected no such field without "{meant}"; call it "{meant}", or give it another name')
    messages = _messages(data)
    answers = _answers(data.get("answers"))
    kind = data.get("kind", "question" if answers else None)
    if not isinstance(kind, str) or not kind.strip():
        raise _Refused(f'kind: expected a label such as "simple", got {_type(kind)}')
    kind = kind.strip()
    if kind == UNANSWERABLE and answers:
        raise _Refused('answers: kind "unanswerable" takes none; give the question another kind or drop them')
    supports = _supports(data.get("supports"))
    if kind == OPEN_ENDED and not supports:
        raise _Refused(f'supports: kind "{kind}" needs the triples that a judge takes for evidence, got none')
    if kind not in (UNANSWERABLE, OPEN_ENDED) and not answers:
        raise _Refused(f'answers: kind "{kind}" needs at least one group of accepted strings, got none; '
                       'a question without an answer has kind "unanswerable"')  # fmt: skip
    extra = {key: value for key, value in data.items() if key not in _FIELDS}
    _check_characters(extra)
    return Question(messages, kind, answers, supports, line, extra)


def field_warnings(questions: Sequence[Question]) -> list[str]:
    """Return what has to be said of questions that a score is silent about, which may be meant or a mistake."""
    warnings = []
    answerable = [question for question in questions if question.answerable]
    without = [question for question in answerable if not question.supports]
    if without:
        warnings.append(
            f"{len(without):,} of {len(answerable):,} answerable questions have no supports, so retrieval is not scored for "
            f"them: {_lines(without)}"
        )
    typed = [question for question in questions if "type" in question.metadata and question.kind == "question"]
    if typed:
        warnings.append(f'{len(typed):,} questions have a "type" and no "kind", and count as kind "question": {_lines(typed)}')
    return warnings


def questions_digest(questions: Iterable[Question]) -> str:
    """Return a digest of some questions: conversation, kind and supports of each, in any order."""
    return digest_of(([dict(m) for m in q.messages], q.kind, [list(pair) for pair in q.supports]) for q in questions)


def digest_of(parts: Iterable[tuple[Any, Any, Any]]) -> str:
    """Return the digest of questions of which (messages, kind, supports) are known as JSON values."""
    told = sorted(json.dumps(part, sort_keys=True) for part in parts)
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def _lines(questions: Sequence[Question]) -> str:
    shown = ", ".join(f"line {question.line}" for question in questions[:_SHOWN])
    return shown + (", ..." if len(questions) > _SHOWN else "")


def _messages(data: dict[str, Any]) -> tuple[dict[str, str], ...]:
    question, messages = data.get("question"), data.get("messages")
    if (question is None) == (messages is None):
        raise _Refused(
            'expected either "question" or "messages", got ' + ("neither" if question is None else "both")
        )
    if question is not None:
        return ({"role": "user", "content": _text("question", question)},)
    if not isinstance(messages, list) or not messages:
        raise _Refused(f"messages: expected a list of messages, got {_type(messages)}")
    read = []
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise _Refused(f'messages[{place}]: expected {{"role": {" | ".join(_ROLES)}, "content": text}}')
        read.append(
            {"role": message["role"], "content": _text(f"messages[{place}].content", message.get("content"))}
        )
    if all(message["role"] != "user" for message in read):
        raise _Refused("messages: expected at least one of role user, got none")
    return tuple(read)


def _answers(groups: Any) -> tuple[tuple[str, ...], ...]:
    if groups is None:
        return ()
    if not isinstance(groups, list):
        raise _Refused(f"answers: expected a list of groups, got {_type(groups)}")
    read = []
    for place, group in enumerate(groups):
        if not isinstance(group, list) or not group:
            raise _Refused(f"answers[{place}]: expected a list of accepted strings, got {_type(group)}; "
                           'one answer is written [["Paris"]]')  # fmt: skip
        read.append(tuple(_text(f"answers[{place}]", accepted) for accepted in group))
    return tuple(read)


def _supports(pairs: Any) -> tuple[tuple[str, str], ...]:
    if pairs is None:
        return ()
    if not isinstance(pairs, list):
        raise _Refused(f"supports: expected a list of [name, property] pairs, got {_type(pairs)}")
    read = []
    for place, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2:
            raise _Refused(f"supports[{place}]: expected [name, property], got {_type(pair)}")
        read.append((_text(f"supports[{place}]", pair[0]), _text(f"supports[{place}]", pair[1])))
    return tuple(read)


def _check_characters(value: Any, where: str = "", depth: int = 0) -> None:
    """Refuse half a character anywhere in a further field, or a very deep one: the result could not be written."""
    if depth > _DEEPEST:
        raise _Refused(f"{where}: expected at most {_DEEPEST} levels, got more; nested too deeply")
    if isinstance(value, str) and _is_half(value):
        raise _Refused(f"{where}: expected text, got half a character (an unpaired surrogate)")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_characters(key, where or "a field's name", depth + 1)
            _check_characters(item, where or key, depth + 1)
    if isinstance(value, list):
        for item in value:
            _check_characters(item, where, depth + 1)


def _is_half(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _Refused(f"{where}: expected text, got {_type(value)}")
    if not value.strip():
        raise _Refused(f"{where}: expected text, got an empty string")
    if _is_half(value):
        raise _Refused(f"{where}: expected text, got half a character (an unpaired surrogate)")
    return value.strip()


def _type(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (list, dict, str)):
        size = f" of {len(value)}" if isinstance(value, list) else ""
        return {list: "a list", dict: "an object", str: "text"}[type(value)] + size
    return f"{value!r}"
