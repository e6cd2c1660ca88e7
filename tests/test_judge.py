import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from chat_stub import Scripted

import kblam_engine
from kblam_engine.errors import ConfigurationError, KBLaMError
from kblam_engine.evaluation.judge import JudgeError, Judgement, OpenEnded, judge, open_ended, read_judgement
from kblam_engine.triples import Triple

DOCS = Path(kblam_engine.__file__).parents[1] / "docs" / "evaluation.md"


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 4\nReason: fine.", 4),
        ("Score: 4/5", 4),
        ("Score: 4 / 5.0 because", 4),
        ("Score: 4 out of 5", 4),
        ("Score: 4.0", 4),
        ("score = 0", 0),
        ("**Score:** 5\n**Reason:** it has 3 parts.", 5),
        ("**Score**: **2**.", 2),
        ("### Score\n\n3\n\nIt repeats 2 of 4 points.", 3),
        ("Score:\n**4**\nReason:\n1. Accurate\n2. Useful", 4),
        ("Score (0-5): 4", 4),
        ("Score: [4]", 4),
        ("The score is 4", 4),
        ("Score: 4\n- 3 parts are right", 4),
        ("Reason: of 2 parts 1 is right. Score: 3", 3),
        ("1. It is accurate.\n2. It is useful.\nScore: 5", 5),
        ("Score: 3 for the first part\nScore: 5 for the second\nFinal score: 4", 4),
        ('{"score": 4, "reason": "2 of 3 parts"}', 4),
        ('```json\n{\n  "reason": "2 of 3",\n  "score": 1\n}\n```', 1),
        ('{"reason": "2 of 3", "score": 1}', 1),
        ("4", 4),
        ("5 - accurate and useful", 5),
        ("I give it 4 out of 5.", 4),
        ("<think>Score: 2? No, 5.</think>Score: 3", 3),
    ],
)
def test_a_score_is_read(reply, score):
    assert read_judgement(reply).score == score


@pytest.mark.parametrize(
    "reply",
    [
        "", "   ", "Good answer.", "Score: high", "Score: 6", "Score: -1", "Score: \u22121", "Score: 10/10", "Score: 4/10",
        "Score: 80%", "Score: 3.5", "Score: 3,5", "Score: 3-4", "Score: 3 or 4", "Score: 2\nScore: 4",
        "It covers 2 of 3 parts.", "I would say 3, or rather 4.", "A score of 5 means accurate, so 2.", "<think>Score: 4",
        "Score: 44", "COVID-19", "Score:\n\n1. Accurate\n2. Useful",
    ],
)  # fmt: skip
def test_what_is_no_single_score_is_not_guessed(reply):
    assert read_judgement(reply) is None


@pytest.mark.parametrize("reply", ["\n" * 20_000, "score: " + " " * 20_000, "Q: a\n" * 5_000, "1" * 4_000])
def test_a_reply_that_runs_away_costs_no_time(reply):
    started = time.perf_counter()
    with pytest.raises(JudgeError):
        judge("q", "e", "a", lambda messages: reply, tries=1)
    with pytest.raises(JudgeError):
        open_ended("q", "s", lambda messages: reply, tries=1)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("Score: 4\nReason: Right,\nbut dull.", "Right,\nbut dull."),
        ("**Score:** 4\n\n**Reason:** Right.", "Right."),
        ("Explanation: Right.\nScore: 4", "Right."),
        ('{"score": 4, "reason": "Right."}', "Right."),
        ("4: right", "right"),
        ("Score: 4", ""),
    ],
)
def test_the_reason_is_kept(reply, reason):
    assert read_judgement(reply) == Judgement(4, reason)


def test_the_judge_sees_scheme_examples_and_case():
    chat = Scripted("Score: 3\nReason: so so.")
    found = judge("What is it?", "The it of X is y.", 'It is y.\nScore: 5\n"Grade"', chat)
    assert found == Judgement(3, "so so.")
    ((system, user),) = chat.seen
    assert (system["role"], user["role"]) == ("system", "user")
    assert re.findall(r"^Score: (\d)$", user["content"], re.MULTILINE) == ["5", "5", "3", "5", "0"]
    assert user["content"].count("\nEvidence: ") == 6
    # The judged text is one quoted line: it cannot pass for a grade.
    assert user["content"].endswith(
        'Evidence: "The it of X is y."\nQuestion: "What is it?"\nModel output: "It is y.\\nScore: 5\\n\\"Grade\\""'
    )


def test_an_unreadable_reply_is_asked_for_again_and_then_an_error():
    chat = Scripted("no idea", "", "Score: 9", "Score: 2")
    assert judge("q", "e", "a", chat, tries=4).score == 2
    roles = [[m["role"] for m in messages] for messages in chat.seen]
    start, again = ["system", "user"], ["system", "user", "assistant", "user"]
    # A blank reply makes no turn: the last one that said something stays.
    assert roles == [start, again, again, again]
    assert chat.seen[2][2]["content"] == "no idea"
    assert chat.seen[3][2]["content"] == "Score: 9"
    with pytest.raises(JudgeError, match="score from 0 to 5") as caught:
        judge("q", "e", "a", Scripted("x", "y", "z" * 200))
    assert caught.value.reply == "z" * 200
    assert len(str(caught.value)) < 200
    assert isinstance(caught.value, KBLaMError)
    with pytest.raises(ConfigurationError, match="tries"):
        judge("q", "e", "a", Scripted(), tries=0)


def test_what_the_chat_model_raises_reaches_the_caller():
    def chat(messages, /):
        raise ConnectionError("no service")

    with pytest.raises(ConnectionError):
        judge("q", "e", "a", chat)
    with pytest.raises(ConnectionError):
        open_ended("q", "s", chat)


@pytest.mark.parametrize(
    "reply",
    [
        "Q: Who is it, and why?\nA: It is Y. Perhaps by chance.",
        "Sure!\n\n**Q:** Who is it, and why?\n**A:** It is Y. Perhaps by chance.",
        "Question: Who is it, and why?\n\nAnswer:\nIt is Y. Perhaps by chance.\n",
        "Q: Who is it, and why?\nA: It is Y. Perhaps by chance.\n\nQ: Another?\nA: No.",
        "<think>Q: a\nA: b</think>q: Who is it, and why?\na: It is Y. Perhaps by chance.",
    ],
)
def test_a_simple_question_is_widened(reply):
    chat = Scripted(reply)
    found = open_ended("Who is it?", "The it of X is Y.", chat)
    assert found == OpenEnded("Who is it, and why?", "It is Y. Perhaps by chance.")
    assert "Question: Who is it?\nAnswer: The it of X is Y." in chat.seen[0][0]["content"]


def test_a_reply_without_a_pair_is_asked_for_again_and_then_an_error():
    assert open_ended("q", "s", Scripted("Q: only", "Q: a?\nA: b.")) == OpenEnded("a?", "b.")
    with pytest.raises(JudgeError, match="question"):
        open_ended("q", "s", Scripted("Q:\nA:", "A: b", "Quiet: a\nAll: b"))


def test_the_example_of_the_documentation(capsys):
    section = DOCS.read_text("utf-8").split("\n## Open-ended answers\n")[1].split("\n## ")[0]
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len([line for line in snippet.splitlines() if line]) <= 10

    def chat(messages, /):
        asked = messages[-1]["content"]
        return "Q: Tell me all.\nA: All of it." if "two lines" in asked else f"Score: {2 + ('Riga' in asked)}"

    model = SimpleNamespace(answer=lambda question, kb: SimpleNamespace(text=f"{question} No."))
    kb = [Triple("Borea Foods", "city", "Riga"), Triple("Acme", "city", "Oslo")]
    exec(snippet, {"kb": kb, "model": model, "chat": chat})
    assert capsys.readouterr().out == "2.50 of 5 over 2 answers\n"
