"""Two processes (gloo, on the CPU) train what one would."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_training_resume import EVERY, FILES, STEPS, Cut, config_of, cut_at, metrics_of
from training_parts import assert_close, batches, gradients_of, tiny_trainer

from kblam_engine.errors import MissingDependencyError
from kblam_engine.training import distributed
from kblam_engine.training.distributed import Processes
from kblam_engine.training.recipe import train

ENGINE = Path(distributed.__file__).parents[1]
SIZES = (5, 3, 1)  # of the batches; with the last, the second process has nothing to read


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run_two(script, *arguments):
    """Run a script in two processes that meet, and return what each printed."""
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [process.communicate(timeout=480) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors[-2000:] for _, errors in told)
    return [output for output, _ in told]


STEPPING = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from kblam_engine.training.distributed import start
from training_parts import batches, gradients_of, tiny_trainer

torch.cuda.is_available = lambda: False  # gloo, also where there is a GPU
processes = start()
folder, sizes = Path(sys.argv[1]), [int(n) for n in sys.argv[2:]]
trainer = tiny_trainer(seed=processes.rank, accumulate=2, processes=processes)  # they begin unlike
processes.broadcast(trainer.adapter)
drawn, losses = batches(trainer, *sizes), []
for number, batch in enumerate(drawn):
    losses.append(trainer.backward(batch))
    save_file(gradients_of(trainer), folder / f"gradients-{number}-{processes.rank}")
losses += [trainer.step(batch) for batch in drawn]
save_file(trainer.adapter.state_dict(), folder / f"adapter-{processes.rank}")
shared = processes.from_main(lambda: processes.rank)
print(json.dumps([losses, trainer.gradient, shared, processes.add_up(processes.rank + 0.25), processes.device]))
"""


def test_two_processes_take_the_steps_of_one(tmp_path):
    first, second = map(json.loads, run_two(STEPPING, tmp_path, *SIZES))
    assert first == second and first[2:] == [0, 1.5, "cpu"]
    alone = tiny_trainer(seed=0)
    for number, batch in enumerate(batches(alone, *SIZES)):
        loss = alone.backward(batch)
        assert first[0][number] == pytest.approx(loss, rel=1e-5)
        found, other = (load_file(tmp_path / f"gradients-{number}-{rank}") for rank in range(2))
        assert all(torch.equal(found[name], other[name]) for name in found)
        assert_close(found, gradients_of(alone))
    steps = [alone.step(batch) for batch in batches(alone, *SIZES)]
    assert first[0][len(SIZES) :] == pytest.approx(steps, rel=1e-3)
    ends = [load_file(tmp_path / f"adapter-{rank}") for rank in range(2)]
    start = tiny_trainer(seed=0).adapter.state_dict()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in start)
    assert not torch.equal(ends[0]["value"], start["value"])


WHOLE = """
import sys, torch
from kblam_engine.training.recipe import train
from test_training_resume import EVERY, config_of

torch.cuda.is_available = lambda: False
result = train(config_of(sys.argv[1]), sys.argv[2], lambda *told: print(*told[:2]), checkpoint_every=EVERY)
print(result.folder, result.validation_loss)
"""


def test_a_run_that_one_process_began_is_finished_by_two(tiny_model_folder, tmp_path):
    config = config_of(tiny_model_folder)
    alone, shared = tmp_path / "alone" / "adapter", tmp_path / "shared" / "adapter"
    expected = train(config, alone, checkpoint_every=EVERY)
    with pytest.raises(Cut):
        train(config, shared, cut_at(4), checkpoint_every=EVERY)
    main, other = run_two(WHOLE, tiny_model_folder, shared)
    begin = (4 - 1) // EVERY * EVERY + 1
    *lines, told = main.splitlines()
    steps = [line for line in lines if line.startswith("native tokens")]
    assert steps == [f"native tokens {n}" for n in range(begin, STEPS + 1)]
    assert other.splitlines() == [told], "the first process alone reports; all return the same"
    folder, loss = told.rsplit(" ", 1)
    assert Path(folder) == shared and float(loss) == pytest.approx(expected.validation_loss, rel=1e-3)
    assert {path.name for path in shared.iterdir()} == {*FILES, "README.md"}
    left = {path.name for path in (tmp_path / "shared" / "adapter.stages").iterdir()}
    assert left == {"retrieval.safetensors", "native.safetensors", "metrics.jsonl"}
    lines, others = metrics_of(shared), metrics_of(alone)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in others], rel=1e-3)
    again, same = run_two(WHOLE, tiny_model_folder, shared)  # everything is finished: nothing to do but to write
    assert again.splitlines() == same.splitlines() == [told]


# --- one process ------------------------------------------------------------------------------------------


def test_one_process_needs_no_accelerate(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert distributed.start() == Processes() and distributed.is_main()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MissingDependencyError, match="pip install accelerate"):
        distributed.start()


def test_one_module_imports_accelerate():
    pattern = re.compile(r"^\s*(from|import) accelerate\b", re.M)
    found = [path.name for path in ENGINE.rglob("*.py") if pattern.search(path.read_text("utf-8"))]
    assert found == ["distributed.py"]
