"""Open-ended answers in an evaluation: a chat model scores each one, and what it has said once it is not asked again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kblam_engine.chat_model import ChatModel
from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.assembly import statements_by_key
from kblam_engine.evaluation.judge import JudgeError, Judgement, grading_messages, judge
from kblam_engine.evaluation.metrics import key_of
from kblam_engine.evaluation.questions import OPEN_ENDED, Question
from kblam_engine.evaluation.results import ScoredAnswer
from kblam_engine.triples import Triple

logger = logging.getLogger(__name__)
FILE = "judgements.jsonl"


@dataclass(frozen=True, slots=True)
class Judge:
    """A chat model that scores answers.

    Attributes:
        name: what the result calls it.
        chat: messages in, text out.
        version: tells a function from what it was before it was edited: what that one said is not taken for its own.
    """

    name: str
    chat: ChatModel
    version: str = ""


class Judgements:
    """What a judge says; each answer is judged once, also by the next run where a file keeps it."""

    def __init__(self, judge: Judge, kept: Path | None = None) -> None:
        """Take a judge, and the file to keep judgements in; None keeps them until the end."""
        self._judge, self._kept = judge, kept
        self._known = {} if kept is None else _read(kept)
        self._from_file = frozenset(self._known)
        self._reused: set[str] = set()
        self.unreadable: list[str] = []
        self.broken: str | None = None
        """What the judge raised: it is not asked again, so that a service that is down does not cost the answers."""
        self.n_unasked = 0

    def of(self, question: str, evidence: str, answer: str) -> Judgement | None:
        """Return the judgement; None where the judge gives no readable score, which is noted, or has failed."""
        who = [self._judge.name, self._judge.version] if self._judge.version else [self._judge.name]
        asked = json.dumps([*who, grading_messages(question, evidence, answer)])
        key = hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        if key in self._from_file:
            self._reused.add(key)
        if key not in self._known:
            if self.broken is not None:
                self.n_unasked += 1
                return None
            try:
                self._known[key] = judge(question, evidence, answer, self._judge.chat)
            except JudgeError as error:
                self.unreadable.append(str(error))
                return None
            except Exception as error:  # any function of a user's: the answers are worth more than the scores
                self.broken = _writable(f"{type(error).__name__}: {error}")
                logger.warning("the judge %s failed: %s", self._judge.name, self.broken)
                logger.debug("where it failed", exc_info=True)
                self.n_unasked += 1
                return None
            self._keep(key)
        return self._known[key]

    def _keep(self, key: str) -> None:
        if self._kept is None:
            return
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, **asdict(self._known[key])}, ensure_ascii=True)
        with open(self._kept, "a", encoding="utf-8") as lines:
            lines.write(line + "\n")

    def warnings(self) -> list[str]:
        """Return what the result has to say of scores that are missing, and of those of an earlier run."""
        name, told = self._judge.name, []
        if self.unreadable:
            told.append(
                f"the judge {name} gave no readable score for {len(self.unreadable)} answers, which have none; "
                f"the first: {self.unreadable[0]}"
            )
        if self.broken is not None:
            told.append(f"the judge {name} failed and was not asked again: {self.n_unasked:,} answers have no score; {self.broken}")
        if self._reused:
            told.append(f"{len(self._reused):,} judgements of {name} are of an earlier run, from {self._kept}")
        return told


def check_judged(questions: Iterable[Question]) -> None:
    """Check that there is something to judge.

    Raises:
        ConfigurationError: no question is open-ended.
    """
    if not any(question.kind == OPEN_ENDED for question in questions):
        raise ConfigurationError(
            f'judge: expected questions of kind "{OPEN_ENDED}", got none: give the open-ended ones that kind'
        )


def judge_answers(
    judgements: Judgements,
    questions: Sequence[Question],
    triples: Iterable[Triple],
    systems: Iterable[list[ScoredAnswer]],
    told: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the judge's score and reason into the answers to open-ended questions.

    The evidence is the statements of the question's supports, of the KB that was asked.

    Args:
        judgements: of the judge.
        questions: what was asked.
        triples: the KB.
        systems: one list of answers each, in the order of the questions.
        told: called after each answer with how many have been judged.
    """
    statements, done = statements_by_key(triples), 0
    each = list(systems)
    for place, question in enumerate(questions):
        if question.kind != OPEN_ENDED:
            continue
        evidence = " ".join(text for pair in question.supports for text in statements.get(key_of(*pair), ()))
        for answers in each:
            found = judgements.of(question.text, evidence, answers[place].text) if evidence else None
            if found is not None:
                answers[place] = replace(answers[place], judge_score=found.score, judge_reason=_writable(found.reason))
            done += 1
            told(done)


def _writable(text: str) -> str:
    """Return a text of somebody else's program without half characters, with which no result could be written."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _read(path: Path) -> dict[str, Judgement]:
    """Return what a file keeps; a line that was cut off is judged again."""
    known: dict[str, Judgement] = {}
    if not path.is_file():
        return known
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            told = json.loads(line)
            known[str(told["key"])] = Judgement(int(told["score"]), str(told["reason"]))
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("%s: a line cannot be used: %s", path, error)
    return known
