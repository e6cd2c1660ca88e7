"""KBLaM: a frozen chat model that answers from knowledge bases. Composes the parts; holds no maths."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from kblam_engine.adapter import KnowledgeAdapter
from kblam_engine.answers import Answer, AttendedTriple, RetrievedTriple, Selected
from kblam_engine.calls import KB, AnswerStream, Call, Question, as_messages
from kblam_engine.chat_text import chat_text
from kblam_engine.checkpoint import load_adapter, read_config, save_adapter, shipped_adapter
from kblam_engine.decoding_rows import Cancel
from kblam_engine.errors import ConfigurationError, EncoderMismatchError
from kblam_engine.evidence import Examiner
from kblam_engine.gating import UNKNOWN, Unknown
from kblam_engine.injection import Injection, attach
from kblam_engine.key_table import KeySearch, KeyTable
from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase
from kblam_engine.knowledge_state import KnowledgeState, Row
from kblam_engine.models import LoadedModel, load_base_model, resolve_model
from kblam_engine.packed_weights import pack_linears
from kblam_engine.retrieval import EveryKey, Message, Retriever
from kblam_engine.search.device import DeviceKeys
from kblam_engine.search.indexes import Indexes, IndexSource
from kblam_engine.sentence_encoder import SentenceEncoder, load_sentence_encoder
from kblam_engine.statements import StatementTokenizer, StatementTokens
from kblam_engine.triple_files import checked_path
from kblam_engine.triples import Triple
from kblam_engine.wording import Rarity

__all__ = ["Answer", "AnswerStream", "AttendedTriple", "KBLaM", "RetrievedTriple", "Selected"]
_PREFILL_TOKENS = 40  # a question in its chat template


class KBLaM:
    """A base model, its tokenizer, a sentence encoder and an adapter, ready to answer.

    Safe to use from many threads: what a call knows lives in the call.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        encoder: SentenceEncoder,
        adapter: KnowledgeAdapter,
        index: str | IndexSource = "auto",
    ) -> None:
        """Put the parts together; ``from_pretrained`` finds and loads them.

        Raises:
            ConfigurationError: there is no such index.
            SeamError: the base model's attention does not take knowledge bases.
        """
        self.lm, self.tokenizer, self.name = loaded.model, loaded.tokenizer, loaded.name
        self.state_type: Callable[..., KnowledgeState] = KnowledgeState  # an evaluation puts ablated ones here
        self.loaded, self.encoder = loaded, encoder
        self.adapter = adapter.to(loaded.device).eval()
        self.adapter.evidence.cpu()
        self.injection: Injection = attach(loaded.model)
        self.injection.self_test()
        self._tokenizer_lock = threading.Lock()  # fast tokenizers race under threads
        self.end_ids = _end_ids(loaded)
        self._statements = StatementTokenizer(loaded.tokenizer, _turn_end(loaded, self.end_ids))
        self._statement_of = lru_cache(maxsize=8192)(self._tokenize_statement)
        self._unembedding = loaded.model.get_output_embeddings().weight
        on_gpu = DeviceKeys(loaded.device) if loaded.device.type == "cuda" else None
        self.indexes = Indexes(index, self._prefill_seconds, every_key=on_gpu)
        examiner = Examiner(Rarity(self.token_ids, loaded.model.config.vocab_size))
        # The weights are most of what encoding a question moves: half as many bytes where the base model's are halved too.
        halved = loaded.device.type == "cpu" and loaded.dtype == torch.bfloat16
        questions = self.adapter.question_encoder(encoder, torch.bfloat16 if halved else None)
        self.retriever = Retriever(questions, examiner, self.adapter.evidence, self._search_of)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "smollm2-135m",
        *,
        adapter: str | os.PathLike[str] | None = None,
        encoder: str | os.PathLike[str] | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        index: str | IndexSource = "auto",
    ) -> KBLaM:
        """Load a base model with its adapter.

        Args:
            model: an embedded model's name, a local folder, or a Hugging Face id.
            adapter: an adapter folder; None takes the one that ships for the model.
            encoder: sentence encoder; None takes the adapter's own.
            dtype: None takes bf16 where the hardware computes in it, else float32.
            device: None takes a GPU where there is one.
            index: how the keys of a large knowledge base are searched: "exact" scores every one, on a GPU if the model is
                on one that has room for them; "tree" and "ann" use an index of that kind (built in the background where
                there is none); "auto" takes an index once scoring every key costs more than a quarter of a short prompt's
                prefill (docs/scale.md). Or an object with the method ``of(snapshot)`` that returns the index of a
                snapshot's keys, such as
                ``kblam_engine.search.remote.connect(...)``.

        Raises:
            ConfigurationError: there is no such index.
            ModelNotFoundError: there is no such model, or no adapter ships for it.
            CheckpointError: the adapter is for another model, encoder or version.
            SeamError: the model's attention does not take knowledge bases.
        """
        resolve_model(model)  # an unknown model is told as such, not as one without an adapter
        folder = shipped_adapter(os.fspath(model)) if adapter is None else checked_path("adapter", adapter, "an adapter folder")
        sentence_encoder = load_sentence_encoder(
            encoder if encoder is not None else read_config(folder).encoder
        )
        loaded = load_base_model(model, dtype=dtype, device=device)
        pack_linears(loaded.model)
        weights = load_adapter(
            folder, base_fingerprint=loaded.fingerprint, encoder_fingerprint=sentence_encoder.fingerprint
        )
        return cls(loaded, sentence_encoder, weights, index)

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
                ``DecodingOptions``), ``refusal_threshold`` (0 to 1; the adapter's own by default), ``max_hops``
                (1: triples are selected once per turn; more: again when the answer moves on to what a value names),
                ``chat_template_kwargs`` (what the base model's chat template takes besides the messages, such as
                ``{"enable_thinking": False}``) and ``unknown`` (a turn that no triple answers: "refuse", or "base" to have the base model answer it
                exactly as without a KB; ``Answer.grounded`` tells).

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
        cancel: Cancel = None,
        **options: Any,
    ) -> list[Answer]:
        """Answer several questions in one batch, each from its own KB (or all from one).

        Args:
            questions: texts, or messages.
            kbs: one for each question, or one for all; None runs the base model alone.
            cancel: an event that stops all of them within one token, or one for each question (None: none). What ends
                early makes the rest of the batch faster.
            options: as ``answer`` has them.

        Raises:
            ConfigurationError: an option or message is not valid, or there is not one KB or event for each question.
            EncoderMismatchError: a KB was made with another sentence encoder.
        """
        if not questions:
            return []
        call = Call(self, questions, kbs, cancel, options)
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
        """Answer piece by piece: iterate for text; ``answer`` holds the whole when the iteration is over.

        ``selected`` holds the triples that it may attend before the first piece. Arguments and errors are those of
        ``answer``.
        """
        return AnswerStream(Call(self, [question], [kb], cancel, options))

    def generate_text(self, messages: Question, max_new_tokens: int = 128) -> Answer:
        """Continue a chat with the base model alone, greedily."""
        return self.answer(messages, None, max_new_tokens=max_new_tokens)

    def retrieve(self, question: Question, kb: KB, k: int = 10) -> list[RetrievedTriple]:
        """Return the ``k`` triples that most probably answer, best first, without generating."""
        snapshot = self.snapshot_of(kb)
        state = self.new_state([Row(as_messages(question), snapshot)], None)
        if self.adapter.config.retrieval_layer is None:
            found = self.retriever.retrieve(as_messages(question), snapshot)
        else:
            with torch.no_grad(), self.injection.use(state):
                ids = torch.tensor([self.prompt_ids(as_messages(question))], device=self.lm.device)
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

    def chat_prompt(self, messages: Question, template_kwargs: Mapping[str, Any] | None = None) -> str:
        """Return the text that the base model reads for a chat, up to where the assistant speaks.

        Args:
            messages: text, or messages ``{"role", "content"}``.
            template_kwargs: what the chat template takes besides the messages; a template leaves out what it does not know.

        Raises:
            ConfigurationError: the messages are not valid, the template does not take them, or an argument is one that
                is set for every chat.
        """
        with self._tokenizer_lock:
            return chat_text(self.tokenizer, as_messages(messages), template_kwargs)

    def prompt_ids(
        self, messages: Sequence[Message], template_kwargs: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Return the token ids of ``chat_prompt``."""
        return self.token_ids(self.chat_prompt(messages, template_kwargs))

    def token_ids(self, text: str) -> list[int]:
        """Return the base model's token ids of a text, without special tokens; safe in any thread."""
        with self._tokenizer_lock:
            # Not verbose: a text that is too long is refused in the words of this package, and needs no warning before it.
            ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _tokenize_statement(self, name: str, property_name: str, value: str) -> StatementTokens:
        with self._tokenizer_lock:
            return self._statements(Triple(name, property_name, value))

    def snapshot_of(self, kb: KB) -> KBSnapshot:
        """Return the KB as it is now, checked to fit the sentence encoder.

        Raises:
            EncoderMismatchError: the KB was made with another sentence encoder.
        """
        snapshot = kb.snapshot() if isinstance(kb, KnowledgeBase) else kb
        if not isinstance(snapshot, KBSnapshot):
            raise ConfigurationError(
                f"expected a KnowledgeBase or its snapshot, got {type(kb).__name__}: open it with KnowledgeBase.open"
            )
        if snapshot.encoder_fingerprint != self.encoder.fingerprint:
            raise EncoderMismatchError(
                f"the knowledge base was made with the sentence encoder {snapshot.encoder_fingerprint}, the model "
                f"uses {self.encoder.fingerprint}: export the KB and import it into a new one"
            )
        return snapshot

    def _search_of(self, table: KeyTable) -> KeySearch:
        return self.indexes.of(table) if isinstance(table, KBSnapshot) else EveryKey(table)

    def _prefill_seconds(self) -> float:
        """Measure the prefill of a short prompt by the base model alone."""
        ids = torch.ones((1, _PREFILL_TOKENS), dtype=torch.long, device=self.lm.device)
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            with torch.no_grad():
                self.lm(input_ids=ids, use_cache=False).logits[0, -1, 0].item()  # waits for a GPU
            times.append(time.perf_counter() - begun)
        return min(times)

    def new_state(
        self, rows: Sequence[Row], threshold: float | None, max_hops: int = 1, unknown: Unknown = "refuse"
    ) -> KnowledgeState:
        """Return the attention state of a new call.

        Raises:
            ConfigurationError: the threshold is not between 0 and 1, there is less than one hop, or what happens with
                an unknown turn is neither "refuse" nor "base".
        """
        chosen = self.adapter.config.refusal_threshold if threshold is None else threshold
        if not isinstance(chosen, int | float) or not 0.0 < chosen < 1.0:
            raise ConfigurationError(f"refusal_threshold: expected above 0 and below 1, got {chosen!r}")
        if not isinstance(max_hops, int) or isinstance(max_hops, bool) or max_hops < 1:
            raise ConfigurationError(f"max_hops: expected an integer above 0, got {max_hops!r}")
        if unknown not in UNKNOWN:
            raise ConfigurationError(f'unknown: expected "refuse" or "base", got {unknown!r}')
        return self.state_type(
            self.adapter,
            self.retriever,
            _Statements(self),
            lambda: self._unembedding,
            rows,
            float(chosen),
            max_hops,
            unknown,
        )


class _Statements:
    """The engine's statement tokenizer, cached and locked."""

    def __init__(self, engine: KBLaM) -> None:
        self._engine = engine
        self.null = engine._statements.null

    def __call__(self, triple: Triple) -> StatementTokens:
        return self._engine._statement_of(triple.name, triple.property, triple.value)


def _end_ids(loaded: LoadedModel) -> frozenset[int]:
    return loaded.end_ids


def _turn_end(loaded: LoadedModel, end_ids: frozenset[int]) -> int:
    """Return the end that statements are trained with."""
    return loaded.turn_end
