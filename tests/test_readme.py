"""The README is true: its snippet prints what it says, its help is the command's, its files and targets exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kblam_engine

ROOT = Path(kblam_engine.__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "README.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(heading):
    """Return (language, text) of the fenced blocks under a heading of the README."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return BLOCK.findall(section)


def run(*command, **options):
    environment = {**os.environ, "COLUMNS": "80", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def test_the_snippet_prints_what_the_readme_says(tmp_path):
    (language, snippet), (_, printed) = blocks("In Python")
    assert language == "python" and len(snippet.splitlines()) <= 16
    done = run(sys.executable, "-c", snippet, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed


def test_a_table_and_a_document_go_in_and_are_asked(tmp_path):
    (language, snippet), (_, printed) = blocks("What goes in")
    assert language == "python" and len(snippet.splitlines()) < 8
    (tmp_path / "products.csv").write_text("name,battery life,maker\nOrca 2,11 hours,Acme Robotics\nKite,40 minutes,Borealis\n")
    (tmp_path / "handbook.md").write_text("# Acme Robotics\n\nFounder: Lena Hoffmann\n\nSeat: Berlin\n")
    done = run(sys.executable, "-c", snippet, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed


def test_the_lines_for_frameworks_run(tmp_path):
    ((_, snippet),) = blocks("In LangChain, LlamaIndex and networkx")
    before = """
import networkx
from kblam_engine import KnowledgeBase, Triple
kb = KnowledgeBase.open("company.kb")
kb.add([Triple("Acme Robotics", "founder", "Lena Hoffmann")])
graph = networkx.DiGraph()
graph.add_edge("Orca 2", "Acme Robotics", relation="maker")
"""
    after = """
print(chain.invoke("Who founded Acme Robotics?"))
print(engine.query("Who founded Acme Robotics?"))
print(kb.get("Orca 2", "maker").value)
"""
    done = run(sys.executable, "-c", before + snippet + after, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = "The founder of Acme Robotics is Lena Hoffmann."
    assert done.stdout.splitlines() == [answer, answer, "Acme Robotics"]


def test_the_help_is_the_commands():
    help_text = next(text for language, text in blocks("On the command line") if language == "text")
    done = run(sys.executable, "-m", "kblam_engine", "--help")
    assert done.stdout.strip() == help_text.strip()


def test_the_commands_shown_exist():
    shown = next(text for language, text in blocks("On the command line") if not language)
    for line in shown.splitlines():
        words = line.split()
        command = words[1:3] if words[1] == "kb" else words[1:2]
        wanted = re.findall(r" (--[a-z-]+)", line.split("#")[0])
        done = run(sys.executable, "-m", "kblam_engine", *command, "--help")
        assert done.returncode == 0, line
        assert all(option in done.stdout for option in wanted), line


def tree_paths():
    (_, tree), *_ = blocks("What is where")
    folders = []
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name]
        yield "/".join(part.strip("/") for part in folders) + ("/" if name.endswith("/") else "")


@pytest.mark.parametrize("path", tree_paths())
def test_every_path_of_the_tree_exists(path):
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()


def test_the_tree_names_every_module():
    named = set(tree_paths())
    modules = {f"kblam_engine/{path.name}" for path in (ROOT / "kblam_engine").glob("[!_]*.py")}
    folders = {f"kblam_engine/{path.parent.name}/" for path in (ROOT / "kblam_engine").glob("*/__init__.py")}
    assert modules | folders <= named


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_make_targets_exist(document):
    text = document.read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE))
    assert named <= targets, f"{document.name} names make {named - targets}"


def test_the_targets_of_the_tree_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    line = next(line for line in README.splitlines() if line.startswith("Makefile "))
    assert set(line.removeprefix("Makefile").strip().split(", ")) == targets
