"""`kblam ask` and `kblam chat`, with a stand-in for the model."""

import json
import os
import signal
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from kblam_engine import KnowledgeBase
from kblam_engine.answers import Answer, AttendedTriple, Usage
from kblam_engine.cli._answering import FROM_BASE, bar
from kblam_engine.errors import ModelNotFoundError
from kblam_engine.triples import Provenance, Triple

TRIPLES = [Triple("Acme", "founder", "Lena [b]Hoffmann[/b]"), Triple("Acme", "seat", "Berlin")]


class StubStream:
    def __init__(self, answer, cancel, on_piece=None):
        self.answer = None
        self._answer, self._cancel, self._on_piece = answer, cancel, on_piece

    def __iter__(self):
        for word in self._answer.text.split(" "):
            if self._cancel.is_set():
                self.answer = replace(self._answer, text="cut", finish_reason="cancelled")
                return
            yield word + " "
            if self._on_piece:
                self._on_piece()
        self.answer = self._answer


class StubKBLaM:
    """Answers with the value of a triple whose property is in the last message, else refuses, or greets."""

    loaded = []
    asked = []
    on_piece = None
    error = None
    indexes = SimpleNamespace(background=True)

    @classmethod
    def from_pretrained(cls, model, **options):
        if model == "nothing":
            raise ModelNotFoundError("no base model 'nothing'")
        cls.loaded.append((model, options))
        return cls()

    def answer(self, question, kb=None, **options):
        self.asked.append((question, options))
        if StubKBLaM.error:
            raise StubKBLaM.error
        text = question if isinstance(question, str) else question[-1]["content"]
        found = [
            AttendedTriple(i, triple, 0.75, ((0, 4),)) for i, triple in enumerate(kb) if triple.property in text
        ]
        if not found and options["unknown"] == "base":
            return Answer("Hello there.", False, 0.1, (), Usage(9, 2, len(kb)), "stop", 21.4, 5.2)
        refused = not found
        words = "I cannot find it." if refused else f"It is {found[0].triple.value}."
        usage = Usage(9, len(words.split()), len(kb))
        return Answer(words, refused, 0.1 if refused else 0.9, tuple(found), usage, "stop", 21.4, 5.2)

    def stream(self, messages, kb=None, cancel=None, **options):
        return StubStream(self.answer(messages, kb, **options), cancel, StubKBLaM.on_piece)


@pytest.fixture(autouse=True)
def stub(monkeypatch):
    module = ModuleType("kblam_engine.engine")
    module.KBLaM = StubKBLaM
    monkeypatch.setitem(sys.modules, "kblam_engine.engine", module)
    for name, value in {"loaded": [], "asked": [], "on_piece": None, "error": None}.items():
        monkeypatch.setattr(StubKBLaM, name, value)
    return StubKBLaM


@pytest.fixture
def kb(tmp_path):
    path = tmp_path / "acme.kb"
    with KnowledgeBase.open(path, encoder="hashing") as base:
        base.add(TRIPLES)
    return path


def said(out):
    """Return what a chat printed without the questions that were read, and the empty lines between turns."""
    return [line.strip() for line in out.splitlines() if line.strip() and not line.startswith("> ")]


# ask


def test_ask_prints_the_answer_and_nothing_else(kblam, kb):
    assert kblam("ask", "--kb", kb, "Who is the founder of Acme?") == (0, "It is Lena [b]Hoffmann[/b].\n", "")


def test_ask_json_is_the_contract(kblam, kb):
    code, out, err = kblam("ask", "--kb", kb, "--json", "Who is the founder of Acme?")
    data = json.loads(out)
    assert code == 0 and err == ""
    assert list(data) == [
        "text",
        "refused",
        "grounded",
        "confidence",
        "attended",
        "usage",
        "finish_reason",
        "ttft_ms",
        "ms_per_token",
    ]
    assert data["text"] == "It is Lena [b]Hoffmann[/b]." and data["refused"] is False
    assert data["attended"] == [
        {
            "id": 0,
            "name": "Acme",
            "property": "founder",
            "value": "Lena [b]Hoffmann[/b]",
            "weight": 0.75,
            "spans": [[0, 4]],
            "metadata": {},
        }
    ]
    assert data["usage"] == {"prompt_tokens": 9, "completion_tokens": 4, "n_triples": 2}


def test_a_refusal_is_an_answer(kblam, kb):
    code, out, _ = kblam("ask", "--kb", kb, "--json", "What is the age of Acme?")
    data = json.loads(out)
    assert code == 0 and data["refused"] is True and data["attended"] == []


def test_an_answer_that_is_not_from_the_kb_is_marked(kblam, kb):
    marked = f"Hello there.\n{FROM_BASE}\n"
    assert kblam("ask", "--kb", kb, "--unknown", "base", "Hello!") == (0, marked, "")
    data = json.loads(kblam("ask", "--kb", kb, "--unknown", "base", "--json", "Hello!")[1])
    assert data["grounded"] is False and data["refused"] is False and data["text"] == "Hello there."
    out = kblam("ask", "--kb", kb, "--unknown", "base", "--explain", "Hello!")[1]
    assert out.startswith(marked) and "no triple attended" in out and "\nfrom the base model, confidence 0.10" in out
    known = kblam("ask", "--kb", kb, "--unknown", "base", "the founder?")[1]
    assert known == "It is Lena [b]Hoffmann[/b].\n"
    assert kblam("ask", "--kb", kb, "Hello!")[1] == "I cannot find it.\n"
    code, out, err = kblam("ask", "--kb", kb, "--unknown", "guess", "Hello!")
    assert (code, out) == (2, "") and "refuse" in err and "base" in err and err.count("\n") == 1


def test_explain_shows_triples_bars_confidence_and_time(kblam, kb):
    code, out, _ = kblam("ask", "--kb", kb, "--explain", "Who is the founder of Acme?")
    assert code == 0 and out.startswith("It is Lena [b]Hoffmann[/b].\n\n")
    assert "███████████████·····  0.75  Acme | founder | Lena [b]Hoffmann[/b]" in out
    assert "confidence 0.90, first token 21 ms, 5 ms a token, 4 tokens, 2 triples" in " ".join(out.split())
    out = kblam("ask", "--kb", kb, "--explain", "What is the age of Acme?")[1]
    assert "no triple attended" in out and "refused, confidence 0.10" in out


def test_options_reach_the_model(kblam, kb, stub):
    options = "--model m --adapter a --dtype bfloat16 --device cpu --max-new-tokens 7 --temperature 0.5 --seed 3"
    options += " --refusal-threshold 0.2 --max-hops 2 --unknown base --index tree"
    code, *_ = kblam("ask", "--kb", kb, *options.split(), "founder?")
    assert code == 0
    assert stub.loaded == [("m", {"adapter": "a", "dtype": "bfloat16", "device": "cpu", "index": "tree"})]
    expected = {"max_new_tokens": 7, "temperature": 0.5, "seed": 3, "refusal_threshold": 0.2, "max_hops": 2}
    expected["unknown"] = "base"
    assert stub.asked == [("founder?", expected)]
    assert stub.indexes.background is False  # an index would not be finished when the process ends


def test_a_missing_kb_is_told_before_the_model_loads(kblam, tmp_path, stub):
    code, out, err = kblam("ask", "--kb", tmp_path / "none", "founder?")
    assert (code, out) == (1, "") and err.count("\n") == 1 and "none" in err
    assert not stub.loaded and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--model", "nothing", "founder?"], 1),
        (["--max-new-tokens", "0", "founder?"], 2),
        (["--temperature", "-1", "founder?"], 2),
        (["  "], 2),
        ([], 2),
    ],
)
def test_mistakes_are_one_line(kblam, kb, arguments, code):
    got, out, err = kblam("ask", "--kb", kb, *arguments)
    assert (got, out) == (code, "") and err.startswith("kblam: ") and err.count("\n") == 1


def test_ctrl_c_while_it_answers(kblam, kb, stub):
    stub.error = KeyboardInterrupt()
    assert kblam("ask", "--kb", kb, "founder?") == (130, "", "kblam: interrupted\n")


def test_an_empty_knowledge_base_is_pointed_out(kblam, tmp_path):
    KnowledgeBase.open(tmp_path / "empty", encoder="hashing").close()
    code, out, err = kblam("ask", "--kb", tmp_path / "empty", "founder?")
    assert code == 0 and out == "I cannot find it.\n" and "holds no triples yet" in err


# chat


def test_chat_streams_answers_and_keeps_the_history(kblam, kb, stub):
    code, out, err = kblam("chat", "--kb", kb, lines=["Who is the founder?", "", "And the seat?"])
    assert code == 0 and err == ""
    assert said(out) == ["It is Lena [b]Hoffmann[/b].", "It is Berlin."]
    assert [message["role"] for message in stub.asked[1][0]] == ["user", "assistant", "user"]
    assert stub.asked[1][0][1]["content"] == "It is Lena [b]Hoffmann[/b]."
    assert stub.asked[1][1] == {
        "max_new_tokens": 256,
        "temperature": 0.0,
        "seed": None,
        "refusal_threshold": None,
        "max_hops": 1,
        "unknown": "refuse",
    }


def test_triples_change_while_it_goes_on(kblam, kb):
    lines = [
        "the age?",
        "/add Acme | age | 9 | or 10",
        "the age?",
        "/set Acme | age | 11",
        "the age?",
        "/remove Acme | age",
        "the age?",
        "/add Acme | seat | Bonn",
    ]
    code, out, err = kblam("chat", "--kb", kb, lines=lines)
    assert (code, err) == (0, "")
    assert said(out) == [
        "I cannot find it.",
        "added: The age of Acme is 9 | or 10.",
        "It is 9 | or 10.",
        "9 | or 10 -> 11",
        "It is 11.",
        "removed 1",
        "I cannot find it.",
        "replaced: The seat of Acme is Bonn.",
    ]
    with KnowledgeBase.open(kb, encoder="hashing") as base:
        assert base.get("Acme", "seat").value == "Bonn" and len(base) == 2


def test_show_kb_forget_help_and_quit(kblam, kb, stub):
    lines = ["/show", "founder?", "/show", "/forget", "/kb", "/help", "seat?", "/quit", "founder?"]
    code, out, err = kblam("chat", "--kb", kb, lines=lines)
    assert code == 0 and err == "kblam: nothing has been answered yet\n"
    assert "0.75  Acme | founder | Lena [b]Hoffmann[/b]" in out and "2 triples, 1 name, 2 properties" in out
    assert "/remove NAME" in out and len(stub.asked) == 2
    assert len(stub.asked[1][0]) == 1  # forgotten


def test_chat_can_be_told_what_happens_with_other_questions(kblam, kb, stub):
    lines = ["Hello!", "/unknown base", "Hello!", "seat?", "/unknown refuse", "Hello!", "/unknown", "/unknown guess"]
    code, out, err = kblam("chat", "--kb", kb, lines=lines)
    assert code == 0 and err.count("kblam: expected /unknown refuse or /unknown base, got") == 2
    assert said(out) == [
        "I cannot find it.",
        "the base model answers such questions",
        "Hello there.",
        FROM_BASE,
        "It is Berlin.",
        "such questions are refused",
        "I cannot find it.",
    ]
    assert FROM_BASE not in str(stub.asked)
    assert FROM_BASE in kblam("chat", "--kb", kb, "--unknown", "base", lines=["Hello!"])[1]


@pytest.mark.parametrize("line", ["/nothing", "/add Acme | age", "/set Acme || 3", "/remove", "/remove Nobody"])
def test_a_mistake_in_one_line_does_not_end_the_chat(kblam, kb, line):
    code, out, err = kblam("chat", "--kb", kb, lines=[line, "seat?"])
    assert code == 0 and said(out) == ["It is Berlin."] and err.startswith("kblam: ") and err.count("\n") == 1


def test_a_question_that_fails_is_not_kept(kblam, kb, stub):
    stub.error = ModelNotFoundError("gone\nfor good")
    assert kblam("chat", "--kb", kb, lines=["founder?"])[2] == "kblam: gone for good\n"


def test_ctrl_c_stops_the_answer_and_not_the_chat(kblam, kb, stub):
    stub.on_piece = lambda: os.kill(os.getpid(), signal.SIGINT)
    handler = signal.getsignal(signal.SIGINT)
    code, out, err = kblam("chat", "--kb", kb, lines=["founder?", "seat?"])
    assert (code, err) == (0, "") and said(out) == ["It", "It"]
    assert signal.getsignal(signal.SIGINT) is handler
    assert stub.asked[1][0][1]["content"] == "cut"  # what was said belongs to the conversation


def test_bars():
    assert bar(0) == "·" * 20 and bar(1) == bar(1.2) == "█" * 20
    assert bar(0.5).count("█") == 10


# a part of the knowledge base


@pytest.fixture
def parts(tmp_path):
    path = tmp_path / "parts.kb"
    with KnowledgeBase.open(path, encoder="hashing") as base:
        base.add([Triple("Acme", "seat", "Berlin", {}, Provenance("atlas"), valid_to="2020")])
        base.add([Triple("Acme", "seat", "Bonn", namespace="sales", tags=("places",), valid_from="2020")])
        base.add([Triple("Acme", "founder", "Lena")])
        base.set("Acme", "founder", "Mara")
    return path


@pytest.mark.parametrize(
    ("options", "question", "told", "n_triples"),
    [
        ("--namespace sales", "the seat?", "It is Bonn.", 1),
        ("--namespace sales", "the founder?", "I cannot find it.", 1),
        ("--tag places", "the seat?", "It is Bonn.", 1),
        ("--source atlas", "the seat?", "It is Berlin.", 1),
        ("--at 2021", "the seat?", "It is Bonn.", 2),
        ("--at 2019-06-01", "the seat?", "It is Berlin.", 2),
        ("--revision 3", "the founder?", "It is Lena.", 3),
        ("--revision 4", "the founder?", "It is Mara.", 3),
        ("--namespace sales --at 2019", "the seat?", "I cannot find it.", 0),
    ],
)
def test_the_model_sees_the_part_that_is_asked_for(kblam, parts, options, question, told, n_triples):
    code, out, err = kblam("ask", "--kb", parts, *options.split(), "--json", question)
    data = json.loads(out)
    assert (code, data["text"], data["usage"]["n_triples"]) == (0, told, n_triples)
    assert (err == "") == bool(n_triples) and ("kblam kb list takes the same" in err) != bool(n_triples)
    code, out, _ = kblam("chat", "--kb", parts, *options.split(), lines=[question])
    assert (code, said(out)) == (0, [told])


@pytest.mark.parametrize(
    ("option", "expected", "message"), [("--revision=9", 1, "expected a revision in 0..4"), ("--at=soon", 2, "time")]
)
def test_a_part_that_cannot_be_is_told_before_the_model_loads(kblam, parts, stub, option, expected, message):
    for command in (["ask", "the seat?"], ["chat"]):
        code, out, err = kblam(*command, "--kb", parts, option)
        assert (code, out) == (expected, "") and message in err and err.count("\n") == 1
    assert not stub.loaded


def test_a_part_is_not_changed_from_a_chat(kblam, parts):
    lines = ["/add Acme | age | 9", "/set Acme | seat | Ulm", "/remove Acme", "/kb"]
    code, out, err = kblam("chat", "--kb", parts, "--tag", "places", lines=lines)
    assert code == 0 and err.count("a part of it, for reading; change it with kblam kb") == 3
    assert "1 triple, 1 name, 1 property" in out
    with KnowledgeBase.open(parts) as base:
        assert base.revision == 4
