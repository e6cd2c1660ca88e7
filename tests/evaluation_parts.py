"""What the tests of the evaluation share: a few triples and questions, the commands with a stand-in for the model."""

import json

import pytest
import typer
from evaluation_stub import StubModel
from typer.testing import CliRunner

from kblam_engine.evaluation.questions import Question, question_from_dict
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Triple

ACME = [
    Triple("Acme Robotics", "founder", "Lena Hoffmann"),
    Triple("Acme Robotics", "city", "Oslo"),
    Triple("Borea Foods", "founder", "Ann Lee"),
    Triple("Borea Foods", "city", "Riga"),
]
OTHERS = [Triple(f"Place {i}", "altitude", f"{i} m") for i in range(20)]


def ask(question, kind="simple", answers=(), supports=(), **more) -> Question:
    data = {"question": question, "kind": kind, "answers": list(answers), "supports": list(supports), **more}
    return question_from_dict(data)


QUESTIONS = [
    ask("Who is the founder of Acme Robotics?", answers=[["Lena Hoffmann"]], supports=[["Acme Robotics", "founder"]]),
    ask("What is the city of Borea Foods?", answers=[["Riga"]], supports=[["Borea Foods", "city"]]),
    ask("How old is Zed?", kind="unanswerable"),
]  # fmt: skip


def write_jsonl(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command_with(model, monkeypatch):
    """Return a function that runs `kblam eval` or `kblam bench` with a stand-in for the model."""
    from kblam_engine.cli import bench, eval

    model.lm.dtype, model.lm.device = "torch.float32", "cpu"
    app = typer.Typer()
    app.callback()(lambda: None)
    for module in (eval, bench):
        monkeypatch.setattr(module, "load_model", lambda *source: model)
        module.register(app)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def table(lines, *cells):
    """Return the cells of the one line that begins with `cells`."""
    rows = [line.strip("|").split("|") for line in lines]
    rows = [[cell.strip() for cell in row] for row in rows]
    (found,) = [row for row in rows if row[: len(cells)] == list(cells)]
    return found


@pytest.fixture(name="encoder")
def encoder_fixture():
    return HashingEncoder(64)


@pytest.fixture(name="model")
def model_fixture(encoder):
    return StubModel(encoder)


@pytest.fixture(name="files")
def files_fixture(tmp_path):
    """The arguments of `kblam eval` on the triples and questions about Acme."""
    lines = [
        {"question": q.text, "kind": q.kind, "answers": [list(g) for g in q.answers],
         "supports": [list(s) for s in q.supports]}
        for q in QUESTIONS
    ]  # fmt: skip
    kb = write_jsonl(tmp_path / "kb.jsonl", [t.to_dict() for t in ACME])
    return ["eval", "--kb", str(kb), "--questions", str(write_jsonl(tmp_path / "q.jsonl", lines))]


@pytest.fixture(name="command")
def command_fixture(monkeypatch, model, tmp_path):
    """Run `kblam eval` or `kblam bench` with the stand-in for a model."""
    monkeypatch.setenv("KBLAM_CACHE", str(tmp_path / "cache"))
    return command_with(model, monkeypatch)


@pytest.fixture(name="write")
def write_fixture(tmp_path):
    """Write a text, or data as JSON, to a file of the folder of the test; return its path."""

    def written(name, data):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
        return path

    return written


@pytest.fixture(name="report")
def report_fixture(kblam, tmp_path):
    """Run `kblam report` into the folder "out"; return exit code, stdout and stderr."""

    def run(*paths, output=tmp_path / "out", options=()):
        return kblam("report", *paths, "--output", output, *options)

    return run
