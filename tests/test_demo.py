"""The demo and the quickstart, on the embedded default model: what they print."""

import re

import pytest
from pages import run as run  # a fixture

from kblam_engine import datasets, models
from kblam_engine.errors import MissingDependencyError

VALUES = ("Nevado Sajama", "368 (2025)", "Kimigayo", "Waitangi Day", "25,148 km", "CN", "16.4 years", "Soyombo")


@pytest.fixture(autouse=True)
def countries(tmp_path, monkeypatch):
    try:
        next(datasets.iter_triples("factbook"))
    except MissingDependencyError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)  # the quickstart leaves its KB where it is run


def test_the_demo_answers_refuses_and_learns(run, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "cache_dir", lambda: tmp_path)  # of the KB; the model stays where it is
    output = " ".join(run("demo").split())
    assert "2,700 triples about 68 countries: 2,700 new" in output
    with_kb, alone = output.split("The same questions to the base model alone")
    answers = re.split(r" \d+\. (?=[A-Z])", with_kb)[1:]
    assert len(answers) == 10
    for answer, value in zip(answers, (*VALUES, "6.77 liters", "Ceylon"), strict=True):
        assert value in answer and "first token" in answer, value
    ten, rest = answers[9].split("Two questions that this knowledge base cannot answer")
    assert "World Heritage Sites of Sri Lanka is 8" in ten
    refused, changed = rest.split("Change one triple, ask again")
    assert refused.count("I cannot find that in the knowledge base.") == refused.count("refused, confidence") == 2
    assert "368 (2025) -> 371 (since this morning)" in changed and "of Kenya is 371 (since this morning)." in changed
    assert alone.count(" s ") >= 12 and "Nevado Sajama" not in alone


def test_the_quickstart_answers_refuses_and_learns(run):
    output = run("quickstart")
    with_kb, alone = output.split("\nThe base model alone:", 1)
    assert int(with_kb.split()[0]) > 2_000
    blocks = with_kb.split("\n\n")[1:]
    assert [block for value, block in zip(VALUES, blocks, strict=False) if value not in block] == []
    assert "Thimphu" in blocks[8] and "Ceylon" in blocks[9]
    assert ["refused" in block for block in blocks[:12]] == [False] * 10 + [True] * 2
    assert blocks[12].startswith("After the change:") and "371" in blocks[12]
    assert alone.count("The base model alone:") == 11
