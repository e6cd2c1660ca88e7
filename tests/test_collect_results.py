"""The short copies of results that are kept: small, and enough for every table and plot of `kblam report`."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_parts import ACME, OTHERS, QUESTIONS, ask, encoder_fixture, model_fixture  # noqa: F401  (fixtures)
from test_report import bench

from kblam_engine.evaluation import run_evaluation
from kblam_engine.evaluation.comparisons import differences
from kblam_engine.evaluation.grid import attention
from kblam_engine.evaluation.grid_run import run_grid
from kblam_engine.evaluation.report import build_report, grid_tables
from kblam_engine.evaluation.runs import read_runs

SCRIPT = Path(__file__).parent / "heldout" / "collect_results.py"


@pytest.fixture(name="script")
def script_fixture():
    spec = importlib.util.spec_from_file_location("collect_results", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(name="whole")
def whole_fixture(model):
    asked = [*QUESTIONS, *(ask(f"What is the altitude of Place {i}?", answers=[[f"{i} m"]], supports=[[f"Place {i}", "altitude"]]) for i in range(9))]
    return run_evaluation(model, [*ACME, *OTHERS], asked, baselines=["dense", "oracle"]).to_dict()


def test_a_short_copy_gives_the_same_report(script, whole, tmp_path, monkeypatch, capsys):
    full = tmp_path / "run.json"
    full.write_text(json.dumps(whole), encoding="utf-8")
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(sys, "argv", ["collect_results.py", str(tmp_path / "kept"), str(full)])
    script.main()
    assert "| run | 24 | 12 |" in capsys.readouterr().out
    kept = tmp_path / "kept" / "run.json"
    (before,), (after,) = read_runs([full]).evaluations, read_runs([kept]).evaluations
    assert attention(before.data["answers"]) is not None
    assert attention(after.data["answers"]) == attention(before.data["answers"])
    assert differences([after]) == differences([before])
    same = replace(after, name=before.name)
    assert build_report([same], [], [], {}) == build_report([before], [], [], {})
    one = after.data["answers"][0]
    assert one["system"]["text"] and "text" not in one["baselines"]["dense"]
    assert {key for t in one["system"]["attended"] for key in t} == {"name", "property", "weight"}
    assert kept.stat().st_size < full.stat().st_size


def test_a_short_copy_of_sizes_and_seeds_gives_the_same_report(script, model, tmp_path, monkeypatch, capsys):
    full, kept = tmp_path / "sizes.json", tmp_path / "kept"
    kept.mkdir()
    found = run_grid(model, [*ACME, *OTHERS], QUESTIONS, sizes=[5, 9], seeds=[0, 1])
    full.write_text(json.dumps(found.to_dict()), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["collect_results.py", str(kept), str(full)])
    script.main()
    (before,), (after,) = read_runs([full]).grids, read_runs([kept / "sizes.json"]).grids
    assert build_report([], [], [replace(after, name=before.name)], {}) == build_report([], [], [before], {})
    assert capsys.readouterr().out.splitlines()[1:] == grid_tables(after)
    triples = [t for answer in after.data["results"][0]["answers"] for t in answer["system"]["attended"]]
    assert triples and {key for t in triples for key in t} == {"name", "property", "weight"}


def collect(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["collect_results.py", *map(str, arguments)])
    script.main()


def test_files_of_one_name_do_not_overwrite_each_other(script, whole, tmp_path, monkeypatch, capsys):
    paths = [tmp_path / name / "run.json" for name in ("old", "new")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(SystemExit):
        collect(script, monkeypatch, tmp_path / "kept", *paths)
    assert "run.json more than once" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


def test_the_folder_is_made_and_a_bench_is_told(script, whole, tmp_path, monkeypatch, capsys):
    run, speed = tmp_path / "run.json", tmp_path / "speed.json"
    run.write_text(json.dumps(whole), encoding="utf-8")
    speed.write_text(json.dumps(bench()), encoding="utf-8")
    collect(script, monkeypatch, tmp_path / "deep" / "kept", run, speed)
    kept = tmp_path / "deep" / "kept"
    assert [path.name for path in kept.iterdir()] == ["run.json"]
    assert [answer["line"] for answer in json.loads((kept / "run.json").read_text())["answers"]] == [0] * 12
    assert "no short copy of speed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        collect(script, monkeypatch, run, run)
    assert "expected a folder" in capsys.readouterr().err


def test_only_triples_with_attention_are_kept(script):
    triples = [{"name": n, "property": "p", "value": "v", "weight": w} for n, w in (("a", 0.75), ("b", 0.0), ("c", 0.25))]
    assert [t["name"] for t in script.attended(triples)] == ["a", "c"]
    nothing = [{**t, "weight": 0.0} for t in triples]
    assert script.attended(nothing) == [{"name": "a", "property": "p", "weight": 0.0}]
    assert script.attended([]) == []


def test_a_hundred_questions_stay_below_200_kb(script):
    """The longest that the held-out sets come near: long names, ten triples with attention, every baseline."""
    triple = {"name": "n" * 90, "property": "p" * 30, "value": "v" * 400, "weight": 0.123456}
    found = {"text": "t" * 350, "refused": False, "confidence": 0.9, "exact": True, "token_f1": 0.3, "attended": [triple] * 3}
    answer = {
        "kind": "simple", "messages": [{"role": "user", "content": "q" * 120}], "supports": [["n" * 90, "p" * 30]],
        "system": found, "baselines": {"dense": found},
    }  # fmt: skip
    assert len(json.dumps(script.short({"answers": [answer] * 100}), indent=1)) < 200_000
