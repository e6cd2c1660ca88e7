"""The comparison learns from questions written by hand, each against the other triples of its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.training.comparison import SiblingQuestions, train_comparison
from kblam_engine.training.lexicon import load_lexicon
from kblam_engine.training.reading import RememberingEncoder
from kblam_engine.training.samples import Sample
from kblam_engine.training.worlds import Known, World
from kblam_engine.training.written import Written
from kblam_engine.triples import Triple


def written() -> Written:
    triples = [
        Triple("Orca 2", "battery life", "11 hours"),
        Triple("Orca 2", "maker", "Acme"),
        Triple("Narwhal", "maker", "Zephyr"),
        Triple("Orca 2", "weight", "3 kg"),
    ]
    world = World(
        tuple(Known(t, None, 0 if t.name == "Orca 2" else 1) for t in triples), ((0, 1, 3), (2,))
    )

    def asks(text: str, *supports: int) -> Sample:
        return Sample("simple", ({"role": "user", "content": text},), supports, None)

    questions = (
        asks("how long does the Orca 2 last", 0),
        asks("who built the Orca 2", 1),
        asks("who built the Narwhal", 2),
        asks("who built both", 1, 2),
        asks("what does the Walrus weigh"),
    )
    return Written(world, questions, (0, 0, 1, 1, 1))


def mask(text: str, name: str) -> str:
    return text.replace(f"the {name}", "it")


def test_questions_come_with_the_triples_of_their_name(hashing_encoder: Any) -> None:
    asked = SiblingQuestions.of(written(), hashing_encoder, mask)
    assert asked.siblings.tolist() == [[0, 1, 3], [1, 0, 3], [2, -1, -1]]
    assert asked.sets.tolist() == [0, 0, 1]
    wanted = hashing_encoder.encode(["how long does it last", "who built it", "who built it"])
    assert np.array_equal(asked.questions.numpy(), wanted)
    assert asked.outside(0, 2).siblings.tolist() == [[2, -1, -1]]


def test_only_siblings_compete(hashing_encoder: Any) -> None:
    asked = SiblingQuestions.of(written(), hashing_encoder, mask)
    dim = hashing_encoder.embed_dim
    maps = [torch.eye(dim), torch.eye(dim), torch.zeros(dim, dim)]
    # The Narwhal has one triple: nothing to tell apart, whatever the scores are.
    assert float(asked.loss(maps, torch.tensor([2]), 0.1)) == pytest.approx(0.0, abs=1e-6)
    assert float(asked.loss(maps, torch.tensor([0]), 0.1)) > 0.1


def test_written_questions_teach_what_the_lexicon_does_not(hashing_encoder: Any) -> None:
    asked = SiblingQuestions.of(written(), hashing_encoder, mask)
    lexicon = load_lexicon().fold(0, 40)[0]

    def loss_after(questions: SiblingQuestions | None) -> float:
        head = EvidenceHead(embed_dim=hashing_encoder.embed_dim)
        train_comparison(head, lexicon, hashing_encoder, questions, epochs=30, seed=0)
        maps = [head.question_map, head.property_map, head.value_map]
        torch.manual_seed(0)
        with torch.no_grad():
            return float(np.mean([float(asked.loss(maps, torch.tensor([0, 1]), 0.1)) for _ in range(20)]))

    assert loss_after(asked) < 0.5 * loss_after(None)


def test_no_text_is_encoded_twice(hashing_encoder: Any) -> None:
    seen: list[str] = []

    class Counting:
        name, fingerprint, embed_dim = "counting", "counting", hashing_encoder.embed_dim

        def encode(self, texts: Any, *, progress: bool = False) -> Any:
            seen.extend(texts)
            return hashing_encoder.encode(texts)

    encoder = RememberingEncoder(Counting())
    rows = encoder.encode(["a b", "c", "a b"])
    again = encoder.encode(["c", "d", "a b"])
    assert seen == ["a b", "c", "d"]
    assert np.array_equal(rows, hashing_encoder.encode(["a b", "c", "a b"]))
    assert np.array_equal(again, hashing_encoder.encode(["c", "d", "a b"]))
    assert encoder.encode([]).shape == (0, hashing_encoder.embed_dim)
