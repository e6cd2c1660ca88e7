"""A run that is cut off and started again ends as one that was not; one that cannot go on says why."""

import json
import logging
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch

from kblam_engine.errors import ConfigurationError
from kblam_engine.training.checkpoints import Checkpoints, random_state, restore_random
from kblam_engine.training.config import recipe
from kblam_engine.training.divergence import FAR, PATIENCE, SETTLING, LossWatch, TrainingError
from kblam_engine.training.metrics import Metrics
from kblam_engine.training.native import NativeTrainer
from kblam_engine.training.recipe import train

STEPS, EVERY = 9, 2
FILES = ("adapter.safetensors", "adapter_config.json")


class Cut(Exception):
    """Ends a run from its report."""


def config_of(model):
    return recipe(
        "smoke",
        model=str(model),
        encoder="hashing",
        n_queries=4,
        n_questions=12,
        native_steps=STEPS,
        validate_every=3,
    )


def metrics_of(folder):
    text = (folder.parent / f"{folder.name}.stages" / "metrics.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def without_seconds(lines):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def cut_at(last):
    def report(stage, done, total, numbers):
        if stage == "native tokens" and done == last:
            raise Cut

    return report


@pytest.fixture(scope="module")
def whole(tiny_model_folder, tmp_path_factory):
    """The folder of a run that nothing cut off."""
    folder = tmp_path_factory.mktemp("whole") / "adapter"
    train(config_of(tiny_model_folder), folder, checkpoint_every=EVERY)
    return folder


@pytest.fixture
def begun(whole, tmp_path):
    """A folder for another run of the same, whose retrieval stage is finished (it takes the most time here)."""
    (tmp_path / "adapter.stages").mkdir()
    shutil.copy(whole.parent / "adapter.stages" / "retrieval.safetensors", tmp_path / "adapter.stages")
    return tmp_path / "adapter"


def checkpoint_of(folder):
    return folder.parent / "adapter.stages" / "native.checkpoint.safetensors"


def steps_of_the_rest(model, folder):
    """Train to the end and return the steps of the native tokens that were still taken."""
    steps = []
    train(
        config_of(model),
        folder,
        lambda stage, done, *_: steps.append(done) if stage == "native tokens" else None,
        checkpoint_every=EVERY,
    )
    return steps


def assert_same_adapter(folder, whole):
    for name in FILES:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert without_seconds(metrics_of(folder)) == without_seconds(metrics_of(whole))
    left = {path.name for path in checkpoint_of(folder).parent.iterdir()}
    assert left == {"retrieval.safetensors", "native.safetensors", "metrics.jsonl"}


def test_metrics_have_every_step_once(whole):
    lines = metrics_of(whole)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert {line["stage"] for line in lines} == {"native tokens"} and len(
        {line["run"] for line in lines}
    ) == 1
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert [line["step"] for line in lines if line["validation"] is not None] == [3, 6, 9]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_a_run_cut_off_by_an_exception_ends_as_the_whole_one(tiny_model_folder, whole, begun):
    random, cut = Random(), []
    for low in (1, 4, 7):  # three sessions end early, each at a step drawn anew
        cut.append(random.randint(low, low + 2))
        with pytest.raises(Cut):
            train(config_of(tiny_model_folder), begun, cut_at(cut[-1]), checkpoint_every=EVERY)
        torch.manual_seed(cut[-1])  # what happens between two sessions must not matter
    steps = steps_of_the_rest(tiny_model_folder, begun)
    begin = (cut[-1] - 1) // EVERY * EVERY + 1
    assert steps == list(range(begin, STEPS + 1)), f"cut off at {cut}"
    assert_same_adapter(begun, whole)


CHILD = """
import sys, time
from kblam_engine.training.recipe import train
from test_training_resume import EVERY, config_of

def report(stage, done, total, numbers):
    print(stage, done, flush=True)
    time.sleep(0.2 if stage == "native tokens" else 0)

train(config_of(sys.argv[1]), sys.argv[2], report, checkpoint_every=EVERY)
"""


def test_a_killed_process_ends_as_the_whole_one(tiny_model_folder, whole, begun):
    command = [sys.executable, "-c", CHILD, str(tiny_model_folder), str(begun)]
    last = Random().randint(EVERY + 1, STEPS - 1)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent) as process:
        for line in process.stdout:
            if line == f"native tokens {last}\n":
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL and not begun.exists()
    assert checkpoint_of(begun).exists(), f"killed after step {last}"
    steps = steps_of_the_rest(tiny_model_folder, begun)
    assert steps[0] > 1, f"killed after step {last}"
    assert_same_adapter(begun, whole)


def flipped(data):
    at = len(data) - 1000  # among the tensors, where the file format notices nothing
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-200], lambda data: b"\x00" * 400, flipped, None],
    ids="cut zero flipped foreign".split(),
)
def test_a_checkpoint_that_cannot_be_used_is_ignored(tiny_model_folder, whole, begun, caplog, damage):
    config = config_of(tiny_model_folder)
    with pytest.raises(Cut):
        train(config, begun, cut_at(6), checkpoint_every=EVERY)
    path = checkpoint_of(begun)
    if damage is None:
        Checkpoints(path, "another run").save({"native.value": torch.ones(2)}, {"step": 4})
    else:
        path.write_bytes(damage(path.read_bytes()))
    steps = []
    with caplog.at_level(logging.WARNING):
        train(config, begun, lambda stage, done, *_: steps.append((stage, done)), checkpoint_every=EVERY)
    assert ("native tokens", 1) in steps
    (warning,) = [r.getMessage() for r in caplog.records if r.name.startswith("kblam_engine.training")]
    assert str(path) in warning and "starts again" in warning
    assert_same_adapter(begun, whole)


def test_checkpoints_bring_back_the_generators(tmp_path):
    random, checkpoints = Random(3), Checkpoints(tmp_path / "x.safetensors", "key", 5)
    assert [step for step in range(1, 12) if checkpoints.due(step)] == [5, 10]
    assert checkpoints.load() is None
    random.gauss(0, 1)  # keeps a second number back
    checkpoints.save({"a": torch.tensor(2.5), "b": torch.arange(3)}, random_state(random))
    expected = random.gauss(0, 1), random.random(), torch.rand(3)
    tensors, state = checkpoints.load()
    assert tensors["a"] == 2.5 and tensors["b"].tolist() == [0, 1, 2]
    other = Random(9)
    restore_random(other, state)
    assert (other.gauss(0, 1), other.random()) == expected[:2] and torch.equal(torch.rand(3), expected[2])
    checkpoints.remove()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigurationError, match="checkpoint_every"):
        Checkpoints(tmp_path / "x", "key", 0)


# --- losses that stop a run -------------------------------------------------------------------------------


def test_watch_tells_running_away_from_hard_batches():
    random, watch = Random(0), LossWatch()
    for _ in range(500):  # batches differ a great deal, and one in ten is hard
        loss = random.lognormvariate(-2, 0.7) + (1.5 if random.random() < 0.1 else 0.0)
        assert watch.look(loss, 1.0) is None
    assert 0.1 < watch.mean < 0.4
    told = [watch.look(FAR * watch.mean + 1.0 + n, 1.0) for n in range(PATIENCE)]
    assert told[:-1] == [None] * (PATIENCE - 1) and "running mean" in told[-1]


def test_watch_lets_the_beginning_settle():
    watch = LossWatch()
    assert [watch.look(loss, 1.0) for loss in (0.01, *[9.0] * (SETTLING - 1))] == [None] * SETTLING


@pytest.mark.parametrize(("loss", "gradient"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_watch_stops_at_what_is_not_a_number(loss, gradient):
    assert "not a number" in LossWatch().look(loss, gradient)


def spoilt(monkeypatch, at, loss):
    """Let the losses from a step on be of another size."""
    taken, step = [], NativeTrainer.step

    def spoilt_step(self, batch):
        taken.append(batch)
        return step(self, batch) if len(taken) < at else loss

    monkeypatch.setattr(NativeTrainer, "step", spoilt_step)
    return taken


def test_a_loss_that_is_not_a_number_stops_with_its_batch(tiny_model_folder, begun, monkeypatch):
    taken = spoilt(monkeypatch, 5, math.nan)
    with pytest.raises(TrainingError, match="step 5: the loss is not a number") as error:
        train(config_of(tiny_model_folder), begun, checkpoint_every=EVERY)
    path = begun.parent / "adapter.stages" / "native.step-5.batch.json"
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    told = json.loads(path.read_text("utf-8"))
    assert (told["step"], told["seed"], told["loss"]) == (5, 0, None)
    for found, example in zip(told["examples"], taken[-1], strict=True):
        assert (found["prompt"], found["answer"]) == (example.prompt, example.answer)
        assert len(found["triples"]) == len(example.triples)
        assert all({"name", "property", "value"} <= triple.keys() for triple in found["triples"])
    assert not begun.exists() and checkpoint_of(begun).exists()


def test_a_validation_that_is_not_a_number_stops(tiny_model_folder, begun, monkeypatch):
    monkeypatch.setattr(NativeTrainer, "validate", lambda self, held: math.nan)
    with pytest.raises(TrainingError, match="native tokens, step 3: expected a finite validation loss, got nan"):
        train(config_of(tiny_model_folder), begun, checkpoint_every=EVERY)
    assert not begun.exists()


def test_a_loss_that_runs_away_stops(tiny_model_folder, begun, monkeypatch):
    monkeypatch.setattr("kblam_engine.training.divergence.SETTLING", 3)
    spoilt(monkeypatch, 4, 1000.0)
    with pytest.raises(TrainingError, match="step 8: the loss has been above 5 times its running mean"):
        train(config_of(tiny_model_folder), begun, checkpoint_every=EVERY)
    assert (begun.parent / "adapter.stages" / "native.step-8.batch.json").exists()


# --- metrics ----------------------------------------------------------------------------------------------


def test_metrics_go_on_without_repeating_steps(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    first = Metrics(path, "one")
    first("data", 1, 5, {})
    for step in (1, 2, 3, 4):
        first("native tokens", step, 9, {"loss": 1.0 / step})
    with path.open("a") as file:
        file.write('{"run": "one", "stage": "nat')  # the process was killed while it wrote
    second = Metrics(path, "one")
    for step in (3, 4, 5):
        second("native tokens", step, 9, {"loss": 1.0 / step, **({"validation": 0.5} if step == 5 else {})})
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [(x["step"], x["loss"], x["validation"]) for x in lines] == [
        (1, 1.0, None),
        (2, 0.5, None),
        (3, 1 / 3, None),
        (4, 0.25, None),
        (5, 0.2, 0.5),
    ]
    assert [x["seconds"] for x in lines] == sorted(x["seconds"] for x in lines)
    Metrics(path, "two")("native tokens", 2, 9, {"loss": 3.0})
    (line,) = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert (line["run"], line["step"]) == ("two", 2)
