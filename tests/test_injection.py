"""The seam into transformers, on tiny random models of many families."""

import threading

import pytest
import torch
from injection_parts import FAMILIES, Notes, build, logits, prompts
from transformers import StaticCache

from kblam_engine.attention import KBBlock
from kblam_engine.errors import ConfigurationError, SeamError
from kblam_engine.injection import ATTENTION_NAME, KBCache, KBState, attach


@pytest.fixture
def llama():
    model = build()
    injection = attach(model)
    yield model, injection
    injection.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_no_kb_is_the_stock_model_bitwise(family):
    model = build(family)
    ids, mask = prompts()
    padded = mask.clone()
    padded[1, :4] = 0
    options = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True}
    options["output_logits"] = True

    def everything():
        static = StaticCache(config=model.config, max_cache_len=24)
        runs = [logits(model, ids), logits(model, ids, mask), logits(model, ids, padded)[padded.bool()]]
        runs.append(logits(model, ids, mask, past_key_values=static))
        for extra in ({}, {"num_beams": 3}):
            runs.extend(model.generate(ids, attention_mask=padded, **options, **extra).logits)
        return runs

    stock = everything()
    injection = attach(model)
    assert model.config._attn_implementation == ATTENTION_NAME
    attached = everything()
    with injection.use(Notes(model, [], [1])):
        idle = everything()
    injection.detach()
    for a, b, c, d in zip(stock, attached, idle, everything(), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c) and torch.equal(a, d)


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decoding_equals_one_forward(family):
    model = build(family)
    injection = attach(model)
    ids, _ = prompts(2, 12)
    with injection.use(Notes(model, [0, 2], [3, 4])):
        full = logits(model, ids)
    for cache in (None, StaticCache(config=model.config, max_cache_len=20)):
        with injection.use(Notes(model, [0, 2], [3, 4])), torch.no_grad():
            output = model(input_ids=ids[:, :7], past_key_values=cache, use_cache=True)
            pieces = [output.logits]
            # One token, then several at once: speculative decoding does that.
            for start, stop in ((7, 8), (8, 9), (9, 12)):
                output = model(input_ids=ids[:, start:stop], past_key_values=output.past_key_values)
                pieces.append(output.logits)
        assert torch.allclose(torch.cat(pieces, 1), full, atol=2e-5)
    assert not torch.allclose(full, logits(model, ids), atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_left_padding_and_mixed_kbs_equal_single_runs(family):
    model = build(family)
    injection = attach(model)
    ids, mask = prompts(3, 9)
    mask[1, :4], mask[2, :1] = 0, 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with injection.use(Notes(model, [0, 1], [1, 2, 3])):
        batch = logits(model, ids, mask, position_ids=positions)
    for row in range(3):
        with injection.use(Notes(model, [0, 1], [row + 1])):
            alone = logits(model, ids[row : row + 1, mask[row].bool()])
        assert torch.allclose(batch[row, mask[row].bool()], alone[0], atol=2e-5)


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma2", "Gemma3Text"])
def test_joint_softmax_equals_concatenation(family, monkeypatch):
    """A block made of the prompt's own keys and values must act as a copy of the prompt in the softmax."""
    model = build(family, num_hidden_layers=2)
    injection = attach(model)
    ids, mask = prompts(2, 3)
    mask[1, :1] = 0
    seen = {}

    class Halved(KBState):
        layers = frozenset({0, 1})

        def extend(self, layer, hidden, prompt_logsumexp):
            seen[layer] = prompt_logsumexp
            module = injection.layers[layer]
            # The weight of the KB is a half everywhere, and its value 0: the output is half the prompt's.
            values = torch.zeros(1, prompt_logsumexp.shape[1], 1, module.head_dim)
            return KBBlock(prompt_logsumexp[..., None], values)

    with injection.use(Halved()):
        halved = logits(model, ids, mask)
    monkeypatch.undo()
    injection.detach()
    handles = []
    for module in injection.layers.values():
        handles.append(module.o_proj.register_forward_pre_hook(lambda _, args: (args[0] / 2,)))
    assert torch.allclose(halved[mask.bool()], logits(model, ids, mask)[mask.bool()], atol=1e-5)
    assert all(total.isfinite().all() for total in seen.values())


def test_state_sees_ids_hidden_states_and_weights(llama):
    model, injection = llama
    ids, _ = prompts()
    state = Notes(model, [1], [5, 6])
    state.watch = frozenset({0, 2})
    with injection.use(state):
        assert injection.state is state
        logits(model, ids)
    assert injection.state is None
    assert torch.equal(state.ids[0], ids)
    assert sorted(state.hidden) == [0, 2] and state.hidden[0].shape == (2, 9, 32)
    weights = state.weights[1]
    assert weights.shape == (2, 4, 9, 5) and (weights.sum(-1) < 1).all()


@pytest.mark.parametrize("family", ["Llama", "Phi3"])
def test_beam_search_with_different_kbs_equals_single_runs(family):
    model = build(family)
    injection = attach(model)
    ids, mask = prompts(2, 6)
    options = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    options |= {"min_new_tokens": 6, "max_new_tokens": 6}

    def run(row_ids, row_mask, seeds):
        state = Notes(model, [0, 2], seeds)
        with injection.use(state):
            cache = KBCache(state, config=model.config)
            return model.generate(row_ids, attention_mask=row_mask, past_key_values=cache, **options), state

    both, state = run(ids, mask, [1, 2])
    assert state.rows.tolist() == [0, 0, 0, 1, 1, 1]
    for row in range(2):
        alone, _ = run(ids[row : row + 1], mask[:1], [row + 1])
        assert torch.equal(both[2 * row : 2 * row + 2], alone)


def test_cache_reorders_its_state(llama):
    model, injection = llama
    ids, _ = prompts(3)
    state = Notes(model, [0], [1, 2, 3])
    cache = KBCache(state, config=model.config)
    with injection.use(state):
        logits(model, ids, past_key_values=cache, use_cache=True)
        cache.reorder_cache(torch.tensor([2, 0, 0]))
        assert state.rows.tolist() == [2, 0, 0]
        cache.batch_select_indices(torch.tensor([1]))
        cache.batch_repeat_interleave(2)
        assert state.rows.tolist() == [0, 0]
        after = logits(model, torch.tensor([[7], [7]]), past_key_values=cache)
    with injection.use(Notes(model, [0], [1])):
        expected = logits(model, torch.cat([ids[:1], torch.tensor([[7]])], 1))
    assert torch.allclose(after[0, -1], expected[0, -1], atol=1e-5)
    assert torch.equal(after[0], after[1])


def test_threads_and_states_do_not_cross(llama):
    model, injection = llama
    ids, mask = prompts(1, 6)

    def answer(seed):
        with injection.use(None if seed is None else Notes(model, [0, 1, 2], [seed])):
            return model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)

    seeds = [None, 1, 2, 3]
    serial = {seed: answer(seed) for seed in seeds}
    assert len({tuple(answer[0].tolist()) for answer in serial.values()}) == 4
    wrong = []

    def work(offset):
        for turn in range(5):
            seed = seeds[(turn + offset) % 4]
            if not torch.equal(answer(seed), serial[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_states_nest_and_belong_to_one_model(llama):
    model, injection = llama
    other = build(num_hidden_layers=2)
    second = attach(other)
    ids, _ = prompts()
    plain, other_plain = logits(model, ids), logits(other, ids)
    outer = Notes(model, [0], [1, 2])
    with injection.use(outer):
        changed = logits(model, ids)
        assert torch.equal(logits(other, ids), other_plain)
        with injection.use(None):
            assert torch.equal(logits(model, ids), plain)
        with second.use(Notes(other, [1], [1, 2])):
            assert torch.equal(logits(model, ids), changed)
            assert not torch.equal(logits(other, ids), other_plain)
        assert injection.state is outer


def test_a_state_is_gone_after_an_error(llama):
    model, injection = llama
    with pytest.raises(RuntimeError, match="stop"), injection.use(Notes(model, [0], [1])):
        raise RuntimeError("stop")
    assert injection.state is None


def test_gradients_reach_the_state_and_the_prompt(llama):
    model, injection = llama
    model.requires_grad_(False)
    ids, mask = prompts()
    mask[1, :4] = 0
    state = Notes(model, [0, 2], [1, 2])
    state.keys = [key.requires_grad_() for key in state.keys]
    state.values = [value.requires_grad_() for value in state.values]
    with injection.use(state):
        loss = model(input_ids=ids, attention_mask=mask).logits[mask.bool()].square().mean()
        loss.backward()
    for tensor in state.keys + state.values:
        assert tensor.grad.isfinite().all() and tensor.grad.abs().max() > 0


def test_gradient_checkpointing_gives_the_same_gradients(llama):
    model, injection = llama
    ids, _ = prompts()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
            model.train()
        state = Notes(model, [0, 2], [1, 2])
        state.values[0].requires_grad_()
        with injection.use(state):
            model(input_ids=ids, use_cache=False).logits.square().mean().backward()
        gradients.append(state.values[0].grad)
    assert torch.allclose(*gradients, atol=1e-7)


def test_detach_leaves_nothing_behind():
    model = build()
    injection = attach(model)
    injection.detach()
    injection.detach()
    assert model.config._attn_implementation == "sdpa"
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(SeamError, match="attach"), injection.use(None):
        pass
    attach(model).detach()


def test_attach_twice_is_an_error(llama):
    model, _ = llama
    with pytest.raises(SeamError, match="attached already"):
        attach(model)


def test_layers_of_another_model_are_refused(llama):
    model, injection = llama
    with pytest.raises(ConfigurationError, match=r"got \[7\]"), injection.use(Notes(model, [0, 7], [1])):
        pass


def test_attention_dropout_is_refused():
    model = build(attention_dropout=0.1)
    injection = attach(model)
    model.train()
    with pytest.raises(SeamError, match="eval"), injection.use(Notes(model, [0], [1, 2])):
        model(input_ids=prompts()[0])
