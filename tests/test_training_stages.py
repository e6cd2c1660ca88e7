"""Finished stages of a training run: taken from disk only where everything that decides them is the same."""

import pytest
import torch
from torch import nn

from kblam_engine.training.config import recipe
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


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path, CONFIG, "a b").run("native", nn.Linear(2, 2), fail)
    assert list(tmp_path.iterdir()) == []
