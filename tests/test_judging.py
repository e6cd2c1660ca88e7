"""`kblam eval --judge`: open-ended answers scored by a chat model, in single runs, grids and reports."""

import json
import sys

import pytest
import torch
from conftest import build_llama
from evaluation_parts import (  # noqa: F401
    ACME,
    OTHERS,
    QUESTIONS,
    ask,
    command_fixture,
    command_with,
    encoder_fixture,
    files_fixture,
    model_fixture,
    report_fixture,
    write_jsonl,
)
from evaluation_stub import StubModel

from kblam_engine.errors import ConfigurationError, ImportFileError, ModelNotFoundError
from kblam_engine.evaluation import run_evaluation
from kblam_engine.evaluation.copies import counterfactual_set
from kblam_engine.evaluation.grid_run import run_grid
from kblam_engine.evaluation.judge_model import load_judge
from kblam_engine.evaluation.judging import FILE, Judge, Judgements, check_judged
from kblam_engine.evaluation.questions import OPEN_ENDED, read_questions
from kblam_engine.evaluation.runs import read_runs
from kblam_engine.local_chat import LocalChat

OPEN = [
    ask("Who is the founder of Acme Robotics, and what would you ask them?", OPEN_ENDED, supports=[["Acme Robotics", "founder"]]),
    ask("What is the city of Borea Foods, and who would like it there?", OPEN_ENDED, supports=[["Borea Foods", "city"]]),
]  # fmt: skip


class Grader:
    """Gives 5 where the graded answer holds the evidence's last word, else 1; remembers what it was asked."""

    def __init__(self):
        self.cases = []

    def __call__(self, messages, /):
        case = messages[-1]["content"].split("Grade this one\n")[1]
        evidence, question, answer = (json.loads(line.split(": ", 1)[1]) for line in case.splitlines())
        self.cases.append((evidence, question, answer))
        return f"Score: {5 if evidence.rstrip('.').split()[-1] in answer else 1}\nReason: because."


def test_answers_are_scored_and_averaged(model):
    grader = Grader()
    found = run_evaluation(
        model, ACME, [*QUESTIONS, *OPEN], baselines=["zero-shot", "oracle"], judge=Judge("grader", grader)
    )
    told = found.to_dict()
    assert told["judge"] == "grader" and not told["warnings"]
    own, zero = told["system"], told["baselines"]["zero-shot"]
    assert own["overall"]["judge_score"] == own["kinds"][OPEN_ENDED]["judge_score"] == 5.0
    assert zero["overall"]["judge_score"] == 1.0
    assert own["kinds"]["simple"]["judge_score"] is None
    assert own["kinds"][OPEN_ENDED]["exact"] is None and own["overall"]["exact"] == 1.0, "no accepted strings, no exact"
    assert own["kinds"][OPEN_ENDED]["retrieval_top1"] == 1.0
    answers = told["answers"]
    assert (answers[3]["system"]["judge_score"], answers[3]["system"]["judge_reason"]) == (5, "because.")
    assert "judge_score" not in answers[0]["system"]
    # The evidence is the statement of the support; equal answers are judged once.
    assert {(evidence, question) for evidence, question, _ in grader.cases} == {
        ("The founder of Acme Robotics is Lena Hoffmann.", OPEN[0].text),
        ("The city of Borea Foods is Riga.", OPEN[1].text),
    }
    assert len(grader.cases) == len(set(grader.cases)) == 4, "the oracle's answers are the system's"


def test_the_mean_has_an_interval_within_the_scale(model):
    replies = iter(("Score: 5", "Score: 4"))
    found = run_evaluation(model, ACME, OPEN, judge=Judge("j", lambda messages: next(replies)))
    assert found.system.overall.judge_score == 4.5
    assert found.system.overall.ci95["judge_score"] == (0.0, 5.0), "two answers say little; a score has an end"


def test_a_score_that_cannot_be_read_is_none_and_told(model):
    def chat(messages, /):
        return "Score: 4" if "Riga" in messages[1]["content"].split("Grade this one")[1] else "very good!"

    found = run_evaluation(model, ACME, OPEN, judge=Judge("small", chat))
    assert found.system.overall.judge_score == 4.0
    (warning,) = found.warnings
    assert "small gave no readable score for 1 answers" in warning and "very good!" in warning


@pytest.mark.parametrize("reply", [None, 5, {"score": 5}])
def test_a_reply_that_is_no_text_is_unreadable(model, reply):
    found = run_evaluation(model, ACME, OPEN, judge=Judge("odd", lambda messages: reply))
    assert found.system.overall.n == 2 and found.system.overall.judge_score is None
    (warning,) = found.warnings
    assert "no readable score for 2 answers" in warning and f"{type(reply).__name__} in place of text" in warning


def test_a_judge_that_fails_costs_no_answers(model, encoder, tmp_path):
    asked = []

    def down(messages, /):
        asked.append(messages)
        if len(asked) > 1:
            raise ConnectionError("unavailable \ud800")
        return "Score: 4"

    found = run_evaluation(model, ACME, OPEN, baselines=["zero-shot"], judge=Judge("service", down))
    assert len(asked) == 2, "it is not asked again"
    assert found.system.overall.judge_score == 4.0 and found.answers[1]["system"]["text"]
    (warning,) = found.warnings
    assert "service failed" in warning and "3 answers have no score" in warning and "ConnectionError: unavailable" in warning
    json.dumps(found.to_dict(), ensure_ascii=False).encode("utf-8")
    cells = run_grid(StubModel(encoder), ACME, OPEN, OTHERS, (4,), (0,), folder=tmp_path, judge=Judge("service", down))
    assert cells.sizes[0].answers[0]["system"]["text"] and "service failed" in cells.warnings[0]
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(model, ACME, OPEN, judge=Judge("j", _interrupted))


def _interrupted(messages, /):
    raise KeyboardInterrupt


def test_a_sample_without_an_open_ended_question_is_told(model, encoder):
    asked = [*QUESTIONS[:2], OPEN[0]]
    judged, nothing = None, None
    for seed in range(9):
        found = run_evaluation(model, ACME, asked, limit=1, seed=seed, judge=Judge("j", Grader()))
        if found.system.overall.judge_score is None:
            nothing = found.warnings
        else:
            judged = found.warnings
    assert judged == [] and "none of the 1 questions asked" in nothing[0]
    cells = run_grid(StubModel(encoder), ACME, asked, OTHERS, (9,), range(9), limit=1, judge=Judge("j", Grader()))
    n_open = sum("nothing was judged" not in warning for warning in [*cells.warnings])
    assert n_open == 0 and 0 < len(cells.warnings) < 9


def test_something_has_to_be_open_ended(model):
    with pytest.raises(ConfigurationError, match="open_ended"):
        run_evaluation(model, ACME, QUESTIONS, judge=Judge("j", Grader()))
    assert model.asked_kb == []
    check_judged(OPEN)


def test_open_ended_questions_need_evidence_and_no_answers(tmp_path):
    line = {"question": "Why?", "kind": "open_ended", "supports": [["Acme", "founder"]]}
    (question,) = read_questions(write_jsonl(tmp_path / "q.jsonl", [line]))
    assert question.answers == () and question.answerable
    with pytest.raises(ImportFileError, match="evidence"):
        read_questions(write_jsonl(tmp_path / "q.jsonl", [{"question": "Why?", "kind": "open_ended"}]))


def test_the_evidence_of_a_copy_is_the_copys():
    found = counterfactual_set(1, ACME, [*QUESTIONS, *OPEN])
    assert [q.answers for q in found.questions[3:]] == [(), ()] and found.n_left_out == 0
    grader = Grader()
    run_evaluation(StubModel(encoder=_encoder()), found.triples, found.questions, judge=Judge("j", grader))
    assert ("The city of Borea Foods is Oslo.", OPEN[1].text) in {case[:2] for case in grader.cases}


def _encoder():
    from kblam_engine.sentence_encoder import HashingEncoder

    return HashingEncoder(64)


def test_a_grid_keeps_what_was_judged(encoder, tmp_path):
    def run(judge, **more):
        return run_grid(
            StubModel(encoder), ACME, OPEN, OTHERS, (3, 20), (0, 1), ["zero-shot"], folder=tmp_path, judge=judge, **more
        )

    without = run(None)
    assert "judge" not in without.settings
    grader = Grader()
    found = run(Judge("grader", grader))
    assert found.settings["judge"] == "grader"
    spread = found.sizes[1].systems["kblam"].overall.measures["judge_score"]
    assert spread.values == (5.0, 5.0) and (spread.low, spread.high) == (5.0, 5.0)
    assert len(grader.cases) == 4, "two questions, two different answers each"
    again = Grader()
    with open(tmp_path / FILE, "a") as lines:
        lines.write('{"key": "cut o')
    assert run(Judge("grader", again)).to_dict()["results"] == found.to_dict()["results"]
    assert again.cases == []
    assert any("4 judgements of grader are of an earlier run" in text for text in run(Judge("grader", again)).warnings)
    assert not any("earlier run" in text for text in found.warnings)
    edited = Grader()
    run(Judge("grader", edited, version="edited"))
    assert len(edited.cases) == 4, "the function says something else since"
    other = Grader()
    run(Judge("another", other))
    assert len(other.cases) == 4, "another judge has not said it"


def test_judgements_are_kept_line_by_line(tmp_path):
    path = tmp_path / "deep" / FILE
    first = Judgements(Judge("j", lambda messages: "Score: 3\nReason: \u2028\ud800 odd"), path)
    assert first.of("q", "e", "a").score == 3
    second = Judgements(Judge("j", lambda messages: pytest.fail("asked")), path)
    assert second.of("q", "e", "a") == first.of("q", "e", "a")


def test_the_command_with_a_function_and_its_report(command, files, tmp_path, monkeypatch, report):
    (tmp_path / "my_judges.py").write_text(
        "def strict(messages, /):\n    return f'Score: {3 + (\"Oslo\" in messages[1][\"content\"].split(\"Grade this one\")[1])}'\nnumber = 3\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)  # the module is looked for here
    questions = tmp_path / "q.jsonl"
    with open(questions, "a") as lines:
        lines.write(json.dumps({"question": OPEN[0].text, "kind": OPEN_ENDED, "supports": [list(OPEN[0].supports[0])]}) + "\n")
        lines.write(json.dumps({"question": "What is the city of Acme Robotics, and why?", "kind": OPEN_ENDED, "supports": [["Acme Robotics", "city"]]}) + "\n")
    shown = command(*files, "--judge", "my_judges:strict", "--json", tmp_path / "a.json")
    assert shown.exit_code == 0, shown.output
    assert "open-ended answers, scored 0 to 5" in shown.output and "3.50" in shown.output
    shown = command(*files, "--judge", "my_judges:strict", "--sizes", "4", "--json", tmp_path / "g.json")
    assert shown.exit_code == 0 and "judge, 0 to 5" in shown.output
    assert (tmp_path / "g.cells" / FILE).is_file()
    runs = read_runs([tmp_path / "a.json", tmp_path / "g.json"])
    assert runs.evaluations[0].system.overall.judge_score == 3.5
    code, _, stderr = report(tmp_path / "a.json", tmp_path / "g.json", options=("--no-plots",))
    assert code == 0, stderr
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.count("judge, 0 to 5") >= 3 and "| 3.50" in text and "judge my_judges:strict" in text
    for name, said in (("my_judges:lenient", "lenient"), ("no_such_module:f", "PYTHONPATH"), ("my_judges:number", "to be a function")):
        shown = command(*files, "--judge", name)
        assert isinstance(shown.exception, ConfigurationError) and said in str(shown.exception)
    sys.modules.pop("my_judges", None)


def test_an_edited_function_is_another_judge(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "edited_judge.py"
    versions = []
    for score in (1, 2, 2):
        source.write_text(f"def grade(messages, /):\n    return 'Score: {score}'\n")
        sys.modules.pop("edited_judge", None)
        versions.append(load_judge("edited_judge:grade").version)
    sys.modules.pop("edited_judge", None)
    assert versions[0] and versions[0] != versions[1] == versions[2]


def test_mistakes_are_told_before_the_model_loads(files, command, monkeypatch):
    monkeypatch.setattr("kblam_engine.cli.eval.load_model", lambda *source: pytest.fail("loaded"))
    shown = command(*files, "--judge", "smollm2-135m")
    assert isinstance(shown.exception, ConfigurationError) and "open_ended" in str(shown.exception)


# --- local judges ---------------------------------------------------------------------------------------------------


@pytest.fixture(name="chat_folder")
def chat_folder_fixture(tmp_path, tiny_tokenizer):
    build_llama().save_pretrained(tmp_path / "chat")
    tiny_tokenizer.save_pretrained(tmp_path / "chat")
    return tmp_path / "chat"


def test_a_folder_is_a_judge(chat_folder, tiny_tokenizer):
    judge = load_judge(str(chat_folder), "cpu")
    messages = [{"role": "system", "content": "Grade."}, {"role": "user", "content": "Now."}]
    chat = LocalChat(str(chat_folder), "cpu", max_new_tokens=5)
    assert judge.version == "", "a local model is told by its name"
    assert chat._loaded is None, "nothing is loaded before it is asked"
    reply = chat(messages)
    assert reply == chat(messages) and judge.name == str(chat_folder)
    ids = tiny_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    model = build_llama()
    for _ in range(5):
        with torch.no_grad():
            following = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        ids = [*ids, following]
        if following in (tiny_tokenizer.eos_token_id, model.generation_config.eos_token_id):
            break
    assert reply == tiny_tokenizer.decode(ids[-5:], skip_special_tokens=True)


def test_what_is_no_chat_model_is_told_before_the_questions(chat_folder, tmp_path):
    with pytest.raises(ModelNotFoundError, match="expected"):
        load_judge(str(tmp_path / "nothing here"))
    for path in chat_folder.glob("chat_template*"):
        path.unlink()
    config = json.loads((chat_folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (chat_folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match="no chat template"):
        load_judge(str(chat_folder))
