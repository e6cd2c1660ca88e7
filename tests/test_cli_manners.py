"""What holds for every command: nothing acts on the terminal, a closed pipe is no error, 2 is for wrong usage alone."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli_answering import StubKBLaM, said, stub  # noqa: F401  # the model's stand-in

import kblam_engine.cli
from kblam_engine import KnowledgeBase, Triple
from kblam_engine.cli._printing import OUTPUT_CLOSED
from kblam_engine.cli._tables import column_widths
from kblam_engine.triples import Provenance

WILD = "Bel\a\x1b[31ml\x1b]0;title\x07in\r\b\u202e\x9b2J"
TAME = r"Bel\x07\x1b[31ml\x1b]0;title\x07in\r\x08\u202e\x9b2J"
ACTS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def kb(tmp_path):
    path = tmp_path / "wild.kb"
    with KnowledgeBase.open(path, encoder="hashing") as base:
        base.add([Triple("Acme", "seat", WILD, {}, Provenance(f"atlas {WILD}")), Triple(f"Orca {WILD}", "maker", "Acme")])
    return path


# the terminal


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["ask", "the seat?"], ()),
        (["ask", "--explain", "the seat?"], ()),
        (["chat"], ["the seat?", "/show", f"/{WILD}", f"/add Acme | size | {WILD}", f"/set Acme | seat | {WILD}x", f"/remove {WILD}"]),
        (["kb", "list"], ()),
        (["kb", "find", "acme"], ()),
        (["kb", "history", "Acme"], ()),
        (["kb", "diff", "0"], ()),
        (["kb", "stats"], ()),
        (["kb", "set", "Acme", "seat", WILD], ()),
        (["kb", "remove", f"Nobody {WILD}"], ()),
        (["kb", "merge", f"Orca {WILD}", "Acme"], ()),
        (["kb", "list", f"--{WILD}"], ()),
        (["kb", "export", f"/nowhere {WILD}/x.csv"], ()),
    ],
)
def test_nothing_acts_on_the_terminal(kblam, kb, arguments, lines):
    _, out, err = kblam(*arguments, "--kb", kb, lines=lines)
    assert not ACTS.search(out) and not ACTS.search(err)
    assert r"\x1b[31m" in "".join((out + err).split()), "it is seen, spelled out"


def test_answers_are_spelled_out_and_json_is_exact(kblam, kb):
    assert kblam("ask", "--kb", kb, "the seat?")[1] == f"It is {TAME}.\n"
    assert said(kblam("chat", "--kb", kb, lines=["the seat?"])[1]) == [f"It is {TAME}."]
    assert json.loads(kblam("ask", "--kb", kb, "--json", "the seat?")[1])["text"] == f"It is {WILD}."
    assert json.loads(kblam("kb", "export", "-", "--kb", kb)[1].splitlines()[0])["value"] == WILD


def test_warnings_are_spelled_out(kblam, kb, capsys):
    kblam("kb", "list", "--kb", kb)
    record = logging.LogRecord("kblam_engine", logging.WARNING, "", 0, "every key is scored: %s", (WILD,), None)
    assert logging.lastResort.format(record) == f"every key is scored: {TAME}"


def test_every_print_goes_one_way():
    for path in Path(kblam_engine.cli.__file__).parent.glob("*.py"):
        if path.name != "_printing.py":
            text = path.read_text("utf-8")
            assert not re.search(r"typer\.echo\(|(?<![\w.])print\(|(?<![\w_])Console\(", text), path.name


# pipes


@pytest.mark.skipif(os.name != "posix", reason="pipes")
@pytest.mark.parametrize("command", [["export", "-"], ["list", "--limit", "0", "--json"], ["list", "--limit", "0"]])
def test_a_reader_that_has_gone_ends_the_command_quietly(tmp_path, command):
    with KnowledgeBase.open(tmp_path / "large.kb", encoder="hashing") as base:
        base.add([Triple(f"Orca {n}", "maker", "Acme") for n in range(3000)])
    read, write = os.pipe()
    os.close(read)
    whole = [sys.executable, "-m", "kblam_engine", "kb", *command, "--kb", str(tmp_path / "large.kb")]
    done = subprocess.run(whole, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (OUTPUT_CLOSED, "")


def test_another_pipe_that_breaks_is_told(kblam, kb, monkeypatch):
    def broken(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(KnowledgeBase, "ids", broken)
    monkeypatch.setattr("kblam_engine.cli.reader_is_gone", lambda: False)
    assert kblam("kb", "list", "--kb", kb) == (1, "", "kblam: Broken pipe\n")


def test_a_transcript_can_be_read(kblam, kb):
    out = kblam("chat", "--kb", kb, lines=["who is the maker?", "", "  the age?  ", "/kb"])[1]
    turns = [turn.splitlines() for turn in out.split("\n\n") if turn]
    assert [turn[0] for turn in turns] == ["> who is the maker?", "> the age?", "> /kb"]
    assert [turn[1].split()[0] for turn in turns] == ["It", "I", f"{kb}:"]


# exit codes


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "the seat?", "--refusal-threshold", "5"],
        ["ask", "the seat?", "--refusal-threshold", "nan"],
        ["ask", "the seat?", "--temperature", "inf"],
        ["ask", "the seat?", "--dtype", "float7"],
        ["ask", "the seat?", "--device", "abacus"],
        ["ask", "the seat?", "--at", "soon"],
        ["kb", "add", "a", "b", " "],
        ["kb", "add", "a", "b", "c", "--from", "2024", "--to", "2023"],
        ["kb", "add", "a", "b", "c", "--meta", "name=x"],
        ["kb", "add", "a", "b", "c", "--source", "s", "--confidence", "7"],
        ["kb", "set", "a", "b", "c", "--to", "never"],
        ["kb", "remove"],
        ["kb", "search", " "],
        ["kb", "find", "..."],
        ["kb", "merge", "A", "A"],
        ["kb", "duplicates", "--threshold", "7"],
        ["kb", "stats", "--plot", "x.jpg"],
        ["kb", "export", "x.foo"],
        ["kb", "counterfactual", "x.parquet"],
        ["kb", "import", "x.csv", "--format", "nope"],
        ["kb", "index", "--device", "abacus"],
        ["bench", "scale", "--against", "nobody"],
    ],
)
def test_wrong_usage_is_2(kblam, kb, arguments, stub):  # noqa: F811
    before = sorted(kb.iterdir())
    code, out, err = kblam(*arguments, "--kb", kb)
    assert (code, out) == (2, "") and err.startswith("kblam: ") and err.count("\n") == 1 and "--help`)" in err
    assert sorted(kb.iterdir()) == before and not stub.loaded


@pytest.mark.parametrize(
    "arguments",
    [["synthesize", "x.txt"], ["list", "--kb", ":memory:"], ["add", "a", "b", "c", "--kb", ":memory:"]],
)
def test_wrong_usage_of_other_commands_is_2(kblam, arguments):
    assert kblam("kb", *arguments)[0] == 2


def test_what_is_wrong_with_what_is_there_is_1(kblam, kb, tmp_path):
    (tmp_path / "bad.csv").write_text("name,name\n", "utf-8")
    for arguments in (["rollback", 9], ["list", "--revision", 9], ["remove", "Nobody"], ["import", tmp_path / "bad.csv"]):
        assert kblam("kb", *arguments, "--kb", kb)[0] == 1
    assert kblam("kb", "list", "--kb", tmp_path / "none")[0] == 1


# tables


def test_dates_and_words_are_not_broken(kblam, kb, monkeypatch):
    with KnowledgeBase.open(kb) as base:
        for hours in (1, 2):
            base.set(
                "Narwhal underwater vehicle", "battery life in cold water", f"about {hours} hours, heating off",
                namespace="vehicles", tags=("measured",), valid_from="2020-01-01", valid_to="2024-03-05T10:00:00Z",
                provenance=Provenance("https://acme.example/handbook/chapter/7"),
            )  # fmt: skip
    whole = ("2020-01-01", "2024-03-05T10:00:00Z", "underwater", "namespace", "vehicles", "measured", "heating")
    for width in (40, 60, 80, 120, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        for command in (["list"], ["search", "battery"], ["history", "Narwhal underwater vehicle"]):
            out = kblam("kb", *command, "--kb", kb)[1]
            words = set(re.split(r"[\s│┃]+", out))
            assert set(whole) - {"underwater" if command[0] == "history" else ""} <= words, (width, command)
            assert command[0] != "history" or re.search(r"\(\d{4}-\d\d-\d\d\s", out)
            assert max(map(len, out.splitlines())) <= width


def test_what_is_left_of_the_width_goes_to_those_that_need_least():
    assert column_widths([["id", "1"], ["value", "one two three"]], 20) == [2, 13]
    assert column_widths([["id", "1"], ["value", "one two three"]], 10) == [2, 8]
    assert column_widths([["a", "seven days"], ["b", "x" * 90]], 40) == [10, 30]
    assert column_widths([["added", "3 (2026-11-24 03:13)"], ["value", "kilometres"]], 20) is None


# importing and adding


def test_parts_of_a_list_that_are_left_out_are_counted(kblam, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [
        {"name": "Acme", "property": "sites", "value": ["Ulm", {"x": 2}, [1, 2], [], None]},
        {"name": "Orca", "parts": ["hull", ["fin", 2]], "crew": [{"name": "Ada"}, ["Bo", ["Cy"]]]},
    ]
    Path("x.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    code, out, err = kblam("kb", "import", "x.jsonl", "--kb", "x.kb", "--encoder", "hashing", "--json")
    reason = "part of a list that has no text (bytes, objects, lists)"
    assert code == 0 and json.loads(out)["skipped"] == {reason: 4} and err == f"left out - {reason}: 4\n"
    found = {t["property"]: t["value"] for t in json.loads(kblam("kb", "list", "--kb", "x.kb", "--json")[1])}
    assert found == {"sites": "Ulm", "parts": "hull", "crew": "Ada, Bo"}


@pytest.mark.parametrize("text", ["", " \n\n"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "json", "ttl", "md", "txt", "review.jsonl", "review.csv"])
def test_an_empty_file_is_a_mistake_of_every_kind(kblam, tmp_path, suffix, text):
    kblam("kb", "add", "Acme", "seat", "Ulm", "--kb", tmp_path / "x.kb", "--encoder", "hashing", "--source", f"x.{suffix}")
    (tmp_path / f"x.{suffix}").write_text(text, "utf-8")
    for options in ((), ("--replace", "--option", f"uri=x.{suffix}")):
        code, out, err = kblam("kb", "import", tmp_path / f"x.{suffix}", "--kb", tmp_path / "x.kb", *options)
        assert (code, out) == (1, "") and err.startswith("kblam: ") and err.count("\n") == 1
    assert len(json.loads(kblam("kb", "list", "--kb", tmp_path / "x.kb", "--json")[1])) == 1


def test_what_is_added_again_keeps_where_it_is_from(kblam, kb):
    first = ("--source", "atlas", "--span", "3-9", "--tag", "places", "--from", "2020", "--meta", "page=3")
    kblam("kb", "add", "Kite", "seat", "Bonn", "--kb", kb, *first)

    def known():
        with KnowledgeBase.open(kb) as base:
            return base.get("Kite", "seat")

    before = known()
    assert before.provenance == Provenance("atlas", "", (3, 9)) and before.metadata == {"page": "3"}
    assert kblam("kb", "add", "Kite", "seat", "Bonn", "--kb", kb)[1].startswith("0 added, 0 replaced, 1 unchanged")
    assert said(kblam("chat", "--kb", kb, lines=["/add Kite | seat | Bonn"])[1]) == ["unchanged: The seat of Kite is Bonn."]
    assert known() == before
    kblam("kb", "add", "Kite", "seat", "Bonn", "--kb", kb, "--meta", "seen=twice")
    assert known().provenance == before.provenance and known().metadata == {"page": "3", "seen": "twice"}
    kblam("kb", "add", "Kite", "seat", "Bonn", "--kb", kb, "--source", "register")
    assert known().provenance == Provenance("register") and known().metadata == {} and known().tags == ("places",)
    kblam("kb", "add", "Kite", "seat", "Ulm", "--kb", kb)
    assert known() == Triple("Kite", "seat", "Ulm"), "another value is from elsewhere"
    with KnowledgeBase.open(kb) as base:  # in Python, what is said is all that is known
        base.add([Triple("Kite", "seat", "Ulm", provenance=Provenance("atlas"))])
        assert base.add([Triple("Kite", "seat", "Ulm")]).replaced == 1 and base.get("Kite", "seat").provenance is None
