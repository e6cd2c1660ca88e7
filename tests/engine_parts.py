"""A tiny engine for tests: random Llama, hashing encoder, random adapter strong enough to change every answer."""

import torch

from kblam_engine.adapter import AdapterConfig, KnowledgeAdapter
from kblam_engine.engine import KBLaM
from kblam_engine.models import LoadedModel
from kblam_engine.native_tokens import NativeTokenConfig
from kblam_engine.sentence_encoder import HashingEncoder

BASE = "tiny-llama:test"


def adapter_config(encoder=None, *, layers=(1, 3), retrieval_layer=None, **overrides):
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


def build_engine(llama, tokenizer, encoder=None, **options):
    encoder = encoder or HashingEncoder()
    loaded = LoadedModel(llama, tokenizer, "tiny-llama", BASE, torch.float32, torch.device("cpu"))
    return KBLaM(loaded, encoder, random_adapter(adapter_config(encoder, **options)))
