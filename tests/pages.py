"""Examples and pages of documentation, run as a user would: what the tests about them share."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def run(capsys, monkeypatch):
    """Run an example as a script, with arguments; return what it printed."""

    def run_script(name, *arguments):
        script = ROOT / "examples" / f"{name}.py"
        monkeypatch.setattr("sys.argv", [str(script), *arguments])
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out

    return run_script


def page(name):
    """Return a page of docs."""
    return (ROOT / "docs" / name).read_text("utf-8")


def run_page(name, capsys):
    """Run every block from the top, in one namespace; a block of text is what the one before it printed.

    Return how many there were.
    """
    names, n_checked = {"__name__": "page"}, 0
    for language, text in _BLOCK.findall(page(name)):
        if language == "python":
            exec(compile(text, f"docs/{name}", "exec"), names)
            printed = capsys.readouterr().out
        elif language == "text":
            assert printed == text
            n_checked += 1
    return n_checked
