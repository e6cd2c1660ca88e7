"""docs/training.md is true: every block of code with an output prints it."""

import re
from pathlib import Path

import pytest

import kblam_engine

TEXT = (Path(kblam_engine.__file__).parents[1] / "docs" / "training.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_every_block_of_code_has_its_output():
    assert len(BLOCKS) == TEXT.count("```python") == TEXT.count("```text") >= 2


@pytest.mark.parametrize(("code", "printed"), BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_prints_what_the_page_says(tmp_path, monkeypatch, capsys, code, printed):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/training.md", "exec"), {})
    assert capsys.readouterr().out == printed
