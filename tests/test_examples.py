"""The demo and the quickstart with a stand-in for the model: what goes wrong, too. `test_demo.py` runs them with the real one."""

import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kblam_engine import KnowledgeBase, datasets
from kblam_engine.answers import Answer, AttendedTriple, Usage
from kblam_engine.errors import MissingDependencyError
from kblam_engine.evaluation.metrics import fold

EXAMPLES = Path(__file__).parents[1] / "examples"


class StubKBLaM:
    """Answers with the value of the triple that shares most words with the last message; refuses below two."""

    error = None

    @classmethod
    def from_pretrained(cls, model, **options):
        if cls.error:
            raise cls.error
        return cls()

    def answer(self, question, kb=None, **options):
        text = question if isinstance(question, str) else question[-1]["content"]
        if kb is None:
            return self.generate_text([{"role": "user", "content": text}], 9)
        asked = {word[:5] for word in fold(text)} - {"is", "the", "of"}
        scored = [(len(asked & {word[:5] for word in fold(t.key_text)}), i, t) for i, t in enumerate(kb)]
        score, number, triple = max(scored, key=lambda item: item[0])
        attended = (AttendedTriple(number, triple, score / 8),)
        if score < 2:
            return Answer("I cannot find it.", True, 0.1, attended, Usage(9, 5, len(kb)), "stop", 20.0, 5.0)
        return Answer(triple.value, False, 0.9, attended, Usage(9, 5, len(kb)), "stop", 20.0, 5.0)

    def generate_text(self, messages, max_new_tokens):
        return Answer("It depends.", False, 0.0, (), Usage(9, 5), "stop", 20.0, 5.0)


@pytest.fixture(autouse=True)
def stub(monkeypatch, tmp_path):
    module = ModuleType("kblam_engine.engine")
    module.KBLaM, module.Answer, module.AttendedTriple = StubKBLaM, Answer, AttendedTriple
    # The package first, whose names are imported when they are asked for: what is put back later is what they are now.
    for name in ("KBLaM", "Answer"):
        monkeypatch.setattr(f"kblam_engine.{name}", getattr(module, name))
    monkeypatch.setitem(sys.modules, "kblam_engine.engine", module)
    monkeypatch.setattr(StubKBLaM, "error", None)
    whole = KnowledgeBase.open.__func__
    hashed = classmethod(lambda cls, path: whole(cls, path, encoder="hashing"))
    monkeypatch.setattr(KnowledgeBase, "open", hashed)
    monkeypatch.setenv("KBLAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return StubKBLaM


@pytest.fixture
def run(capsys):
    """Run an example as a script; return its output, white space folded."""
    try:
        next(datasets.iter_triples("factbook"))
    except MissingDependencyError as error:
        pytest.skip(str(error))

    def run_script(name):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return " ".join(capsys.readouterr().out.split())

    return run_script


def test_the_demo_shows_all_of_it(run):
    output = run("demo.py")
    assert "2,700 triples about 68 countries: 2,700 new" in output
    for number in range(1, 11):
        assert output.count(f" {number}. ") >= 2  # with the knowledge base, and to the base model alone
    assert "Kenya | number of airports | 368 (2025)" in output
    assert "368 (2025) -> 371" in output and output.count("371 (since this morning)") >= 2
    assert "refused, confidence 0.10" in output and output.count("It depends.") == 12


def test_a_second_demo_embeds_nothing_and_starts_from_the_same_triples(run):
    run("demo.py")
    output = run("demo.py")
    assert "0 new, 2,700 from an earlier run" in output and "368 (2025) -> 371" in output


@pytest.mark.parametrize("error", [MissingDependencyError("pip install it"), KeyboardInterrupt()])
def test_the_demo_ends_in_one_line(run, stub, error):
    stub.error = error
    with pytest.raises(SystemExit, match="^demo: pip install it$|^\ndemo: stopped$"):
        run("demo.py")


def test_the_quickstart_is_short_and_shows_all_of_it(run):
    assert len((EXAMPLES / "quickstart.py").read_text("utf-8").splitlines()) < 40
    output = run("quickstart.py")
    assert int(output.split()[0]) >= 2000 and "After the change: 371" in output
    assert output.count("The base model alone:") == 12 and output.count("answered, first token after 20 ms") == 10
