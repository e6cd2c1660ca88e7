"""A stand-in for `KBLaM` that answers by looking triples up, so that the harness is tested without weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import NamedTuple

from kblam_engine.evaluation.metrics import fold
from kblam_engine.search.indexes import Indexes
from kblam_engine.triples import Triple


class StubRetrieved(NamedTuple):
    id: int
    triple: Triple
    probability: float


@dataclass(frozen=True)
class StubAttended:
    triple: Triple
    weight: float


@dataclass(frozen=True)
class StubAnswer:
    text: str
    refused: bool = False
    confidence: float = 0.9
    attended: tuple = ()
    usage: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(prompt_tokens=10, completion_tokens=8)
    )
    finish_reason: str = "stop"
    ttft_ms: float = 10.0
    ms_per_token: float = 2.0


class StubModel:
    """Answers with the value of the triple that shares most words with the last message; refuses below two.

    Without a KB it copies the statement of its prompt that shares most words with the question.
    """

    def __init__(self, encoder, context=400):
        self.encoder = encoder
        self.indexes = Indexes("exact")
        self.lm = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=context))
        self.tokenizer = lambda texts, add_special_tokens: {"input_ids": [text.split() for text in texts]}
        self.asked_kb = []
        self.asked_base = []
        self.log = []
        self.batches = []

    def chat_prompt(self, messages):
        return " ".join(f"<{m['role']}> {m['content']}" for m in messages)

    def answer(self, question, kb=None, *, max_new_tokens=128, **options):
        self.asked_kb.append((question, options))
        self.log.append(("kb", question[-1]["content"]))
        snapshot = kb.snapshot() if hasattr(kb, "snapshot") else kb
        ranked = self._rank(question[-1]["content"], snapshot.triples(range(len(snapshot))))
        attended = tuple(StubAttended(triple, score / 10) for score, triple in ranked[:5])
        if not ranked or ranked[0][0] < 2:
            return StubAnswer("I am sorry.", True, 0.1, attended, ttft_ms=12.0, ms_per_token=2.2)
        return StubAnswer(ranked[0][1].statement, False, 0.9, attended, ttft_ms=12.0, ms_per_token=2.2)

    def answer_batch(self, questions, kbs=None, *, max_new_tokens=128, **options):
        self.batches.append(len(questions))
        if kbs is None:
            return [self.generate_text(question, max_new_tokens) for question in questions]
        return [self.answer(question, kbs, max_new_tokens=max_new_tokens, **options) for question in questions]

    def generate_text(self, messages, max_new_tokens):
        self.asked_base.append(messages)
        self.log.append(("base", messages[-1]["content"]))
        lines = messages[-1]["content"].splitlines()
        statements = lines[1:-2]
        if not statements:
            return StubAnswer("I don't know.")
        question = set(fold(lines[-1]))
        best = max(statements, key=lambda line: len(question & set(fold(line))))
        return StubAnswer(best)

    def retrieve(self, question, kb, k=10):
        snapshot = kb.snapshot() if hasattr(kb, "snapshot") else kb
        self.log.append(("retrieve", question))
        return [
            StubRetrieved(0, triple, score)
            for score, triple in self._rank(question, snapshot.triples(range(len(snapshot))))[:k]
        ]

    @staticmethod
    def _rank(text, triples):
        words = set(fold(text)) - {"what", "is", "the", "of"}
        scored = [(len(words & set(fold(t.key_text))), t) for t in triples]
        return sorted(scored, key=lambda pair: -pair[0])
