import json
import sys
from pathlib import Path

import pytest
from evaluation_parts import command_with, write_jsonl
from evaluation_stub import StubModel
from hypothesis import given
from hypothesis import strategies as st

import kblam_engine
from kblam_engine.errors import ConfigurationError, MissingDependencyError, ModelNotFoundError
from kblam_engine.evaluation import run_evaluation
from kblam_engine.evaluation.questions import question_from_dict
from kblam_engine.evaluation.text_metrics import (
    TEXT_METRICS,
    BertScorer,
    check_text_metrics,
    reference_texts,
    rouge_l,
    text_scorer,
)
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Triple

TRIPLES = [Triple("Acme Robotics", "founder", "Lena Hoffmann"), Triple("Borea Foods", "city", "Riga")]
QUESTIONS = [
    {"question": "Who is the founder of Acme Robotics?", "kind": "simple", "answers": [["Lena Hoffmann"]],
     "supports": [["acme robotics", "founder"]]},
    {"question": "What is the city of Borea Foods?", "kind": "simple", "answers": [["Riga"]]},
    {"question": "How old is Zed?", "kind": "unanswerable"},
]  # fmt: skip


# --- ROUGE-L ---------------------------------------------------------------------------------------------------


def test_rouge_l_counts_the_longest_common_subsequence():
    assert rouge_l("the cat sat on the mat", ["the cat lay on the mat"]) == pytest.approx(5 / 6)
    assert rouge_l("mat the on", ["on the mat"]) == pytest.approx(1 / 3)
    assert rouge_l("Riga.", ["Oslo", "riga", "Riga, Latvia"]) == 1.0


@pytest.mark.parametrize(("prediction", "reference"), [("", "Riga"), ("Riga", ""), ("", ""), ("?!", "Riga")])
def test_rouge_l_of_nothing_is_0(prediction, reference):
    assert rouge_l(prediction, [reference]) == 0.0


def test_rouge_l_reads_all_scripts():
    assert rouge_l("Рига", ["рига"]) == rouge_l("東京", ["東京"]) == rouge_l("São Tomé", ["São Tomé"]) == 1.0
    assert rouge_l("東京都", ["東京"]) == pytest.approx(0.8)
    assert rouge_l("Рига", ["Осло"]) == 0.0


@given(st.text(st.characters(max_codepoint=127)), st.text(st.characters(max_codepoint=127)))
def test_rouge_l_of_ascii_is_the_packages_own(prediction, reference):
    from rouge_score.rouge_scorer import RougeScorer

    own = RougeScorer(["rougeL"]).score(reference, prediction)["rougeL"].fmeasure
    assert rouge_l(prediction, [reference]) == own


# --- BERTScore -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert():
    return BertScorer()


def test_bertscore_tells_like_from_unlike(bert):
    wanted = ["The battery lasts eleven hours."]
    same, like, unlike = bert.scores(
        [*wanted, "Its battery runs for 11 hours.", "Riga is a city."], [wanted] * 3
    )
    assert same == pytest.approx(1.0, abs=1e-4)
    assert same <= 1.0
    assert unlike < like - 0.1
    assert like < 0.99


def test_bertscore_keeps_the_best_reference_and_takes_blanks(bert):
    (alone,) = bert.scores(["Riga"], [["Riga, Latvia"]])
    assert bert.scores(["Riga", " ", "Riga"], [["Oslo", "Riga, Latvia"], ["Riga"], [""]]) == [
        pytest.approx(alone, abs=1e-5), 0.0, 0.0,
    ]  # fmt: skip
    assert bert.scores([], []) == []


def test_bertscore_is_the_packages_own(bert):
    from bert_score import BERTScorer

    from kblam_engine.models.registry import DEFAULT_ENCODER, EMBEDDED

    folder = str(EMBEDDED[DEFAULT_ENCODER].require().parent)
    if "t5" in folder:
        pytest.skip("the package takes this path for a T5 model")
    predictions = ["The city of Borea Foods is Riga.", "I am sorry.", "Lena"]
    references = ["Riga", "The founder of Acme Robotics is Lena Hoffmann.", "Lena Hoffmann"]
    own = BERTScorer(model_type=folder, num_layers=6, device="cpu").score(predictions, references)[2]
    assert bert.scores(predictions, [[r] for r in references]) == pytest.approx(own.tolist(), abs=1e-5)


def test_a_long_text_is_cut_and_not_an_error(bert):
    assert 0.0 < bert.scores(["Riga " * 2000], [["Riga"]])[0] <= 1.0


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelNotFoundError, match="expected a folder"):
        BertScorer(tmp_path)


# --- names, packages, references -------------------------------------------------------------------------------


def test_wrong_references(bert):
    for wrong in ("Riga", []):
        with pytest.raises(ConfigurationError, match="references"):
            rouge_l("Riga", wrong)
        with pytest.raises(ConfigurationError, match="references"):
            bert.scores(["Riga"], [wrong])
    with pytest.raises(ConfigurationError, match="2 predictions, got 1"):
        bert.scores(["a", "b"], [["c"]])


def test_unknown_names_and_missing_packages(monkeypatch):
    with pytest.raises(ConfigurationError, match="rouge-l or bertscore, got 'bleu'"):
        check_text_metrics(["rouge-l", "bleu"])
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    monkeypatch.setitem(sys.modules, "bert_score", None)
    for name in TEXT_METRICS:
        for call in (lambda name: check_text_metrics([name]), text_scorer):
            with pytest.raises(MissingDependencyError, match=r'pip install "kblam-engine\[metrics\]"'):
                call(name)
    monkeypatch.setitem(sys.modules, "bert_score.utils", None)
    with pytest.raises(MissingDependencyError, match="bert-score"):
        BertScorer()


def test_one_module_imports_the_packages():
    texts = {path.name: path.read_text("utf-8") for path in Path(kblam_engine.__file__).parent.rglob("*.py")}
    for package in ("rouge_score", "bert_score"):
        assert [name for name, text in texts.items() if package in text] == ["text_metrics.py"]


def test_references_are_the_accepted_strings_and_statements_that_hold_them():
    answers = (("11 hours", "11 h"), ("Oslo",))
    assert reference_texts(answers) == ["11 hours, Oslo", "11 h, Oslo"]
    told = ["The life of A is 11 hours.", "The city of B is Oslo."]
    assert reference_texts(answers, told)[0] == "The life of A is 11 hours. The city of B is Oslo."
    # What one of the supports says is only a part of the answer.
    assert reference_texts(answers, told[:1]) == reference_texts(answers)
    assert reference_texts(()) == []


# --- in an evaluation ------------------------------------------------------------------------------------------


def test_an_evaluation_scores_texts_of_every_system():
    model = StubModel(HashingEncoder(64))
    asked = [question_from_dict(q) for q in QUESTIONS]
    result = run_evaluation(
        model, TRIPLES, asked, (), None, ["zero-shot"], text_metrics=["rouge-l", "bertscore"]
    )
    own, theirs = result.system.overall, result.baselines["zero-shot"].overall
    # One answer is the support's statement; the other question has no supports, so the bare value is its reference.
    bare = rouge_l(TRIPLES[1].statement, ["Riga"])
    assert own.rouge_l == pytest.approx((1.0 + bare) / 2, abs=1e-5)
    assert theirs.rouge_l == 0.0
    assert own.bertscore > theirs.bertscore > 0
    assert result.system.kinds["unanswerable"].rouge_l is None
    written = json.loads(json.dumps(result.to_dict()))
    assert written["answers"][0]["system"]["rouge_l"] == 1.0
    assert written["answers"][2]["system"]["bertscore"] is None
    assert {"rouge_l", "bertscore"} <= set(written["definitions"])


def test_without_being_asked_for_nothing_is_scored():
    result = run_evaluation(StubModel(HashingEncoder(64)), TRIPLES, [question_from_dict(QUESTIONS[0])])
    assert (result.system.overall.rouge_l, result.system.overall.bertscore) == (None, None)
    with pytest.raises(ConfigurationError, match="bleu"):
        run_evaluation(
            StubModel(HashingEncoder(64)), TRIPLES, [question_from_dict(QUESTIONS[0])], text_metrics=["bleu"]
        )


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Run `kblam eval` with the stand-in for a model."""
    run = command_with(StubModel(HashingEncoder(64)), monkeypatch)
    kb = write_jsonl(tmp_path / "kb.jsonl", [t.to_dict() for t in TRIPLES])
    questions = write_jsonl(tmp_path / "q.jsonl", QUESTIONS)
    return lambda *more: run("eval", "--kb", kb, "--questions", questions, "--no-cache", *more)


def test_the_command_shows_and_writes_them(command, tmp_path):
    done = command("--baseline", "dense", "--metrics", "rouge-l,bertscore", "--json", tmp_path / "out.json")
    assert done.exit_code == 0, done.output
    heading, kblam, dense = done.stdout.split("their texts")[1].strip().splitlines()[:3]
    assert heading.split() == ["F1", "ROUGE-L", "BERTScore"]
    assert kblam.split()[0] == "kblam" and "-" not in kblam.split()
    assert dense.split()[0] == "dense" and "-" not in dense.split()
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["baselines"]["dense"]["overall"]["bertscore"] > 0


def test_the_command_shows_no_texts_unasked_and_refuses_unknown_names_first(command, monkeypatch):
    assert "their texts" not in command().stdout
    wrong = command("--metrics", "rouge-l,bleu", "--kb", "nowhere.jsonl")
    assert wrong.exit_code == 2
    assert "bleu" in wrong.output
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    assert isinstance(command("--metrics", "rouge-l").exception, MissingDependencyError)
