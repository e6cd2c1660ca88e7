"""`kblam kb`: words, versions, views and upkeep, as printed."""

import json
import sys

import pytest

from kblam_engine import KnowledgeBase


@pytest.fixture
def kb(tmp_path, kblam):
    path = tmp_path / "acme.kb"
    placed = ("--tag", "places", "--source", "atlas", "--from", "2020")
    kblam("kb", "add", "Acme", "founder", "Lena Hoffmann", "--kb", path, "--encoder", "hashing")
    kblam("kb", "add", "Acme", "seat", "Berlin", "--kb", path, *placed)
    kblam("kb", "set", "Acme", "seat", "Bonn", "--kb", path, *placed)
    kblam("kb", "add", "Acme", "seat", "Ulm", "--kb", path, "--namespace", "rumours")
    return path


def values(result):
    assert result[0] == 0, result
    return [line["value"] for line in json.loads(result[1])]


def test_find(kb, kblam):
    assert values(kblam("kb", "find", "acme bonn", "--kb", kb, "--json")) == ["Bonn"]
    assert values(kblam("kb", "find", "acme seat", "--kb", kb, "--json", "--namespace", "rumours")) == ["Ulm"]
    assert "Lena Hoffmann" in kblam("kb", "find", "founder", "--kb", kb)[1]
    assert "1 to 64 words" in kblam("kb", "find", "--kb", kb, "--", "-")[2]


def test_a_part_is_listed_and_searched(kb, kblam):
    assert values(kblam("kb", "list", "--kb", kb, "--json", "--namespace", "")) == ["Lena Hoffmann", "Bonn"]
    assert values(kblam("kb", "list", "--kb", kb, "--json", "--tag", "places")) == ["Bonn"]
    assert values(kblam("kb", "list", "--kb", kb, "--json", "--at", "2019", "--namespace", "")) == ["Lena Hoffmann"]
    assert values(kblam("kb", "list", "--kb", kb, "--json", "--revision", 2)) == ["Lena Hoffmann", "Berlin"]
    assert values(kblam("kb", "search", "seat of Acme", "--kb", kb, "--json", "--source", "atlas")) == ["Bonn"]
    assert "Berlin" in values(kblam("kb", "search", "seat of Acme", "--kb", kb, "--json", "--revision", 2))
    assert values(kblam("kb", "find", "berlin", "--kb", kb, "--json")) == []
    assert values(kblam("kb", "find", "berlin", "--kb", kb, "--json", "--revision", 2)) == ["Berlin"]
    assert "expected a revision in 0..4, got 9" in kblam("kb", "list", "--kb", kb, "--revision", 9)[2]


def test_a_part_is_exported_and_counted(kb, kblam, tmp_path):
    file = tmp_path / "places.jsonl"
    assert "exported 1 triple to" in kblam("kb", "export", file, "--kb", kb, "--tag", "places")[1]
    assert json.loads(file.read_text("utf-8"))["value"] == "Bonn"
    lines = kblam("kb", "export", "-", "--kb", kb, "--revision", 2)[1].splitlines()
    assert [json.loads(line)["value"] for line in lines] == ["Lena Hoffmann", "Berlin"]
    counted = json.loads(kblam("kb", "stats", "--kb", kb, "--namespace", "rumours", "--json")[1])
    assert (counted["n_triples"], counted["n_names"], counted["n_properties"], counted["n_sources"]) == (1, 1, 1, 0)
    assert "3 triples, 1 name, 2 properties, 1 source, " in kblam("kb", "stats", "--kb", kb)[1]


def test_a_part_has_a_history_differences_and_duplicates_of_its_own(kb, kblam):
    assert values(kblam("kb", "history", "Acme", "--kb", kb, "--source", "atlas", "--json")) == ["Berlin", "Bonn"]
    found = json.loads(kblam("kb", "diff", 1, "--kb", kb, "--namespace", "rumours", "--json")[1])
    assert [t["value"] for t in found["added"]] == ["Ulm"] and found["removed"] == []
    kblam("kb", "add", "ACME", "seat", "Kiel", "--kb", kb, "--namespace", "rumours")
    kblam("kb", "add", "Acmé", "seat", "Trier", "--kb", kb)
    pairs = json.loads(kblam("kb", "duplicates", "--kb", kb, "--json")[1])
    assert len(pairs) == 3 and {name for pair in pairs for name in (pair["name"], pair["other"])} == {"Acme", "ACME", "Acmé"}
    (pair,) = json.loads(kblam("kb", "duplicates", "--kb", kb, "--namespace", "rumours", "--json")[1])
    assert {pair["name"], pair["other"]} == {"Acme", "ACME"} and pair["triples"] == [1, 1]


def test_a_source_can_be_a_document_and_where_it_is(kb, kblam):
    kblam("kb", "set", "Acme", "price", "3 euros", "--kb", kb, "--source", "list", "--uri", "https://acme.example/list")
    for place in ("list", "https://acme.example/list"):
        assert values(kblam("kb", "list", "--kb", kb, "--source", place, "--json")) == ["3 euros"]


def test_history_log_and_diff(kb, kblam):
    assert values(kblam("kb", "history", "Acme", "seat", "--kb", kb, "--json")) == ["Berlin", "Bonn", "Ulm"]
    assert "Berlin" in kblam("kb", "history", "Acme", "--kb", kb)[1]
    assert [line["action"] for line in json.loads(kblam("kb", "log", "--kb", kb, "--json")[1])] == ["add", "set", "add", "add"]
    assert kblam("kb", "log", "--kb", kb, "--last", 1)[1].count("add") == 2, "a heading and one change"
    found = json.loads(kblam("kb", "diff", 2, 3, "--kb", kb, "--json")[1])
    assert [t["value"] for t in found["added"]] == ["Bonn"] and [t["value"] for t in found["removed"]] == ["Berlin"]
    assert "Ulm" in kblam("kb", "diff", 2, "--kb", kb)[1]


def test_the_log_tells_how_many_changes_there_are_and_which_are_compacted(kb, kblam):
    assert kblam("kb", "log", "--kb", kb)[2] == ""
    assert "the newest 1; --last 0 shows all" in kblam("kb", "log", "--kb", kb, "--last", 1)[2]
    kblam("kb", "compact", "--kb", kb, "--keep-from", 3)
    _, out, err = kblam("kb", "log", "--kb", kb)
    assert out.count("(compacted)") == 2 and "the oldest that can is 3" in err
    readable = [line["readable"] for line in json.loads(kblam("kb", "log", "--kb", kb, "--json")[1])]
    assert readable == [True, True, False, False]
    assert "compacted" not in "".join(kblam("kb", "log", "--kb", kb, "--last", 2)[1:])


def test_rollback(kb, kblam):
    assert kblam("kb", "rollback", 2, "--kb", kb) == (0, "2 triples, as in revision 2 (revision 5)\n", "")
    assert values(kblam("kb", "list", "--kb", kb, "--json")) == ["Lena Hoffmann", "Berlin"]


def test_removal_by_what_is_given(kb, kblam):
    assert json.loads(kblam("kb", "remove", "--kb", kb, "--id", 1, "--json")[1])["removed"] == 1
    assert kblam("kb", "remove", "--kb", kb, "--source", "atlas")[1].startswith("removed 1 ")
    assert kblam("kb", "remove", "--kb", kb, "--namespace", "rumours")[1].startswith("removed 1 ")
    assert "no triple matches (atlas)" in kblam("kb", "remove", "--kb", kb, "--source", "atlas")[2]
    assert "expected a NAME, --id, " in kblam("kb", "remove", "--kb", kb)[2]
    assert "no triple matches (Acme, --tag ''); " in kblam("kb", "remove", "Acme", "--tag", "", "--kb", kb)[2]


def test_stats(kb, kblam):
    found = json.loads(kblam("kb", "stats", "--kb", kb, "--json")[1])
    assert found["names"] == {"Acme": 3} and found["properties"] == {"seat": 2, "founder": 1}
    assert found["sources"] == {"atlas": 1} and found["namespaces"] == {"rumours": 1}
    assert [step["n_triples"] for step in found["growth"]] == [1, 2, 2, 3] and found["size_bytes"] > 0
    out = kblam("kb", "stats", "--kb", kb)[1]
    assert "places" in out and "3 triples, " in out


def test_stats_as_a_picture(kb, kblam, tmp_path, monkeypatch):
    kblam("kb", "add", "$Acme_1$", "_price $", "5 $", "--kb", kb, "--source", "a" * 200)
    picture = tmp_path / "kb.png"
    code, out, _ = kblam("kb", "stats", "--kb", kb, "--plot", picture)
    assert code == 0 and picture.read_bytes().startswith(b"\x89PNG") and "drawn in" in out
    assert "n_triples" in json.loads(kblam("kb", "stats", "--kb", kb, "--plot", picture, "--json")[1])
    assert "expected a file NAME.png" in kblam("kb", "stats", "--kb", kb, "--plot", tmp_path / "kb.txt")[2]
    KnowledgeBase.open(tmp_path / "empty", encoder="hashing").close()
    assert "got an empty one" in kblam("kb", "stats", "--kb", tmp_path / "empty", "--plot", picture)[2]
    monkeypatch.setitem(sys.modules, "kblam_engine.evaluation.drawing", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "kblam_engine.evaluation.drawing")
    assert "kblam-engine[report]" in kblam("kb", "stats", "--kb", kb, "--plot", picture)[2]


def test_compact_and_backup(kb, kblam, tmp_path):
    assert json.loads(kblam("kb", "backup", tmp_path / "copy", "--kb", kb, "--json")[1])["n_triples"] == 3
    assert "with files in it" in kblam("kb", "backup", tmp_path / "copy", "--kb", kb)[2]
    for inside in (kb, kb / "copy", kb / "a" / ".." / "b"):
        assert "expected a folder outside of" in kblam("kb", "backup", inside, "--kb", kb)[2]
    assert {path.suffix for path in kb.iterdir() if path.is_dir()} == set(), "nothing was put in it"
    assert "1 removed triple dropped" in kblam("kb", "compact", "--kb", kb)[1]
    assert "dropped by a compaction" in kblam("kb", "rollback", 2, "--kb", kb)[2]
    assert kblam("kb", "verify", "--kb", kb)[0] == kblam("kb", "verify", "--kb", tmp_path / "copy")[0] == 0
    with KnowledgeBase.open(tmp_path / "copy") as copy:
        assert len(copy.history("Acme", "seat")) == 3, "a copy has the history"
