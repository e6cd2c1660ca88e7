"""Linear layers whose weights lie as bfloat16 products read them: the same outputs, to the bit, and no second copy."""

import pytest
import torch
from conftest import build_llama
from torch import nn
from torch.nn import functional

from kblam_engine import packed_weights
from kblam_engine.packed_weights import PackedLinear, linear, pack_linears, packed

needs_products = pytest.mark.skipif(not packed_weights._can_pack(), reason="torch has no packed products here")


@pytest.fixture
def llama():
    torch.manual_seed(0)
    return build_llama().to(torch.bfloat16).eval()


@pytest.fixture
def weight():
    return torch.randn(100, 64, generator=torch.Generator().manual_seed(1)).bfloat16()


@needs_products
@pytest.mark.parametrize("shape", [(1, 64), (48, 64), (0, 64), (64,), (2, 5, 64)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_product_is_the_same_to_the_bit(weight, shape, has_bias):
    x, bias = torch.randn(shape).bfloat16(), torch.randn(100).bfloat16() if has_bias else None
    assert packed(weight).is_mkldnn
    torch.testing.assert_close(linear(x, packed(weight), bias), functional.linear(x, weight, bias), rtol=0, atol=0)
    torch.testing.assert_close(linear(x, weight, bias), functional.linear(x, weight, bias), rtol=0, atol=0)


@needs_products
def test_inputs_may_lie_in_any_order(weight):
    x = torch.randn(64, 7, 3).bfloat16().permute(2, 1, 0)
    torch.testing.assert_close(linear(x, packed(weight), None), functional.linear(x, weight), rtol=0, atol=0)


@pytest.mark.parametrize("other", [lambda w: w.float(), lambda w: w[0], lambda w: w.to("meta")])
def test_other_weights_stay_as_they_are(weight, other):
    assert packed(other(weight)) is not None and not packed(other(weight)).is_mkldnn


def test_without_such_products_nothing_is_packed(llama, weight, monkeypatch):
    monkeypatch.setattr(packed_weights, "_can_pack", lambda: False)
    assert packed(weight) is weight
    assert pack_linears(llama) == 0


@pytest.mark.parametrize("fault", ["raises", "differs"])
def test_products_that_cannot_be_trusted_are_not_used(fault, monkeypatch):
    def broken(found):
        if fault == "raises":
            raise RuntimeError("no such operator")
        return torch.zeros_like(found)

    monkeypatch.setattr(packed_weights, "_packed", broken)
    packed_weights._can_pack.cache_clear()
    assert not packed_weights._can_pack()
    packed_weights._can_pack.cache_clear()


@needs_products
def test_a_model_answers_the_same_to_the_bit(llama):
    ids = torch.randint(0, llama.config.vocab_size, (2, 9))
    with torch.no_grad():
        before = llama(ids).logits
        n_layers = sum(type(module) is nn.Linear for module in llama.modules())
        assert pack_linears(llama) == n_layers > 0
        assert not any(type(module) is nn.Linear for module in llama.modules())
        torch.testing.assert_close(llama(ids).logits, before, rtol=0, atol=0)
        assert llama.generate(ids, max_new_tokens=3, do_sample=False).shape == (2, 12)
    assert pack_linears(llama) == 0


@needs_products
def test_only_the_head_keeps_its_weight(llama):
    head, before = llama.get_output_embeddings().weight, llama.model.layers[0].mlp.up_proj.weight.clone()
    pack_linears(llama)
    assert llama.get_output_embeddings().weight.data_ptr() == head.data_ptr()
    layer = llama.model.layers[0].mlp.up_proj
    assert isinstance(layer, PackedLinear) and not list(layer.parameters()) and not layer.state_dict()
    torch.testing.assert_close(layer.weight, before, rtol=0, atol=0)
    assert "up_proj): PackedLinear(in_features=" in str(llama)


@needs_products
def test_gradients_of_the_input_are_those_of_the_layer(weight):
    layer = nn.Linear(64, 100).bfloat16().requires_grad_(False)
    x = torch.randn(3, 64).bfloat16()
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    layer(one).sum().backward()
    PackedLinear(layer, keep=False)(other).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)
    torch.testing.assert_close(
        PackedLinear(layer.float(), keep=False)(x.float()), functional.linear(x.float(), layer.weight, layer.bias)
    )


@needs_products
def test_a_question_encoder_embeds_the_same_to_the_bit(monkeypatch):
    from kblam_engine.low_rank import LowRankUpdate
    from kblam_engine.sentence_encoder import load_sentence_encoder

    encoder = load_sentence_encoder("all-minilm-l6-v2")
    update = LowRankUpdate(encoder.update_config(2))
    texts = ["Who founded Acme?", "How long does the battery of the Orca 2 last, and what does it cost in Norway?"]
    with_packed = encoder.updated(update, torch.bfloat16)
    assert with_packed._layers[0].up[0].is_mkldnn and not with_packed._layers[0].norm[0].is_mkldnn
    found = with_packed.encode(texts)
    monkeypatch.setattr(packed_weights, "_can_pack", lambda: False)
    plain = encoder.updated(update, torch.bfloat16)
    assert not plain._layers[0].up[0].is_mkldnn
    assert (plain.encode(texts) == found).all()
