"""The hidden state's part of the KB query: pooled as an answer pools it, mapped by ridge regression."""

import numpy as np
import torch
from engine_parts import build_engine

from kblam_engine.kb_state import KBState
from kblam_engine.knowledge_state import pool_tail
from kblam_engine.training.hidden_query import SHARE, fit_query_map, hidden_states

LAYER = 2


class Watching(KBState):
    watch = frozenset({LAYER})

    def observe(self, layer, hidden):
        self.pooled = pool_tail(hidden)


PROMPTS = [list(range(5, 40)), list(range(3, 9)), list(range(60, 80))]


def test_states_are_those_that_an_answer_sees(injection):
    """Whatever else is in the batch and however it is padded."""
    rows = hidden_states(injection, PROMPTS, LAYER)
    assert rows.shape == (3, injection.model.config.hidden_size)
    for prompt, row in zip(PROMPTS, rows, strict=True):
        if len(prompt) < 12:
            continue  # a chat prompt is never shorter than what is pooled
        state = Watching()
        with torch.no_grad(), injection.use(state):
            injection.decoder(input_ids=torch.tensor([prompt]))
        np.testing.assert_allclose(row, state.pooled[0].numpy(), atol=1e-5)


def test_layers_after_the_retrieval_layer_do_not_run(injection):
    ran = []
    for index, module in injection.layers.items():
        module.register_forward_hook(lambda *_, index=index: ran.append(index))
    hidden_states(injection, PROMPTS[:1], LAYER)
    assert ran == list(range(LAYER))


def test_progress_counts_prompts(injection):
    seen = []
    hidden_states(injection, [PROMPTS[0]] * 20, LAYER, seen.append)
    assert seen == [16, 20]


def test_the_map_recovers_a_linear_relation():
    draws = np.random.default_rng(0)
    hidden = draws.normal(3.0, 2.0, (4000, 8)).astype(np.float32)
    weight, bias = draws.normal(size=(5, 8)), draws.normal(size=5)
    fitted = fit_query_map(hidden, (hidden @ weight.T + bias).astype(np.float32), ridge=1e-3)
    np.testing.assert_allclose(fitted.weight, SHARE * weight, atol=1e-3)
    np.testing.assert_allclose(fitted.bias, SHARE * bias, atol=1e-2)
    np.testing.assert_allclose(fitted(hidden[:3]), SHARE * (hidden[:3] @ weight.T + bias), atol=1e-2)


def test_a_heavy_penalty_leaves_the_mean():
    draws = np.random.default_rng(1)
    hidden, targets = draws.normal(size=(50, 4)).astype(np.float32), draws.normal(size=(50, 3)).astype(np.float32)
    fitted = fit_query_map(hidden, targets, ridge=1e9)
    np.testing.assert_allclose(fitted(hidden), np.tile(SHARE * targets.mean(0), (50, 1)), atol=1e-4)


def test_an_engine_with_a_hidden_query_ranks_by_it(tiny_llama, tiny_tokenizer, memory_kb):
    """The map's output joins the score of every key: one that points at a key brings that key to the front."""
    engine = build_engine(tiny_llama, tiny_tokenizer, retrieval_layer=1)
    snapshot = memory_kb.snapshot()
    at = len(snapshot) - 1
    with torch.no_grad():
        engine.adapter.hidden_query.weight.zero_()
        engine.adapter.hidden_query.bias.copy_(torch.from_numpy(10 * snapshot.key_embeddings[at].astype(np.float32)))
    hidden = engine.adapter.query_of(torch.zeros(1, tiny_llama.config.hidden_size))
    candidates, positions, _ = engine.retriever.examine(
        [{"role": "user", "content": "anything"}], snapshot, hidden[0].numpy()
    )
    assert positions[0] == at and candidates[0].cos_hidden > 9
