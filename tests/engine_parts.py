"""A tiny engine for tests: random Llama, hashing encoder, random adapter strong enough to change every answer."""

import pytest
import torch
from conftest import build_llama

from kblam_engine.adapter import AdapterConfig, KnowledgeAdapter
from kblam_engine.engine import KBLaM
from kblam_engine.models import LoadedModel
from kblam_engine.native_tokens import NativeTokenConfig
from kblam_engine.sentence_encoder import HashingEncoder

BASE = "tiny-llama:test"
QUESTION = "What is the battery life of the Orca 2?"
SHORT = {"max_new_tokens": 12}


def adapter_config(encoder=None, *, layers=(2, 3), retrieval_layer=None, **overrides):
    encoder = encoder or HashingEncoder()
    options = {
        "base_model": "tiny-llama",
        "base_fingerprint": BASE,
        "encoder": encoder.name,
        "encoder_fingerprint": encoder.fingerprint,
        "embed_dim": encoder.embed_dim,
        "native": NativeTokenConfig(layers, hidden_size=64, n_heads=4, head_dim=16, key_dim=8),
        "evidence_hidden": 4,
        "refusal_threshold": 0.5,
        "n_select": 4,
        "retrieval_layer": retrieval_layer,
    }
    return AdapterConfig(**{**options, **overrides})


def random_adapter(config, seed=0, scale=0.3):
    """Return an adapter with noise on every trained tensor, rounded to what a checkpoint can hold."""
    with torch.random.fork_rng(devices=[]):  # what other tests drew must not matter
        torch.manual_seed(seed)
        adapter = KnowledgeAdapter(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in adapter.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator) * scale
            if name.endswith("_map"):
                noise = noise / 10
            tensor.add_(noise).copy_(tensor.bfloat16().float())
        adapter.native.value.mul_(3.0)
        adapter.evidence.scale.fill_(1.0)
    return adapter.eval().requires_grad_(False)


def engine_with(model, tokenizer, adapter, encoder=None):
    """Return an engine of a tiny model, which goes as the one that the adapter was made for."""
    loaded = LoadedModel(model, tokenizer, "tiny-llama", BASE, torch.float32, torch.device("cpu"))
    return KBLaM(loaded, encoder or HashingEncoder(), adapter)


def build_engine(model, tokenizer, encoder=None, **options):
    encoder = encoder or HashingEncoder()
    return engine_with(model, tokenizer, random_adapter(adapter_config(encoder, **options)), encoder)


@pytest.fixture(name="engine", scope="module", params=[None, 1], ids=["sentence embeddings", "hidden state too"])
def engine_fixture(request, tiny_tokenizer):
    """An engine; its refusal threshold is low, so that answers attend to triples."""
    made = build_engine(build_llama(), tiny_tokenizer, retrieval_layer=request.param, refusal_threshold=1e-6)
    yield made
    made.injection.detach()


def copying_engine(tokenizer, n_select=1):
    """Return an engine whose adapter only copies: the untrained start, its value maps from the model's own weights.

    The model writes nothing of its own: attention and MLP outputs are small, and the KB layer's is large. The more of
    a key a question says, the more probable its triple; every triple that is selected is open.
    """
    llama = build_llama(initializer_range=0.15)
    with torch.no_grad():
        for layer in llama.model.layers:
            layer.mlp.down_proj.weight.mul_(0.0)
        llama.model.embed_tokens.weight.copy_(
            torch.linalg.qr(torch.randn(320, 64, generator=torch.Generator().manual_seed(1)))[0] * 4
        )
    config = adapter_config(n_select=n_select, refusal_threshold=0.5)
    adapter = random_adapter(config, scale=0.0)
    adapter.native.initialise_from(
        llama.get_output_embeddings().weight,
        [llama.model.layers[i].self_attn.o_proj.weight for i in config.native.layers],
        [200.0, 200.0],
    )
    with torch.no_grad():
        adapter.native.role_bias.add_(8.0)
        adapter.evidence.direct.weight.zero_()
        adapter.evidence.inner.weight.zero_()
        adapter.evidence.outer.weight.zero_()
        adapter.evidence.outer.bias.fill_(2.0)
        adapter.evidence.direct.weight[0, 0] = 3.0
    return engine_with(llama, tokenizer, adapter)


COMMON = "the of is it a in what who and".split()


def token_ids(text):
    """Stand in for a tokenizer: common words are early single tokens, others come in pieces of two letters."""
    word = text.strip().lower()
    return [COMMON.index(word)] if word in COMMON else [1000 + i for i in range(0, len(word), 2)]


def user(text):
    return [{"role": "user", "content": text}]


def same(a, b):
    """Whether two answers are equal but for rounding and time."""
    assert (a.text, a.refused, a.usage, a.finish_reason) == (b.text, b.refused, b.usage, b.finish_reason)
    assert a.confidence == pytest.approx(b.confidence, abs=1e-4)
    assert {x.id: x.spans for x in a.attended} == {x.id: x.spans for x in b.attended}
    weights = {x.id: x.weight for x in b.attended}
    assert {x.id: x.weight for x in a.attended} == pytest.approx(weights, abs=1e-3)
