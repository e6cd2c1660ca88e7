"""A tiny trainer of native tokens and batches for it; also imported by processes that tests start."""

import itertools
from random import Random

import torch
from conftest import build_llama, build_tokenizer
from engine_parts import adapter_config

from kblam_engine.adapter import KnowledgeAdapter
from kblam_engine.injection import attach
from kblam_engine.training.distributed import Processes
from kblam_engine.training.native import NativeTrainer, examples
from kblam_engine.training.worlds import source_world
from kblam_engine.triples import Triple


def tiny_trainer(*, seed=0, accumulate=1, processes=Processes(), dtype=torch.float32):
    torch.manual_seed(seed)
    llama, tokenizer = build_llama().to(dtype), build_tokenizer()
    native = KnowledgeAdapter(adapter_config()).native
    native.initialise_from(
        llama.get_output_embeddings().weight,
        [llama.model.layers[i].self_attn.o_proj.weight for i in native.config.layers],
        [8.0, 8.0],
    )
    return NativeTrainer(
        attach(llama), tokenizer, native, steps=12, lr=2e-2, accumulate=accumulate, processes=processes
    )


def batches(trainer, *sizes):
    """Return batches of these sizes about short triples; the answers are of many lengths."""
    values = [(n, p, f"{v}{n}" * (1 + n)) for n in range(6) for p, v in (("mass", "m"), ("hue", "red"))]
    world = source_world(Random(0), [Triple(f"Unit {n}", p, v) for n, p, v in values], 6)

    def chat_prompt(messages):
        return trainer.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)

    stream = examples(Random(3), [world], chat_prompt, 1)
    return [[row for rows in itertools.islice(stream, n) for row in rows] for n in sizes]


def gradients_of(trainer):
    return {n: p.grad for n, p in trainer.adapter.named_parameters() if p.requires_grad}


def assert_close(found, expected):
    """Compare gradients: 1e-5 of the whole, and of no part more than sums that cancel lose in float32."""
    assert found.keys() == expected.keys()
    apart = torch.stack([(found[name] - tensor).norm() for name, tensor in expected.items()]).norm()
    assert apart <= 1e-5 * torch.stack([tensor.norm() for tensor in expected.values()]).norm()
    for name, tensor in expected.items():
        assert (found[name] - tensor).abs().max() <= 1e-4 * tensor.abs().max(), name
