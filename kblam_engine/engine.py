"""KBLaM: a frozen chat model that answers from knowledge bases. Composes the parts; holds no maths."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kblam_engine.adapter import KnowledgeAdapter
from kblam_engine.answers import Answer, AttendedTriple, Usage
from kblam_engine.checkpoint import load_adapter, read_config, save_adapter, shipped_adapter
from kblam_engine.decoding import DecodedStep, DecodingOptions, decode
from kblam_engine.errors import ConfigurationError, EncoderMismatchError
from kblam_engine.evidence import Examiner, Rarity
from kblam_engine.injection import Injection, attach
from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase
from kblam_engine.knowledge_state import KnowledgeState, Row, Selection
from kblam_engine.models import LoadedModel, load_base_model
from kblam_engine.retrieval import Message, Retriever
from kblam_engine.sentence_encoder import SentenceEncoder, load_sentence_encoder
from kblam_engine.statements import StatementTokenizer, StatementTokens
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.streamed_text import StreamedText

__all__ = ["Answer", "AnswerStream", "AttendedTriple", "KBLaM", "RetrievedTriple"]

Question = str | Sequence[Message]
KB = KnowledgeBase | KBSnapshot
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class RetrievedTriple:
    """A triple that the retrieval layer found, with the probability that it answers."""

    id: int
    triple: Triple
    score: float


class KBLaM:
    """A base model, its tokenizer, a sentence encoder and an adapter, ready to answer.

    Safe to use from many threads: what a call knows lives in the call.
    """

    def __init__(self, loaded: LoadedModel, encoder: SentenceEncoder, adapter: KnowledgeAdapter) -> None:
        """Put the parts together; ``from_pretrained`` finds and loads them.

        Raises:
            SeamError: the base model's attention does not take knowledge bases.
        """
        self.lm, self.tokenizer, self.name = loaded.model, loaded.tokenizer, loaded.name
        self.loaded, self.encoder = loaded, encoder
        self.adapter = adapter.to(loaded.device).eval()
        self.adapter.evidence.cpu()
        self.injection: Injection = attach(loaded.model)
        self.injection.self_test()
        self._tokenizer_lock = threading.Lock()  # fast tokenizers race under threads
        self.end_ids = _end_ids(loaded)
        self._statements = StatementTokenizer(loaded.tokenizer, min(self.end_ids))
        self._statement_of = lru_cache(maxsize=8192)(self._tokenize_statement)
        weight = loaded.model.get_input_embeddings().weight
        self._embedding = (weight, weight.float().mean(0))
        self.retriever = Retriever(
            encoder, Examiner(Rarity(self._token_ids, loaded.model.config.vocab_size)), self.adapter.evidence
        )

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "smollm2-135m",
        *,
        adapter: str | os.PathLike[str] | None = None,
        encoder: str | os.PathLike[str] | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> KBLaM:
        """Load a base model with its adapter.

        Args:
            model: an embedded model's name, a local folder, or a Hugging Face id.
            adapter: an adapter folder; None takes the one that ships for the model.
            encoder: sentence encoder; None takes the adapter's own.
            dtype: None takes bf16 where the hardware computes in it, else float32.
            device: None takes a GPU where there is one.

        Raises:
            ModelNotFoundError: there is no such model, or no adapter ships for it.
            CheckpointError: the adapter is for another model, encoder or version.
            SeamError: the model's attention does not take knowledge bases.
        """
        folder = Path(adapter) if adapter is not None else shipped_adapter(os.fspath(model))
        sentence_encoder = load_sentence_encoder(
            encoder if encoder is not None else read_config(folder).encoder
        )
        loaded = load_base_model(model, dtype=dtype, device=device)
        weights = load_adapter(
            folder, base_fingerprint=loaded.fingerprint, encoder_fingerprint=sentence_encoder.fingerprint
        )
        return cls(loaded, sentence_encoder, weights)

    def save_adapter(self, folder: str | os.PathLike[str]) -> Path:
        """Write the adapter's folder (configuration and trained tensors)."""
        return save_adapter(self.adapter, folder)

    def answer(
        self,
        question: Question,
        kb: KB | None = None,
        *,
        cancel: threading.Event | None = None,
        **options: Any,
    ) -> Answer:
        """Answer a question, or the last message of a chat, from a KB.

        Args:
            question: text, or messages ``{"role", "content"}``, the last of any role.
            kb: the knowledge base; None runs the base model alone.
            cancel: set it to stop within one token.
            options: ``max_new_tokens``, ``temperature``, ``top_k``, ``top_p``, ``seed``, ``stop`` (see
                ``DecodingOptions``) and ``refusal_threshold`` (0 to 1; the adapter's own by default).

        Raises:
            ConfigurationError: an option or message is not valid.
            EncoderMismatchError: the KB was made with another sentence encoder.
        """
        return self.answer_batch([question], [kb], cancel=cancel, **options)[0]

    def generate(self, messages: Question, kb: KB | None = None, **options: Any) -> Answer:
        """Continue a chat; the same as ``answer``, under the name that chat applications expect."""
        return self.answer(messages, kb, **options)

    def answer_batch(
        self,
        questions: Sequence[Question],
        kbs: Sequence[KB | None] | KB | None = None,
        *,
        cancel: threading.Event | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Answer several questions in one batch, each from its own KB (or all from one)."""
        if not questions:
            return []
        call = _Call(self, questions, kbs, cancel, options)
        for _ in call.steps():
            pass
        return [call.result(i) for i in range(len(questions))]

    def stream(
        self,
        question: Question,
        kb: KB | None = None,
        *,
        cancel: threading.Event | None = None,
        **options: Any,
    ) -> AnswerStream:
        """Answer piece by piece: iterate for text; ``answer`` holds the whole when the iteration is over."""
        return AnswerStream(_Call(self, [question], [kb], cancel, options))

    def generate_text(self, messages: Question, max_new_tokens: int = 128) -> Answer:
        """Continue a chat with the base model alone, greedily."""
        return self.answer(messages, None, max_new_tokens=max_new_tokens)

    def retrieve(self, question: Question, kb: KB, k: int = 10) -> list[RetrievedTriple]:
        """Return the ``k`` triples that most probably answer, best first, without generating."""
        snapshot = self._snapshot(kb)
        state = self._state([Row(_messages(question), snapshot)], None)
        if self.adapter.config.retrieval_layer is None:
            found = self.retriever.retrieve(_messages(question), snapshot)
        else:
            with torch.no_grad(), self.injection.use(state):
                ids = torch.tensor([self._prompt_ids(_messages(question))], device=self.lm.device)
                self.lm.get_decoder()(input_ids=ids, use_cache=False)
            chosen = state.selections[0].retrieved if state.selections else None
            if chosen is None:
                return []
            found = chosen
        ids_of = snapshot.ids[found.positions[:k]]
        return [
            RetrievedTriple(int(i), t, float(p))
            for i, t, p in zip(ids_of, found.triples, found.probabilities, strict=False)
        ]

    def chat_prompt(self, messages: Question) -> str:
        """Return the text that the base model reads for a chat, up to where the assistant speaks."""
        chat = _messages(messages)
        continues = chat[-1]["role"] == "assistant"
        with self._tokenizer_lock:
            text = self.tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=not continues, continue_final_message=continues
            )
        return str(text)

    def _prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        text = self.chat_prompt(messages)
        with self._tokenizer_lock:
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _token_ids(self, text: str) -> list[int]:
        with self._tokenizer_lock:
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _tokenize_statement(self, name: str, property_name: str, value: str) -> StatementTokens:
        with self._tokenizer_lock:
            return self._statements(Triple(name, property_name, value))

    def _snapshot(self, kb: KB) -> KBSnapshot:
        snapshot = kb.snapshot() if isinstance(kb, KnowledgeBase) else kb
        if snapshot.encoder_fingerprint != self.encoder.fingerprint:
            raise EncoderMismatchError(
                f"the knowledge base was made with the sentence encoder {snapshot.encoder_fingerprint}, the model "
                f"uses {self.encoder.fingerprint}: export the KB and import it into a new one"
            )
        return snapshot

    def _state(self, rows: Sequence[Row], threshold: float | None) -> KnowledgeState:
        chosen = self.adapter.config.refusal_threshold if threshold is None else threshold
        if not isinstance(chosen, int | float) or not 0.0 < chosen < 1.0:
            raise ConfigurationError(f"refusal_threshold: expected above 0 and below 1, got {chosen!r}")
        return KnowledgeState(
            self.adapter, self.retriever, _Statements(self), lambda: self._embedding, rows, float(chosen)
        )


class _Statements:
    """The engine's statement tokenizer, cached and locked."""

    def __init__(self, engine: KBLaM) -> None:
        self._engine = engine
        self.null = engine._statements.null

    def __call__(self, triple: Triple) -> StatementTokens:
        return self._engine._statement_of(triple.name, triple.property, triple.value)


class AnswerStream:
    """An answer as it is written. Iterate for its text; ``answer`` is there when the iteration is over."""

    def __init__(self, call: _Call) -> None:
        """Start nothing: the first piece asked for starts the call."""
        self._call = call
        self._pieces = self._run()
        self._answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        """Return the pieces."""
        return self._pieces

    def __next__(self) -> str:
        """Return the next piece."""
        return next(self._pieces)

    def close(self) -> None:
        """Stop: no further token is computed."""
        self._pieces.close()  # type: ignore[attr-defined]

    @property
    def answer(self) -> Answer:
        """The whole answer; after an early close, what was written so far.

        Raises:
            ConfigurationError: the iteration has not begun.
        """
        if self._answer is None:
            self._answer = self._call.result(0)
        return self._answer

    def _run(self) -> Iterator[str]:
        for step in self._call.steps():
            if step.pieces[0]:
                yield step.pieces[0]
        self._answer = self._call.result(0)


class _Call:
    """One batch on its way: prompts, state, progress and clock."""

    def __init__(
        self,
        engine: KBLaM,
        questions: Sequence[Question],
        kbs: Sequence[KB | None] | KB | None,
        cancel: threading.Event | None,
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
        threshold = options.pop("refusal_threshold", None)
        try:
            self._options = DecodingOptions(**options)
        except TypeError as error:
            raise ConfigurationError(f"unknown option: {error}") from error
        self._engine, self._cancel = engine, cancel
        rows = [
            Row(_messages(q), None if kb is None else engine._snapshot(kb))
            for q, kb in zip(questions, each, strict=True)
        ]
        self._state = engine._state(rows, threshold) if any(r.snapshot is not None for r in rows) else None
        self._prompts = [engine._prompt_ids(r.messages) for r in rows]
        self._texts: tuple[StreamedText, ...] = ()
        self._first = self._last = self._begun
        self._n_steps = 0

    def steps(self) -> Iterator[DecodedStep]:
        state = self._state

        def scope() -> AbstractContextManager[object]:
            return self._engine.injection.use(state)

        def on_token(ids: Tensor) -> None:
            if state is not None:
                state.on_token(ids)

        for step in decode(
            self._engine.lm,
            self._engine.tokenizer,
            self._prompts,
            self._options,
            end_ids=self._engine.end_ids,
            scope=scope,
            on_token=on_token,
            cancel=self._cancel,
        ):
            self._texts = step.rows
            self._last = time.perf_counter()
            self._first = self._last if not self._n_steps else self._first
            self._n_steps += 1
            yield step

    def result(self, row: int) -> Answer:
        if not self._texts:
            raise ConfigurationError("the answer has not begun: iterate over the stream first")
        text = self._texts[row]
        selection = (
            self._state.selections[row] if self._state is not None and self._state.selections else None
        )
        n_triples = len(selection.snapshot) if selection is not None and selection.snapshot is not None else 0
        return Answer(
            text=text.text,
            refused=selection is not None and selection.gates.refused,
            confidence=selection.gates.confidence if selection is not None else 0.0,
            attended=self._attended(row, selection, text),
            usage=Usage(len(self._prompts[row]), len(text.token_ids), n_triples),
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
        ):
            return ()
        mass = self._state.attention[row]
        total = float(mass.sum()) or 1.0
        spans = _spans(self._state.value_slots(row), text.token_spans)
        probabilities = selection.retrieved.probabilities
        found = []
        for slot in range(len(selection.gates.triples)):
            at = int(selection.retrieved.positions[slot])
            triple = selection.retrieved.triples[slot]
            weight = min(1.0, float(mass[slot]) / total)
            attended = AttendedTriple(int(selection.snapshot.ids[at]), triple, weight, spans.get(slot, ()))
            found.append((round(weight, 2), float(probabilities[slot]), attended))
        found.sort(key=lambda x: (-x[0], -x[1]))
        return tuple(x[2] for x in found)


def _spans(
    slots: list[int | None], token_spans: list[tuple[int, int]]
) -> dict[int, tuple[tuple[int, int], ...]]:
    """Join the character ranges of neighbouring tokens that were copied from the same triple's value."""
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
    return {slot: tuple(ranges) for slot, ranges in spans.items()}


def _messages(question: Question) -> list[Message]:
    if isinstance(question, str):
        question = [{"role": "user", "content": question}]
    messages = [dict(m) for m in question]
    if not messages:
        raise ConfigurationError("expected at least one message, got none")
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES or not isinstance(content, str):
            raise ConfigurationError(
                f"message {number}: expected {{'role': {' | '.join(_ROLES)}, 'content': text}}, got {message!r}"
            )
    if not messages[-1]["content"].strip():
        raise ConfigurationError("the question is empty")
    return messages


def _end_ids(loaded: LoadedModel) -> frozenset[int]:
    configured = loaded.model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    known = {int(i) for i in ids if i is not None} or {loaded.tokenizer.eos_token_id}
    return frozenset(i for i in known if i is not None)
