"""Is chat that a knowledge base has nothing to do with left as it is? Answers and perplexity, with the KB and without.

A turn that no triple answers goes to the base model (``unknown="base"``), so what differs is where a triple opened
although it should not have. Which one it was is part of the result.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

from kblam_engine.calls import Call
from kblam_engine.decoding import log_probabilities
from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base import KBSnapshot
from kblam_engine.knowledge_state import Row
from kblam_engine.retrieval import Message
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.answers import Answer
    from kblam_engine.calls import KB
    from kblam_engine.engine import KBLaM

FORMAT = "kblam-untouched/1"
ANSWERS, PASSAGES = "answers", "passages"

Progress = Callable[[str, int, int], None]
"""Called with what is being done (``ANSWERS`` or ``PASSAGES``), how many are done, and how many there are."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class GeneralQuestion:
    """Something that people say to a chat model whatever knowledge base is attached."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class NeutralPassage:
    """A text by the assistant, and what the user had asked for."""

    request: str
    text: str


@dataclass(frozen=True, slots=True)
class UntouchedOptions:
    """How the measurement is made.

    Attributes:
        max_new_tokens: longest answer, with the KB and without.
        refusal_threshold: probability below which a triple does not answer; None: the adapter's.
        limit: a sample of so many questions and so many passages; None: all.
        seed: chooses the sample, and what is asked before.
        after_question: everything comes as the second turn: the first asks for a triple of the KB, by its name and
            property, and is answered. What changes the subject must not be read as a follow-up.

    Raises:
        ConfigurationError: a number is below 1, or the seed below 0.
    """

    max_new_tokens: int = 64
    refusal_threshold: float | None = None
    limit: int | None = None
    seed: int = 0
    after_question: bool = False

    def __post_init__(self) -> None:
        """Check the numbers; the threshold is checked where it is used."""
        for name, least in (("max_new_tokens", 1), ("limit", 1), ("seed", 0)):
            number = getattr(self, name)
            if number is not None and number < least:
                raise ConfigurationError(f"{name}: expected at least {least}, got {number}")


@dataclass(frozen=True, slots=True)
class ComparedAnswer:
    """One question, answered with the KB and without.

    Attributes:
        kind: sort of question.
        question: what was asked.
        unchanged: whether both answers have the same tokens, the one that ends them included.
        confidence: probability that the most probable triple answers.
        opened: the triples that the answer attended.
        text: with the KB.
        text_without: without it.
    """

    kind: str
    question: str
    unchanged: bool
    confidence: float
    opened: tuple[Triple, ...]
    text: str
    text_without: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object; the text once where both are the same."""
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.unchanged:
            del told["text_without"]
        return {**told, "confidence": round(self.confidence, 6), "opened": _triple_objects(self.opened)}


@dataclass(frozen=True, slots=True)
class ComparedPassage:
    """One passage, read token by token with the KB and without.

    Attributes:
        request: the user's turn before it.
        n_tokens: its length.
        nats: sum of the negative log-probabilities of its tokens, with the KB.
        nats_without: without it.
        opened: the triples that the assistant's turn attended.
    """

    request: str
    n_tokens: int
    nats: float
    nats_without: float
    opened: tuple[Triple, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the request, the length, both perplexities and the triples as a JSON object."""
        return {
            "request": self.request,
            "n_tokens": self.n_tokens,
            "perplexity": round(math.exp(self.nats / self.n_tokens), 6),
            "perplexity_without": round(math.exp(self.nats_without / self.n_tokens), 6),
            "opened": _triple_objects(self.opened),
        }


@dataclass(frozen=True, slots=True)
class UntouchedResult:
    """What was compared.

    Attributes:
        n_triples: size of the KB.
        refusal_threshold: the one in use.
        options: how it was measured.
        answers: one for each question.
        passages: one for each passage.
    """

    n_triples: int
    refusal_threshold: float
    options: UntouchedOptions
    answers: tuple[ComparedAnswer, ...]
    passages: tuple[ComparedPassage, ...]

    @property
    def unchanged(self) -> float:
        """Share of answers that are the same with the KB as without."""
        return sum(answer.unchanged for answer in self.answers) / len(self.answers)

    @property
    def perplexity(self) -> float:
        """Perplexity of all passages with the KB, each token counting the same."""
        return math.exp(sum(p.nats for p in self.passages) / sum(p.n_tokens for p in self.passages))

    @property
    def perplexity_without(self) -> float:
        """The same without the KB."""
        return math.exp(sum(p.nats_without for p in self.passages) / sum(p.n_tokens for p in self.passages))

    @property
    def perplexity_change(self) -> float:
        """By what part the KB raises the perplexity: 0.01 is 1 %."""
        return self.perplexity / self.perplexity_without - 1

    def kinds(self) -> dict[str, tuple[ComparedAnswer, ...]]:
        """Return the answers by kind of question, in the order of the questions."""
        names = dict.fromkeys(answer.kind for answer in self.answers)
        return {name: tuple(a for a in self.answers if a.kind == name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        options = {k: v for k, v in asdict(self.options).items() if k not in ("seed", "refusal_threshold")}
        return {
            "n_triples": self.n_triples,
            "refusal_threshold": self.refusal_threshold,
            **options,
            "n_questions": len(self.answers),
            "unchanged": round(self.unchanged, 6),
            "opened": sum(bool(answer.opened) for answer in self.answers),
            "kinds": {
                kind: {
                    "n": len(answers),
                    "unchanged": sum(a.unchanged for a in answers),
                    "opened": sum(bool(a.opened) for a in answers),
                }
                for kind, answers in self.kinds().items()
            },
            "n_passages": len(self.passages),
            "n_passage_tokens": sum(passage.n_tokens for passage in self.passages),
            "perplexity": round(self.perplexity, 6),
            "perplexity_without": round(self.perplexity_without, 6),
            "perplexity_change": round(self.perplexity_change, 8),
            "answers": [answer.to_dict() for answer in self.answers],
            "passages": [passage.to_dict() for passage in self.passages],
        }


def general_questions() -> list[GeneralQuestion]:
    """Return the hundred questions of the package: small talk, tasks and general knowledge."""
    questions, kind = [], ""
    for line in _lines("general_questions.txt"):
        if line.startswith("# "):
            kind = line[2:]
        elif line:
            questions.append(GeneralQuestion(kind, line))
    return questions


def neutral_passages() -> list[NeutralPassage]:
    """Return the passages of the package: short essays about everyday things."""
    lines = [line for line in _lines("neutral_passages.txt") if line]
    return [NeutralPassage(*pair) for pair in zip(lines[::2], lines[1::2], strict=True)]


def measure_untouched(
    model: KBLaM,
    kb: KB,
    options: UntouchedOptions | None = None,
    *,
    questions: Sequence[GeneralQuestion] | None = None,
    passages: Sequence[NeutralPassage] | None = None,
    progress: Progress | None = None,
) -> UntouchedResult:
    """Answer general questions and read neutral passages with a KB and without, and compare.

    Answers are greedy, one at a time. A passage is the assistant's turn; its tokens are forced one by one through the
    path that answers take, so that it attends to what an answer to its request would attend to.

    Args:
        model: the engine.
        kb: the knowledge base.
        options: how to measure.
        questions: what to ask; None: `general_questions`.
        passages: what to read; None: `neutral_passages`.
        progress: called after each answer and each passage.

    Raises:
        ConfigurationError: there is no question or no passage, or the threshold is out of its range.
        EncoderMismatchError: the KB was made with another sentence encoder.
    """
    options = options or UntouchedOptions()
    asked = _sample(general_questions() if questions is None else questions, options)
    read = _sample(neutral_passages() if passages is None else passages, options)
    if not asked or not read:
        raise ConfigurationError(
            f"expected at least one question and one passage, got {len(asked)} and {len(read)}"
        )
    snapshot, told = model.snapshot_of(kb), progress or (lambda what, done, total: None)
    before = _exchanges(snapshot, options)
    answers, texts = [], []
    for question in asked:
        answers.append(_compare_answer(model, snapshot, question, next(before), options))
        told(ANSWERS, len(answers), len(asked))
    for passage in read:
        texts.append(_compare_passage(model, snapshot, passage, next(before), options))
        told(PASSAGES, len(texts), len(read))
    own = model.adapter.config.refusal_threshold
    threshold = own if options.refusal_threshold is None else options.refusal_threshold
    return UntouchedResult(len(snapshot), threshold, options, tuple(answers), tuple(texts))


def _exchanges(snapshot: KBSnapshot, options: UntouchedOptions) -> Iterator[list[Message]]:
    """Yield what is said before each question and passage: nothing, or a question about the KB and its answer."""
    chosen = random.Random(f"{options.seed} before")
    while True:
        if not options.after_question or not len(snapshot):
            yield []
            continue
        triple = snapshot.triple(chosen.randrange(len(snapshot)))
        question = f"What is the {triple.property} of {triple.name}?"
        yield [_user(question), {"role": "assistant", "content": triple.statement}]


def _compare_answer(
    model: KBLaM,
    snapshot: KBSnapshot,
    question: GeneralQuestion,
    before: Sequence[Message],
    options: UntouchedOptions,
) -> ComparedAnswer:
    messages = [*before, _user(question.text)]
    tokens, answer = _answer(model, snapshot, messages, options)
    tokens_without, without = _answer(model, None, messages, options)
    opened = tuple(a.triple for a in answer.attended if a.weight > 0)
    unchanged = tokens == tokens_without
    return ComparedAnswer(
        question.kind, question.text, unchanged, answer.confidence, opened, answer.text, without.text
    )


def _answer(
    model: KBLaM, snapshot: KBSnapshot | None, messages: Sequence[Message], options: UntouchedOptions
) -> tuple[list[int | None], Answer]:
    """Return the tokens of an answer, which its text may not tell apart, and the answer."""
    given = {
        "max_new_tokens": options.max_new_tokens,
        "refusal_threshold": options.refusal_threshold,
        "unknown": "base",
    }
    call = Call(model, [messages], [snapshot], None, given)
    tokens = [step.token_ids[0] for step in call.steps()]
    return tokens, call.result(0)


def _compare_passage(
    model: KBLaM,
    snapshot: KBSnapshot,
    passage: NeutralPassage,
    before: Sequence[Message],
    options: UntouchedOptions,
) -> ComparedPassage:
    messages = [*before, _user(passage.request)]
    prompt = model.prompt_ids(messages)
    written: list[int] = model.tokenizer(passage.text, add_special_tokens=False)["input_ids"]
    state = model.new_state([Row(messages, snapshot)], options.refusal_threshold, unknown="base")
    nats, nats_without = (
        -float(log_probabilities(model.lm, prompt, written, scope=scope).double().sum())
        for scope in (lambda: model.injection.use(state), lambda: model.injection.use(None))
    )
    assert state.selections is not None, "the first forward pass selects"
    (selection,) = state.selections
    candidates = () if selection.retrieved is None else selection.retrieved.triples
    opened = candidates[: selection.gates.n_open]
    return ComparedPassage(passage.request, len(written), nats, nats_without, opened)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _sample(items: Sequence[_T], options: UntouchedOptions) -> list[_T]:
    if options.limit is None or options.limit >= len(items):
        return list(items)
    return [items[i] for i in sorted(random.Random(options.seed).sample(range(len(items)), options.limit))]


def _lines(name: str) -> list[str]:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines()]


def _triple_objects(triples: Sequence[Triple]) -> list[dict[str, str]]:
    return [{"name": t.name, "property": t.property, "value": t.value} for t in triples]
