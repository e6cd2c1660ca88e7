"""One call of the engine on its way: prompts, state, tokens and clock, and the answers that come of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from difflib import get_close_matches
from itertools import groupby
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kblam_engine.answers import Answer, AttendedTriple, RetrievedTriple, Selected, Usage
from kblam_engine.decoding import DecodingBatch, Place
from kblam_engine.decoding_rows import Cancel, DecodedStep, DecodingOptions, DecodingRows
from kblam_engine.errors import ConfigurationError
from kblam_engine.joined_states import JoinedStates, Share
from kblam_engine.kb_state import KBState
from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase
from kblam_engine.knowledge_state import Row, Selection
from kblam_engine.retrieval import Message

if TYPE_CHECKING:
    from kblam_engine.engine import KBLaM
    from kblam_engine.streamed_text import StreamedText

Question = str | Sequence[Message]
"""A text, or chat messages ``{"role", "content"}``."""
KB = KnowledgeBase | KBSnapshot
_ROLES = ("system", "user", "assistant")
_DECODING = tuple(option.name for option in fields(DecodingOptions))
_OF_CALLS = ("refusal_threshold", "max_hops", "unknown", "chat_template_kwargs")


class AnswerStream:
    """An answer as it is written. Iterate for its text; ``answer`` is there when the iteration is over.

    ``selected`` says before the first piece which triples the answer may attend.
    """

    def __init__(self, call: Call) -> None:
        """Start nothing: the first piece asked for starts the call."""
        self._call = call
        self._pieces = self._run()
        self._first: str | None = None
        self._answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        """Return the pieces."""
        return self

    def __next__(self) -> str:
        """Return the next piece."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return next(self._pieces)

    def close(self) -> None:
        """Stop: no further token is computed."""
        self._first = None
        self._pieces.close()  # type: ignore[attr-defined]

    @property
    def selected(self) -> Selected | None:
        """What the answer will rest on; retrieved now if the iteration has not begun. None without a KB."""
        self._call.select()
        if self._call.waits_for_prompt and self._first is None:
            self._first = next(self._pieces, None)  # the hidden state of the prompt has a say
        return self._call.selected(0)

    @property
    def answer(self) -> Answer:
        """The whole answer; after an early close, what was written so far.

        Raises:
            ConfigurationError: the iteration has not begun.
        """
        return self._call.result(0) if self._answer is None else self._answer

    def _run(self) -> Iterator[str]:
        for step in self._call.steps():
            if step.pieces[0]:
                yield step.pieces[0]
        self._answer = self._call.result(0)


class Call:
    """Some questions on their way together: prompts, state, progress and clock."""

    def __init__(
        self,
        engine: KBLaM,
        questions: Sequence[Question],
        kbs: Sequence[KB | None] | KB | None,
        cancel: Cancel,
        options: dict[str, Any],
    ) -> None:
        self._begun = time.perf_counter()
        each = (
            [kbs] * len(questions)
            if kbs is None or isinstance(kbs, KnowledgeBase | KBSnapshot)
            else list(kbs)
        )
        if len(each) != len(questions):
            raise ConfigurationError(
                f"expected one KB per question, got {len(each)} KBs for {len(questions)} questions"
            )
        threshold, max_hops = options.pop("refusal_threshold", None), options.pop("max_hops", 1)
        unknown, template_kwargs = options.pop("unknown", "refuse"), options.pop("chat_template_kwargs", None)
        if not isinstance(template_kwargs, Mapping | None):
            raise ConfigurationError(
                f"chat_template_kwargs: expected a mapping or None, got {type(template_kwargs).__name__}"
            )
        _check_names(options)
        checked = DecodingOptions(**options)
        self._engine = engine
        rows = [
            Row(as_messages(q), None if kb is None else engine.snapshot_of(kb))
            for q, kb in zip(questions, each, strict=True)
        ]
        state = engine.new_state(rows, threshold, max_hops, unknown)  # checks them even where no row has a KB
        self._state = state if any(r.snapshot is not None for r in rows) else None
        prompts = [engine.prompt_ids(r.messages, template_kwargs) for r in rows]
        _check_lengths(prompts, engine.lm.config)
        self.rows = DecodingRows(engine.tokenizer, prompts, checked, engine.end_ids, cancel)
        self._first = self._last = self._begun
        self._n_steps = 0

    def select(self) -> None:
        """Retrieve now, if nothing but the question decides on it; else the first step does."""
        if self._state is not None:
            self._state.select()

    @property
    def waits_for_prompt(self) -> bool:
        """Whether what is selected depends on the forward pass over the prompt, which has not run."""
        return self._state is not None and self._state.selections is None

    def selected(self, row: int) -> Selected | None:
        """Return what a row's answer will rest on; None without a KB, or while it waits for the prompt."""
        if self._state is None or self._state.selections is None:
            return None
        selection = self._state.selections[row]
        if selection.snapshot is None or selection.retrieved is None:
            return None
        found, n_open = selection.retrieved, selection.gates.n_open
        ids = selection.snapshot.ids[found.positions[:n_open]]
        triples = tuple(
            RetrievedTriple(int(i), triple, float(p))
            for i, triple, p in zip(ids, found.triples, found.probabilities, strict=False)
        )
        return Selected(triples, selection.gates.refused, selection.gates.confidence, len(selection.snapshot))

    def steps(self) -> Iterator[DecodedStep]:
        """Decode; every step is one token for each row."""
        batch = CallBatch(self._engine)
        step = batch.join(self)
        yield step
        while not step.done:
            ((_, step),) = batch.step()
            yield step

    @property
    def whole_state(self) -> KBState | None:
        """The state of all rows; None without a KB."""
        return self._state

    def share(self, rows: tuple[int, ...]) -> Share:
        """Return the state of some rows."""
        return Share(self._state, rows, len(self.rows.texts))

    def note(self, step: DecodedStep) -> None:
        """Take it that a step has been done."""
        self._last = time.perf_counter()
        self._first = self._last if not self._n_steps else self._first
        self._n_steps += 1
        if self._state is not None:
            for row, text in enumerate(step.rows):
                if text.finish_reason is not None:
                    self._state.end(row)

    def result(self, row: int) -> Answer:
        """Return the answer of a row as far as it has been written.

        Raises:
            ConfigurationError: nothing has been written.
        """
        if not self._n_steps:
            raise ConfigurationError("the answer has not begun: iterate over the stream first")
        text = self.rows.texts[row]
        selection = (
            self._state.selections[row] if self._state is not None and self._state.selections else None
        )
        n_triples = len(selection.snapshot) if selection is not None and selection.snapshot is not None else 0
        return Answer(
            text=text.text,
            refused=selection is not None and selection.gates.refused,
            confidence=selection.gates.confidence if selection is not None else 0.0,
            attended=self._attended(row, selection, text),
            usage=Usage(len(self.rows.prompts[row]), len(text.token_ids), n_triples),
            finish_reason=text.finish_reason or "cancelled",
            ttft_ms=1000 * (self._first - self._begun),
            ms_per_token=1000 * (self._last - self._first) / max(1, self._n_steps - 1),
        )

    def _attended(
        self, row: int, selection: Selection | None, text: StreamedText
    ) -> tuple[AttendedTriple, ...]:
        if (
            self._state is None
            or selection is None
            or selection.retrieved is None
            or selection.snapshot is None
            or not selection.gates.uses_kb
        ):
            return ()
        mass = self._state.attention[row]
        total = float(mass.sum()) or 1.0
        spans = _spans(self._state.value_slots(row), text.token_spans, text.text)
        found = []
        for slot in range(len(selection.gates.triples)):
            at = int(selection.retrieved.positions[slot])
            triple = selection.retrieved.triples[slot]
            weight = min(1.0, float(mass[slot]) / total) if slot < selection.gates.n_open else 0.0
            found.append(AttendedTriple(int(selection.snapshot.ids[at]), triple, weight, spans.get(slot, ())))
        return tuple(found)  # in the order of the selection: a long value has more of the attention, not more right


class CallBatch:
    """Calls of one engine that are answered together; they join between two tokens, and rows leave as they end.

    Every row has its own KB. For one thread; what a forward raises ends the whole batch.
    """

    def __init__(self, engine: KBLaM) -> None:
        """Begin with no call."""
        self._engine = engine
        self._calls: dict[DecodingRows, Call] = {}
        self._batch = DecodingBatch(engine.lm, min(engine.end_ids, default=0), self._scope, self._guide)
        self._seated: tuple[Place, ...] = ()
        self._state: KBState | None = None

    def __len__(self) -> int:
        """Return the number of rows that grow."""
        return len(self._batch)

    @property
    def can_join(self) -> bool:
        """Whether a call can join now; models with windows of attention take one only when no row is left."""
        return self._batch.can_join

    def join(self, call: Call) -> DecodedStep:
        """Read the prompts of a call and write its first tokens."""
        step = self._batch.join(call.rows, lambda: self._engine.injection.use(call.whole_state))
        call.note(step)
        if not step.done:
            self._calls[call.rows] = call
        return step

    def step(self) -> list[tuple[Call, DecodedStep]]:
        """Write one token for every row that grows; return what each call got, a last time when it ends."""
        done = []
        for rows, step in self._batch.step():
            call = self._calls[rows]
            call.note(step)
            done.append((call, step))
            if step.done:
                del self._calls[rows]
        return done

    def _scope(self, places: Sequence[Place]) -> AbstractContextManager[object]:
        seated = tuple(places)
        if seated != self._seated:  # places stay the same objects while nobody comes or goes
            self._seated, self._state = seated, self._state_of(seated)
        return self._engine.injection.use(self._state)

    def _guide(self, places: Sequence[Place], logits: Tensor) -> Tensor:
        return logits if self._state is None else self._state.guided(logits)

    def _state_of(self, places: Sequence[Place]) -> KBState | None:
        by_call = groupby(places, key=lambda place: self._calls[place.rows])
        shares = [call.share(tuple(place.row for place in own)) for call, own in by_call]
        if len(shares) == 1 and shares[0].is_whole:
            return shares[0].state
        return JoinedStates(shares) if any(share.state is not None for share in shares) else None


def _check_names(options: Mapping[str, Any]) -> None:
    """Refuse an option that there is not, which would be one that is misspelt."""
    for name in options:
        if name not in _DECODING:
            known = (*_DECODING, *_OF_CALLS)
            close = get_close_matches(name, known, n=1)
            raise ConfigurationError(
                f"unknown option {name}: expected {', '.join(known)}; "
                + (f"did you mean {close[0]}?" if close else "leave it out")
            )


def _check_lengths(prompts: Sequence[Sequence[int]], config: Any) -> None:
    """Refuse what is longer than the model has learned to read: it would take minutes, and be answered with nonsense."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    for number, prompt in enumerate(prompts):
        if limit is not None and len(prompt) >= limit:
            where = f"question {number}" if len(prompts) > 1 else "the question"
            raise ConfigurationError(
                f"{where}: expected fewer than {limit:,} tokens, what the base model can read, got {len(prompt):,}; "
                "ask in fewer words, or leave out earlier messages"
            )


def _spans(
    slots: list[int | None], token_spans: list[tuple[int, int]], text: str
) -> dict[int, tuple[tuple[int, int], ...]]:
    """Join the character ranges of neighbouring tokens copied from one triple's value, white space at the ends cut."""
    spans: dict[int, list[tuple[int, int]]] = {}
    previous: int | None = None
    for slot, (start, end) in zip(slots, token_spans, strict=False):
        if slot is not None and end > start:
            mine = spans.setdefault(slot, [])
            if previous == slot and mine and mine[-1][1] == start:
                mine[-1] = (mine[-1][0], end)
            else:
                mine.append((start, end))
        previous = slot
    return {
        slot: tuple(_trimmed(text, *r) for r in ranges if text[slice(*r)].strip())
        for slot, ranges in spans.items()
    }


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return end - len(part.lstrip()), start + len(part.rstrip())


def as_messages(question: Question) -> list[Message]:
    """Return a question as messages, checked.

    Raises:
        ConfigurationError: there is no message, or one is not a chat message with text.
    """
    if isinstance(question, str):
        question = [{"role": "user", "content": question}]
    if not isinstance(question, Sequence) or not question:
        raise ConfigurationError(f"expected a question or at least one message, got {question!r}")
    given: Sequence[Any] = question
    messages: list[Message] = []
    for number, message in enumerate(given):
        known = isinstance(message, Mapping) and message.get("role") in _ROLES
        if not known or not isinstance(message.get("content"), str):
            raise ConfigurationError(
                f"message {number}: expected {{'role': {' | '.join(_ROLES)}, 'content': text}}, got {message!r}"
            )
        messages.append(dict(message))
    if not messages[-1]["content"].strip():
        raise ConfigurationError("the question is empty")
    return messages
