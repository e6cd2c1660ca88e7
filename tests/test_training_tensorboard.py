"""The curves of a run for TensorBoard: the numbers of metrics.jsonl, also after a run was cut off."""

import re
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training_resume import metrics_of
from typer.testing import CliRunner

import kblam_engine
from kblam_engine.cli import build_app
from kblam_engine.training.metrics import Metrics
from kblam_engine.training.tensorboard import TensorBoard


def curves_of(folder):
    read = EventAccumulator(str(folder / "native-tokens")).Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def report_all(reports, first, last):
    for step in range(first, last + 1):
        numbers = {"loss": 1 / step, **({"validation": step / 8} if step % 2 == 0 else {})}
        for report in reports:
            report("data", step, 9, {})
            report("native tokens", step, 9, numbers)


def test_curves_are_the_numbers_of_the_metrics(tmp_path):
    folder = tmp_path / "adapter"
    for first, last in ((1, 5), (4, 7)):  # steps 4 and 5 are taken again
        metrics = Metrics(tmp_path / "adapter.stages" / "metrics.jsonl", "run")
        report_all([metrics, TensorBoard(tmp_path / "curves")], first, last)
    lines = metrics_of(folder)
    for name, curve in curves_of(tmp_path / "curves").items():
        expected = [(line["step"], line[name]) for line in lines if line[name] is not None]
        assert [step for step, _ in curve] == [step for step, _ in expected]
        assert [value for _, value in curve] == pytest.approx([value for _, value in expected])
    assert curves_of(tmp_path / "curves").keys() == {"loss", "validation"}
    assert [path.name for path in (tmp_path / "curves").iterdir()] == ["native-tokens"]


def invoke(monkeypatch, tmp_path, *more):
    def run(config, output, report, **_):
        report_all([report], 1, 3)
        raise KeyboardInterrupt

    monkeypatch.setattr("kblam_engine.training.recipe.train", run)
    return CliRunner().invoke(build_app(), ["train", "--output", str(tmp_path / "a"), *more])


def test_the_command_line_writes_curves_where_it_is_told(monkeypatch, tmp_path):
    invoke(monkeypatch, tmp_path, "--tensorboard", str(tmp_path / "curves"))
    assert [step for step, _ in curves_of(tmp_path / "curves")["loss"]] == [1, 2, 3]
    invoke(monkeypatch, tmp_path / "other")
    assert not list((tmp_path / "other").rglob("events*"))


def test_without_tensorboard(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "kblam_engine.training.tensorboard")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    error = invoke(monkeypatch, tmp_path, "--tensorboard", str(tmp_path / "curves")).exception
    assert type(error).__name__ == "MissingDependencyError" and 'pip install "kblam-engine[tensorboard]"' in str(error)


def test_one_module_imports_tensorboard():
    pattern = re.compile(r"^\s*(from|import) (torch\.utils\.)?tensorboard\b", re.M)
    engine = Path(kblam_engine.__file__).parent
    assert [p.name for p in engine.rglob("*.py") if pattern.search(p.read_text("utf-8"))] == ["tensorboard.py"]
