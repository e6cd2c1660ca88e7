"""Names that may mean one thing: listed with reasons, merged as one revision, and taken back."""

import json
import re

import pytest
from kb_parts import assert_consistent, kb_fixture, open_kb  # noqa: F401

from kblam_engine import Triple
from kblam_engine.errors import ConfigurationError, ReadOnlyError
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.sources.names import (
    duplicates_in,
    near_duplicates,
    read_aliases,
    reconcile,
    settled,
    stored_spellings,
)

SPELLINGS = [
    Triple("Acme Robotics", "seat", "Berlin"),
    Triple("Acme Robotics", "staff", "240"),
    Triple("ACME Robotics GmbH", "seat", "Berlin"),
    Triple("ACME Robotics GmbH", "staff", "250", tags=("register",)),
    Triple("ACME Robotics GmbH", "founder", "Lena Hoffmann"),
    Triple("Orca 2", "maker", "ACME Robotics GmbH"),
]


@pytest.mark.parametrize(
    ("name", "other", "reason"),
    [
        ("Acme Robotics", "ACME robotics", "same but for case"),
        ("Café Müller", "Cafe Muller", "same but for accents"),
        ("CAFÉ Müller", "Cafe Muller", "same but for case, accents"),
        ("Acme-Robotics", "Acme Robotics", "same but for punctuation"),
        ("The Acme Robotics", "Acme Robotics Ltd", 'same but for "the" or legal form'),
        ("Cafe\u0301 Rouge", "Caf\u00e9 Rouge", "same but for Unicode form or spaces"),
        ("Hofmann", "Hoffmann", "alike in spelling"),
        ("Katherine", "Catherine", "alike in spelling"),
        ("World Health Organization", "WHO", "initials"),
        ("Lena Hoffmann", "Hoffmann, Lena", "same words in another order"),
    ],
)
def test_reasons(name, other, reason):
    (pair,) = near_duplicates([name, other, "Something Else"])
    assert {pair.name, pair.other} == {name, other} and pair.reason == reason


def test_what_is_no_duplicate():
    assert near_duplicates(["Orca 2", "Orca 3", "Orka", "Berlin", "Bern", "Paris", "Parts of speech"]) == []
    with pytest.raises(ConfigurationError, match="threshold"):
        near_duplicates([], threshold=0)


def test_aliases_that_the_triples_name(kb):
    kb.add([*SPELLINGS, Triple("Acme Robotics", "Also known as", "AR; The Firm"), Triple("AR", "logo", "an arrow")])
    reasons = {(pair.name, pair.other): pair.reason for pair in duplicates_in(kb)}
    assert reasons["Acme Robotics", "AR"] == "alias" and ("Acme Robotics", "The Firm") not in reasons
    assert reasons["Acme Robotics", "ACME Robotics GmbH"] == 'same but for case, "the" or legal form'
    assert duplicates_in(kb.view(tags="register")) == []


def test_aliases_of_every_property():
    said = [("Acme", "aliases", "A1; A2"), ("Acme", "abbreviation", "A3"), ("Acme", "Short Name", "A4"), ("Acme", "motto", "A5")]
    assert read_aliases(Triple(*each) for each in said) == dict.fromkeys(["A1", "A2", "A3", "A4"], "Acme")


def test_aliases_that_contradict_surer_ones_are_left_out():
    mutual = {"WHO": "World Health Organization", "World Health Organization": "WHO", "who": "Doctor Who"}
    assert settled({}, mutual) == {"WHO": "World Health Organization"}
    sure = {"K1": "Kite", "K2": "Kite"}
    assert settled(sure, {"k1": "Kestrel", "Kite": "Kite II", "Kes": "K2", "K3": "Kite"}) == {**sure, "K3": "Kite"}
    assert settled(sure, {"Kitty": "kite"}, {"KITTY": "Cat"})["Kitty"] == "kite"
    found = [t.name for t in reconcile([Triple("who", "a", "b"), Triple("K1", "a", "b")], aliases=settled(sure, mutual))]
    assert found == ["World Health Organization", "Kite"]
    with pytest.raises(ConfigurationError, match="which is an alias itself"):
        list(reconcile([], aliases={"a": "b", "b": "c"}))


NFC, NFD = "Caf\u00e9 M\u00fcller", "Cafe\u0301 Mu\u0308ller"


def test_names_typed_in_another_form_are_found_as_they_are_stored():
    assert stored_spellings([NFC, NFD, "Orca"], [NFC, NFC]) == [NFC, NFD] == stored_spellings([NFD, NFC], ["Café  Müller ", NFD])
    assert stored_spellings([NFD], [NFC, "Orca"]) == [NFD, "Orca"]
    assert stored_spellings([NFC], [NFC, NFC]) == [NFC, NFC] and stored_spellings([], ["x"]) == ["x"]


def test_names_that_look_the_same_can_be_told_apart_and_merged(tmp_path, kblam, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with open_kb(tmp_path / "kb") as kb:
        kb.add([Triple(NFC, "seat", "Ulm"), Triple(NFD, "staff", "3"), Triple(f"{NFC[:4]}\xa0X", "a", "b"), Triple("Café X", "c", "d")])
    code, out, _ = kblam("kb", "duplicates", "--kb", tmp_path / "kb")
    assert code == 0 and f"{NFC} (Unicode NFC)" in out and f"{NFD} (Unicode NFD)" in out and "X (other spaces)" in out
    code, out, _ = kblam("kb", "merge", NFC, NFC, "--kb", tmp_path / "kb")
    assert code == 0 and f"1 moved to {NFC}," in out
    code, _, err = kblam("kb", "merge", NFC, NFC, "--kb", tmp_path / "kb")
    assert code == 2 and "expected names other than" in err
    assert kblam("kb", "merge", NFD, "Café X", "--kb", tmp_path / "kb")[0] == 0
    with open_kb(tmp_path / "kb") as kb:
        assert {t.property for t in kb.get_all(NFC)} == {"seat", "staff", "c"}


def test_merge_moves_what_the_kept_name_does_not_say(kb):
    kb.add(SPELLINGS)
    result = kb.merge("Acme Robotics", "ACME Robotics GmbH")
    assert (result.moved, result.same) == (1, 1) and [t.value for t in result.overruled] == ["250"]
    assert {t.property: t.value for t in kb.get_all("Acme Robotics")} == {
        "seat": "Berlin", "staff": "240", "founder": "Lena Hoffmann",
    }  # fmt: skip
    assert kb.get("Acme Robotics", "founder").metadata == {"written": "ACME Robotics GmbH"}
    assert kb.get_all("ACME Robotics GmbH") == [] and kb.get("Orca 2", "maker").value == "ACME Robotics GmbH"
    assert kb.revisions(1)[0].action == "merge ACME Robotics GmbH into Acme Robotics"
    assert kb.verify() == []
    assert_consistent(kb.snapshot(), HashingEncoder())
    kb.rollback(1)
    assert {t.statement for t in kb} == {t.statement for t in SPELLINGS} and kb.verify() == []


def test_merge_of_several_values_keeps_all(tmp_path):
    with open_kb(tmp_path / "kb", multi=True) as kb:
        kb.add([*SPELLINGS, Triple("Acme", "staff", "250"), Triple("Acme", "staff", "260", namespace="old")])
        result = kb.merge("Acme Robotics", "ACME Robotics GmbH", "Acme")
        assert (result.moved, result.same, result.overruled) == (3, 2, [])
        assert sorted(t.value for t in kb.get_all("Acme Robotics", "staff")) == ["240", "250", "260"]
        assert kb.verify() == []
        assert_consistent(kb.snapshot(), HashingEncoder())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("Acme Robotics",), "to merge into it, got"),
        (("Acme Robotics", " Acme Robotics"), "names other than 'Acme Robotics'"),
        (("Acme Robotics", ""), "expected a name, got ''"),
        (("Acme Robotics", "Acne"), "a triple that is there, got 'Acne'"),
        (("Acne", "Acme Robotics"), "a triple that is there, got 'Acne'"),
    ],
)
def test_mistakes_change_nothing(kb, names, message):
    kb.add(SPELLINGS)
    with pytest.raises(ConfigurationError, match=message):
        kb.merge(*names)
    assert kb.revision == 1
    with pytest.raises(ReadOnlyError):
        kb.view(tags="register").merge("Acme Robotics", "Orca 2")


def test_on_the_command_line(tmp_path, kblam):
    path = tmp_path / "x.kb"
    with open_kb(path) as kb:
        kb.add(SPELLINGS)
    code, out, err = kblam("kb", "duplicates", "--kb", path)
    assert code == 0 and "legal form" in out and "kblam kb merge KEEP OTHER" in err
    (pair,) = json.loads(kblam("kb", "duplicates", "--kb", path, "--json")[1])
    assert pair["triples"] == [2, 3] and pair["score"] == 1.0
    code, out, err = kblam("kb", "merge", "Acme Robotics", "ACME Robotics GmbH", "--kb", path)
    assert code == 0 and "1 moved to Acme Robotics" in out and "kblam kb rollback 1" in out and "250" in out
    assert kblam("kb", "duplicates", "--kb", path, "--json")[1].strip() == "[]"
    assert re.search(r"^no two of \d+ names look like one thing$", kblam("kb", "duplicates", "--kb", path)[1].strip())
    code, out, err = kblam("kb", "merge", "Acme Robotics", "ACME Robotics GmbH", "--kb", path)
    assert code == 1 and "is there, got 'ACME Robotics GmbH'" in err and err.count("\n") == 1
    assert kblam("kb", "duplicates", "--kb", path, "--threshold", "7")[0] == 2
    assert kblam("kb", "rollback", "1", "--kb", path)[0] == 0
    assert json.loads(kblam("kb", "merge", "Orca 2", "Acme Robotics", "--kb", path, "--json")[1])["moved"] == 2
