import json
from functools import cache

import pytest
from evaluation_parts import (  # noqa: F401  (fixtures)
    OTHERS,
    command_fixture,
    encoder_fixture,
    model_fixture,
    report_fixture,
    table,
    write_fixture,
    write_jsonl,
)
from evaluation_stub import StubModel
from grid_parts import ABOUT_LAKES, LAKES, grid, no_git  # noqa: F401

from kblam_engine.errors import ConfigurationError, ImportFileError
from kblam_engine.evaluation import run_evaluation
from kblam_engine.evaluation.grid import attention
from kblam_engine.evaluation.report import build_report
from kblam_engine.evaluation.runs import read_runs
from kblam_engine.sentence_encoder import HashingEncoder

# --- the heat map ----------------------------------------------------------------------------------------------


def answer(i, *attended, supports=None):
    return {
        "messages": [{"role": "user", "content": f"Question {i}?"}],
        "supports": [[f"Lake {i}", "depth"]] if supports is None else supports,
        "system": {"attended": [{"name": n, "property": "depth", "weight": w} for n, w in attended]},
    }


def test_attention():
    shown = attention(
        [
            answer(1, ("lake 1", 0.7), ("Lake 2", 0.2), ("Lake 9", 0.1)),
            answer(2, ("Lake 2", 0.5), supports=[["Lake 2", "depth"], ["Lake 1", "depth"]]),
            answer(3, ("Lake 3", 1.0), supports=[]),
            answer(4),
            {**answer(5, ("Lake 5", 1.0)), "kind": "unanswerable"},
            {"question": "another form"},
        ]
    )
    assert shown.questions == ["Question 1?", "Question 2?"]
    assert shown.triples == ["Lake 1: depth", "Lake 2: depth", "all others"]
    assert shown.weights == [[0.7, 0.2, 0.1], [0.0, 0.5, 0.0]]
    assert shown.supports == [(0, 0), (1, 1), (1, 0)]
    many = attention([answer(i, (f"Lake {i}", 1.0)) for i in range(90)])
    assert len(many.questions) == 20 and len(many.triples) == 21
    assert attention([{}, 3, answer(1, supports=[])]) is None


# --- the report ------------------------------------------------------------------------------------------------


@cache
def grid_text():
    labels = {"model": "stub", "questions": "sea/lakes.jsonl"}
    return json.dumps(grid(StubModel(HashingEncoder(64)), labels=labels, baselines=["zero-shot", "dense"]).to_dict())


@pytest.fixture
def grid_file(write):
    return write("lakes-grid.json", grid_text())


def test_a_grid_in_the_report(grid_file):
    runs = read_runs([grid_file])
    assert [at.size for at in runs.grids[0].sizes] == [5, 40]
    assert runs.grids[0].systems == ["kblam", "zero-shot", "dense"]
    lines = build_report(*runs, {"grid": "grid.png", "attention": "attention.png"}).splitlines()
    exact = lines[lines.index("| exact | 5 | 40 |") :]
    assert table(exact[:5], "kblam")[1:3] == ["1.00 [1.00, 1.00]"] * 2
    kinds = lines[lines.index("| kind | system |  | 5 | 40 |") :]
    assert table(kinds, "simple", "kblam", "exact")[3] == "1.00 [1.00, 1.00]"
    assert "## Attention" in lines and any(line.endswith("](grid.png)") for line in lines)
    assert "### lakes-grid" in lines
    assert any("sizes [5, 40]" in line for line in lines)


def test_the_plots_of_a_grid(grid_file):
    from kblam_engine.evaluation.plots import figures

    found = figures(*read_runs([grid_file]))
    assert [name for name, figure in found.items() if figure] == ["grid", "grid-cost", "attention"]
    exact = found["grid"].axes[0]
    handles, labels = exact.get_legend_handles_labels()
    assert labels == ["kblam", "zero-shot", "dense"]
    assert list(handles[0].get_xdata()) == pytest.approx([5, 40], rel=0.3)
    assert list(handles[0].get_ydata()) == [1.0, 1.0]
    assert len(exact.collections) == 3  # bands
    heat = found["attention"].axes[0]
    (image,) = heat.get_images()
    assert image.get_array().shape[0] == len(heat.get_yticks()) > 5
    for figure in found.values():
        if figure is not None:
            figure.draw_without_rendering()


def test_ablations_have_a_plot_of_their_own_and_families_a_colour(encoder, write):
    from kblam_engine.evaluation.baselines import ABLATIONS, BASELINES, SIZED
    from kblam_engine.evaluation.drawing import look_of, short_size, style_of
    from kblam_engine.evaluation.plots import figures

    told = grid(StubModel(encoder), baselines=["dense-1", "dense-10"]).to_dict()
    for at in told["results"]:
        for name in ("oracle-gates", "sentence-tokens-all"):
            at["systems"][name] = at["systems"]["dense-1"]
    found = figures(*read_runs([write("g.json", told)]))
    shown = {name: found[name].axes[0].get_legend_handles_labels()[1] for name in ("grid", "grid-ablations", "grid-cost")}
    assert shown == {
        "grid": ["kblam", "dense-1", "dense-10"],
        "grid-ablations": ["kblam", "oracle-gates", "sentence-tokens-all"],
        "grid-cost": ["kblam", "dense-1", "dense-10"],
    }
    for together in ((*BASELINES, *SIZED, "kblam"), ("kblam", *ABLATIONS)):
        looks = {(*look_of(name), style_of(name)) for name in together}
        assert len(looks) == len(together), "no two lines of a figure look alike"
    assert [short_size(n) for n in (10, 1_000, 10_000, 100_000, 2_000_000)] == ["10", "1,000", "10k", "100k", "2M"]


def test_what_no_question_measures_has_no_panel(encoder, write):
    from kblam_engine.evaluation.plots import figures

    told = grid(StubModel(encoder), baselines=[]).to_dict()
    for at in told["results"]:
        at["systems"]["kblam"]["overall"]["refusal_recall"] = None
    titles = [axes.get_title() for axes in figures(*read_runs([write("g.json", told)]))["grid"].axes]
    assert [title.splitlines()[-1] for title in titles] == [
        "exact answers", "retrieval top-1", "retrieval top-5", "over-refusal (lower is better)"
    ]  # fmt: skip


def test_long_labels_of_a_heat_map_lose_their_middle():
    from kblam_engine.evaluation.grid_plots import _short

    text = "What is the depth at the deepest point of the lake that lies to the north of Riga?"
    short = _short(text)
    assert len(short) <= 56 and short.startswith("What is the depth") and short.endswith("of Riga?") and " … " in short
    assert _short("x" * 80) == "x" * 26 + " … " + "x" * 26 and _short("short") == "short"


def test_one_size_one_seed_and_runs_beside(encoder, write, report):
    lone = grid(StubModel(encoder), sizes=(40,), seeds=(0,), baselines=[])
    single = run_evaluation(StubModel(encoder), LAKES, ABOUT_LAKES, OTHERS, 40, ["dense"])
    paths = [write("$lone.json", lone.to_dict()), write("single.json", single.to_dict())]
    code, out, err = report(*paths)
    assert (code, err) == (0, "")
    names = {line.rpartition("/")[2] for line in out.splitlines()}
    assert {"report.md", "grid.png", "grid-cost.png", "attention.png", "systems.png"} <= names


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(results=[]), "results: expected at least one size"),
        (lambda d: d.update(results={}), "results: expected a list of objects"),
        (lambda d: d["results"][0].update(seeds=[]), "seeds: expected a list of whole numbers"),
        (lambda d: d["results"][0].update(answers=[3]), "answers: expected a list of objects"),
        (lambda d: d["results"][0]["systems"].update(dense=3), "dense: expected an object, got 3"),
        (lambda d: d["results"][0]["systems"].pop("kblam"), "kblam: expected an object, got nothing"),
        (lambda d: d["results"][0]["systems"]["dense"]["overall"].update(exact=0.5), "exact: expected an object"),
        (lambda d: d["results"][0]["systems"]["dense"]["overall"]["exact"].update(mean="x"), "mean: expected a number"),
        (lambda d: d["results"][0]["systems"]["dense"]["overall"]["exact"].update(values=3), "values: expected a list"),
    ],
)
def test_files_that_are_no_grid(grid_file, change, reason):
    data = json.loads(grid_file.read_text())
    change(data)
    grid_file.write_text(json.dumps(data))
    with pytest.raises(ImportFileError, match=reason):
        read_runs([grid_file])


# --- the command -----------------------------------------------------------------------------------------------


@pytest.fixture
def lakes(tmp_path):
    kb = write_jsonl(tmp_path / "kb.jsonl", [t.to_dict() for t in LAKES])
    rest = write_jsonl(tmp_path / "rest.jsonl", [t.to_dict() for t in OTHERS])
    lines = [
        {"messages": list(q.messages), "kind": q.kind, "answers": [list(g) for g in q.answers],
         "supports": [list(s) for s in q.supports]}
        for q in ABOUT_LAKES
    ]  # fmt: skip
    questions = write_jsonl(tmp_path / "q.jsonl", lines)
    return ["eval", "--kb", kb, "--questions", questions, "--distractors", rest]


def test_command(command, model, lakes, report, tmp_path):
    out = tmp_path / "out.json"
    given = [*lakes, "--sizes", "10,40", "--seeds", 2, "--limit", 8, "--baseline", "dense", "--json", out]
    done = command(*given)
    assert done.exit_code == 0, done.output
    assert "peak memory, MiB" in done.stdout and "±" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    told = json.loads(out.read_text())
    assert (told["sizes"], told["seeds"]) == ([10, 40], [0, 1])
    assert len(list((tmp_path / "out.cells").iterdir())) == 4
    asked = len(model.asked_kb)
    assert command(*given).exit_code == 0
    assert len(model.asked_kb) == asked
    code, _, err = report(out)
    assert (code, err) == (0, "")


def test_command_without_a_file(command, lakes, tmp_path):
    before = sorted(tmp_path.iterdir())
    done = command(*lakes, "--sizes", 10, "--limit", 4, "--json", "-", "--no-cache")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["seeds"] == [0]
    assert sorted(tmp_path.iterdir()) == before


def test_wrong_usage(command, model, lakes):
    for options in (["--seeds", 2], ["--sizes", "10,x"], ["--sizes", ""], ["--sizes", 0], ["--sizes", 10, "--n-triples", 10]):
        assert command(*lakes, *options).exit_code == 2
    done = command(*lakes, "--sizes", 1000)
    assert isinstance(done.exception, ConfigurationError) and "bring more distractors" in str(done.exception)
    assert model.asked_kb == []
