"""Each baseline by itself: made just before it is asked, told when it fits nothing; what a run says of itself."""

import gc
import json
import sys
import weakref

import pytest
from evaluation_parts import (  # noqa: F401  (fixtures)
    ACME,
    OTHERS,
    QUESTIONS,
    ask,
    command_fixture,
    encoder_fixture,
    files_fixture,
    model_fixture,
)
from evaluation_stub import StubModel
from grid_parts import LAKES, no_git  # noqa: F401

from kblam_engine.cli import _grid, _measuring
from kblam_engine.errors import ConfigurationError, MissingDependencyError
from kblam_engine.evaluation import run_evaluation, runner
from kblam_engine.evaluation.baselines import Corpus, PromptOptions, build_baseline
from kblam_engine.evaluation.grid_run import run_grid
from kblam_engine.evaluation.questions import questions_digest
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.triples import Triple

# --- memory -------------------------------------------------------------------------------------------------


def test_a_baseline_is_made_just_before_it_is_asked_and_dropped_after(model, monkeypatch):
    happened, alive = [], []
    usual = runner.build_baseline

    class Select:
        def __init__(self, name, select):
            self.name, self.select = name, select

        def __call__(self, question):
            return self.select(question)

    def watched(name, *arguments):
        gc.collect()
        happened.append(("made", name, len(model.asked_kb), [one().name for one in alive if one() is not None]))
        made = usual(name, *arguments)
        select = Select(name, made.select)
        alive.append(weakref.ref(select))
        return type(made)(made.name, select, made.ranked, made.info)

    monkeypatch.setattr(runner, "build_baseline", watched)
    found = run_evaluation(
        model, ACME, QUESTIONS, baselines=["dense", "oracle", "bm25"],
        progress=lambda name, done, total: happened.append(("asked", name)) if done == total else None,
    )  # fmt: skip
    n_system = len(QUESTIONS) + 1  # with the one that warms up
    assert happened == [
        ("asked", "kblam"),
        ("made", "dense", n_system, []), ("asked", "dense"),
        ("made", "oracle", n_system, []), ("asked", "oracle"),
        ("made", "bm25", n_system, []), ("asked", "bm25"),
    ]  # fmt: skip
    assert found.baselines["dense"].info == {"top_k": 5} and found.baselines["oracle"].overall.exact == 1.0


def test_mistakes_are_told_before_the_system_is_asked(model, monkeypatch):
    with pytest.raises(ConfigurationError, match="got 'best'"):
        run_evaluation(model, ACME, QUESTIONS, baselines=["best"])
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        run_evaluation(model, ACME, QUESTIONS, baselines=["bm25-5"])
    assert model.asked_kb == []


# --- in-context ---------------------------------------------------------------------------------------------


def in_context(encoder, triples, context, seed=0):
    corpus = Corpus(triples, encoder.encode([t.key_text for t in triples]), encoder)
    options = PromptOptions(max_new_tokens=20, seed=seed)
    return build_baseline("in-context", StubModel(encoder, context), corpus, QUESTIONS, options)


@pytest.mark.parametrize("seed", range(8))
def test_a_statement_that_is_too_long_is_passed_over(encoder, seed):
    long = Triple("Long one", "notes", " ".join(["word"] * 500))
    found = in_context(encoder, [*ACME, long, *OTHERS[:7]], 400, seed)
    assert found.info["n_fit"] == 11 and 4 not in found.select(QUESTIONS[0])


def test_what_fits_is_looked_for_in_pages(encoder, monkeypatch):
    from kblam_engine.evaluation import baselines

    everything = in_context(encoder, OTHERS, 150).select(QUESTIONS[0])
    assert len(everything) % 4 and len(everything) + 8 <= len(OTHERS)
    counted = []
    usual = baselines._n_tokens

    def counting(model, texts):
        counted.append(len(texts))
        return usual(model, texts)

    monkeypatch.setattr(baselines, "_PAGE", 4)
    monkeypatch.setattr(baselines, "_n_tokens", counting)
    assert in_context(encoder, OTHERS, 150).select(QUESTIONS[0]) == everything
    n_pages = len(everything) // 4 + 1
    assert counted[len(QUESTIONS) :] == [4] * (n_pages + 1), "after a page of which none fits, no other is counted"


def test_a_prompt_without_room_is_told(encoder):
    found = run_evaluation(StubModel(encoder, context=130), ACME, QUESTIONS, baselines=["in-context"])
    assert found.baselines["in-context"].info["n_fit"] == 0
    assert any("in-context: not one of 4 triples fits" in warning for warning in found.warnings)
    roomy = run_evaluation(StubModel(encoder), ACME, QUESTIONS, baselines=["in-context"])
    assert roomy.warnings == []
    cells = run_grid(StubModel(encoder, context=130), ACME, QUESTIONS, OTHERS, (4, 9), (0,), ["in-context"])
    assert sum("not one of" in warning for warning in cells.warnings) == 2


# --- what a run says of itself --------------------------------------------------------------------------------


def test_the_limit_and_the_questions_are_in_the_file(model, encoder, tmp_path):
    whole, some = (run_evaluation(model, ACME, QUESTIONS, limit=n).settings for n in (None, 2))
    assert (whole["limit"], some["limit"]) == (None, 2)
    assert whole["questions_digest"] == questions_digest(QUESTIONS) == questions_digest(QUESTIONS[::-1])
    assert some["questions_digest"] != whole["questions_digest"]
    found = run_grid(model, ACME, QUESTIONS, (), (4,), (0, 1), limit=2, folder=tmp_path)
    assert "questions_digest" not in found.settings, "each seed has its own"
    assert json.loads((tmp_path / "4-triples-seed-0.json").read_text())["questions_digest"]


def test_questions_that_retrieval_is_not_scored_on_are_told(model):
    bare = [ask("What is the city of Borea Foods?", answers=[["Riga"]], line=3)]
    (warning,) = run_evaluation(model, ACME, [*QUESTIONS, *bare]).warnings
    assert "1 of 3 answerable questions have no supports" in warning


def test_the_index_and_the_revision_are_in_the_file(command, files, tmp_path, encoder):
    out = tmp_path / "out.json"
    assert command(*files, "--json", out).exit_code == 0
    told = json.loads(out.read_text())
    assert "index" not in told and "kb_revision" not in told
    assert command(*files, "--index", "exact", "--sizes", "4", "--json", out).exit_code == 0
    assert json.loads(out.read_text())["index"] == "exact"
    with KnowledgeBase.open(tmp_path / "acme.kb", encoder=encoder) as kb:
        kb.add(ACME)
        kb.remove("Acme Robotics", "city")
        revision = kb.snapshot().revision
    assert command("eval", "--kb", tmp_path / "acme.kb", *files[3:], "--json", out).exit_code == 0
    assert json.loads(out.read_text())["kb_revision"] == revision > 1


def test_the_terminal_shows_refusal_f1(command, files):
    done = command(*files, "--baseline", "oracle")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    at = lines.index("refusals, all questions")
    assert lines[at + 1].split() == ["n", "precision", "recall", "F1", "over-refusal"]
    assert lines[at + 2].split() == ["kblam", "3", "1.000", "1.000", "1.000", "0.000"]


# --- cells and targets ----------------------------------------------------------------------------------------


def test_a_changed_command_says_why_cells_are_run_again(encoder, tmp_path, caplog):
    def run(baselines=(), kb=LAKES, **labels):
        model = StubModel(encoder)
        run_grid(model, kb, QUESTIONS, (), (10,), (0,), baselines, folder=tmp_path, labels={"kb": "k.jsonl", **labels})
        told, n = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"], len(model.asked_kb)
        caplog.clear()
        return told, n

    assert run() == ([], 4)
    assert run() == ([], 0)
    for given, reason in (({"baselines": ["dense"]}, "other baselines"), ({"kb": LAKES[1:]}, "other baselines, contents of kb")):
        (told,), n = run(**given)
        assert n == 4 and "10-triples-seed-0.json" in told and told.endswith(f"overwritten: {reason}")
    (told,), _ = run(kb=LAKES[1:], model="another")
    assert told.endswith("overwritten: other model")
    path = tmp_path / "10-triples-seed-0.json"
    old = json.loads(path.read_text())
    del old["plan"]
    path.write_text(json.dumps({**old, "fingerprint": "of another time"}))
    (told,), _ = run()
    assert "an earlier version wrote it" in told


def test_a_file_in_the_place_of_the_cells_is_told_first(command, files, model, tmp_path, monkeypatch):
    (tmp_path / "g.cells").write_text("x")
    monkeypatch.setattr("kblam_engine.cli.eval.load_model", lambda *source: pytest.fail("loaded"))
    done = command(*files, "--sizes", 4, "--json", tmp_path / "g.json")
    assert isinstance(done.exception, NotADirectoryError) and "g.cells" in str(done.exception)
    with pytest.raises(FileExistsError):
        run_grid(model, ACME, QUESTIONS, (), (4,), (0,), folder=tmp_path / "g.cells")
    assert model.asked_kb == []


def only(*writable):
    """Return what `os.access` says where nothing else can be written."""
    return lambda path, mode: path in writable


def test_a_file_in_a_closed_folder_is_written_in_place(tmp_path, monkeypatch):
    target = tmp_path / "out.json"
    target.write_text("a longer text than what comes")
    place = target.stat().st_ino
    monkeypatch.setattr("os.access", only(target))
    _measuring.check_target(target)
    _measuring.write_text(target, "new")
    assert (target.read_text(), target.stat().st_ino) == ("new", place)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    with pytest.raises(PermissionError, match="finished cells"):
        _grid.check_cells(target)
    monkeypatch.setattr("os.access", only())
    with pytest.raises(PermissionError):
        _measuring.check_target(target)
