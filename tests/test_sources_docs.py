"""docs/sources.md is true: every block of code prints what stands below it, and its table names every format."""

import re
from pathlib import Path

import pytest

import kblam_engine
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.sources import formats, registry

TEXT = (Path(kblam_engine.__file__).parents[1] / "docs" / "sources.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_every_block_of_code_has_its_output():
    assert len(BLOCKS) == TEXT.count("```python") == TEXT.count("```text") > 8


@pytest.mark.parametrize(("code", "printed"), BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_prints_what_the_page_says(tmp_path, monkeypatch, capsys, code, printed):
    # A light encoder: what is shown does not depend on embeddings.
    code = code.replace('KnowledgeBase.open(":memory:")', 'KnowledgeBase.open(":memory:", encoder=HashingEncoder())')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_FORMATS", list(registry._FORMATS))
    exec(compile(code, "docs/sources.md", "exec"), {"HashingEncoder": HashingEncoder})
    assert capsys.readouterr().out == printed


def test_the_table_names_every_suffix_and_extra():
    table = TEXT.split("| what |")[1].split("\n\n")[0]
    for form in formats():
        for suffix in form.suffixes:
            assert suffix == "/" or suffix in (".zip",) or f"`{suffix}`" in table, suffix
        assert not form.extra or f"`{form.extra}`" in table, form.extra
