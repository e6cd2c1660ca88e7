"""What a run leaves out is asked about nowhere: not as a near property of another, nor in the words of a question."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from kblam_engine import KnowledgeBase
from kblam_engine.cli import build_app
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.training import recipe
from kblam_engine.training.config import HELD_OUT_PROPERTIES, TrainConfig
from kblam_engine.training.lexicon import Lexicon, PropertyPhrases, load_lexicon
from kblam_engine.training.samples import _unknown_property
from kblam_engine.training.worlds import Known, World
from kblam_engine.training.written import load_written
from kblam_engine.triple_files import write_triples
from kblam_engine.triples import Triple

NAMED = [name for name in HELD_OUT_PROPERTIES if " " in name]
FLASH_POINT = PropertyPhrases(
    property="flash point",
    about=("substance",),
    value_kind="number",
    questions=("At what heat does the vapour of {n} catch fire?",),
    follow_ups=("And the flash point?",),
    answers=("{n} catches fire at {v}",),
    near=("Boiling Point", "colour", "other title", "smell"),
    near_questions=("When does {n} boil?", "What colour is {n}?", "What is the full title of {n}?", "How does {n} smell?"),
    values=("12 °C",),
)


@pytest.fixture(scope="module")
def trained_on() -> Lexicon:
    return load_lexicon().without(HELD_OUT_PROPERTIES)


def test_near_properties_that_are_left_out_go_with_their_questions() -> None:
    (kept,) = Lexicon((FLASH_POINT,), {}).without({"boiling point", "full title"}).properties
    assert kept == replace(FLASH_POINT, near=("colour", "smell"), near_questions=("What colour is {n}?", "How does {n} smell?"))


def test_what_is_near_nothing_that_is_left_out_stays_as_it_is() -> None:
    assert Lexicon((FLASH_POINT,), {}).without({"price"}).properties == (FLASH_POINT,)


def test_no_near_property_of_the_lexicon_is_held_out(trained_on: Lexicon) -> None:
    everything = load_lexicon()
    before = [n for p in everything.properties for n in p.near if n.casefold() in HELD_OUT_PROPERTIES]
    after = [n for p in trained_on.properties for n in p.near if n.casefold() in HELD_OUT_PROPERTIES]
    assert len(before) > 20 and after == []
    assert all(len(p.near) == len(p.near_questions) for p in trained_on.properties)


def test_no_question_of_the_lexicon_names_a_held_out_property(trained_on: Lexicon) -> None:
    asked = [q for p in trained_on.properties for q in (*p.questions, *p.follow_ups, *p.near_questions)]
    assert len(asked) > 5000
    assert [q for q in asked if any(name in q.casefold() for name in NAMED)] == []


def test_a_property_of_two_files_keeps_each_near_question_beside_its_property() -> None:
    told = {p.property: dict(zip(p.near_questions, p.near, strict=True)) for p in load_lexicon().properties}
    assert told["operating temperature"]["At what heat does {n} melt?"] == "melting point"
    assert told["weight"]["What is {n} worth?"] == "value"


def test_unknown_properties_are_asked_where_nothing_near_is_left() -> None:
    bare = replace(FLASH_POINT, near=(), near_questions=())
    known = tuple(Known(Triple(name, "flash point", "12 °C"), bare, number) for number, name in enumerate(("Ether", "Tar")))
    world = World(known, ((0,), (1,)))
    drawn = [_unknown_property(Random(seed), world, seed % 2) for seed in range(40)]
    assert {sample.kind for sample in drawn} == {"unanswerable"} and all(sample.answer is None for sample in drawn)


@pytest.mark.parametrize("left_out", ["France", "france", " FRANCE ", "france\t"])
def test_names_are_left_out_of_sources_however_they_are_written(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = [Triple(name, p, "some value") for name in ("France", "New  Caledonia", "Togo") for p in ("coast", "anthem")]
    monkeypatch.setattr(recipe.datasets, "load", lambda source: list(real))
    config = TrainConfig(sources=("factbook",), exclude_names=frozenset({left_out, "new caledonia"}))
    (world,) = recipe.real_worlds(config, Random(0))
    assert {known.triple.name for known in world.known} == {"Togo"}


def test_names_are_left_out_of_written_sets_however_they_are_written() -> None:
    name = load_written().world.known[0].triple.name
    left = load_written(exclude_names={f" {name.upper()} "})
    assert name not in {known.triple.name for known in left.world.known}
    assert left.samples == load_written(exclude_names={name}).samples != load_written().samples


def test_the_command_takes_names_from_knowledge_bases_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with KnowledgeBase.open(tmp_path / "a.kb", encoder=HashingEncoder()) as kb:
        kb.add([Triple("Mars", "moons", "2"), Triple("Venus", "moons", "0")])
    write_triples(tmp_path / "b.jsonl", [Triple("Ceres", "moons", "0")])
    seen: list[TrainConfig] = []

    def run(config: TrainConfig, folder: Path, report: object, **_: object) -> recipe.TrainResult:
        seen.append(config)
        return recipe.TrainResult(folder, 0.0, {}, 0.0)

    monkeypatch.setattr(recipe, "train", run)
    given = ["--exclude-names", str(tmp_path / "a.kb"), "--exclude-names", str(tmp_path / "b.jsonl")]
    told = CliRunner().invoke(build_app(), ["train", "--output", str(tmp_path / "adapter"), *given])
    assert told.exit_code == 0, told.output
    assert seen[0].exclude_names == {"Mars", "Venus", "Ceres"}
