"""Adapter folders: what is saved comes back, and what does not fit is refused with expected and got."""

import json

import pytest
import torch
from engine_parts import BASE, adapter_config, random_adapter
from safetensors.torch import load_file, save_file

from kblam_engine.adapter import AdapterConfig, KnowledgeAdapter
from kblam_engine.checkpoint import (
    CARD,
    CONFIG,
    WEIGHTS,
    load_adapter,
    read_config,
    save_adapter,
    shipped_adapter,
)
from kblam_engine.errors import CheckpointError, ConfigurationError, ModelNotFoundError
from kblam_engine.sentence_encoder import HashingEncoder

ENCODER = HashingEncoder().fingerprint


def load(folder, base=BASE, encoder=ENCODER):
    return load_adapter(folder, base_fingerprint=base, encoder_fingerprint=encoder)


@pytest.fixture(params=[None, 1], ids=["no retrieval layer", "retrieval layer 1"])
def adapter(request):
    return random_adapter(adapter_config(retrieval_layer=request.param))


@pytest.fixture
def folder(adapter, tmp_path):
    return save_adapter(adapter, tmp_path / "deep" / "adapter")


def test_what_is_saved_comes_back(adapter, folder):
    again = load(folder)
    assert again.config == adapter.config
    before, after = adapter.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor.bfloat16().float(), rtol=0, atol=0)
        assert after[name].dtype == torch.float32
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())


def test_every_trained_tensor_is_saved_and_nothing_else(adapter, folder):
    saved = load_file(folder / WEIGHTS)
    assert saved.keys() == dict(KnowledgeAdapter(adapter.config).named_parameters()).keys()
    assert {t.dtype for t in saved.values()} == {torch.bfloat16}
    assert {f.name for f in folder.iterdir()} == {CONFIG, WEIGHTS}
    assert (folder / WEIGHTS).stat().st_mode == (folder / CONFIG).stat().st_mode, "who may read one may read both"


def test_second_generation_is_identical(folder, tmp_path):
    second = save_adapter(load(folder), tmp_path / "second")
    for name in (CONFIG, WEIGHTS):
        assert (second / name).read_bytes() == (folder / name).read_bytes()


def test_saving_again_replaces_the_weights_and_keeps_the_card(folder, adapter):
    save_adapter(adapter, folder, card="# Card\n")
    save_adapter(random_adapter(adapter.config, seed=9), folder)
    assert (folder / CARD).read_text() == "# Card\n"
    assert not torch.equal(load(folder).native.value, adapter.native.value)


def test_folder_of_the_default_shape_is_small(tmp_path):
    from kblam_engine.native_tokens import NativeTokenConfig

    native = NativeTokenConfig((18, 21, 24, 26, 28), hidden_size=576, n_heads=9, head_dim=64)
    encoder = HashingEncoder(384)
    config = adapter_config(encoder, native=native, evidence_hidden=32, retrieval_layer=12)
    folder = save_adapter(KnowledgeAdapter(config), tmp_path)
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 20 * 2**20


def test_another_base_model_is_refused(folder):
    with pytest.raises(CheckpointError, match=f"base model {BASE}, got other:1"):
        load(folder, base="other:1")


def test_another_encoder_is_refused(folder):
    with pytest.raises(CheckpointError, match=f"sentence encoder {ENCODER}, got other:1"):
        load(folder, encoder="other:1")


def edit(folder, **changes):
    data = json.loads((folder / CONFIG).read_text())
    data.update(changes)
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))


@pytest.mark.parametrize("version", [0, 2, "1", None, ...])
def test_another_format_is_refused(folder, version):
    edit(folder, format=version)
    got = repr(None if version is ... else version)
    with pytest.raises(CheckpointError, match=f"format: expected 1, got {got}"):
        load(folder)


@pytest.mark.parametrize(
    "change", [lambda f: f[:-1], lambda f: [*f, "moon_phase"], lambda f: f[::-1], lambda f: None]
)
def test_other_evidence_features_are_refused(folder, change):
    data = json.loads((folder / CONFIG).read_text())
    edit(folder, features=change(data["features"]))
    with pytest.raises(CheckpointError, match="features: expected .*, got ") as caught:
        load(folder)
    if change(["x"]) == ["x", "moon_phase"]:
        assert "moon_phase" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"native": ...},
        {"native": "abc"},
        {"native": {"layers": 3}},
        {"native": {"layers": [1], "hidden_size": 64, "n_heads": 4, "head_dim": 16, "colour": 1}},
        {"native": {"layers": [3, 1], "hidden_size": 64, "n_heads": 4, "head_dim": 16}},
        {"colour": "red"},
        {"embed_dim": ...},
        {"embed_dim": "many"},
        {"refusal_threshold": 2.0},
        {"retrieval_layer": 2},
        {"retrieval_layer": 1.0},
        {"refusal_threshold": "0.3"},
        {"base_model": 7},
        {"evidence_hidden": 64.5},
        {"evidence_hidden": True},
        {"evidence_hidden": 300_000_000_000},
        {"evidence_hidden": 10**30},
        {"native": {"layers": [2.0], "hidden_size": 64, "n_heads": 4, "head_dim": 16}},
        {"native": {"layers": [2], "hidden_size": 64, "n_heads": 4, "head_dim": 2.5}},
        {"native": {"layers": [2], "hidden_size": 10**12, "n_heads": 4, "head_dim": 16}},
        {"questions": {"n_layers": 1, "hidden": 8, "inner": 8, "rank": 1.5}},
        {"sentence": "none"},
    ],
    ids=str,
)
def test_wrong_configuration_is_refused(folder, changes):
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=CONFIG):
        load(folder)


@pytest.mark.parametrize("change", [{"head_dim": 2.5}, {"key_norm": 1}, {"kb_scale": "100"}, {"n_layers": 10**9}], ids=str)
def test_wrong_sentence_tokens_are_refused(folder, change):
    shape = {"embed_dim": 64, "hidden_size": 64, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16}
    edit(folder, sentence=shape | change, embed_dim=64)
    with pytest.raises(CheckpointError, match=f"{CONFIG}.*{'of 1000000000 layers' if 'n_layers' in change else next(iter(change))}"):
        load(folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, bad):
    tensors = load_file(folder / WEIGHTS)
    tensors["native.value"][-1, -1, -1] = bad
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="expected finite numbers, got NaN or infinity in native.value"):
        load(folder)


def test_whole_numbers_as_weights_are_refused(folder):
    save_file({k: v.to(torch.int32) for k, v in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"expected floating-point tensors, got .*\(torch.int32\)"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"text"'])
def test_configuration_that_is_no_object_is_refused(folder, text):
    (folder / CONFIG).write_text(text)
    with pytest.raises(CheckpointError, match=CONFIG):
        read_config(folder)


def test_configuration_that_is_not_text_is_refused(folder):
    (folder / CONFIG).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=CONFIG):
        read_config(folder)


def test_tensor_of_another_shape_is_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["native.gate_scale"] = torch.zeros(9, 9, dtype=torch.bfloat16)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="native.gate_scale") as caught:
        load(folder)
    assert "(2, 4)" in str(caught.value) and "(9, 9)" in str(caught.value)


def test_missing_and_surplus_tensors_are_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file({k: v for k, v in tensors.items() if k != "native.value"}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="native.value"):
        load(folder)
    save_file({**tensors, "optimizer": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="optimizer"):
        load(folder)


def test_configuration_of_another_shape_is_refused(folder):
    edit(folder, embed_dim=32)
    with pytest.raises(CheckpointError, match="do not fit"):
        load(folder)


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "missing"])
def test_damaged_weights_are_refused(folder, damage):
    path = folder / WEIGHTS
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "noise": b"\x00\xff" * 500}[damage])
    with pytest.raises(CheckpointError, match=WEIGHTS):
        load(folder)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not an adapter folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="not an adapter folder"):
        load(tmp_path)


def test_no_adapter_ships_for_an_unknown_model():
    with pytest.raises(ModelNotFoundError, match="kblam train --model no-such-model"):
        shipped_adapter("no-such-model")


@pytest.mark.parametrize(
    "wrong",
    [
        {"refusal_threshold": 0.0},
        {"refusal_threshold": 1.0},
        {"n_select": 0},
        {"embed_dim": 0},
        {"retrieval_layer": 2},
        {"retrieval_layer": -1},
    ],
    ids=str,
)
def test_configuration_checks_its_ranges(wrong):
    with pytest.raises(ConfigurationError):
        adapter_config(**wrong)


def test_configuration_survives_json():
    config = adapter_config(retrieval_layer=1)
    assert AdapterConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
