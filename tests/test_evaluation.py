import json
import sys

import numpy as np
import pytest
from evaluation_parts import (  # noqa: F401  (fixtures)
    ACME,
    OTHERS,
    QUESTIONS,
    ask,
    command_fixture,
    encoder_fixture,
    files_fixture,
    model_fixture,
)
from evaluation_stub import StubAnswer, StubModel
from kb_parts import CountingEncoder

from kblam_engine.errors import ConfigurationError, KnowledgeBaseError, MissingDependencyError
from kblam_engine.evaluation import run_evaluation
from kblam_engine.evaluation.assembly import assemble
from kblam_engine.evaluation.baselines import (
    REFUSAL_INSTRUCTION,
    Corpus,
    PromptOptions,
    build_baseline,
    prompt_with_statements,
)
from kblam_engine.evaluation.embedding_cache import CachedEncoder
from kblam_engine.evaluation.questions import question_from_dict
from kblam_engine.evaluation.results import aggregate, finite, score
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Triple

CONTRACT = {
    "n", "exact", "token_f1", "retrieval_top1", "retrieval_top5", "refusal_precision", "refusal_recall", "refusal_f1",
    "over_refusal", "ttft_ms_p50", "ms_per_token_p50", "peak_rss_mb", "rouge_l", "bertscore", "judge_score",
}  # fmt: skip


@pytest.fixture
def corpus(encoder):
    return Corpus(ACME, encoder.encode([t.key_text for t in ACME]), encoder)


# --- which triples ---------------------------------------------------------------------------------------------


def test_everything_without_a_size():
    assembly = assemble(ACME + ACME[:1], QUESTIONS, OTHERS)
    assert (assembly.n_from_kb, assembly.n_distractors) == (4, 20)


def test_distractors_fill_up_and_the_seed_decides():
    first, again, other = (assemble(ACME, QUESTIONS, OTHERS, 10, seed).triples for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(first) == 10
    assert first[:4] == ACME


def test_distractors_that_would_answer_are_skipped():
    near = [
        Triple("ACME  robotics", "Founder", "somebody else"),  # of the KB
        Triple("Zed", "age", "44"),  # what an unanswerable question asks
        Triple("Place 0", "altitude", "other"),
        Triple("Place 0", "altitude", "another"),  # of an earlier distractor
    ]
    questions = [ask("How old is Zed?", kind="unanswerable", supports=[["Zed", "age"]])]
    assembly = assemble(ACME, questions, near)
    assert assembly.triples == [*ACME, near[2]]
    assert assembly.n_skipped_distractors == 3


def test_a_smaller_kb_keeps_the_supports():
    assembly = assemble(ACME + OTHERS, QUESTIONS, (), 5, seed=3)
    assert len(assembly.triples) == 5
    assert {ACME[0], ACME[3]} <= set(assembly.triples)
    assert assembly.warnings == []


def test_what_cannot_be_met_is_said():
    assert "supports of a question" in assemble(ACME, QUESTIONS, (), 1).warnings[0]
    assert "asked for 99 triples, got 24" in assemble(ACME, QUESTIONS, OTHERS, 99).warnings[0]
    missing = [ask("?", answers=[["x"]], supports=[["Nobody", "age"]])]
    assert "not in the KB" in assemble(ACME, missing).warnings[0]
    there = [ask("?", kind="unanswerable", supports=[["Acme Robotics", "city"]])]
    assert "unanswerable" in assemble(ACME, there).warnings[0]


# --- baselines -------------------------------------------------------------------------------------------------


def test_statements_go_before_the_last_user_message():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Who?"},
    ]
    built = prompt_with_statements(messages, ["The a of b is c."], refusal_instruction=True)
    assert built[:3] == messages[:3]
    assert built[3]["content"].endswith("The a of b is c.\n\nQuestion: Who?")
    assert REFUSAL_INSTRUCTION in built[3]["content"]
    plain = prompt_with_statements(messages, ["x"])
    assert REFUSAL_INSTRUCTION not in plain[3]["content"]
    assert prompt_with_statements(messages, []) == messages
    assert messages[3]["content"] == "Who?"


@pytest.mark.parametrize("name", ["bm25", "dense", "oracle"])
def test_a_retriever_finds_the_support(name, model, corpus):
    baseline = build_baseline(name, model, corpus, QUESTIONS, PromptOptions(top_k=2))
    assert baseline.ranked
    assert baseline.select(QUESTIONS[0])[0] == 0
    assert len(baseline.select(QUESTIONS[1])) <= 2


def test_retrievers_ask_with_the_last_user_message(model, corpus):
    chat = question_from_dict(
        {
            "messages": [
                {"role": "user", "content": "Who is the founder of Acme Robotics?"},
                {"role": "assistant", "content": "Lena Hoffmann."},
                {"role": "user", "content": "What is the city of Borea Foods?"},
            ],
            "answers": [["Riga"]],
        }
    )
    for name in ("bm25", "dense"):
        assert build_baseline(name, model, corpus, [chat], PromptOptions()).select(chat)[0] == 3


def test_bm25_with_unknown_words_and_a_large_k(model, corpus):
    select = build_baseline("bm25", model, corpus, QUESTIONS, PromptOptions(top_k=50)).select
    assert select(ask("Zzz qqq?", kind="unanswerable")) == []
    assert len(select(ask("Acme", kind="unanswerable"))) == 2


def test_oracle_gives_only_supports_and_near_triples_where_there_are_none(model, corpus):
    select = build_baseline("oracle", model, corpus, QUESTIONS, PromptOptions(top_k=3)).select
    assert select(QUESTIONS[0]) == [0]
    assert len(select(QUESTIONS[2])) == 3


def test_in_context_fits_what_it_can(encoder):
    model = StubModel(encoder, context=150)
    corpus = Corpus(OTHERS, encoder.encode([t.key_text for t in OTHERS]), encoder)
    baseline = build_baseline("in-context", model, corpus, QUESTIONS, PromptOptions(max_new_tokens=20))
    chosen = baseline.select(QUESTIONS[0])
    assert 0 < len(chosen) == baseline.info["n_fit"] < 20
    prompt = prompt_with_statements(QUESTIONS[0].messages, [OTHERS[i].statement for i in chosen])
    assert len(model.chat_prompt(prompt).split()) + 20 <= 150
    everything = StubModel(encoder, context=10_000)
    assert build_baseline("in-context", everything, corpus, QUESTIONS, PromptOptions()).info["n_fit"] == 20
    few = PromptOptions(context_tokens=150, max_new_tokens=20)
    assert build_baseline("in-context", everything, corpus, QUESTIONS, few).select(QUESTIONS[0]) == chosen


def test_unknown_and_missing(model, corpus, monkeypatch):
    with pytest.raises(ConfigurationError, match="zero-shot"):
        build_baseline("best", model, corpus, QUESTIONS, PromptOptions())
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        build_baseline("bm25", model, corpus, QUESTIONS, PromptOptions())
    with pytest.raises(ConfigurationError, match="top_k"):
        PromptOptions(top_k=0)


# --- scores ----------------------------------------------------------------------------------------------------


def scored(question, text, refused=False, attended=()):
    return question, score(
        question, StubAnswer(text), [(t, 0.5) for t in attended],
        refused=refused, confidence=0.5, ttft_ms=10.0, peak_rss_mb=100.0,
    )  # fmt: skip


def test_aggregate():
    found = aggregate(
        [
            scored(QUESTIONS[0], "Lena Hoffmann", attended=ACME),
            scored(QUESTIONS[1], "I am sorry.", refused=True, attended=ACME),
            scored(QUESTIONS[2], "I am sorry.", refused=True),
            scored(QUESTIONS[2], "44"),
        ]
    )
    assert (found.n, found.exact, found.token_f1) == (4, 0.5, 0.5)
    assert (found.retrieval_top1, found.retrieval_top5) == (0.5, 1.0)
    assert (found.refusal_precision, found.refusal_recall, found.over_refusal) == (0.5, 0.5, 0.5)
    assert set(found.to_dict()) == CONTRACT | {"ci95"}


def test_nothing_to_measure_is_null():
    found = aggregate([scored(QUESTIONS[2], "44")])
    assert (found.exact, found.token_f1, found.retrieval_top1, found.over_refusal) == (None,) * 4
    assert found.refusal_recall == 0.0
    assert found.refusal_precision is None
    assert finite({"a": [float("nan"), (1.0, float("inf"))]}) == {"a": [None, [1.0, None]]}


# --- the whole run ---------------------------------------------------------------------------------------------


def test_run_evaluation(model, tmp_path):
    seen = []
    names = ["zero-shot", "in-context", "bm25", "dense", "oracle"]
    result = run_evaluation(
        model, ACME, QUESTIONS, OTHERS, 12, names, 5,
        answer_options={"refusal_threshold": 0.3}, embedding_cache=tmp_path, labels={"model": "stub"},
        progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert result.system.overall.exact == 1.0
    assert result.system.overall.refusal_recall == 1.0
    assert set(result.system.kinds) == {"simple", "unanswerable"}
    assert result.baselines["oracle"].overall.exact == 1.0
    assert result.baselines["oracle"].overall.retrieval_top1 == 1.0
    assert result.baselines["zero-shot"].overall.exact == 0.0
    assert result.baselines["zero-shot"].overall.over_refusal == 1.0
    assert result.baselines["zero-shot"].overall.retrieval_top1 is None
    assert result.baselines["in-context"].info["n_fit"] == 12
    assert model.asked_kb[-1][1] == {"refusal_threshold": 0.3}
    assert ("kblam", 3, 3) in seen
    assert ("oracle", 3, 3) in seen

    out = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    for part in (out["system"], *out["baselines"].values()):
        assert set(part["overall"]) >= CONTRACT
        assert all(set(kind) >= CONTRACT for kind in part["kinds"].values())
    assert out["n_triples"] == 12
    assert out["seed"] == 5
    assert out["model"] == "stub"
    assert "python" in out["versions"]
    assert {"command", "hardware", "commit"} <= set(out)
    first = out["answers"][0]
    assert first["system"]["attended"][0] == {**ACME[0].to_dict(), "weight": pytest.approx(0.3)}
    assert first["baselines"]["dense"]["prompt"][0]["content"].startswith("Answer the question")
    assert first["supports"] == [["Acme Robotics", "founder"]]


def test_the_same_seed_gives_the_same_result(encoder):
    runs = [run_evaluation(StubModel(encoder), ACME, QUESTIONS, OTHERS, 10, ["dense"], 7) for _ in range(2)]
    texts = [[(a["system"]["text"], a["baselines"]["dense"]["prompt"]) for a in run.answers] for run in runs]
    assert texts[0] == texts[1]


def test_limit_samples_questions_but_not_triples(model):
    result = run_evaluation(model, ACME, QUESTIONS, limit=2)
    assert result.system.overall.n == 2
    assert result.settings["n_triples"] == 4
    with pytest.raises(ConfigurationError, match="limit"):
        run_evaluation(model, ACME, QUESTIONS, limit=0)
    with pytest.raises(ConfigurationError, match="questions"):
        run_evaluation(model, ACME, [])


def test_several_values_of_one_name_and_property(model):
    triples = [*ACME, Triple("Acme Robotics", "founder", "Max Roe")]
    assert run_evaluation(model, triples, QUESTIONS).settings["n_triples"] == 5
    assert {
        t["value"] for t in run_evaluation(model, triples, QUESTIONS).answers[0]["system"]["attended"]
    } >= {
        "Lena Hoffmann",
        "Max Roe",
    }


def test_a_knowledge_base_is_asked_as_it_is(model, encoder):
    with KnowledgeBase.open(":memory:", encoder=encoder) as kb:
        kb.add([*OTHERS, *ACME])
        kb.remove("Place 3", "altitude")
        snapshot = kb.snapshot()
        found = run_evaluation(model, snapshot, QUESTIONS, baselines=["dense", "oracle", "in-context"])
        assert (found.settings["n_triples"], found.settings["n_distractors"], found.warnings) == (23, 0, [])
        assert found.system.overall.exact == found.baselines["oracle"].overall.exact == 1.0
        assert found.baselines["in-context"].info["n_triples"] == 23
        lacking = run_evaluation(model, snapshot, [ask("?", answers=[["x"]], supports=[["Place 3", "altitude"]])])
        assert "1 supports are not in the KB" in lacking.warnings[0]
        for more in ({"distractors": OTHERS}, {"n_triples": 5}):
            with pytest.raises(ConfigurationError, match="as it is"):
                run_evaluation(model, snapshot, QUESTIONS, **more)


# --- the embedding cache ---------------------------------------------------------------------------------------


def test_embeddings_are_kept(tmp_path):
    encoder = CountingEncoder(64)
    plain = HashingEncoder(64).encode(["a b", "c", "a b"])
    first = CachedEncoder(encoder, tmp_path).encode(["a b", "c", "a b"])
    again = CachedEncoder(encoder, tmp_path).encode(["c", "a b"])
    np.testing.assert_array_equal(first, plain)
    np.testing.assert_array_equal(again, plain[[1, 0]])
    assert len(encoder.texts) == 2
    assert CachedEncoder(encoder, tmp_path).encode([]).shape == (0, 64)
    assert CachedEncoder(encoder, tmp_path).fingerprint == encoder.fingerprint


def test_a_broken_cache_costs_no_more_than_time(tmp_path):
    encoder = CountingEncoder(64)
    CachedEncoder(encoder, tmp_path).encode(["a"])
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"this is not a database" * 100)
    assert CachedEncoder(encoder, tmp_path).encode(["a"]).shape == (1, 64)
    (tmp_path / "file").write_text("")
    assert CachedEncoder(encoder, tmp_path / "file").encode(["a"]).shape == (1, 64)


# --- the command -----------------------------------------------------------------------------------------------


def test_command(command, files, tmp_path):
    out = tmp_path / "out.json"
    done = command(*files, "--baseline", "zero-shot", "dense,oracle", "--seed", 3, "--json", out)
    assert done.exit_code == 0, done.output
    assert "all questions" in done.stdout
    assert "unanswerable" in done.stdout
    written = json.loads(out.read_text())
    assert list(written["baselines"]) == ["zero-shot", "dense", "oracle"]
    assert written["system"]["overall"]["exact"] == 1.0
    assert written["seed"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "kb.jsonl", "out.json", "q.jsonl"]


def test_command_on_a_knowledge_base(command, files, tmp_path, encoder):
    folder = tmp_path / "acme.kb"
    with KnowledgeBase.open(folder, encoder=encoder) as kb:
        kb.add(ACME)
    asked = ["eval", "--kb", folder, "--questions", tmp_path / "q.jsonl"]
    done = command(*asked, "--index", "exact", "--json", "-")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["n_from_kb"] == 4
    for option, value in (("--distractors", tmp_path / "kb.jsonl"), ("--n-triples", 2), ("--sizes", "2,4"), ("--counterfactual", 0)):
        refused = command(*asked, option, value)
        assert refused.exit_code == 2
        assert option in refused.output
    (tmp_path / "empty").mkdir()
    assert isinstance(command(*asked[:2], tmp_path / "empty", *asked[3:]).exception, KnowledgeBaseError)


def test_hops_reach_the_model_and_the_file(command, files, model, tmp_path):
    out = tmp_path / "out.json"
    for options in ([], ["--sizes", "4"]):
        for hops in ([], ["--max-hops", 1], ["--max-hops", 3]):
            model.asked_kb.clear()
            done = command(*files, *options, *hops, "--json", out)
            assert done.exit_code == 0, done.output
            wanted = {"max_hops": 3} if 3 in hops else {}
            assert model.asked_kb or wanted == {}, "finished cells of the same command are not asked again"
            assert all(given == wanted for _, given in model.asked_kb)
            told = json.loads(out.read_text())["options"]
            assert {key: told[key] for key in told if key == "max_hops"} == wanted
    assert command(*files, "--max-hops", 0).exit_code == 2


def test_command_on_stdout(command, files):
    done = command(*files, "--json", "-")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["system"]["overall"]["n"] == 3


def test_wrong_usage(command, files, tmp_path):
    assert command(*files, "--baseline", "best").exit_code == 2
    assert command(*files, "surplus").exit_code == 2
    assert command(*files[:3]).exit_code == 2
    assert command(*files, "--n-triples", 0).exit_code == 2
    nowhere = command(*files, "--json", tmp_path / "no" / "out.json")
    assert isinstance(nowhere.exception, FileNotFoundError)
    folder = command(*files, "--json", tmp_path)
    assert isinstance(folder.exception, IsADirectoryError)
