"""The LangChain examples and the snippets of docs/langchain.md, on the embedded default model: what they print."""

import gc
import re

import pytest
from pages import ROOT, page, run_page
from pages import run as run  # a fixture

from kblam_engine import datasets
from kblam_engine.errors import MissingDependencyError


def test_rag_before_and_after(run):
    try:
        next(datasets.iter_triples("factbook"))
    except MissingDependencyError as error:
        pytest.skip(str(error))
    output = run("langchain_rag")
    blocks = [block.splitlines() for block in output.split("\n\n")]
    n_triples, n_countries = map(int, re.findall(r"\d+", blocks[0][0]))
    assert n_triples > 120 and n_countries == 33
    answers = {}
    for question, before, after in blocks[1:]:
        tokens = [int(re.search(r"(\d+) tokens read", line)[1]) for line in (before, after)]
        assert tokens[0] > 2 * tokens[1], question
        answers[question] = after.split("tokens read: ")[1]
    values = ("Sajama", "368", "Kimigayo", "Thimphu", "cannot find that")
    assert [value for value in values if value not in " ".join(answers.values())] == []
    assert "cannot find that" in answers["What is the capital of Velmaria?"]


def test_streaming_with_citations(run):
    output = run("langchain_streaming")
    assert '"11 hours" is from Data sheet, edition 4 https://acme.example/orca2.pdf' in output
    assert '"120 metres" is from Data sheet, edition 4' in output and "is from Press release" in output


def test_tenants(run):
    lines = run("langchain_tenants").splitlines()
    answers = dict(zip(lines[::2], lines[1::2], strict=True))
    hours, foreman = "What are the opening hours of the Varnholm depot?", "Who is the foreman of the Kelda depot?"
    assert "6 am to 2 pm" in answers[f"north: {hours}"] and "9 am to 5 pm" in answers[f"south: {hours}"]
    assert "cannot find" in answers[f"north: {foreman}"] and "Piet Vos" in answers[f"south: {foreman}"]


def test_live_update(run):
    first, second, third, by_hand = re.split(r"\n(?=\S)", run("langchain_live_update").strip())
    assert first.startswith("2 added") and "11 hours" in first and "40 minutes" in first
    assert second.startswith("1 added, 1 unchanged, 1 deleted") and "13.5 hours" in second and "40 minutes" in second
    assert third.startswith("0 added, 1 unchanged, 1 deleted") and "13.5 hours" in third and "cannot find" in third
    assert "14 hours" in by_hand


def test_graph(run):
    output = run("langchain_graph")
    assert "48,000 euros" in output and "passed your question to the support team" in output
    streamed = output.split("As it is written:\n")[1].strip()
    assert "Lena Hoffmann" in streamed.replace("|", "") and streamed.count("|") > 5


def test_one_app_before_and_after_on_held_out_questions(run):
    output = run("before_after", "--limit", "3")
    rows = {r[0]: [float(x) for x in r[1:]] for r in re.findall(r"^\| (.+?) +\| (\S+) \| (\S+) \|$", output, re.MULTILINE) if r[1] != "before"}
    assert "3 questions, 101 triples" in output and len(rows) == 12
    assert rows["tokens read"][0] > 2 * rows["tokens read"][1] and rows["right"][1] >= rows["right"][0]
    assert rows["  of those, processor time"][0] > rows["  of those, processor time"][1]


def test_the_page_shows_the_code_of_both_apps():
    changed = re.findall(r"^[-+](\S.*)$", page("before_after.md"), re.MULTILINE)
    code = (ROOT / "examples" / "before_after.py").read_text("utf-8")
    assert len(changed) > 6 and [line for line in changed if line not in code] == []


def test_many_callers_at_once(run):
    rows = dict(re.findall(r"^\| (.+?) \|.*\| (.*) \|$", run("load", "--at-once", "8"), re.MULTILINE))
    assert rows["answers that differ"] == "0" and rows["8 calls, 4 knowledge bases"] == "at once"
    assert len(rows) == 7
    gc.unfreeze()  # the example is a process of its own, and the tests after this one are not


def test_the_snippets_of_the_page_print_what_it_says(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_page("langchain.md", capsys) >= 7
