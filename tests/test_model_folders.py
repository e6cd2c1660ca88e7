"""Folders of base models that must not be run, or cannot be worked with: one line says what is wrong, and what to do."""

import builtins
import json
import shutil

import pytest
import torch
from conftest import build_llama, build_tokenizer
from engine_parts import QUESTION, SHORT, build_engine, same
from gguf_parts import tiny_card, write_gguf
from safetensors.torch import load_file, save_file
from test_families import FAMILIES, SCALED, build
from transformers import AutoModelForCausalLM

from kblam_engine.errors import ConfigurationError, ModelNotFoundError
from kblam_engine.local_chat import LocalChat
from kblam_engine.models import load_base_model
from kblam_engine.models.embedded import prepare
from kblam_engine.training.native import NativeExample, NativeTrainer


@pytest.fixture
def folder(tiny_model_folder, tmp_path):
    """A copy of the tiny model that a test may spoil."""
    return shutil.copytree(tiny_model_folder, tmp_path / "model")


def edit(path, **fields):
    """Set fields of a JSON file; None takes one out."""
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_code_of_a_folder_is_not_run_even_if_stdin_says_yes(folder, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import LlamaConfig as C, LlamaForCausalLM as M, PreTrainedTokenizerFast as T\n"
    )
    edit(
        folder / "config.json",
        model_type="unheard-of",
        architectures=None,
        auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"},
    )
    edit(folder / "tokenizer_config.json", tokenizer_class=None, auto_map={"AutoTokenizer": [None, "own.T"]})
    asked = []
    monkeypatch.setattr(builtins, "input", lambda *question: asked.append(question) or "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(ModelNotFoundError, match=r"brings its own code, and no code from a model is run .*another model"):
        load_base_model(folder, device="cpu")
    LocalChat(str(folder))  # looks for a chat template
    assert not asked and not ran.exists()


def cut_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def other_shapes(folder):
    edit(folder / "config.json", intermediate_size=64)


def no_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut_weights, r"its weights are damaged: .*copy or download the folder again"),
        (other_shapes, r"other shapes than its config\.json says .*copy or download the folder again"),
        (no_tokenizer, r"expected a causal language model saved as safetensors, with its tokenizer"),
    ],
)
def test_a_damaged_folder_is_told_in_one_line(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        load_base_model(folder, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "message"),
    [("chat_template", "no chat template: take the model's chat version"), ("eos_token", "no end token: name the token")],
)
def test_a_tokenizer_that_would_fail_later_is_refused_at_once(missing, message, tmp_path):
    tokenizer = build_tokenizer()
    setattr(tokenizer, missing, None)
    build_llama(eos_token_id=None).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        load_base_model(tmp_path, device="cpu")


def rewrite(folder, change):
    """Change the tensors of a folder; what is None is taken out."""
    path = folder / "model.safetensors"
    tensors = {name: change(name, tensor) for name, tensor in load_file(path).items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("model.norm.weight", r"model\.norm\.weight \("),
        ("layers.2.mlp", r"model\.layers\.2\.mlp\.down_proj\.weight, model\.layers\.2\.mlp\.gate_proj\.weight, .*up_proj"),
        ("model.layers", r"model\.layers\.0\.input_layernorm\.weight, .* and 33 more \("),
        ("embed_tokens", r"lm_head\.weight, model\.embed_tokens\.weight \("),
    ],
)
def test_weights_without_a_tensor_are_refused(folder, lost, named):
    rewrite(folder, lambda name, tensor: None if lost in name else tensor)
    with pytest.raises(ModelNotFoundError, match=rf"expected weights with all tensors .* for {named}.*copy or download") as caught:
        load_base_model(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_head_of_its_own_must_be_there(tmp_path):
    build_llama(tie_word_embeddings=False).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    assert load_base_model(tmp_path, device="cpu")
    rewrite(tmp_path, lambda name, tensor: None if name == "lm_head.weight" else tensor)
    with pytest.raises(ModelNotFoundError, match=r"other shapes for lm_head\.weight \(copy or download"):
        load_base_model(tmp_path, device="cpu")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", [*FAMILIES, *SCALED])
def test_whole_folders_of_every_family_load(family, tied, tmp_path):
    model = build(family, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    loaded = load_base_model(tmp_path, dtype="float32", device="cpu").model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_a_gguf_file_of_which_not_all_is_read_is_refused(tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setenv("KBLAM_CACHE", str(tmp_path / "cache"))
    read = AutoModelForCausalLM.from_pretrained

    def partly(*arguments, **options):
        model, told = read(*arguments, **options)
        return model, told | {"missing_keys": {"model.norm.weight"}}

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", partly)
    with pytest.raises(ModelNotFoundError, match=r"'tiny\.gguf'.*model\.norm\.weight \(install the version of transformers"):
        prepare(tiny_card(tmp_path / "tiny.gguf"))
    assert not list((tmp_path / "cache" / "models").glob("*/"))


@pytest.mark.parametrize("ends", [2, [5, 2]])
def test_the_end_that_the_model_names_serves_a_tokenizer_without_one(ends, folder, memory_kb):
    edit(folder / "generation_config.json", eos_token_id=ends)
    named = load_base_model(folder, dtype="float32", device="cpu")
    with_end = build_engine(named.model, named.tokenizer).answer(QUESTION, memory_kb, **SHORT)
    edit(folder / "tokenizer_config.json", eos_token=None)
    loaded = load_base_model(folder, dtype="float32", device="cpu")
    assert loaded.tokenizer.eos_token_id is None
    assert loaded.end_ids == ({2} if ends == 2 else {2, 5}) and loaded.turn_end == 2
    engine = build_engine(loaded.model, loaded.tokenizer)
    assert engine.end_ids == loaded.end_ids
    same(engine.answer(QUESTION, memory_kb, **SHORT), with_end)
    trainer = NativeTrainer(engine.injection, loaded.tokenizer, engine.adapter.native, steps=1)
    assert trainer.answer_ids("yes")[-1] == trainer.statements.end_id == 2
    assert trainer.validate([[NativeExample("Is it?", "yes", (), (0.0,))]]) > 0
    engine.injection.detach()


def test_training_ends_statements_as_answers_do():
    """Where the model's ends are not the tokenizer's own, what is learned is what is written."""
    model, tokenizer = build_llama(eos_token_id=[7, 5]), build_tokenizer()
    engine = build_engine(model, tokenizer)
    trainer = NativeTrainer(engine.injection, tokenizer, engine.adapter.native, steps=1)
    assert trainer.statements.end_id == engine._statements.end_id == 5
    engine.injection.detach()
