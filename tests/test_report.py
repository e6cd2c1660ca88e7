import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_parts import (  # noqa: F401  (fixtures)
    command_fixture,
    encoder_fixture,
    files_fixture,
    model_fixture,
    report_fixture,
    table,
    write_fixture,
)

import kblam_engine
from kblam_engine.errors import ImportFileError
from kblam_engine.evaluation import metrics
from kblam_engine.evaluation.questions import digest_of
from kblam_engine.evaluation.report import build_report, by_kind, overview, repeated
from kblam_engine.evaluation.runs import read_runs, series_of

ENGINE = Path(kblam_engine.__file__).parent
PNG = b"\x89PNG\r\n\x1a\n"


def measured(exact=40, refused=15, over=4):
    """Return the metrics of 50 answerable questions and 20 others."""
    counts = {
        "exact": (exact, 50),
        "retrieval_top1": (exact, 50),
        "retrieval_top5": (48, 50),
        "refusal_precision": (refused, refused + over) if refused + over else None,
        "refusal_recall": (refused, 20),
        "over_refusal": (over, 50),
    }
    return {
        "n": 70,
        "token_f1": 0.5,
        **{name: count and count[0] / count[1] for name, count in counts.items()},
        "ttft_ms_p50": 250.4,
        "ms_per_token_p50": 71.25,
        "peak_rss_mb": 1024.0,
        "ci95": {name: metrics.wilson(*count) for name, count in counts.items() if count},
    }


def system(**counts):
    found = measured(**counts)
    return {"overall": found, "kinds": {"simple": found, "unanswerable": found}, "info": {}}


def evaluation(n_triples=100, baselines=("dense",), **changes):
    return {
        "format": "kblam-eval/1",
        "model": "smollm2-135m",
        "adapter": None,
        "kb": "sea/whales.kb.jsonl",
        "questions": "sea/whales.jsonl",
        "distractors": "sea/rest.jsonl",
        "created": "2026-05-04T10:00:00+00:00",
        "command": ["kblam", "eval", "--kb", "sea/whales.kb.jsonl", "--questions", "my whales.jsonl"],
        "seed": 0,
        "versions": {"python": "3.11.7"},
        "hardware": {"processor": "A | B", "cores": 2},
        "commit": "abc123",
        "n_triples": n_triples,
        "n_from_kb": 100,
        "n_distractors": n_triples - 100,
        "options": {"max_new_tokens": 128},
        "warnings": [],
        "definitions": {"exact": "share of exact answers"},
        "system": system(),
        "baselines": {name: system(exact=20, refused=0, over=0) for name in baselines},
        "answers": [],
        **changes,
    }


def bench(sizes=(100, 10_000), **changes):
    at = {
        "embeddings": "real", "n_synthetic_embeddings": 0, "n_pairs": 20, "max_new_tokens": 32,
        "ttft_ratio": 1.25, "ttft_ratio_p25_p75": [1.2, 1.4], "per_token_ratio": 1.05,
        "per_token_ratio_p25_p75": [1.0, 1.1], "ttft_ms_base": 200.0, "ttft_ms_kb": 250.0,
        "ttft_ms_kb_p95": 300.0, "per_token_ms_base": 70.0, "per_token_ms_kb": 73.5, "retrieval_ms": 40.0,
        "prompt_tokens": 50.0, "completion_tokens_base": 32.0, "completion_tokens_kb": 20.0,
        "attended_top1": 1.0, "peak_rss_mb": 1056.0, "build_s": 1.0,
    }  # fmt: skip
    return {
        "format": "kblam-bench/1",
        "method": "pairs",
        "command": ["__main__.py", "bench", "scale", "--triples", "100"],
        "seed": 0,
        "results": [{"n_triples": size, **at} for size in sizes],
        **changes,
    }


def test_overview_and_kinds(write):
    runs, *_ = read_runs([write("a.json", evaluation()), write("b.json", evaluation(1_000, baselines=()))])
    lines = overview(runs)
    assert lines[0].startswith("| run | triples | n | exact | dense exact |")
    assert table(lines, "a")[1:6] == ["100", "70", "0.80", "0.40", "0.50"]
    assert table(lines, "b")[1:6] == ["1,000", "70", "0.80", "–", "0.50"]
    assert table(by_kind(runs), "b", "unanswerable")[2:5] == ["70", "0.80", "–"]


def test_the_report_has_systems_intervals_settings_and_commands(write):
    runs = read_runs([write("a.json", evaluation()), write("fast.json", bench())])
    lines = build_report(*runs, {"accuracy": "accuracy.png"}).splitlines()
    answers = lines[lines.index("## Answers") : lines.index("## Refusals")]
    low, high = metrics.wilson(40, 50)
    assert table(answers, "a", "100", "kblam")[4] == f"0.80 [{low:.2f}, {high:.2f}]"
    assert table(answers, "a", "100", "dense")[4].startswith("0.40 [")
    refusals = lines[lines.index("## Refusals") : lines.index("## By kind of question")]
    assert table(refusals, "a", "100", "dense")[4] == "–"  # no refusal, no precision
    assert table(refusals, "a", "100", "kblam")[6].startswith("0.08 [")
    scale = lines[lines.index("## Time and memory against the size of the KB") :]
    assert table(scale, "fast", "10,000")[2:5] == ["20", "200 → 250", "1.25 [1.20, 1.40]"]
    assert "kblam eval --kb sea/whales.kb.jsonl --questions 'my whales.jsonl'" in lines
    assert "kblam bench scale --triples 100" in lines  # and not __main__.py
    assert r"- machine: processor A \| B; cores 2" in lines
    assert "- measured: created 2026-05-04T10:00:00+00:00; commit abc123" in lines
    assert any(line.startswith("- settings: model smollm2-135m; adapter –; kb sea/") for line in lines)
    assert "- exact: share of exact answers" in lines
    assert any(line.endswith("](accuracy.png)") for line in lines)


def test_what_a_file_says_beyond_the_known_is_told(write):
    changed = evaluation(baselines_from="an hour *earlier*", warnings=["12 | few"])
    changed["baselines"]["dense"]["info"] = {"top_k": 5}
    changed.pop("command")
    text = build_report(*read_runs([write("a.json", changed)]), {})
    assert r"baselines_from an hour \*earlier\*" in text
    assert r"- warning: 12 \| few" in text
    assert "| top_k 5 |" in text
    assert "# the file does not say which command made it" in text


def test_runs_are_named_by_as_much_of_their_path_as_it_takes(write):
    paths = [write(name, evaluation()) for name in ("old/a.json", "new/a.json", "new/b.json", "a.b.json")]
    runs, *_ = read_runs([*paths, paths[0]])
    assert [run.name for run in runs] == ["old/a", "new/a", "b", "a.b"]


def test_runs_with_the_same_settings_make_a_series(write):
    paths = [
        write("small.json", evaluation(100, distractors=None)),
        write("large.json", evaluation(1_000)),
        write("other.json", evaluation(1_000, model="another")),
        write("threshold.json", evaluation(1_000, options={"max_new_tokens": 128, "refusal_threshold": 0.3})),
    ]
    first, other, threshold = series_of(read_runs(paths)[0])
    assert {size: [run.name for run in runs] for size, runs in first.by_size.items()} == {
        100: ["small"],
        1_000: ["large"],
    }
    assert list(other.by_size) == list(threshold.by_size) == [1_000]
    assert "model another" in other.title
    assert "refusal_threshold 0.3" in threshold.title


def test_other_seeds_give_a_mean_and_its_interval(write):
    runs = []
    for seed, exact in enumerate((38, 40, 45)):
        runs.append(write(f"{seed}.json", evaluation(seed=seed, system=system(exact=exact))))
    lines = repeated(read_runs(runs)[0])
    found = table(lines, "whales", "100", "3")
    assert found[3:5] == ["0, 1, 2", "abc123"]
    assert found[5] == "0.82 [0.64, 1.00]"  # 0.82 plus and minus 4.303 times 0.0416
    assert repeated(read_runs(runs[:1])[0]) == []


def told(*texts):
    asked = [{"role": "user", "content": "Which?"}]
    return [{"kind": "simple", "messages": asked, "supports": [["a", text]], "system": {"text": text, "exact": True}} for text in texts]


def test_runs_of_other_questions_are_no_series(write):
    runs = [write(f"{i}.json", evaluation(seed=i, answers=told(text))) for i, text in enumerate("xyx")]
    one, other = series_of(read_runs(runs)[0])
    assert [[run.name for run in series.by_size[100]] for series in (one, other)] == [["0", "2"], ["1"]]
    assert one.title != other.title
    digested = write("d.json", evaluation(seed=3, questions_digest=digest_of([(told("y")[0]["messages"], "simple", [["a", "y"]])])))
    series = series_of(read_runs([*runs, digested])[0])
    assert [run.name for run in series[1].by_size[100]] == ["1", "d"], "a file says what an older one holds"


def test_a_copied_file_is_no_second_run(write):
    data = evaluation(answers=told("x"))
    again = evaluation(answers=told("x"), created="2026-05-05T10:00:00+00:00")
    paths = [write("a.json", data), write("kept/a.json", data), write("b.json", again)]
    lines = repeated(read_runs(paths)[0])
    assert table(lines, "whales", "100", "2")
    assert lines[-1] == "Left out, each a file of a run that is there already: kept/a."
    (line,) = repeated(read_runs(paths[:2])[0])
    assert line.endswith("kept/a."), "one run has no mean over runs"


def test_mean_interval():
    assert metrics.mean_interval([0.5]) is None
    assert metrics.mean_interval([0.5, 0.5]) == (0.5, 0.5)
    low, high = metrics.mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low, high) == pytest.approx((1.037, 4.963), abs=1e-3)
    low, high = metrics.mean_interval([0.0, 1.0] * 15)  # 29 degrees of freedom: 2.045
    assert high - low == pytest.approx(2 * 2.045 * 0.50855 / 30**0.5, abs=1e-3)


def drawn(*paths):
    from kblam_engine.evaluation.plots import figures

    return figures(*read_runs(paths))


def test_plots_show_the_numbers(write):
    found = drawn(
        write("100.json", evaluation(100)), write("1000.json", evaluation(1_000)), write("bench.json", bench())
    )
    assert [name for name, figure in found.items() if figure] == ["accuracy", "systems", "refusal", "cost"]
    (panel,) = found["accuracy"].axes
    handles, labels = panel.get_legend_handles_labels()
    assert labels == ["kblam: exact answers", "kblam: retrieval top-1", "kblam: retrieval top-5", "dense: exact answers"]
    assert list(handles[0].lines[0].get_ydata()) == [0.8, 0.8]
    assert list(handles[0].lines[0].get_xdata()) == pytest.approx([100, 1_000], rel=0.3)
    assert panel.get_xscale() == "log"
    bars = [bar.get_width() for bar in found["systems"].axes[0].patches]
    assert bars == [0.8, 0.4] * 2
    handles, labels = found["cost"].axes[0].get_legend_handles_labels()
    line = handles[labels.index("bench")].lines[0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([100, 10_000], [1.25, 1.25])


def test_legends_lie_outside_the_data(write):
    paths = [
        write(f"{n}.json", evaluation(n, ("zero-shot", "in-context", "bm25", "dense", "oracle", "mine")))
        for n in (100, 1_000, 10_000)
    ]
    paths += [write(f"bench of a long name, number {n}.json", bench()) for n in range(9)]
    for name, figure in drawn(*paths).items():
        if figure is None:  # no grids
            continue
        figure.draw_without_rendering()
        if name == "systems":  # each bar has its name
            ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
            assert ticks == ["kblam", "zero-shot", "in-context", "bm25", "dense", "oracle", "mine"] * 3
            continue
        (legend,) = figure.legends
        box, page = legend.get_window_extent(), figure.bbox
        assert 0 <= box.x0 and box.x1 <= page.x1 and 0 <= box.y0, name
        for panel in figure.axes:
            assert not box.overlaps(panel.get_tightbbox()), name


def test_no_plot_without_data(write):
    found = drawn(write("a.json", evaluation(baselines=())))
    assert found["accuracy"] is found["systems"] is found["cost"] is None and found["refusal"]
    unknown = ("exact", "token_f1", "retrieval_top1", "retrieval_top5", "over_refusal")  # all unanswerable
    nothing = {"overall": measured() | dict.fromkeys(unknown), "kinds": {}, "info": {}}
    paths = [write(f"{n}.json", evaluation(n, system=nothing) | {"baselines": {"dense": nothing}}) for n in (100, 200)]
    assert not any(drawn(*paths).values())
    assert not any(drawn(write("c.json", bench(sizes=()))).values())


def test_names_with_signs_that_mean_something_to_matplotlib(write, report, tmp_path):
    odd = [write(f"$x_{{$ _{n}.json", evaluation(n, questions="_$\\frac$.jsonl")) for n in (100, 1_000)]
    code, out, err = report(*odd, write("_hidden.json", bench()))
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 5


def test_the_command_writes_a_folder(write, report, tmp_path):
    paths = [write("a.json", evaluation(100)), write("b.json", evaluation(1_000)), write("c.json", bench())]
    code, out, err = report(*paths, output=tmp_path / "new" / "out")
    names = ("report.md", "accuracy.png", "systems.png", "refusal.png", "cost.png")
    wanted = [tmp_path / "new" / "out" / name for name in names]
    assert (code, err) == (0, "")
    assert out.split() == [str(path) for path in wanted]
    assert sorted(wanted) == sorted((tmp_path / "new" / "out").iterdir())
    assert all(path.read_bytes().startswith(PNG) for path in wanted[1:])
    linked = re.findall(r"\]\((.+?)\)", wanted[0].read_text("utf-8"))
    assert sorted(linked) == sorted(path.name for path in wanted[1:])
    before = {path: path.read_bytes() for path in wanted}
    assert report(*paths, output=tmp_path / "new" / "out")[0] == 0
    assert before == {path: path.read_bytes() for path in wanted}
    report(paths[2], output=tmp_path / "new" / "out")  # the other plots would belong to no report
    assert {path.name for path in (tmp_path / "new" / "out").iterdir()} == {"report.md", "cost.png"}


def test_what_the_commands_write_can_be_reported(command, files, report, tmp_path):
    ours, speed = tmp_path / "eval.json", tmp_path / "bench.json"
    assert command(*files, "--baseline", "dense", "in-context", "--json", ours).exit_code == 0
    assert command("bench", "scale", "--triples", 20, "--triples", 50, "--pairs", 2, "--json", speed).exit_code == 0
    code, out, err = report(ours, speed)
    assert (code, err) == (0, ""), err
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "| eval |" in text and "in-context" in text and "| bench | 50 |" in text


def test_the_kept_results_can_be_reported(report, tmp_path):
    kept = [path for path in (ENGINE.parent / "docs" / "results").glob("*.json") if '"kblam-' in path.read_text("utf-8")]
    assert kept
    code, _, err = report(*kept, options=["--no-plots"])
    assert (code, err) == (0, "")


def broken(change):
    data = copy.deepcopy(evaluation())
    change(data)
    return data


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "line 1: not JSON"),
        ("", "line 1: not JSON"),
        ("[1]", "expected one JSON object, got a list"),
        ("[" * 100_000, "nested too deeply"),
        ('{"format": NaN}', "NaN"),
        ({"format": "other"}, 'format: expected kblam-eval/1, kblam-eval-grid/1 or kblam-bench/1 .*, got "other"'),
        ({}, "format: .* got nothing"),
        (broken(lambda data: data.pop("system")), "system: expected an object, got nothing"),
        (broken(lambda data: data.update(n_triples="many")), 'n_triples: expected a number or null, got "many"'),
        (broken(lambda data: data.update(n_triples=0)), "n_triples: expected a whole number of at least 1, got 0"),
        (broken(lambda data: data["system"]["overall"].update(exact=True)), "exact: expected a number .* got true"),
        (broken(lambda data: data["system"]["overall"].update(exact=10**400)), "exact: expected a number"),
        (broken(lambda data: data["system"]["overall"]["ci95"].update(exact=[1])), "exact: expected two numbers"),
        (broken(lambda data: data.update(baselines={"dense": 3})), "dense: expected an object, got 3"),
        (bench(results={}), "results: expected a list of objects"),
    ],
)
def test_files_of_something_else(write, report, tmp_path, content, reason):
    path = write("x.json", content)
    with pytest.raises(ImportFileError, match=reason):
        read_runs([path])
    code, out, err = report(path)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"kblam: {path}") and re.search(reason, err)
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_read_or_written(write, report, tmp_path):
    good = write("a.json", evaluation())
    bytes_only = tmp_path / "b.json"
    bytes_only.write_bytes(b"\xff\xfe")
    for paths, output in (
        ([tmp_path / "none.json"], tmp_path / "out"),
        ([tmp_path], tmp_path / "out"),
        ([Path("/")], tmp_path / "out"),
        ([bytes_only], tmp_path / "out"),
        ([good], good),
        ([good], good / "below"),
    ):
        code, out, err = report(*paths, output=output)
        assert (code, out, err.count("\n")) == (1, "", 1), err
    assert report(output=tmp_path / "out")[0] == 2
    assert not (tmp_path / "out").exists()


def test_without_matplotlib(write, report, tmp_path, monkeypatch):
    path = write("a.json", evaluation())
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    for name in ("drawing", "grid_plots", "plots"):
        monkeypatch.delitem(sys.modules, f"kblam_engine.evaluation.{name}", raising=False)
    code, out, err = report(path)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert 'pip install "kblam-engine[report]"' in err and "--no-plots" in err
    assert not (tmp_path / "out").exists()
    code, out, err = report(path, options=["--no-plots"])
    assert (code, out.split(), err) == (0, [str(tmp_path / "out" / "report.md")], "")


def test_only_one_module_knows_matplotlib_and_none_its_global_state(write, tmp_path):
    named = [path.name for path in ENGINE.rglob("*.py") if re.search(r"^\s*(from|import) matplotlib", path.read_text("utf-8"), re.M)]
    assert named == ["drawing.py"]
    script = (
        "import sys\nfrom kblam_engine.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)\n"
    )
    path = write("a.json", evaluation())
    done = subprocess.run(
        [sys.executable, "-c", script, "report", str(path), "--output", str(tmp_path / "out")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False False", done.stderr
