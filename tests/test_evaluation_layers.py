"""Retrieval by KB layer, and the ablations that leave one kind of tokens or the retrieval layer out."""

import json

import numpy as np
import pytest
import torch
from conftest import build_llama
from engine_parts import QUESTION, build_engine, engine_fixture, engine_with, user  # noqa: F401
from evaluation_parts import report_fixture, write_jsonl  # noqa: F401
from test_sentence_answers import with_sentence_tokens, without_sentence_tokens
from typer.testing import CliRunner

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation import run_evaluation
from kblam_engine.evaluation.ablations import MOST_NATIVE, ablated, check_ablations, watched
from kblam_engine.evaluation.baselines import PromptOptions
from kblam_engine.evaluation.grid_run import run_grid
from kblam_engine.evaluation.questions import question_from_dict
from kblam_engine.evaluation.results import layer_hits
from kblam_engine.evaluation.runs import read_runs
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.sentence_tokens import SentenceTokenState
from kblam_engine.triples import Triple

SHORT = PromptOptions(max_new_tokens=4)
OPEN = {"refusal_threshold": 1e-6}
ORCA = ("Orca 2", "battery life")


@pytest.fixture(name="both", scope="module")
def both_fixture(tiny_tokenizer):
    """An engine whose adapter has native and sentence tokens."""
    made = engine_with(build_llama(), tiny_tokenizer, with_sentence_tokens())
    yield made
    made.injection.detach()


def ask(text, supports=(), kind="simple"):
    answers = [] if kind == "unanswerable" else [["x"]] * max(1, len(supports))
    return question_from_dict({"question": text, "kind": kind, "answers": answers, "supports": [list(s) for s in supports]})


def some_questions(kb):
    triples = list(kb)[:3]
    asked = [ask(f"What is the {t.property} of {t.name}?", [(t.name, t.property)]) for t in triples]
    return [*asked, ask("And the moon?", kind="unanswerable")]


# --- which triples a layer attends to ------------------------------------------------------------------------------


def test_a_watched_model_answers_the_same(both, memory_kb):
    other, watch = watched(both)
    plain = both.answer(QUESTION, memory_kb, max_new_tokens=6, **OPEN)
    seen = other.answer(QUESTION, memory_kb, max_new_tokens=6, **OPEN)
    assert (plain.text, plain.refused) == (seen.text, seen.refused)
    assert [a.weight for a in plain.attended] == [a.weight for a in seen.attended]
    assert both.state_type is not other.state_type
    assert list(watch.ranked()) == ["native 2", "native 3", "sentence 0", "sentence 3"]
    opened = {a.triple for a in seen.attended}
    assert all(set(triples) <= opened and triples for triples in watch.ranked().values())


def test_the_last_native_layer_ranks_as_the_answer_says(engine, memory_kb):
    """`Answer.attended` has the attention of the last KB layer: the watch has to come to the same."""
    other, watch = watched(engine)
    answer = other.answer(QUESTION, memory_kb, max_new_tokens=6)
    told = sorted((a for a in answer.attended if a.weight > 0), key=lambda a: -a.weight)
    assert watch.ranked()["native 3"] == [a.triple for a in told]
    mass = watch._state.layer_attention["native", 3]
    assert mass / mass.sum() == pytest.approx([a.weight for a in answer.attended][: len(mass)], abs=1e-4)


def test_sentence_tokens_rank_by_the_attention_of_the_prompt(both, memory_kb):
    """The same numbers as a state over the whole KB gives that knows nothing of retrieval."""
    other, watch = watched(ablated(both, "sentence-tokens-all", ask(QUESTION)))
    other.answer(QUESTION, memory_kb, max_new_tokens=3)
    snapshot = both.snapshot_of(memory_kb)
    keys, values = (torch.from_numpy(np.asarray(e, np.float32)) for e in (snapshot.key_embeddings, snapshot.value_embeddings()))
    alone = SentenceTokenState(both.adapter.sentence, [keys], [values], collect=True)
    ids = torch.tensor([both.prompt_ids(user(QUESTION))])
    with both.injection.use(alone), torch.no_grad():
        both.lm(input_ids=ids)
    triples = snapshot.triples(range(len(snapshot)))
    assert len(triples) > both.adapter.config.n_select, "more than the retrieval layer would open"
    for layer, weights in alone.weights.items():
        mass = weights[0].mean(0).sum(0).numpy()
        assert watch._state.layer_attention["sentence", layer] == pytest.approx(mass, abs=1e-5)
        assert watch.ranked()[f"sentence {layer}"] == [triples[i] for i in np.argsort(-mass, kind="stable")]


def test_a_refusal_attends_to_no_triple(both, memory_kb):
    other, watch = watched(both)
    assert other.answer(QUESTION, memory_kb, max_new_tokens=3, refusal_threshold=1 - 1e-12).refused
    assert watch.ranked() == {"native 2": [], "native 3": [], "sentence 0": [], "sentence 3": []}
    assert layer_hits(watch.ranked(), [ORCA])["native 2"] == [False, False]


def test_hits_of_layers():
    triples = [Triple(f"n{i}", "p", "v") for i in range(7)]
    ranked = {"native 1": triples, "native 2": triples[::-1]}
    assert layer_hits(ranked, [("n0", "p")]) == {"native 1": [True, True], "native 2": [False, False]}
    assert layer_hits(ranked, [("n0", "p"), ("n4", "P")])["native 1"] == [True, True]
    assert layer_hits(ranked, []) is None


# --- ablations -----------------------------------------------------------------------------------------------------


def test_native_tokens_alone_are_the_engine_without_sentence_tokens(both, memory_kb, tiny_tokenizer):
    plain = engine_with(build_llama(), tiny_tokenizer, without_sentence_tokens(both.adapter))
    wanted = plain.answer(QUESTION, memory_kb, max_new_tokens=8, **OPEN)
    found = ablated(both, "native-tokens", ask(QUESTION)).answer(QUESTION, memory_kb, max_new_tokens=8, **OPEN)
    assert found.text == wanted.text != both.answer(QUESTION, memory_kb, max_new_tokens=8, **OPEN).text
    assert [a.weight for a in found.attended] == pytest.approx([a.weight for a in wanted.attended], abs=1e-4)
    plain.injection.detach()


def test_sentence_tokens_alone_write_without_native_tokens(both, memory_kb):
    one = ablated(both, "sentence-tokens", ask(QUESTION))
    other, watch = watched(one)
    answer = other.answer(QUESTION, memory_kb, max_new_tokens=8, **OPEN)
    assert not watch._state._native.reader.tokens.mask.any(), "no native token can be attended to"
    assert answer.text != ablated(both, "native-tokens", ask(QUESTION)).answer(QUESTION, memory_kb, max_new_tokens=8, **OPEN).text
    assert list(watch.ranked()) == ["sentence 0", "sentence 3"]
    assert sum(a.weight for a in answer.attended) == pytest.approx(1, abs=1e-3)
    usual = both.answer(QUESTION, memory_kb, max_new_tokens=2, **OPEN)
    assert [a.triple for a in answer.attended] == [a.triple for a in usual.attended], "the retrieval layer's order"
    refused = one.answer(QUESTION, memory_kb, max_new_tokens=4, refusal_threshold=1 - 1e-12)
    assert refused.refused and refused.text == both.answer(
        QUESTION, memory_kb, max_new_tokens=4, refusal_threshold=1 - 1e-12
    ).text


def test_sentence_tokens_alone_go_on_to_what_a_value_names(both):
    with KnowledgeBase.open(":memory:", encoder=both.encoder) as kb:
        kb.add([Triple("Orca 2", "maker", "Acme"), Triple("Orca 2", "price", "90"), *(Triple("Acme", f"boss {i}", "Lee") for i in range(5))])
        one = ablated(both, "sentence-tokens", ask("What is the maker of Orca 2?"))
        once, twice = (one.answer("What is the maker of Orca 2?", kb, max_new_tokens=4, max_hops=n, **OPEN) for n in (1, 2))
    n_open = [sum(a.triple.name == "Acme" for a in answer.attended) for answer in (once, twice)]
    assert len(twice.attended) > len(once.attended) and n_open[1] > n_open[0]
    assert [a.weight for a in twice.attended][: len(once.attended)] == pytest.approx([a.weight for a in once.attended], abs=1e-4)


@pytest.mark.parametrize("name", ["native-tokens-all", "sentence-tokens-all"])
def test_without_the_retrieval_layer_every_triple_is_open(both, memory_kb, name):
    answer = ablated(both, name, ask(QUESTION)).answer(QUESTION, memory_kb, max_new_tokens=3)
    assert len(answer.attended) == len(memory_kb) > both.adapter.config.n_select
    assert all(a.weight > 0 for a in answer.attended) and not answer.refused
    assert both.adapter.config.n_select == 4 and both.adapter.sentence is not None, "the engine is as it was"


def test_the_hidden_state_has_no_say_without_the_retrieval_layer(engine, memory_kb):
    other = ablated(engine, "native-tokens-all", ask(QUESTION))
    assert len(other.answer(QUESTION, memory_kb, max_new_tokens=2).attended) == len(memory_kb)


def test_what_cannot_be_taken_out_is_told_before_anything_is_asked(engine, both, memory_kb, monkeypatch):
    monkeypatch.setattr(engine, "answer", lambda *a, **k: pytest.fail("asked"))
    for name, said in (("sentence-tokens", "--sentence-steps"), ("sentence-tokens-all", "--adapter"), ("native-tokens", "leave it out")):
        with pytest.raises(ConfigurationError, match=f"^{name}: .*{said}"):
            run_evaluation(engine, list(memory_kb), some_questions(memory_kb), baselines=[name], prompts=SHORT)
        with pytest.raises(ConfigurationError, match=said):
            run_grid(engine, list(memory_kb), some_questions(memory_kb), sizes=[4], baselines=[name])
    with pytest.raises(ConfigurationError, match=r"at most 2,000 triples, got 2,001"):
        check_ablations(both, ["native-tokens-all"], MOST_NATIVE + 1)
    check_ablations(both, ["dense", "sentence-tokens-all"], 100_000)


# --- in runs, grids and reports -------------------------------------------------------------------------------------

NAMES = ["native-tokens", "native-tokens-all", "sentence-tokens", "sentence-tokens-all"]


def test_a_run_scores_every_layer(both, memory_kb):
    asked = some_questions(memory_kb)
    found = run_evaluation(
        both, list(memory_kb), asked, baselines=["oracle", *NAMES, "oracle-gates"], prompts=SHORT,
        answer_options=OPEN, by_layer=True,
    )  # fmt: skip
    told = json.loads(json.dumps(found.to_dict()))
    assert list(told["system"]["layers"]) == ["native 2", "native 3", "sentence 0", "sentence 3"]
    assert {name: list(told["baselines"][name].get("layers", {})) for name in NAMES} == {
        "native-tokens": ["native 2", "native 3"],
        "native-tokens-all": ["native 2", "native 3"],
        "sentence-tokens": ["sentence 0", "sentence 3"],
        "sentence-tokens-all": ["sentence 0", "sentence 3"],
    }
    assert "layers" not in told["baselines"]["oracle"], "a prompt has no KB layers"
    # Where the right triple alone is open, every layer attends to it most.
    assert {m["retrieval_top1"] for at, m in told["baselines"]["oracle-gates"]["layers"].items()} == {1.0}
    for name in NAMES[1::2]:
        answers = [answer["baselines"][name] for answer in told["answers"]]
        assert all(answer["confidence"] is None and len(answer["attended"]) <= 10 for answer in answers)
        weights = [t["weight"] for t in answers[0]["attended"]]
        assert weights == sorted(weights, reverse=True)
    layer = told["baselines"]["sentence-tokens-all"]["layers"]["sentence 3"]
    hits = [a["baselines"]["sentence-tokens-all"].get("layers", {}).get("sentence 3") for a in told["answers"]]
    assert hits[-1] is None, "an unanswerable question has nothing to find"
    assert layer["n"] == 3 and layer["retrieval_top1"] == pytest.approx(sum(h[0] for h in hits[:3]) / 3, abs=1e-4)
    assert "layers" not in run_evaluation(both, list(memory_kb), asked[:1], prompts=SHORT).to_dict()["system"]


@pytest.fixture(name="command")
def command_fixture(both, memory_kb, tmp_path, monkeypatch):
    """Run `kblam eval` on the engine with both kinds of tokens."""
    import typer

    from kblam_engine.cli import eval

    monkeypatch.setenv("KBLAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(eval, "load_model", lambda *source: both)
    monkeypatch.setattr("kblam_engine.cli.eval.adapter_digest", lambda adapter, model: "digest")
    app = typer.Typer()
    app.callback()(lambda: None)
    eval.register(app)
    kb = write_jsonl(tmp_path / "kb.jsonl", [t.to_dict() for t in memory_kb])
    lines = [
        {"question": q.text, "kind": q.kind, "answers": [list(g) for g in q.answers], "supports": [list(s) for s in q.supports]}
        for q in some_questions(memory_kb)
    ]
    questions = write_jsonl(tmp_path / "q.jsonl", lines)
    given = ["eval", "--kb", kb, "--questions", questions, "--max-new-tokens", "3", "--no-cache", "--by-layer"]
    return lambda *more: CliRunner().invoke(app, [str(a) for a in (*given, *more)])


def test_the_command_and_its_report(command, tmp_path, report):
    single, grid = tmp_path / "single.json", tmp_path / "grid.json"
    shown = command("--baseline", *NAMES, "--json", single)
    assert shown.exit_code == 0, shown.output
    assert "by KB layer" in shown.output and "sentence 3" in shown.output
    shown = command("--sizes", "4,6", "--seeds", "2", "--baseline", "sentence-tokens-all", "--json", grid)
    assert shown.exit_code == 0, shown.output
    cell = json.loads((tmp_path / "grid.cells" / "4-triples-seed-0.json").read_text())
    assert cell["answers"][0]["system"]["layers"].keys() == {"native 2", "native 3", "sentence 0", "sentence 3"}
    again = command("--sizes", "4,6", "--seeds", "2", "--baseline", "sentence-tokens-all", "--json", grid)
    assert again.exit_code == 0, again.output
    runs = read_runs([single, grid])
    spread = runs.grids[0].sizes[0].systems["sentence-tokens-all"].layers["sentence 3"].measures["retrieval_top1"]
    assert len(spread.values) == 2
    code, _, stderr = report(single, grid, options=("--no-plots",))
    assert code == 0, stderr
    text = (tmp_path / "out" / "report.md").read_text()
    section = text.split("## Retrieval by KB layer")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert any("sentence-tokens-all" in line and "sentence 0" in line and "single" in line for line in lines)
    assert any("| top-5 |" in line and "kblam" in line and "native 2" in line for line in lines), "of the grid"
