"""The LlamaIndex and networkx examples and the snippets of docs/llama_index.md, on the embedded default model."""

import re

from pages import page, run_page
from pages import run as run  # a fixture


def test_rag_before_and_after(run):
    blocks = [block.splitlines() for block in run("llama_index_rag").strip().split("\n\n")]
    after = {question: line.split("from ")[1] for question, _, line in blocks}
    assert len(blocks) == 6 and all("before" in before for _, before, _ in blocks)
    assert "sheet 1: " in after["How long does the battery of the Orca 2 last?"]
    values = ("11 hours", "91,500 euros", "300 metres", "Piet Vos", "0800 555 014")
    assert [value for value in values if value not in " ".join(after.values())] == []
    assert after["What is the warranty of the Narwhal?"].startswith("nothing: I cannot find that")
    # The page quotes these.
    quoted = re.findall(r"^\| (.+?\?)[^|]*\| [^|]+ \| (.+?) \|$", page("llama_index.md"), re.MULTILINE)
    assert len(quoted) == 3
    for question, answer in quoted:
        assert answer in after[question]


def test_documents_come_change_and_go(run):
    lines = dict(re.findall(r"^(\w+): +(.*)$", run("llama_index_documents"), re.MULTILINE))
    assert "11 hours" in lines["first"] and "13.5 hours" in lines["changed"] and "signal orange" in lines["colour"]
    assert lines["refresh"] == "[True] [False]" and "cannot find" in lines["deleted"]
    assert lines["left"] == "['The colour of Orca 2 is signal orange.']"


def test_a_workflow_with_a_fallback(run):
    first, second, third, fourth = re.split(r"\n(?=\S)", run("llama_index_workflow").strip())
    assert "knowledge base: " in first and "120 metres" in first
    assert "fallback: " in second and "Ingrid Solberg" in second and "cannot find" in third
    assert "Lena Hoffmann" in fourth.replace("|", "") and "founder of Acme Robotics is Lena" in fourth.split("sources")[1]


def test_a_graph_answers(run):
    output = run("networkx_graph")
    answers = [line.strip() for line in output.splitlines()[2:11:2]]
    expected = ("11 hours", "signal orange, white", "Lena Hoffmann", "Acme Robotics", "cannot find")
    assert [want for want, answer in zip(expected, answers, strict=True) if want not in answer] == [], output
    assert "1  The founder of Acme Robotics is Lena Hoffmann." in output
    assert "path: Manta S -> Acme Robotics -> Varnholm" in output


def test_the_snippets_of_the_page_print_what_it_says(capsys):
    assert run_page("llama_index.md", capsys) == 6
