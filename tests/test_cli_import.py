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
    code, _, err = imported("orca.md", "--review")
    assert code == 1 and "orca.review.csv: expected no review yet" in err and "move it away" in err
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


def test_names_are_spelled_as_the_knowledge_base_has_them(tmp_path, kblam, imported):
    (tmp_path / "kb.csv").write_text("name,seat,also known as\nAcme Robotics,Ulm,Acme; AR\n", "utf-8")
    (tmp_path / "new.csv").write_text("name,staff\nACME  robotics,240\nar,1\nKite,2\nK1,3\n", "utf-8")
    (tmp_path / "aliases.csv").write_text("name,alias\nKite,K1\n", "utf-8")
    assert imported("kb.csv")[0] == 0
    code, _, err = imported("new.csv", "--reconcile", "--multi")
    assert code == 0 and "2 triples have another spelling" in err
    staff = {(n, v) for n, p, v in listed(kblam, tmp_path) if p == "staff"}
    assert staff == {("Acme Robotics", "240"), ("Acme Robotics", "1"), ("Kite", "2"), ("K1", "3")}
    assert imported("new.csv", "--aliases", "aliases.csv")[0] == 0
    assert ("Kite", "staff", "3") in listed(kblam, tmp_path)
    code, _, err = imported("new.csv", "--aliases", "new.csv")
    assert code == 1 and "columns name and alias" in err and len(err.splitlines()) == 1
    assert kblam("kb", "import", "new.csv", "--aliases", "aliases.csv", "--kb", "y.kb", "--review")[0] == 0
    assert "K1" not in [row.split(",")[1] for row in (tmp_path / "new.review.csv").read_text("utf-8").splitlines()]
    assert not (tmp_path / "y.kb").exists()
