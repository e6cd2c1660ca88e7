"""The self-test of an attached model: it passes on every family, and tells what would go wrong without a word."""

import pytest
import torch
from injection_parts import FAMILIES, build, logits, prompts

from kblam_engine.attention import prompt_attention
from kblam_engine.errors import SeamError
from kblam_engine.injection import attach


@pytest.mark.parametrize("family", FAMILIES)
def test_self_test_passes(family):
    attach(build(family)).self_test()


def test_self_test_catches_a_layer_that_ignores_the_registration():
    model = build()
    deaf = model.model.layers[1].self_attn
    stock = type(deaf).forward

    def forward(self, hidden_states, *args, **kwargs):
        kwargs.pop("kblam_call", None)
        config, self.config = self.config, build().config
        try:
            return stock(self, hidden_states, *args, **kwargs)
        finally:
            self.config = config

    deaf.forward = forward.__get__(deaf)
    with pytest.raises(SeamError, match=r"layers \[1\]"):
        attach(model).self_test()


def test_self_test_catches_a_wrong_prompt_in_the_joint_softmax(monkeypatch):
    def without_causality(query, key, value, mask, **options):
        return prompt_attention(query, key, value, None, **{**options, "is_causal": False})

    monkeypatch.setattr("kblam_engine.injection.prompt_attention", without_causality)
    with pytest.raises(SeamError, match="masked KB"):
        attach(build()).self_test()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_self_test_passes_in_half_precision(dtype):
    attach(build().to(dtype)).self_test()


def test_self_test_catches_a_layer_that_drops_the_output():
    model = build(num_hidden_layers=1)
    torch.nn.init.zeros_(model.model.layers[0].self_attn.o_proj.weight)
    with pytest.raises(SeamError, match="does not change"):
        attach(model).self_test()


def test_attention_sinks_are_refused_but_run_without_a_kb():
    extra = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8}
    model = build("GptOss", **extra)
    ids, _ = prompts()
    stock = logits(model, ids)
    injection = attach(model)
    assert torch.equal(logits(model, ids), stock)
    with pytest.raises(SeamError, match="sinks"):
        injection.self_test()
