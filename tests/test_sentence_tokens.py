"""Sentence tokens through a whole tiny model: trainable, and the same answer in every form."""

from dataclasses import replace

import pytest
import torch
import transformers

from kblam_engine.errors import ConfigurationError, SeamError
from kblam_engine.injection import KBCache, attach
from kblam_engine.sentence_tokens import SentenceTokenAdapter, SentenceTokenConfig, SentenceTokenState

EMBED = 16
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}


def build(family="Llama", **options):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval().requires_grad_(False)
    injection = attach(model)
    adapter = SentenceTokenAdapter.from_injection(injection, EMBED, **options)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if name.endswith("map"):
                parameter.mul_(6)  # A random model hardly listens; a loud KB makes a difference visible.
    return model, injection, adapter


def kb(size, seed):
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, size, EMBED, generator=generator)
    return torch.nn.functional.normalize(keys, dim=-1), torch.nn.functional.normalize(values, dim=-1)


def state_of(adapter, *kbs, **options):
    return SentenceTokenState(adapter, [keys for keys, _ in kbs], [values for _, values in kbs], **options)


def with_config(adapter, **options):
    """The same tensors under other rules."""
    other = SentenceTokenAdapter(replace(adapter.config, **options))
    other.load_state_dict(adapter.state_dict())
    return other


def run(model, injection, state, ids, mask=None, **options):
    with injection.use(state), torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, **options).logits


IDS = torch.randint(3, 64, (3, 8), generator=torch.Generator().manual_seed(1))


def test_query_heads_start_as_the_layers_own():
    model, injection, adapter = build()
    assert adapter.config.kb_layers == (0, 3) and sorted(adapter.layers) == ["0", "3"]
    layer = adapter.layer(3)
    assert torch.equal(layer.query_weight, model.model.layers[3].self_attn.q_proj.weight)
    hidden = torch.randn(2, 5, 32)
    own = model.model.layers[3].self_attn.q_proj(hidden).view(2, 5, 4, 8).transpose(1, 2)
    assert torch.allclose(layer.query(hidden), own, atol=1e-6)


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "Phi3", "Gemma"])
def test_other_families(family):
    model, injection, adapter = build(family)
    assert ("layers.0.query_bias" in adapter.state_dict()) is (family == "Qwen2")
    plain = run(model, injection, None, IDS)
    assert not torch.allclose(run(model, injection, state_of(adapter, kb(5, 1)), IDS), plain, atol=1e-3)


def test_names_and_shapes_of_what_is_saved():
    _, _, adapter = build(token_heads="kv")
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()}
    assert shapes == {
        f"layers.{index}.{name}": shape
        for index in (0, 3)
        for name, shape in (("key_map", (16, EMBED)), ("value_map", (16, EMBED)), ("query_weight", (32, 32)))
    }


@pytest.mark.parametrize("key_norm", [True, False])
@pytest.mark.parametrize("token_heads", ["query", "kv"])
def test_absorbed_equals_materialised_through_the_model(token_heads, key_norm):
    model, injection, adapter = build(token_heads=token_heads, key_norm=key_norm)
    outputs = []
    for form in ("absorbed", "materialised", "auto"):
        state = state_of(with_config(adapter, form=form), kb(6, 1), kb(3, 2), kb(6, 3))
        outputs.append(run(model, injection, state, IDS))
    assert torch.allclose(outputs[0], outputs[1], atol=1e-5) and torch.equal(outputs[1], outputs[2])
    assert not torch.allclose(outputs[0], run(model, injection, None, IDS), atol=1e-2)


@pytest.mark.parametrize("form", ["absorbed", "materialised"])
def test_a_batch_of_mixed_kbs_equals_single_runs(form):
    model, injection, adapter = build(form=form)
    kbs = [kb(6, 1), kb(2, 2), kb(0, 3)]
    mask = torch.ones_like(IDS)
    mask[0, :3], mask[1, :1] = 0, 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    mixed = run(model, injection, state_of(adapter, *kbs), IDS, mask, position_ids=positions)
    for row, one in enumerate(kbs):
        kept = mask[row].bool()
        alone = run(model, injection, state_of(adapter, one), IDS[row : row + 1, kept])
        assert torch.allclose(mixed[row, kept], alone[0], atol=1e-5)
    bare = run(model, injection, None, IDS[2:])
    assert torch.allclose(mixed[2:], bare, atol=1e-5)


def test_one_kb_serves_a_batch():
    model, injection, adapter = build()
    shared = run(model, injection, state_of(adapter, kb(5, 1)), IDS)
    assert torch.allclose(shared, run(model, injection, state_of(adapter, *[kb(5, 1)] * 3), IDS), atol=1e-5)


@pytest.mark.parametrize("form", ["absorbed", "materialised"])
def test_shuffled_removed_and_all_kept(form):
    model, injection, adapter = build(form=form)
    keys, values = kb(6, 1)
    dense = run(model, injection, state_of(adapter, (keys, values)), IDS)
    shuffled = run(model, injection, state_of(adapter, (keys.flip(0), values.flip(0))), IDS)
    assert torch.allclose(dense, shuffled, atol=1e-5)
    everything = state_of(with_config(adapter, top_k=6), (keys, values))
    assert torch.equal(run(model, injection, everything, IDS), dense)
    state = state_of(with_config(adapter, top_k=2), (keys, values), collect=True)
    assert not torch.allclose(run(model, injection, state, IDS), dense, atol=1e-3)
    assert sorted(state.weights) == [0, 3] and state.weights[0].shape == (3, 4, 8, 2)


def test_cached_decoding_equals_one_forward():
    model, injection, adapter = build()
    kbs = [kb(4, 1), kb(6, 2), kb(1, 3)]
    full = run(model, injection, state_of(adapter, *kbs), IDS)
    state, cache, pieces = state_of(adapter, *kbs), transformers.DynamicCache(config=model.config), []
    for start, stop in ((0, 5), (5, 6), (6, 7), (7, 8)):
        pieces.append(run(model, injection, state, IDS[:, start:stop], past_key_values=cache, use_cache=True))
    assert torch.allclose(torch.cat(pieces, 1), full, atol=1e-5)


def test_beams_carry_their_kb():
    model, injection, adapter = build()
    kbs = [kb(4, 1), kb(6, 2)]
    options = {"num_beams": 3, "min_new_tokens": 5, "max_new_tokens": 5, "do_sample": False}

    def search(ids, *own):
        state = state_of(adapter, *own)
        with injection.use(state):
            return model.generate(ids, past_key_values=KBCache(state, config=model.config), **options)

    both = search(IDS[:2], *kbs)
    for row in range(2):
        assert torch.equal(both[row : row + 1], search(IDS[row : row + 1], kbs[row]))


def test_reordering_moves_kbs_between_sequences():
    model, injection, adapter = build()
    state = state_of(adapter, kb(4, 1), kb(6, 2))
    state.repeat(2)
    state.reorder(torch.tensor([0, 1, 0, 3]))
    ids = IDS[:1].expand(4, -1)
    moved = run(model, injection, state, ids)
    assert torch.equal(moved[0], moved[2])
    expected = run(model, injection, state_of(adapter, kb(4, 1), kb(6, 2)), ids[:2])
    assert torch.allclose(moved[[0, 3]], expected, atol=1e-5)


def test_a_few_steps_lower_the_loss_of_the_answers():
    """Two KBs say different things about one question, so only the KB can tell the answers apart."""
    model, injection, adapter = build(kb_layer_stride=1)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    ids = torch.tensor([[1, 9, 10, 11, 20, 21], [1, 9, 10, 11, 30, 31]])
    labels = ids.masked_fill(torch.arange(6) < 4, -100)
    kbs = [kb(3, 1), kb(3, 2)]
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        with injection.use(state_of(adapter, *kbs)):
            loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in adapter.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert all(parameter.grad.abs().max() > 0 for parameter in adapter.parameters())
    first = run(model, injection, state_of(adapter, *kbs), ids)[:, 3].argmax(-1)
    assert first.tolist() == [20, 30]
    swapped = run(model, injection, state_of(adapter, *kbs[::-1]), ids)[:, 3].argmax(-1)
    assert swapped.tolist() == [30, 20]


def test_what_does_not_fit_is_refused():
    model, injection, adapter = build()
    good = adapter.config
    for options, message in (
        ({"kb_layer_stride": 0}, "kb_layer_stride"),
        ({"kb_scale": 0.0}, "kb_scale"),
        ({"token_heads": "all"}, "token_heads"),
        ({"form": "eager"}, "form"),
        ({"n_kv_heads": 3}, "divide"),
        ({"top_k": 0}, "top_k"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            replace(good, **options)
    assert SentenceTokenConfig.from_dict(good.to_dict()) == good
    with pytest.raises(ConfigurationError, match="newer"):
        SentenceTokenConfig.from_dict({**good.to_dict(), "colour": "red"})
    with pytest.raises(ConfigurationError, match="sentence encoder"):
        state_of(adapter, (torch.zeros(2, 5), torch.zeros(2, 5)))
    with pytest.raises(ConfigurationError, match="alike"):
        SentenceTokenState(adapter, [torch.zeros(2, EMBED)], [])
    with pytest.raises(ConfigurationError, match="multiple"):
        run(model, injection, state_of(adapter, kb(2, 1), kb(2, 2)), IDS)
    injection.layers[0].q_proj = None
    with pytest.raises(SeamError, match="q_proj"):
        SentenceTokenAdapter.from_injection(injection, EMBED)
