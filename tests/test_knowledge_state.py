"""One call's view of its KBs: which triples are laid out for the KB layers, and which are not."""

import pytest
import torch
from conftest import build_llama
from engine_parts import QUESTION, build_engine, user

from kblam_engine.gating import OPEN_FLOOR
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.knowledge_state import Row
from kblam_engine.native_layout import MIN_LOG_GATE
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.statements import Role

REFUSE, ANSWER = 1 - 1e-12, 1e-6


@pytest.fixture(scope="module")
def engine(tiny_tokenizer):
    made = build_engine(build_llama(), tiny_tokenizer)
    yield made
    made.injection.detach()


def selected(engine, kbs, threshold, question=QUESTION, copies=1):
    """Return the state of a call after its prompt has come in, one row per KB."""
    rows = [Row(user(question), None if kb is None else engine.snapshot_of(kb)) for kb in kbs]
    state = engine.new_state(rows, threshold)
    state.on_input_ids(torch.tensor([engine.prompt_ids(user(question))] * len(rows) * copies))
    state.select()  # which waits where it goes on beside the forward pass
    return state


def laid_out(state, row=0):
    """Return the ids of the statements in a row, one list per slot."""
    tokens = state._native.reader.tokens
    mask, slots = tokens.mask[row], tokens.slots[row]
    return [tokens.ids[row, mask & (slots == slot)].tolist() for slot in slots[mask].unique()]


def statement(engine, triple):
    return list(engine._statements(triple).ids)


def test_refused_question_lays_out_only_the_null_triple(engine, memory_kb):
    state = selected(engine, [memory_kb], REFUSE)
    (selection,) = state.selections
    assert selection.gates.refused and selection.gates.n_open == 0
    assert len(selection.retrieved.triples) == 6, "the candidates are still known"
    null = engine._statements.null
    assert laid_out(state) == [list(null.ids)]
    tokens = state._native.reader.tokens
    assert tokens.roles[0].tolist() == list(null.roles) and Role.VALUE_FIRST not in tokens.roles
    assert (tokens.gates > OPEN_FLOOR).all()
    assert [len(a) for a in state.attention] == [1]


def test_empty_kb_lays_out_only_the_null_triple(engine):
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as empty:
        state = selected(engine, [empty], ANSWER)
    assert state.selections[0].gates.refused
    assert laid_out(state) == [list(engine._statements.null.ids)]


def test_answered_question_lays_out_the_open_triples_and_no_null_triple(engine, memory_kb):
    state = selected(engine, [memory_kb], ANSWER)
    (selection,) = state.selections
    n = selection.gates.n_open
    assert n == len(selection.gates.triples) == engine.adapter.config.n_select
    assert laid_out(state) == [statement(engine, t) for t in selection.retrieved.triples[:n]]
    tokens = state._native.reader.tokens
    assert not (tokens.roles == Role.NULL_BEGIN).any()
    assert (tokens.gates[tokens.mask] > MIN_LOG_GATE).all()


def test_shut_triples_are_not_laid_out(engine, memory_kb):
    """A threshold between the best and the second best candidate leaves one triple."""
    probabilities = selected(engine, [memory_kb], ANSWER).selections[0].retrieved.probabilities
    assert probabilities[0] > probabilities[1] + 1e-4
    state = selected(engine, [memory_kb], float(probabilities[:2].mean()))
    (selection,) = state.selections
    assert selection.gates.n_open == 1 and len(selection.gates.triples) == 4
    assert laid_out(state) == [statement(engine, selection.retrieved.triples[0])]


def test_triples_that_are_not_laid_out_have_no_weight_in_the_answer(engine, memory_kb):
    probabilities = selected(engine, [memory_kb], ANSWER).selections[0].retrieved.probabilities
    answer = engine.answer(
        QUESTION, memory_kb, max_new_tokens=8, refusal_threshold=float(probabilities[:2].mean())
    )
    weights = [a.weight for a in answer.attended]
    assert len(weights) == 4 and weights[0] > 0 and weights[1:] == [0.0] * 3
    refused = engine.answer(QUESTION, memory_kb, max_new_tokens=8, refusal_threshold=REFUSE)
    assert refused.refused and {a.weight for a in refused.attended} == {0.0}
    assert all(a.spans == () for a in refused.attended)


def test_row_without_a_kb_has_no_tokens(engine, memory_kb):
    state = selected(engine, [None, memory_kb], ANSWER)
    tokens = state._native.reader.tokens
    assert not tokens.mask[0].any() and tokens.mask[1].any()
    assert not state.selections[0].gates.refused
    hidden = torch.zeros(2, 1, 64)
    logits, _ = state._native.reader.block(2, hidden)
    assert logits[0].isneginf().all()


def test_every_copy_of_a_row_has_its_tokens(engine, memory_kb):
    state = selected(engine, [memory_kb, None], ANSWER, copies=3)
    tokens = state._native.reader.tokens
    assert len(tokens.ids) == 6
    assert tokens.mask[:3].any(1).all() and not tokens.mask[3:].any()
    assert torch.equal(tokens.ids[0], tokens.ids[2])
