"""Finished stages of a training run: taken from disk only where everything that decides them is the same."""

import json
import logging

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from kblam_engine.training.config import recipe
from kblam_engine.training.divergence import TrainingError
from kblam_engine.training.stages import StageResult, Stages

CONFIG = recipe("smoke")


def run(folder, config=CONFIG, made_for="a b", name="native", value=2.0):
    """Run a stage that fills a module with a value; return the result, the module and whether it was worked on."""
    module = nn.Linear(2, 2)
    worked = []

    def work():
        worked.append(name)
        with torch.no_grad():
            module.weight.fill_(value)
        return StageResult({"validation": value}, 1.5)

    return Stages(folder, config, made_for).run(name, module, work), module, bool(worked)


def test_a_finished_stage_is_taken_from_the_folder(tmp_path):
    folder = tmp_path / "deep" / "adapter.stages"
    first, module, worked = run(folder)
    assert worked and first == StageResult({"validation": 2.0}, 1.5)
    again, same, worked = run(folder, value=9.0)
    assert not worked and again == first
    assert torch.equal(same.weight, module.weight) and torch.equal(same.bias, module.bias)


@pytest.mark.parametrize(
    "other",
    [{"config": recipe("smoke", seed=1)}, {"made_for": "a c"}, {"name": "evidence"}],
    ids=["seed", "model", "stage"],
)
def test_a_stage_of_another_run_is_not_taken(tmp_path, other):
    run(tmp_path)
    result, module, worked = run(tmp_path, value=9.0, **other)
    assert worked and result.numbers == {"validation": 9.0} and module.weight.eq(9.0).all()


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:40], lambda data: b"\x00" * 200])
def test_a_damaged_stage_is_run_again(tmp_path, damage):
    run(tmp_path)
    path = tmp_path / "native.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    _, _, worked = run(tmp_path)
    assert worked
    assert not run(tmp_path)[2]


@pytest.mark.parametrize("part", ["tensors", "numbers"])
def test_a_stage_with_other_content_than_was_kept_is_run_again(tmp_path, caplog, part):
    """The format notices a file that is cut off; a changed bit, or changed numbers, only the checksum does."""
    run(tmp_path)
    path = tmp_path / "native.safetensors"
    data = path.read_bytes()
    if part == "tensors":
        changed = data[:-3] + bytes([data[-3] ^ 0x40]) + data[-2:]
    else:
        changed = data.replace(b'"seconds":"1.5"', b'"seconds":"9.5"')
        assert changed != data
    path.write_bytes(changed)
    with caplog.at_level(logging.WARNING):
        result, module, worked = run(tmp_path, value=3.0)
    assert worked and result.numbers == {"validation": 3.0} and module.weight.eq(3.0).all()
    assert str(path) in caplog.text and "checksum" in caplog.text and "runs again" in caplog.text


def test_a_stage_that_cannot_be_used_leaves_the_module_as_it_was(tmp_path):
    """A file whose key fits and whose tensors or numbers do not must not be loaded in part."""
    run(tmp_path)
    path = tmp_path / "native.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    for spoilt, told in [
        ({**tensors, "weight": torch.zeros(3, 2)}, metadata),
        ({"weight": tensors["weight"]}, metadata),
        (tensors, {**metadata, "numbers": "{"}),
    ]:
        save_file(spoilt, path, told)
        module = nn.Linear(2, 2)
        before = {k: v.clone() for k, v in module.state_dict().items()}
        seen = []

        def work(module=module, seen=seen):
            seen.append({k: v.clone() for k, v in module.state_dict().items()})
            return StageResult({}, 0.0)

        Stages(tmp_path, CONFIG, "a b").run("native", module, work)
        assert len(seen) == 1 and all(torch.equal(seen[0][k], v) for k, v in before.items())
        assert json.loads(metadata["numbers"]) == {"validation": 2.0}


def test_a_stage_of_another_shape_is_not_loaded_in_part(tmp_path):
    """Of a module whose weight fits and whose bias does not, torch would fill the weight and only then complain."""
    run(tmp_path)
    module, seen = nn.Linear(2, 2), []
    module.bias = nn.Parameter(torch.zeros(5))
    before = module.weight.clone()

    def work():
        seen.append(module.weight.clone())
        return StageResult({}, 0.0)

    Stages(tmp_path, CONFIG, "a b").run("native", module, work)
    assert len(seen) == 1 and torch.equal(seen[0], before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_stage_whose_tensors_are_not_finite_stops_the_run(tmp_path, value):
    with pytest.raises(TrainingError, match="native: expected finite tensors.*weight"):
        run(tmp_path, value=value)
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path, CONFIG, "a b").run("native", nn.Linear(2, 2), fail)
    assert list(tmp_path.iterdir()) == []
