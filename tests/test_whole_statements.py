"""Answers mix no two statements: a line that has begun as one goes on as one, whatever the model would write."""

import pytest
import torch
from engine_parts import copying_engine

from kblam_engine.forward import Forward
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Triple

NESTED = [Triple("Orca", "price", "49 euros"), Triple("Orca 2", "price", "89 euros")]
OTHERS = [Triple("Brisa Fan", "weight", "3 kg"), Triple("Brisa Fan Mini", "weight", "2 kg")]


@pytest.fixture(scope="module", name="engine")
def engine_fixture(tiny_tokenizer):
    made = copying_engine(tiny_tokenizer, n_select=2)
    yield made
    made.injection.detach()


@pytest.fixture(autouse=True)
def a_model_that_writes_anything(monkeypatch, engine):
    """Have the model begin with "The" and then write random tokens."""
    original, generator = Forward.__call__, torch.Generator().manual_seed(0)
    first = engine.token_ids("The")[0]

    def anything(self, new_ids, scope):
        logits = original(self, new_ids, scope)
        noise = torch.randn(logits.shape, generator=generator)
        if new_ids is None:
            noise[:, first] = 100.0
        return noise

    monkeypatch.setattr(Forward, "__call__", anything)


def kb_of(triples):
    kb = KnowledgeBase.open(":memory:", encoder=HashingEncoder())
    kb.add(triples)
    return kb


def begins_whole(text, triples):
    return any(text.startswith(triple.statement) for triple in triples)


@pytest.mark.parametrize("seed", range(4))
def test_a_statement_is_written_to_its_end(engine, seed):
    with kb_of(NESTED) as kb:
        sampled = {} if not seed else {"temperature": 1.0, "seed": seed}
        answer = engine.answer("What is the price of the Orca and of the Orca 2?", kb, max_new_tokens=60, **sampled)
    assert begins_whole(answer.text, NESTED), answer.text


def test_each_row_of_a_batch_keeps_to_its_own(engine):
    questions = ["What is the price of the Orca 2?", "What is the weight of the Brisa Fan?", "Hello?"]
    with kb_of(NESTED) as kb, kb_of(OTHERS) as other:
        answers = engine.answer_batch(questions, [kb, other, None], max_new_tokens=60)
    assert begins_whole(answers[0].text, NESTED) and begins_whole(answers[1].text, OTHERS)
    assert not begins_whole(answers[2].text, [*NESTED, *OTHERS])  # without a knowledge base nothing is held


def test_what_does_not_begin_as_a_statement_is_free(engine, monkeypatch):
    written = Forward.__call__  # random from here on, "The" no more likely than anything

    def without_first(self, new_ids, scope):
        logits = written(self, new_ids, scope)
        return logits.masked_fill(logits >= 100.0, -1.0)

    monkeypatch.setattr(Forward, "__call__", without_first)
    with kb_of(NESTED) as kb:
        answer = engine.answer("What is the price of the Orca 2?", kb, max_new_tokens=20)
    assert answer.usage.completion_tokens > 1 and not begins_whole(answer.text, NESTED)
