"""`kblam kb import` of sources of every kind, with options and with a review in between."""

import json

import pytest

ORCA = "# Orca 2\n\nPayload: 80 kg\nMaker: Acme\n"


@pytest.fixture
def imported(tmp_path, kblam, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return kblam("kb", "import", *arguments, "--kb", tmp_path / "x.kb", "--encoder", "hashing", "--json")

    return run


def listed(kblam, tmp_path):
    _, out, _ = kblam("kb", "list", "--kb", tmp_path / "x.kb", "--json")
    return {(t["name"], t["property"], t["value"]) for t in json.loads(out)}


def test_a_document(tmp_path, kblam, imported):
    (tmp_path / "orca.md").write_text(ORCA, "utf-8")
    code, out, _ = imported("orca.md", "--option", "extractors=structured")
    assert code == 0 and json.loads(out)["added"] == 2
    assert listed(kblam, tmp_path) == {("Orca 2", "payload", "80 kg"), ("Orca 2", "maker", "Acme")}


def test_a_table_with_options_and_what_was_left_out(tmp_path, kblam, imported):
    (tmp_path / "t.csv").write_text("sku,part,weight\n1,battery,3.5\n2,,4\n", "utf-8")
    code, _, err = imported("t.csv", "--option", "name-column=part", "--option", "properties=weight:weight in kg")
    assert code == 0 and "left out - record without a name: 1" in err
    assert listed(kblam, tmp_path) == {("battery", "weight in kg", "3.5")}


def test_review_then_import(tmp_path, kblam, imported):
    (tmp_path / "orca.md").write_text(ORCA, "utf-8")
    code, out, _ = imported("orca.md", "--review", "--option", "extractors=structured")
    assert code == 0 and json.loads(out) == {"candidates": 2, "file": "orca.review.csv"}
    assert not (tmp_path / "x.kb").exists()
    assert imported("orca.md", "--review")[0] == 1  # somebody's work is there
    review = tmp_path / "orca.review.csv"
    review.write_text(review.read_text("utf-8").replace(",Acme,", ",Acme Robotics,"), "utf-8")
    code, out, _ = imported("orca.review.csv")
    assert code == 0 and ("Orca 2", "maker", "Acme Robotics") in listed(kblam, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["x.xyz"], 1, "expected a file of"),
        (["https://example.org/x.csv"], 1, "download it first"),
        (["orca.md", "--option", "colour=red"], 1, "no option 'colour'"),
        (["orca.md", "--option", "colour"], 2, "expected KEY=VALUE"),
        (["orca.md", "--option", "min_confidence=high"], 2, "expected a number"),
    ],
)
def test_mistakes_are_one_line(tmp_path, imported, arguments, code, message):
    (tmp_path / "orca.md").write_text(ORCA, "utf-8")
    (tmp_path / "x.xyz").write_text("", "utf-8")
    found, _, err = imported(*arguments)
    assert found == code and message in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "x.kb").exists()
