import json
from pathlib import Path

import pytest

from kblam_engine.errors import ImportFileError
from kblam_engine.evaluation.questions import field_warnings, question_from_dict, read_questions

GOOD = {"question": "Who?", "kind": "simple", "answers": [["Lena"]], "supports": [["Acme", "founder"]]}


def write(tmp_path: Path, *lines) -> Path:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_a_question_file(tmp_path):
    chat = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who founded Acme?"},
            {"role": "assistant", "content": "Lena."},
            {"role": "user", "content": " And when? "},
        ],
        "kind": "follow_up",
        "answers": [["1999", "in 1999"]],
        "note": "kept",
    }
    path = write(tmp_path, "\ufeff", GOOD, "\n", chat, {"question": "Why?", "kind": "unanswerable"})
    simple, follow_up, unanswerable = read_questions(path)
    assert simple.text == "Who?"
    assert simple.answers == (("Lena",),)
    assert simple.supports == (("Acme", "founder"),)
    assert follow_up.text == "And when?"
    assert follow_up.metadata == {"note": "kept"}
    assert follow_up.line == 3
    assert not unanswerable.answerable
    assert simple.answerable


def test_kind_may_be_left_out_where_there_are_answers(tmp_path):
    (question,) = read_questions(write(tmp_path, {"question": "Who?", "answers": [["Lena"]]}))
    assert question.kind == "question"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{oops\n", "not JSON"),
        ("[" * 100_000 + "\n", "deep"),
        ("[1]\n", "expected a JSON object, got a list of 1"),
        ({**GOOD, "messages": [{"role": "user", "content": "x"}]}, "got both"),
        ({"kind": "simple", "answers": [["x"]]}, "got neither"),
        ({**GOOD, "question": "  "}, "question: expected text, got an empty string"),
        ({**GOOD, "question": 3}, "question: expected text, got 3"),
        ({**GOOD, "question": "\ud800"}, "half a character"),
        ({"messages": [], "answers": [["x"]]}, "messages: expected a list"),
        ({"messages": [{"role": "robot", "content": "x"}], "answers": [["x"]]}, "messages[0]"),
        ({"messages": [{"role": "system", "content": "x"}], "answers": [["x"]]}, "role user"),
        ({**GOOD, "answers": []}, 'kind "simple" needs at least one group'),
        ({**GOOD, "answers": ["Lena"]}, 'one answer is written [["Paris"]]'),
        ({**GOOD, "answers": [[]]}, "answers[0]: expected a list"),
        ({**GOOD, "answers": [[1]]}, "answers[0]: expected text, got 1"),
        ({**GOOD, "answers": "Lena"}, "answers: expected a list of groups, got text"),
        ({**GOOD, "kind": "unanswerable"}, 'kind "unanswerable" takes none'),
        ({**GOOD, "kind": 7}, "kind: expected a label"),
        ({"question": "Who?"}, "kind: expected a label"),
        ({**GOOD, "supports": [["Acme"]]}, "supports[0]: expected [name, property]"),
        ({**GOOD, "supports": {"Acme": "founder"}}, "supports: expected a list"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, reason):
    path = write(tmp_path, GOOD, line)
    with pytest.raises(ImportFileError) as caught:
        read_questions(path)
    assert (caught.value.path, caught.value.line) == (str(path), 2)
    assert reason in caught.value.reason


def test_an_empty_file_and_bytes(tmp_path):
    with pytest.raises(ImportFileError, match="got none"):
        read_questions(write(tmp_path, "\n"))
    path = tmp_path / "bytes.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ImportFileError, match="UTF-8"):
        read_questions(path)
    with pytest.raises(FileNotFoundError):
        read_questions(tmp_path / "absent.jsonl")


@pytest.mark.parametrize("name", ["company", "town"])
def test_the_validation_sets_are_question_files(name):
    path = Path(__file__).parent / "validation" / f"{name}.questions.jsonl"
    assert len(read_questions(path)) > 50


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({**GOOD, "note": "\ud800"}, "note: .*half a character"),
        ({**GOOD, "note": [{"deep": ["\udfff"]}]}, "note: .*half a character"),
        ({**GOOD, "\udfff": 1}, ".*half a character"),
        ('{"question": "Who?", "answers": [["x"]], "id": ' + "1" * 5000 + "}", "not JSON: .*digits"),
        ('{"question": "Who?", "answers": [["x"]], "id": ' + "[" * 900 + "]" * 900 + "}", "(id|not usable): .*nested too deeply"),
        ({"question": "Who?", "answers": [["x"]], "support": [["a", "b"]]}, 'support: .*"supports"'),
        ({"question": "Who?", "kind": "unanswerable", "answer": "Lena"}, 'answer: .*"answers"'),
        ({"message": [{"role": "user", "content": "Who?"}], "answers": [["x"]]}, 'message: .*"messages"'),
    ],
)
def test_further_fields_that_cannot_be_kept_or_are_misspelt(tmp_path, line, reason):
    with pytest.raises(ImportFileError, match=f"line 2: {reason}"):
        read_questions(write(tmp_path, GOOD, line if isinstance(line, str) else json.dumps(line)))


def test_further_fields_beside_the_right_ones_are_kept():
    kept = {"answer": "Lena Hoffmann.", "support": None, "deep": {"er": ["\u00e9"]}}
    assert question_from_dict({**GOOD, **kept}).metadata == kept


def test_what_is_not_scored_is_told():
    bare = [question_from_dict({"question": "Who?", "answers": [["x"]], "type": "bridge"}, line=n) for n in range(1, 6)]
    good = question_from_dict({**GOOD, "type": "bridge"}, line=6)
    supports, types = field_warnings([*bare, good, question_from_dict({"question": "?", "kind": "unanswerable"})])
    assert supports.startswith("5 of 6 answerable questions have no supports") and supports.endswith("line 1, line 2, line 3, ...")
    assert types.startswith('5 questions have a "type" and no "kind"')
    assert field_warnings([good]) == []
