"""Shared by all tests: a tiny Llama, a tokenizer built in code, a hashing encoder, a few triples, the command."""

from __future__ import annotations

import io
import os
import sys

# Before any import of transformers: no test touches the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests run side by side, and tiny tensors gain nothing from threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kblam_engine.cli import main
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.models import LoadedModel, load_base_model
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Triple

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# The configuration of a tiny model, whatever its family. Weights are drawn larger than at a real initialisation,
# so that attention and logits are far from uniform and a mistake in either shows.
TINY_SHAPE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "tie_word_embeddings": True,
}


def build_tokenizer() -> Any:
    """Return a byte-level tokenizer: three special tokens, the 256 bytes, and a few merges ("the", " of")."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("Ġ", "t"),
        ("h", "e"),
        ("Ġt", "he"),
        ("Ġ", "o"),
        ("Ġo", "f"),
        ("i", "s"),
        ("Ġ", "is"),
        ("e", "r"),
    ]
    pieces = [*SPECIAL_TOKENS, *alphabet, *("".join(pair) for pair in merges)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
        padding_side="left",
        model_max_length=2048,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_llama(*, n_layers: int = 4, seed: int = 0, **overrides: Any) -> Any:
    """Return a frozen random Llama in float32: hidden 64, 4 heads over 2 KV heads of 16, 320 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    options = {**TINY_SHAPE, "num_hidden_layers": n_layers, **overrides}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**options))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """The tokenizer of the tiny Llama."""
    return build_tokenizer()


@pytest.fixture
def tiny_llama() -> Any:
    """A fresh random Llama of 4 layers; the same weights in every test."""
    return build_llama()


@pytest.fixture(scope="session")
def statements(tiny_tokenizer: Any) -> Any:
    """Statements in tokens of the tiny Llama."""
    from kblam_engine.statements import StatementTokenizer

    return StatementTokenizer(tiny_tokenizer, tiny_tokenizer.eos_token_id)


@pytest.fixture
def injection(tiny_llama: Any) -> Iterator[Any]:
    """The injection of a tiny Llama, attached for the time of a test."""
    from kblam_engine.injection import attach

    attached = attach(tiny_llama)
    yield attached
    attached.detach()


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `load_base_model` takes: the tiny Llama and its tokenizer, saved. Do not write into it."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    build_llama().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def default_model() -> LoadedModel:
    """The embedded base model on the CPU in float32, loaded once. Detach what a test attaches to it."""
    return load_base_model(dtype="float32", device="cpu")


@pytest.fixture
def hashing_encoder() -> HashingEncoder:
    """A sentence encoder without weights."""
    return HashingEncoder()


@pytest.fixture
def six_triples() -> list[Triple]:
    """Three names with two properties each; short and long values, a number and a date."""
    return [
        Triple("Acme Robotics", "founder", "Lena Hoffmann"),
        Triple("Acme Robotics", "founding date", "12 March 2009"),
        Triple("Orca 2", "battery life", "7.5 hours"),
        Triple("Orca 2", "purpose", "to inspect the hulls of ships while they lie in harbour"),
        Triple("Port of Varnholm", "annual traffic", "1,240 ships"),
        Triple("Port of Varnholm", "harbour master", "Ingrid Solberg"),
    ]


@pytest.fixture
def memory_kb(hashing_encoder: HashingEncoder, six_triples: list[Triple]) -> Iterator[KnowledgeBase]:
    """The six triples in a knowledge base in memory, embedded by hashing."""
    with KnowledgeBase.open(":memory:", encoder=hashing_encoder) as kb:
        kb.add(six_triples)
        yield kb


@pytest.fixture
def other_kb(hashing_encoder: HashingEncoder) -> Iterator[KnowledgeBase]:
    """Two triples about something else, in a knowledge base in memory."""
    with KnowledgeBase.open(":memory:", encoder=hashing_encoder) as kb:
        kb.add([Triple("Narwhal", "battery life", "two days"), Triple("Narwhal", "colour", "a deep green")])
        yield kb


@pytest.fixture
def kblam(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[object, str, str]]:
    """Run the command in this process on lines of input; return exit code, stdout, stderr."""

    def run(*arguments: object, lines: Sequence[str] = ()) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return run
