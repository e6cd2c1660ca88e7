import json

import pytest
from evaluation_parts import OTHERS, ask, encoder_fixture, model_fixture  # noqa: F401
from evaluation_stub import StubModel
from grid_parts import ABOUT_LAKES, LAKES, grid, no_git  # noqa: F401
from kb_parts import CountingEncoder

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation import metrics, run_evaluation
from kblam_engine.evaluation.grid import (
    MEASURES,
    check_sizes,
    over_seeds,
    parts_of,
    shared_out,
    spread,
    summarise_seeds,
)
from kblam_engine.evaluation.grid_run import run_grid
from kblam_engine.evaluation.results import Metrics, SystemResult
from kblam_engine.evaluation.runs import read_runs

# --- statistics ------------------------------------------------------------------------------------------------


def test_spread():
    found = spread([0.8, 0.9, 0.7], largest=1.0)
    low, high = metrics.mean_interval([0.8, 0.9, 0.7])
    assert (found.mean, found.low, found.high) == (pytest.approx(0.8), low, 1.0)
    assert high > 1.0  # cut off
    assert spread([0.8, 0.9, 0.7]).high == high
    assert spread([5.0, 0.0]).low == 0.0
    assert spread([0.5], (0.4, 0.6)).to_dict() == {"mean": 0.5, "low": 0.4, "high": 0.6, "values": [0.5]}
    assert spread([0.5]).low is None


def test_over_seeds_leaves_out_what_was_not_measured():
    found = over_seeds([Metrics(5, exact=0.2, peak_rss_mb=900.0), Metrics(5, exact=0.4), Metrics(4)])
    assert found.n == 14
    assert set(found.measures) == {"exact", "peak_rss_mb"}
    assert found.measures["exact"].values == (0.2, 0.4)
    assert found.measures["peak_rss_mb"].low is None
    told = found.to_dict()
    assert set(told) == {"n", *MEASURES}
    assert told["token_f1"] is None
    alone = over_seeds([Metrics(5, exact=0.2, ci95={"exact": (0.1, 0.5)})])
    assert (alone.measures["exact"].low, alone.measures["exact"].high) == (0.1, 0.5)


def test_kinds_and_infos_over_seeds():
    first = SystemResult(Metrics(3, exact=1.0), {"a": Metrics(3, exact=1.0)}, {"n_fit": 9, "top_k": 5})
    second = SystemResult(Metrics(3, exact=0.0), {"b": Metrics(3, exact=0.0)}, {"n_fit": 7, "top_k": 5})
    found = summarise_seeds([first, second])
    assert {kind: one.n for kind, one in found.kinds.items()} == {"a": 3, "b": 3}
    assert found.overall.measures["exact"].mean == 0.5
    assert found.info == {"n_fit": 7, "top_k": 5}


# --- knowledge bases of a size ---------------------------------------------------------------------------------


def test_questions_are_shared_out():
    needed = [{0}, {1, 2}, set(), {3}, {0, 1}, set(), {4, 5}]
    groups = shared_out(needed, 2)
    assert sorted(place for group in groups for place in group) == list(range(7))
    assert all(len(set().union(*(needed[i] for i in group))) <= 2 for group in groups)
    assert groups == shared_out(needed, 2)
    assert shared_out([set(), set()], 1) == [[0, 1]]
    assert shared_out(needed, 9) == [list(range(7))]


def test_a_small_kb_for_each_share():
    parts = parts_of(LAKES, ABOUT_LAKES, ABOUT_LAKES, OTHERS, 10, 3)
    assert len(parts) == 3
    assert {place for part in parts for place in part.places} == set(range(36))
    for part in parts:
        assert len(part.assembly.triples) == 10
        assert part.assembly.warnings == []
        held = {(t.name, t.property) for t in part.assembly.triples}
        assert held >= {pair for place in part.places for pair in ABOUT_LAKES[place].supports}
        assert sum(not ABOUT_LAKES[place].answerable for place in part.places) == 2
    asked = ABOUT_LAKES[:3]
    (one,) = parts_of(LAKES, ABOUT_LAKES, asked, OTHERS, 40, 3)
    assert one.places == [0, 1, 2]
    assert one.assembly.n_distractors == 10


def test_sizes_that_cannot_be():
    assert check_sizes([40, 10, 40], LAKES, ABOUT_LAKES, OTHERS) == (10, 40)
    with pytest.raises(ConfigurationError, match="at most 50, .* got 51"):
        check_sizes([10, 51], LAKES, ABOUT_LAKES, OTHERS)
    both = ask("?", answers=[["3 m"]], supports=[["Lake 00", "depth"], ["Lake 01", "depth"]])
    with pytest.raises(ConfigurationError, match="at least 2, .* got 1"):
        check_sizes([1], LAKES, [both], OTHERS)
    for sizes in ([], [0]):
        with pytest.raises(ConfigurationError, match="sizes"):
            check_sizes(sizes, LAKES, ABOUT_LAKES, OTHERS)


# --- the run ---------------------------------------------------------------------------------------------------


def test_run_grid(model):
    seen = []
    result = grid(model, labels={"model": "stub"}, progress=lambda *step: seen.append(step))
    assert [at.size for at in result.sizes] == [5, 40]
    for at in result.sizes:
        assert at.seeds == (0, 1, 2)
        assert list(at.systems) == ["kblam", "dense"]
        own = at.systems["kblam"].overall
        assert own.n == 36
        assert own.measures["exact"].values == (1.0, 1.0, 1.0)
        assert {"ttft_ms_p50", "ms_per_token_p50", "peak_rss_mb"} <= set(own.measures)
        assert "simple" in at.systems["kblam"].kinds
    assert seen[0] == ("5 triples", 0, 72)
    assert seen[-1] == ("40 triples", 72, 72)
    assert all(earlier <= later for (a, earlier, _), (b, later, _) in zip(seen, seen[1:], strict=False) if a == b)
    out = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert out["format"] == "kblam-eval-grid/1"
    assert (out["sizes"], out["seeds"], out["model"], out["limit"]) == ([5, 40], [0, 1, 2], "stub", 12)
    assert {"command", "hardware", "commit", "versions", "options"} <= set(out)
    assert set(out["results"][0]["systems"]["dense"]["overall"]) == {"n", *MEASURES}
    assert "seed" not in out and "n_distractors" not in out
    assert [cell["seed"] for cell in out["results"][0]["cells"]] == [0, 1, 2]
    assert out["results"][0]["cells"][0]["n_kbs"] > 1
    assert out["results"][1]["cells"][0]["n_kbs"] == 1
    assert out["results"][0]["answers"][0]["system"]["attended"][0]["weight"] > 0


def test_a_cell_is_a_single_run(encoder, tmp_path):
    grid(StubModel(encoder), folder=tmp_path)
    cell = json.loads((tmp_path / "40-triples-seed-2.json").read_text())
    single = run_evaluation(StubModel(encoder), LAKES, ABOUT_LAKES, OTHERS, 40, ["dense"], 2, limit=12).to_dict()

    def told(data):
        return [
            (a["line"], a["system"]["text"], a["system"]["attended"], a["baselines"]["dense"]["prompt"])
            for a in data["answers"]
        ]

    assert told(cell) == told(single)
    assert cell["n_triples"] == single["n_triples"] == 40
    runs, *_ = read_runs(tmp_path.iterdir())
    assert sorted(run.n_triples for run in runs) == [5] * 3 + [40] * 3


def test_seeds_choose_questions_and_distractors(model, tmp_path):
    grid(model, folder=tmp_path)
    cells = [json.loads((tmp_path / f"40-triples-seed-{seed}.json").read_text()) for seed in (0, 1)]
    asked = [[answer["messages"] for answer in cell["answers"]] for cell in cells]
    assert asked[0] != asked[1]


def test_every_text_is_encoded_once():
    counting = CountingEncoder(64)
    grid(StubModel(counting), baselines=[])
    # 50 keys, 50 names and 2 properties at most; nothing else goes through the encoder
    assert 0 < len(counting.texts) <= 102


def test_finished_cells_are_not_run_again(encoder, tmp_path):
    class Killed(StubModel):
        def answer(self, question, kb=None, **options):
            if len(self.asked_kb) == 40:
                raise KeyboardInterrupt
            return super().answer(question, kb, **options)

    with pytest.raises(KeyboardInterrupt):
        grid(Killed(encoder), folder=tmp_path)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert 0 < len(kept) < 6
    second = StubModel(encoder)
    result = grid(second, folder=tmp_path)
    assert 0 < len(second.asked_kb) < 72
    whole = grid(StubModel(encoder))
    assert _results(result) == _results(whole)

    third = StubModel(encoder)
    assert _results(grid(third, folder=tmp_path)) == _results(whole)
    assert third.asked_kb == third.asked_base == []
    more = StubModel(encoder)
    grid(more, folder=tmp_path, sizes=(5, 40, 50))
    assert len({id(q) for q, _ in more.asked_kb}) == 3 * 13  # the new size alone, with its warm-up


@pytest.mark.parametrize(
    "change",
    [{"limit": 11}, {"baselines": []}, {"answer_options": {"refusal_threshold": 0.5}}, {"labels": {"model": "other"}}],
)
def test_another_command_starts_anew(encoder, tmp_path, change):
    grid(StubModel(encoder), folder=tmp_path, sizes=(40,), seeds=(0,))
    again = StubModel(encoder)
    found = grid(again, folder=tmp_path, **{"sizes": (40,), "seeds": (0,), **change})
    assert len(again.asked_kb) == 1 + found.sizes[0].systems["kblam"].overall.n


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint": "FP"}', '{"fingerprint": "FP", "answers": [3]}'])
def test_a_broken_cell_is_run_again(encoder, tmp_path, content):
    grid(StubModel(encoder), folder=tmp_path, sizes=(40,), seeds=(0,))
    (path,) = tmp_path.iterdir()
    path.write_text(content.replace("FP", json.loads(path.read_text())["fingerprint"]))
    model = StubModel(encoder)
    grid(model, folder=tmp_path, sizes=(40,), seeds=(0,))
    assert len(model.asked_kb) == 13
    assert json.loads(path.read_text())["answers"]


def test_text_metrics_need_no_answers_again(encoder, tmp_path):
    pytest.importorskip("rouge_score")
    grid(StubModel(encoder), folder=tmp_path)
    model = StubModel(encoder)
    found = grid(model, folder=tmp_path, text_metrics=["rouge-l"])
    assert model.asked_kb == []
    assert found.sizes[0].systems["kblam"].overall.measures["rouge_l"].mean == 1.0
    alone = run_evaluation(
        StubModel(encoder), LAKES, ABOUT_LAKES, OTHERS, 40, ["dense"], 1, limit=12, text_metrics=["rouge-l"]
    )
    values = found.sizes[1].systems["dense"].overall.measures["rouge_l"].values
    assert values[1] == pytest.approx(alone.baselines["dense"].overall.rouge_l, abs=1e-4)


def test_nothing_to_run(model):
    with pytest.raises(ConfigurationError, match="seeds"):
        grid(model, seeds=())
    with pytest.raises(ConfigurationError, match="questions"):
        run_grid(model, LAKES, [])


def _results(result):
    told = result.to_dict()["results"]
    for at in told:
        at.pop("cells")
        for system in at["systems"].values():
            for summary in (system["overall"], *system["kinds"].values()):
                for name in ("ttft_ms_p50", "peak_rss_mb"):  # the time to choose triples differs
                    summary.pop(name)
    return told
