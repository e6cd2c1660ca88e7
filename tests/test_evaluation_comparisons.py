"""What a report sets side by side: a system and its baselines, refusals by kind of question."""

import json

import pytest
from evaluation_parts import (  # noqa: F401  (fixtures)
    ACME,
    QUESTIONS,
    command_fixture,
    encoder_fixture,
    files_fixture,
    model_fixture,
    table,
    write_fixture,
)
from test_report import evaluation, measured

from kblam_engine.evaluation import metrics
from kblam_engine.evaluation.baselines import SIZED, Corpus, PromptOptions, build_baseline
from kblam_engine.evaluation.comparisons import (
    differences,
    grid_differences,
    grid_refusals,
    refusals,
    refusals_by_kind,
)
from kblam_engine.evaluation.environment import versions
from kblam_engine.evaluation.grid import SizeResult, Spread, Summary, SystemSummary
from kblam_engine.evaluation.report import build_report
from kblam_engine.evaluation.runs import GridRun, read_runs

# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "recall", "f1"), [(0.5, 1.0, 2 / 3), (None, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, None, None), (1.0, 1.0, 1.0)]
)
def test_f1(precision, recall, f1):
    assert metrics.f1_of(precision, recall) == (f1 if f1 is None else pytest.approx(f1))


def test_refusals_of_a_kind_are_told_from_all_unanswerable_questions():
    found = refusals(over=0.1, n=50, recall=0.75, n_unanswerable=20)
    assert found.precision == pytest.approx(15 / 20) and found.recall == 0.75 and found.f1 == pytest.approx(0.75)
    assert refusals(0.0, 50, 0.0, 20).precision is None and refusals(0.0, 50, 0.0, 20).f1 == 0.0
    assert refusals(None, 50, 0.5, 20).f1 is None and refusals(0.1, 50, None, 0).f1 is None


def kind(n, **numbers):
    return {**dict.fromkeys(measured(), None), "n": n, "ci95": {}, **numbers}


def with_kinds(over_of_follow_ups=0.5):
    kinds = {
        "simple": kind(30, exact=0.9, over_refusal=0.0),
        "follow_up": kind(20, exact=0.4, over_refusal=over_of_follow_ups),
        "unanswerable": kind(20, refusal_recall=0.5),
    }
    return {"overall": measured(), "kinds": kinds, "info": {}}


def test_refusals_by_kind_in_the_report(write):
    runs = read_runs([write("a.json", evaluation(system=with_kinds(), baselines=()))])
    lines = refusals_by_kind(runs.evaluations)
    assert table(lines, "a", "kblam", "simple") == ["a", "kblam", "simple", "30", "0.00", "1.00", "0.50", "0.67"]
    assert table(lines, "a", "kblam", "follow_up")[4:] == ["0.50", "0.50", "0.50", "0.50"]
    assert not any("unanswerable |" in line for line in lines)
    assert "## Refusals by kind of question" in build_report(*runs, {})
    none = {**with_kinds(), "kinds": {"simple": kind(30, exact=0.9, over_refusal=0.0)}}
    assert refusals_by_kind(read_runs([write("b.json", evaluation(system=none, baselines=()))]).evaluations) == []


# --- differences ------------------------------------------------------------------------------------------


def answers(own, theirs):
    return [
        {"system": {"exact": a, "token_f1": None}, "baselines": {"dense": {"exact": b, "token_f1": None}}}
        for a, b in zip(own, theirs, strict=True)
    ]


def test_systems_are_compared_question_by_question(write):
    own, theirs = [True] * 8 + [False] * 2, [True] * 4 + [False] * 5 + [None]
    paired = write("a.json", evaluation(answers=answers(own, theirs)))
    lines = differences(read_runs([paired]).evaluations)
    # Nine pairs: four times one more, five times the same.
    half = 2.306 * (9 * (4 / 9 * 5 / 9) / 8 / 9) ** 0.5  # Student's t with 8 degrees of freedom
    assert table(lines, "a", "100", "dense")[3] == f"0.44 [{4 / 9 - half:.2f}, {4 / 9 + half:.2f}]"
    assert table(lines, "a", "100", "dense")[4] == "0.00", "no answer has one: the means differ by that"
    unpaired = differences(read_runs([write("b.json", evaluation())]).evaluations)
    assert table(unpaired, "b", "100", "dense")[3] == "0.40"
    assert differences(read_runs([write("c.json", evaluation(baselines=()))]).evaluations) == []


def test_an_interval_ends_where_differences_do(write):
    paired = write("a.json", evaluation(answers=answers([True, True, True], [False, False, True])))
    assert table(differences(read_runs([paired]).evaluations), "a", "100", "dense")[3] == "0.67 [-0.77, 1.00]"


def summary(n=10, **values):
    return Summary(n, {name: Spread(sum(v) / len(v), None, None, tuple(v)) for name, v in values.items()})


def grid_of(own, theirs, **data):
    systems = {"kblam": SystemSummary(own, {"simple": own}), "dense": SystemSummary(theirs, {"simple": theirs})}
    return GridRun("g", data, [SizeResult(100, (0, 1, 2), systems)])


def test_grids_are_compared_seed_by_seed():
    lines = grid_differences(grid_of(summary(exact=[0.8, 0.9, 0.7]), summary(exact=[0.5, 0.6, 0.4])))
    assert table(lines, "exact − dense")[1] == "0.30 [0.30, 0.30]"
    assert "not how far other questions" in lines[-1]
    wide = grid_differences(grid_of(summary(exact=[1.0, 0.2]), summary(exact=[0.0, 0.0])))
    assert table(wide, "exact − dense")[1] == "0.60 [-1.00, 1.00]", "no difference of shares is beyond 1"
    lines = grid_differences(grid_of(summary(exact=[0.8, 0.9]), summary(exact=[0.5])))
    assert table(lines, "exact − dense")[1] == "0.35", "seeds that do not match have no interval"
    assert grid_differences(grid_of(summary(), summary())) == []


def test_refusals_of_a_grid():
    kinds = {"simple": summary(30, over_refusal=[0.0, 0.2]), "unanswerable": summary(10, refusal_recall=[0.6])}
    assert grid_refusals(kinds, "simple", "over_refusal").value == pytest.approx(0.1)
    assert grid_refusals(kinds, "simple", "refusal_f1").value == pytest.approx(2 * 6 / (6 + 3 + 10))
    assert grid_refusals(kinds, "unanswerable", "refusal_f1") is None
    assert grid_refusals({"simple": kinds["simple"]}, "simple", "refusal_f1") is None


def test_text_measures_have_columns_where_somebody_asked_for_them(write):
    plain = build_report(*read_runs([write("a.json", evaluation())]), {})
    assert "ROUGE-L" not in plain and "refusal F1" in plain
    own = {**measured(), "rouge_l": 0.61, "bertscore": 0.83}
    told = evaluation(system={"overall": own, "kinds": {"simple": own}, "info": {}})
    text = build_report(*read_runs([write("b.json", told)]), {})
    assert "| token F1 | ROUGE-L | BERTScore | top-1 |" in text and "| 0.61 | 0.83 |" in text


def test_versions_name_what_a_result_depends_on():
    assert {"torch", "transformers", "tokenizers", "sentence-transformers", "gguf", "numpy"} <= versions().keys()


def test_baselines_with_their_own_number_of_triples(files, command, tmp_path, model, encoder):
    corpus = Corpus(ACME, encoder.encode([t.key_text for t in ACME]), encoder)
    for name in SIZED:
        base, k = name.split("-")
        found = build_baseline(name, model, corpus, QUESTIONS, PromptOptions(top_k=2))
        assert found.name == name and found.info == {"top_k": int(k)}
        same = build_baseline(base, model, corpus, QUESTIONS, PromptOptions(top_k=int(k)))
        assert [found.select(q) for q in QUESTIONS] == [same.select(q) for q in QUESTIONS]
    out = tmp_path / "out.json"
    done = command(*files, "--baseline", "dense-1,dense-10,dense", "--json", out)
    assert done.exit_code == 0, done.output
    told = json.loads(out.read_text("utf-8"))["baselines"]
    assert {name: found["info"]["top_k"] for name, found in told.items()} == {"dense-1": 1, "dense-10": 10, "dense": 5}
