"""`kblam bench scale --against`: the same questions with triples in the prompt, beside the base model and the KB."""

import json

import pytest
from evaluation_parts import command_fixture  # noqa: F401
from evaluation_stub import StubModel

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.bench_tables import bench_tables
from kblam_engine.evaluation.in_prompt import WAYS, PromptLimits, exact_share, ways_of
from kblam_engine.evaluation.latency import BenchOptions, bench, bench_folders
from kblam_engine.evaluation.latency_results import growth_exponents
from kblam_engine.evaluation.runs import read_runs
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Triple

OPTIONS = BenchOptions(n_pairs=4, max_new_tokens=8, n_changes=0, against=WAYS, limits=PromptLimits(3, 150))


@pytest.fixture
def model():
    return StubModel(HashingEncoder(64))


@pytest.fixture
def folder(tmp_path, model):
    with KnowledgeBase.open(tmp_path / "some.kb", encoder=model.encoder) as kb:
        kb.add([Triple(f"Orca {n // 3}", ("founder", "price", "colour")[n % 3], f"value {n}") for n in range(60)])
    return tmp_path / "some.kb"


def test_the_same_questions_are_asked_again_with_triples_in_the_prompt(model, folder):
    (found,) = bench_folders(model, [folder], OPTIONS)
    asked = [text for side, text in model.log if side == "kb"][-4:]
    in_prompt = [text for side, text in model.log if side == "base" and "Question:" in text]
    for text in asked:
        assert sum(prompt.endswith(f"Question: {text}") for prompt in in_prompt) >= 2, "once each way"
    assert [way.name for way in found.in_prompt] == list(WAYS)
    context, dense = found.in_prompt
    assert dense.n_in_prompt == 3 < context.n_in_prompt < 60
    assert (dense.ttft_ratio, dense.per_token_ratio) == (pytest.approx(1.0, abs=0.6), pytest.approx(1.0))
    assert found.exact_kb == 1.0 and found.exact_base == 0.0
    assert dense.exact >= 0.75 > context.exact, "what is near the question is in the prompt, not a third of everything"
    assert dense.ttft_ms > found.ttft_ms_base, "choosing the triples is part of it"


def test_without_it_nothing_more_is_asked(model, folder):
    (found,) = bench_folders(model, [folder], BenchOptions(n_pairs=2, n_changes=0))
    assert found.in_prompt == () and not [text for side, text in model.log if side == "base" and "Question:" in text]


def test_ways_that_there_are_not(model, folder):
    with pytest.raises(ConfigurationError, match="against: expected in-context or dense, got bm25"):
        BenchOptions(against=("dense", "bm25"))
    with pytest.raises(ConfigurationError, match="context_tokens: expected at least 1, got 0"):
        PromptLimits(context_tokens=0)
    with KnowledgeBase.open(folder, encoder=model.encoder) as kb, pytest.raises(ConfigurationError, match="got 'oracle'"):
        ways_of(["oracle"], model, kb.snapshot(), ["x"], PromptLimits(), max_new_tokens=8, seed=0)


def test_memory_is_told_of_the_first_size_alone(model, monkeypatch):
    monkeypatch.setattr("kblam_engine.evaluation.environment.anonymous_bytes", lambda: 1024**2)
    first, second = bench(model, [20, 40], BenchOptions(n_pairs=2, n_changes=0))
    assert (first.anonymous_mb_base, first.anonymous_bytes_per_triple) == (1.0, 0.0)
    assert second.anonymous_mb_base is second.anonymous_mb_kb is second.anonymous_bytes_per_triple is None


def test_growth_is_the_power_that_fits(model):
    small, large = bench(model, [20, 40], BenchOptions(n_pairs=2, n_changes=0))
    assert growth_exponents([small, large])["first token"] == 0.0
    assert growth_exponents([small]) == {}


def test_share_of_answers_that_hold_their_value(model):
    answers = [model.generate_text([{"role": "user", "content": f"x\nThe a of b is {v}.\n\nQuestion: a"}], 8) for v in ("1", "2")]
    assert exact_share(answers, ["1", "3"]) == 0.5


def test_the_command_and_the_report(model, folder, command, tmp_path):
    target = tmp_path / "speed.json"
    ran = command(
        "bench", "scale", "--kb", folder, "--pairs", 2, "--against", "dense", "--top-k", 2, "--changes", 0, "--json", target
    )
    assert ran.exit_code == 0 and "dense" in ran.output and "…" not in ran.output
    data = json.loads(target.read_text("utf-8"))
    assert data["results"][0]["in_prompt"][0]["n_in_prompt"] == 2
    _, benches, _ = read_runs([target])
    rows = [line for line in bench_tables(benches) if line.startswith("| speed | 60 | dense")]
    assert len(rows) == 1
    refused = command("bench", "scale", "--kb", folder, "--against", "bm25")
    assert refused.exit_code == 2 and "bm25" in refused.output
