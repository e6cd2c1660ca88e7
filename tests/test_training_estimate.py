"""`kblam train --dry-run`: counts and sizes are those of the adapter that training writes; nothing is written."""

import json

import pytest
import torch
from typer.testing import CliRunner

from kblam_engine.adapter import KnowledgeAdapter
from kblam_engine.checkpoint import save_adapter
from kblam_engine.cli import build_app
from kblam_engine.models import load_base_model
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.training.config import recipe
from kblam_engine.training.estimate import Estimate, adapter_bytes, estimate, parameters_by_part
from kblam_engine.training.recipe import adapter_config


@pytest.mark.parametrize("hidden", [False, True])
def test_counts_and_size_are_the_adapters(tiny_model_folder, tmp_path, hidden):
    loaded = load_base_model(tiny_model_folder, dtype="float32", device="cpu")
    config = recipe("smoke", n_queries=20 if hidden else 0)
    adapter = KnowledgeAdapter(adapter_config(config, loaded, HashingEncoder()))
    counts = parameters_by_part(adapter)
    assert ("hidden state" in counts) == hidden
    assert sum(counts.values()) == sum(p.numel() for p in adapter.parameters())
    assert counts["comparison"] == 3 * 64 * 64
    assert adapter_bytes(adapter) == (save_adapter(adapter, tmp_path) / "adapter.safetensors").stat().st_size


def test_estimate_grows_with_the_run_and_draws_nothing(tiny_model_folder):
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    small = recipe("smoke", model=str(tiny_model_folder), encoder="hashing")
    found = estimate(small)
    assert torch.equal(torch.rand(2), expected), "whoever draws next is not disturbed"
    parts = (
        "sentence embeddings",
        "hidden states",
        "comparison",
        "evidence",
        "worlds",
        "hard negatives, embeddings",
        "hard negatives",
        "native tokens",
        "validation",
    )
    assert tuple(found.seconds) == parts and all(seconds >= 0 for seconds in found.seconds.values())
    told = found.to_dict()
    assert told["total_parameters"] == sum(found.parameters.values())
    assert told["total_seconds"] == pytest.approx(sum(found.seconds.values()))
    large = estimate(
        recipe("smoke", model=str(tiny_model_folder), encoder="hashing", native_steps=100_000, n_queries=0)
    )
    assert large.seconds["native tokens"] > 100 * found.seconds["native tokens"] > 0
    assert "hidden states" not in large.seconds and large.memory_mb is not None and large.memory_mb > 50


def dry_run(model, output, *more):
    arguments = ["train", "--model", str(model), "--recipe", "smoke", "--steps", "2", "--output", str(output)]
    return CliRunner().invoke(build_app(), [*arguments, "--dry-run", *more])


def test_dry_run_tells_programs_and_writes_nothing(tiny_model_folder, tmp_path):
    told = dry_run(tiny_model_folder, tmp_path / "adapter", "--json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["total_parameters"] == sum(found["parameters"].values())
    assert {"adapter_bytes", "memory_mb", "device_memory_mb", "seconds", "total_seconds"} <= found.keys()
    assert list(tmp_path.iterdir()) == []


def test_dry_run_tells_people(tiny_model_folder, tmp_path, monkeypatch):
    found = Estimate(
        {"native tokens": 1_900_000, "comparison": 100_000}, 4_010_000, 2048.0, None, {"a": 60.0, "b": 90.0}
    )
    monkeypatch.setattr("kblam_engine.training.estimate.estimate", lambda config: found)
    told = dry_run(tiny_model_folder, tmp_path / "adapter").output
    for text in (
        "1,900,000  native tokens",
        "2,000,000  in all",
        "4.0 MB",
        "about 2.0 GiB",
        "1.0 min  a",
        "2.5 min  in all",
    ):
        assert text in told
    assert "accelerator" not in told and "besides" not in told and list(tmp_path.iterdir()) == []


def test_checkpoints_can_be_set_on_the_command_line(tiny_model_folder, tmp_path, monkeypatch):
    seen = {}

    def run(config, output, report, *, checkpoint_every):
        seen.update(config=config, output=output, every=checkpoint_every)
        raise KeyboardInterrupt

    monkeypatch.setattr("kblam_engine.training.recipe.train", run)
    arguments = [
        "train",
        "--model",
        str(tiny_model_folder),
        "--recipe",
        "smoke",
        "--output",
        str(tmp_path / "a"),
    ]
    CliRunner().invoke(build_app(), [*arguments, "--checkpoint-every", "7"])
    assert seen["every"] == 7 and seen["output"] == tmp_path / "a"
    seen.clear()
    assert (
        CliRunner().invoke(build_app(), [*arguments, "--checkpoint-every", "0"]).exit_code == 2 and not seen
    )
