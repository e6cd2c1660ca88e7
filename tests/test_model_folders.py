"""Folders of base models that must not be run, or cannot be worked with: one line says what is wrong, and what to do."""

import builtins
import json
import shutil

import pytest
from conftest import build_llama, build_tokenizer

from kblam_engine.errors import ConfigurationError, ModelNotFoundError
from kblam_engine.local_chat import LocalChat
from kblam_engine.models import load_base_model


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
    build_llama().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        load_base_model(tmp_path, device="cpu")
