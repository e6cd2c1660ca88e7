"""Questions of an evaluation asked several at once: the same answers, without times and memory."""

import json

import pytest
from engine_parts import engine_fixture  # noqa: F401
from evaluation_parts import (  # noqa: F401  (fixtures)
    ACME,
    OTHERS,
    QUESTIONS,
    command_fixture,
    encoder_fixture,
    files_fixture,
    model_fixture,
    table,
)
from evaluation_stub import StubModel
from grid_parts import grid

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation import run_evaluation
from kblam_engine.evaluation.baselines import PromptOptions
from kblam_engine.evaluation.questions import Question
from kblam_engine.evaluation.report import build_report
from kblam_engine.evaluation.runner import ask_systems
from kblam_engine.evaluation.runs import read_runs

COSTS = ("ttft_ms", "ms_per_token", "peak_rss_mb")


def evaluated(model, batch_size, **options):
    return run_evaluation(model, ACME, QUESTIONS, OTHERS, 12, ["zero-shot", "dense"], 5, batch_size=batch_size, **options)


def without_costs(result):
    told = json.loads(json.dumps(result.to_dict()["answers"]))
    for answer in told:
        for part in (answer["system"], *answer["baselines"].values()):
            for name in COSTS:
                part.pop(name)
    return told


def test_batches_give_the_same_answers_without_times(encoder):
    single, batched = StubModel(encoder), StubModel(encoder)
    seen = []
    one, two = evaluated(single, 1), evaluated(batched, 2, progress=lambda *step: seen.append(step))
    assert without_costs(one) == without_costs(two)
    assert single.batches == [1] * 9
    assert batched.batches == [2, 1] * 3
    assert one.system.overall.ttft_ms_p50 is not None and one.baselines["dense"].overall.peak_rss_mb is not None
    for found in (two.system, *two.baselines.values()):
        told = found.overall.to_dict()
        assert [told[name] for name in ("ttft_ms_p50", "ms_per_token_p50", "peak_rss_mb")] == [None] * 3
    assert (two.settings["batch_size"], "batch_size" in one.settings) == (2, False)
    assert [step for step in seen if step[0] == "dense"] == [("dense", done, 3) for done in range(4)]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_has_a_question(encoder, batch_size):
    with pytest.raises(ConfigurationError, match="batch_size: expected at least 1"):
        evaluated(StubModel(encoder), batch_size)
    with pytest.raises(ConfigurationError, match="batch_size: expected at least 1"):
        grid(StubModel(encoder), batch_size=batch_size)


def test_a_grid_in_batches(encoder, tmp_path):
    model, seen = StubModel(encoder), []
    options = {"sizes": (40,), "seeds": (0,), "folder": tmp_path}
    found = grid(model, **options, batch_size=5, progress=lambda *step: seen.append(step))
    assert max(model.batches) == 5
    measures = found.sizes[0].systems["kblam"].overall.measures
    assert measures["exact"].values == grid(StubModel(encoder), sizes=(40,), seeds=(0,)).sizes[0].systems["kblam"].overall.measures["exact"].values
    assert not {"ttft_ms_p50", "ms_per_token_p50", "peak_rss_mb"} & set(measures)
    n = found.sizes[0].systems["kblam"].overall.n * len(found.sizes[0].systems)
    assert max(done for _, done, _ in seen) == n == seen[0][2]

    again = StubModel(encoder)
    grid(again, **options, batch_size=5)
    assert again.batches == [], "the cell is kept"
    grid(again, **options)
    assert set(again.batches) == {1}, "one without times is not taken for one with them"


def test_the_command_asks_in_batches(command, files, model, tmp_path):
    out = tmp_path / "out.json"
    done = command(*files, "--batch-size", 3, "--json", out)
    assert done.exit_code == 0, done.output
    assert model.batches == [3]
    assert json.loads(out.read_text())["batch_size"] == 3
    lines = build_report(*read_runs([out]), {}).splitlines()
    costs = lines[lines.index("## Time and memory of the answers") : lines.index("## What the columns mean")]
    assert set(table(costs, "out", "4", "kblam")[3:6]) == {"–"}
    assert command(*files, "--batch-size", 0).exit_code == 2


def test_the_engine_answers_the_same_in_batches(engine, memory_kb):
    triples = list(memory_kb)
    asked = [
        Question(({"role": "user", "content": f"What is the {t.property} of {t.name}?"},), "simple", ((t.value,),), ((t.name, t.property),))
        for t in triples[:5]
    ] + [Question(({"role": "user", "content": "Who painted the moon?"},), "unanswerable", (), ())]
    names = ["dense", "encoder-gates"]

    def found(batch_size, **options):
        answered = ask_systems(engine, triples, asked, names, prompts=PromptOptions(max_new_tokens=12), batch_size=batch_size, **options)
        return {name: [one.without_costs() for one in answers] for name, answers in answered.answers.items()}

    together, alone = found(4), found(1)
    for name, answers in alone.items():
        for one, other in zip(answers, together[name], strict=True):
            assert (one.text, one.refused, one.retrieval_top1, one.finish_reason) == (
                other.text, other.refused, other.retrieval_top1, other.finish_reason,
            ), name  # fmt: skip
            assert one.confidence == pytest.approx(other.confidence, abs=1e-4)
    assert all(one.layers is not None for one in found(4, by_layer=True)["kblam"] if one.retrieval_top1)
