"""Gradient accumulation: how the examples of a step are divided has no influence; and the base model's dtype."""

import pytest
import torch
from training_parts import assert_close, batches, gradients_of, tiny_trainer
from typer.testing import CliRunner

from kblam_engine.cli import build_app
from kblam_engine.errors import ConfigurationError
from kblam_engine.injection import attach
from kblam_engine.models import load_base_model
from kblam_engine.native_tokens import NativeTokenAdapter
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.training.checkpoints import Checkpoints
from kblam_engine.training.config import recipe
from kblam_engine.training.distributed import Processes
from kblam_engine.training.lexicon import load_lexicon
from kblam_engine.training.native_stage import train_native_tokens
from kblam_engine.training.recipe import adapter_config, train
from kblam_engine.training.run import Run


class Stop(Exception):
    """Ends a run where the test has seen enough."""


@pytest.fixture(scope="module")
def whole():
    """The loss and gradients of 16 examples that are read at once."""
    trainer = tiny_trainer()
    (rows,) = batches(trainer, 16)
    trainer.loss(rows).backward()
    return float(trainer.loss(rows).detach()), gradients_of(trainer)


@pytest.mark.parametrize("accumulate", [2, 3, 16, 40])
def test_parts_give_the_gradients_of_the_whole(whole, accumulate):
    trainer = tiny_trainer(accumulate=accumulate)
    (rows,) = batches(trainer, 16)
    sizes = [sum(len(trainer.answer_ids(e.answer)) for e in rows[i::2]) for i in (0, 1)]
    assert sizes[0] != sizes[1], "parts that weigh alike would show nothing"
    loss = trainer.backward(rows)
    assert loss == pytest.approx(whole[0], rel=1e-5)
    assert_close(gradients_of(trainer), whole[1])


def test_one_part_gives_the_same_bits(whole):
    trainer = tiny_trainer()
    assert trainer.backward(*batches(trainer, 16)) == whole[0]
    for name, gradient in gradients_of(trainer).items():
        assert torch.equal(gradient, whole[1][name]), name


def test_a_step_forgets_the_gradients_of_the_one_before(whole):
    trainer = tiny_trainer(accumulate=2)
    first, second = batches(trainer, 16, 4)
    trainer.backward(second)
    trainer.backward(first)
    assert_close(gradients_of(trainer), whole[1])


def test_parts_hold_every_example_once():
    for n, accumulate in ((1, 1), (1, 3), (3, 1), (2, 3), (4, 4)):
        shares = [Processes(rank, n).parts(range(7), accumulate) for rank in range(n)]
        assert sorted(i for parts in shares for part in parts for i in part) == list(range(7))
        assert all(len(parts) <= accumulate and all(parts) for parts in shares)
        sizes = [len(part) for parts in shares for part in parts]
        assert max(sizes) == -(-7 // (n * accumulate))


def losses_of(config, folder):
    """Train native tokens alone and return the loss of every step."""
    loaded = load_base_model(config.model, dtype="float32", device="cpu")
    torch.manual_seed(0)
    native = NativeTokenAdapter(adapter_config(config, loaded, HashingEncoder()).native)
    injection, seen = attach(loaded.model), []
    run = Run(
        config, loaded, HashingEncoder(), injection, load_lexicon(), lambda random: (),
        lambda stage, done, total, numbers: seen.append(numbers["loss"]),
    )  # fmt: skip
    train_native_tokens(run, native, Checkpoints(folder / "native", "key"))
    return seen


def test_a_run_draws_the_same_examples_however_they_are_divided(tiny_model_folder, tmp_path):
    once, twice = (
        losses_of(recipe("smoke", model=str(tiny_model_folder), batch=b, accumulate=n), tmp_path)
        for b, n in ((4, 1), (2, 2))
    )
    assert len(once) == 4 and twice == pytest.approx(once, rel=1e-3)


def test_at_least_one_batch_a_step():
    with pytest.raises(ConfigurationError, match="accumulate"):
        recipe("smoke", accumulate=0)


# --- the base model's dtype -------------------------------------------------------------------------------


def test_native_tokens_learn_in_float32_on_a_bfloat16_model():
    trainer = tiny_trainer(dtype=torch.bfloat16, accumulate=2)
    (batch,) = batches(trainer, 4)
    losses = [trainer.step(batch) for _ in range(12)]
    assert losses[-1] < losses[0]
    assert all(p.dtype == torch.float32 for p in trainer.adapter.parameters())


def test_the_command_line_sets_dtype_and_accumulation(tiny_model_folder, tmp_path, monkeypatch):
    seen = []

    def run(config, *_, **__):
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("kblam_engine.training.recipe.train", run)
    arguments = ["train", "--model", str(tiny_model_folder), "--output", str(tmp_path / "a")]
    CliRunner().invoke(build_app(), [*arguments, "--dtype", "bfloat16", "--accumulate", "3"])
    assert (seen[0].dtype, seen[0].accumulate) == ("bfloat16", 3)
    CliRunner().invoke(build_app(), arguments)
    assert (seen[1].dtype, seen[1].accumulate) == (None, 1)


def test_the_base_model_is_loaded_with_the_dtype(tiny_model_folder, tmp_path, monkeypatch):
    loaded = []

    def load(*args, **options):
        loaded.append(load_base_model(*args, **options))
        raise Stop

    monkeypatch.setattr("kblam_engine.training.recipe.load_base_model", load)
    with pytest.raises(Stop):
        train(recipe("smoke", model=str(tiny_model_folder), dtype="bfloat16"), tmp_path / "a")
    assert loaded[0].dtype == torch.bfloat16
    with pytest.raises(ConfigurationError, match="dtype"):
        train(recipe("smoke", model=str(tiny_model_folder), dtype="int8"), tmp_path / "a")
