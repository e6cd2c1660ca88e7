"""Candidates for review, names brought together, and folders and archives that stay where they are."""

import csv
import json
import os
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kb_parts import open_kb
from sources_parts import parts, written

from kblam_engine import Triple
from kblam_engine.errors import ConfigurationError, ImportFileError
from kblam_engine.sources import open_source
from kblam_engine.sources.names import folded, merge_map, near_duplicates, read_aliases, reconcile
from kblam_engine.sources.review import read_review, review_path, write_review
from kblam_engine.triples import Provenance

CANDIDATES = [
    Triple("Acme", "seat", "Berlin", {"sentence": "Acme is in Berlin.", "page": 2}, Provenance("d", "a.pdf", (40, 58), "rules", 0.65)),
    Triple("Acme", "founder", "Lena", {"sentence": "Lena founded Acme."}, Provenance("d", "a.pdf", (0, 18), "rules", 0.8)),
    Triple("Orca", "low", "-20 °C", {}, Provenance("d", "a.pdf", (70, 80), "structured", 0.9)),
]


def edit(path, change):
    with open(path, encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    records = change(records)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["keep", "name", "property", "value", "confidence", "sentence", "page", "triple"])
        writer.writeheader()
        writer.writerows(records)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_what_was_sure_comes_back_as_it_was(tmp_path, suffix):
    path = tmp_path / f"review{suffix}"
    assert write_review(path, CANDIDATES) == 3
    assert read_review(path) == [CANDIDATES[1], CANDIDATES[2]]
    with pytest.raises(FileExistsError):
        write_review(path, CANDIDATES)


def test_what_a_person_did_is_applied(tmp_path):
    path = tmp_path / "review.csv"
    write_review(path, CANDIDATES)

    def change(records):
        assert [r["value"] for r in records] == ["Lena", "Berlin", "'-20 °C"]  # in the order of the text
        assert records[1]["sentence"] == "Acme is in Berlin." and records[1]["confidence"] == "0.65"
        records[0]["value"], records[1]["keep"], records[2]["keep"] = "Lena Hoffmann", "X", "no"
        return [*records, {"keep": "yes", "name": "Acme", "property": "staff", "value": "240"}]

    edit(path, change)
    kept = read_review(path)
    assert parts(kept) == [("Acme", "founder", "Lena Hoffmann"), ("Acme", "seat", "Berlin"), ("Acme", "staff", "240")]
    assert kept[0].metadata["reviewed"] == "corrected" and kept[0].provenance == CANDIDATES[1].provenance
    assert kept[1] == CANDIDATES[0] and kept[2].metadata == {"reviewed": "added"}
    kb = open_kb(":memory:")
    assert kb.add(kept).added == 3


def test_a_review_is_a_source_by_its_name(tmp_path):
    document = written(tmp_path, "note.txt", "Acme\n\nSeat: Berlin\nStaff: 240\n")
    path = review_path(document)
    assert path == tmp_path / "note.review.csv"
    write_review(path, open_source(document, extractors="structured"))
    edit(path, lambda records: [{**records[0], "keep": "no"}, records[1], {"keep": "y", "name": "a", "property": "b", "value": "c"}])
    kept = list(open_source(path))
    assert parts(kept) == [("Acme", "staff", "240"), ("a", "b", "c")]
    assert kept[0].provenance.uri == str(document) and kept[1].provenance.uri == str(path)


def test_without_candidates_no_file_is_in_the_way(tmp_path):
    path = tmp_path / "note.review.csv"
    assert write_review(path, []) == 0 and not path.exists()
    assert write_review(path, CANDIDATES) == 3
    with pytest.raises(FileExistsError):
        write_review(path, [])
    assert len(read_review(path)) == 2


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_review_that_keeps_nothing_is_no_error(tmp_path, suffix):
    path = tmp_path / f"note.review{suffix}"
    write_review(path, [CANDIDATES[0], CANDIDATES[0]])  # both begin with "no"
    source = open_source(path)
    assert list(source) == [] and source.skipped == {"rejected in the review": 2}
    assert read_review(path) == [] and list(source) == [] and source.skipped == {"rejected in the review": 2}


def test_how_many_were_rejected_is_told(tmp_path):
    path = tmp_path / "note.review.csv"
    write_review(path, CANDIDATES)
    source = open_source(path)
    assert len(list(source)) == 2 and source.skipped == {"rejected in the review": 1}


def test_semicolons_of_other_countries(tmp_path):
    path = written(tmp_path, "r.csv", "keep;name;property;value\nyes;Acme;seat;Berlin, Mitte\n")
    assert parts(read_review(path)) == [("Acme", "seat", "Berlin, Mitte")]


@pytest.mark.parametrize(
    ("name", "text", "line", "reason"),
    [
        ("r.csv", "keep,name,property\n", 1, "missing value"),
        ("r.csv", "keep,name,property,value\nyes,a,b,c\nperhaps,a,b,c\n", 3, "expected yes or no"),
        ("r.csv", "keep,name,property,value\nyes,a,,c\n", 2, "property"),
        ("r.csv", "keep,name,property,value\nyes,a\n", 2, "as many cells"),
        ("r.csv", "keep,name,property,value,triple\nyes,a,b,c,{\n", 2, "triple: expected the JSON that was written there, got '{'.*restore the cell, or empty"),
        ("r.csv", "keep,name,property,value,triple\nno,a,b,c,\nyes,a,b,c,x\n", 3, "triple: .*got 'x'"),
        ("r.csv", "keep,name,property,value,triple\nyes,a,b,c,[1]\n", 2, r"triple: .*got '\[1\]'"),
        ("r.jsonl", '{"keep":"yes","name":"a","property":"b","value":"c","triple":{"name":"a"}}\n', 1, "triple: .*property: is missing"),
        ("r.jsonl", '{"keep":"no"}\n[1]\n', 2, "expected an object"),
        ("r.jsonl", "{\n", 1, "not JSON"),
    ],
)
def test_a_bad_review_names_the_line(tmp_path, name, text, line, reason):
    with pytest.raises(ImportFileError, match=reason) as caught:
        read_review(written(tmp_path, name, text))
    assert caught.value.line == line


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20).filter(str.strip)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@given(names=st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=4))
def test_whatever_the_texts_they_come_back(tmp_path_factory, suffix, names):
    path = tmp_path_factory.mktemp("review") / f"r{suffix}"
    triples = [Triple(*three) for three in names]
    assert write_review(path, triples) == len(triples)
    assert not triples or read_review(path) == triples


def test_one_spelling_for_each_name():
    triples = [
        Triple("ACME robotics", "Seat", "Zürich"),
        Triple("Zu\u0308rich  Air", "seat", "12.50 "),
        Triple("Zürich Air", "seat", "ACME  robotics"),
        Triple("the firm", "seat", "01.02.2003"),
    ]
    found = list(reconcile(triples, aliases={"The Firm": "Acme Robotics"}, known=["Acme Robotics"]))
    assert parts(found) == [
        ("Acme Robotics", "Seat", "Zürich"),
        ("Zürich Air", "Seat", "12.50"),
        ("Zürich Air", "Seat", "ACME  robotics"),
        ("Acme Robotics", "Seat", "01.02.2003"),
    ]
    assert found[0].metadata == {"written": "ACME robotics"} and found[2].metadata == {}
    with pytest.raises(ConfigurationError, match="which is an alias itself"):
        list(reconcile([], aliases={"a": "b", "b": "c"}))


def test_aliases_that_a_kb_knows():
    triples = [Triple("Acme Robotics", "also known as", "Acme; AR"), Triple("Ar Rayyan", "alias", "AR")]
    assert read_aliases(triples) == {"Acme": "Acme Robotics"}


def test_near_duplicates():
    names = ["Acme Robotics", "ACME Robotics GmbH", "Acme Robotiks", "Orca 2", "Orca 3", "Rivera, Tomás", "Tomas Rivera",
             "World Health Organization", "WHO", "Berlin"]  # fmt: skip
    pairs = {(d.name, d.other): d for d in near_duplicates(names)}
    assert set(pairs) == {
        ("Acme Robotics", "ACME Robotics GmbH"),
        ("Acme Robotics", "Acme Robotiks"),
        ("ACME Robotics GmbH", "Acme Robotiks"),
        ("Rivera, Tomás", "Tomas Rivera"),
        ("World Health Organization", "WHO"),
    }
    assert pairs["World Health Organization", "WHO"].reason == "initials" and folded("The Acme, Inc.") == "acme"
    merged = merge_map(pairs.values(), {"Acme Robotics": 9, "WHO": 4})
    assert merged["Acme Robotiks"] == merged["ACME Robotics GmbH"] == "Acme Robotics"
    assert merged["World Health Organization"] == "WHO" and "Acme Robotics" not in merged


def test_a_folder_is_read_in_the_order_of_its_paths_and_nothing_outside_it(tmp_path):
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    written(folder, "b.csv", "name,seat\nAcme,Berlin\n")
    written(folder / "sub", "a.json", '{"name": "Orca", "payload": "80 kg"}')
    written(folder, "notes.xyz", "what is this")
    written(folder, ".hidden.csv", "name,seat\nnobody,nowhere\n")
    os.symlink(written(tmp_path, "secret.csv", "name,seat\nsecret,secret\n"), folder / "link.csv")
    os.symlink(tmp_path, folder / "up")
    open_kb(folder / "x.kb", create=True).close()
    source = open_source(folder, uri="docs")
    triples = list(source)
    assert parts(triples) == [("Acme", "seat", "Berlin"), ("Orca", "payload", "80 kg")]
    assert [t.provenance.uri for t in triples] == ["docs/b.csv", "docs/sub/a.json"]
    assert source.skipped == {"knowledge base": 1, "hidden file": 1, "link out of the folder, or no file": 1, "file that no source reads": 1}
    with pytest.raises(ConfigurationError, match="has an option 'delimitr'"):
        list(open_source(folder, delimitr=";"))
    with pytest.raises(ImportFileError, match="at most 1 files"):
        list(open_source(folder, max_files=1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImportFileError, match="got none"):
        list(open_source(tmp_path / "empty"))


def archive(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in members.items():
            file.writestr(name, text)
    return path


def test_an_archive(tmp_path):
    path = archive(tmp_path / "a.zip", {"x/t.csv": "name,seat\nAcme,Berlin\n", "x/read.me": "no"})
    (triple,) = open_source(path)
    assert parts([triple]) == [("Acme", "seat", "Berlin")] and triple.provenance.uri == f"{path}!/x/t.csv"


@pytest.mark.parametrize("name", ["../out.csv", "/etc/out.csv", "a/../../out.csv", "..\\out.csv", "C:/out.csv"])
def test_an_archive_that_reaches_out_is_refused(tmp_path, name):
    (tmp_path / "in").mkdir()
    path = archive(tmp_path / "in" / "a.zip", {"t.csv": "name,x\na,b\n", name: "name,x\na,b\n"})
    with pytest.raises(ImportFileError, match="leads out of the archive"):
        list(open_source(path))
    assert not (tmp_path / "out.csv").exists() and not (tmp_path / "in" / "out.csv").exists()


@pytest.mark.parametrize("name", ["./", "."])
def test_an_archive_with_a_name_that_names_nothing(tmp_path, name):
    path = archive(tmp_path / "a.zip", {"t.csv": "name,x\na,b\n", name: ""})
    if name == "./":  # the archive's own folder: some packers write it
        assert parts(list(open_source(path))) == [("a", "x", "b")]
    else:
        with pytest.raises(ImportFileError, match="'.' is no name of a file"):
            list(open_source(path))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("other", ["a.csv", "a.csv/b.csv"])
def test_an_archive_with_two_things_of_one_name(tmp_path, other):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.csv", "name,x\na,b\n")
        file.writestr(other, "name,x\na,b\n")
    with pytest.raises(ImportFileError, match=f"{path.name}.*is there twice, or a file and a folder"):
        list(open_source(path))


def test_archives_that_are_bombs_or_links_or_damaged(tmp_path):
    with pytest.raises(ImportFileError, match="no bomb"):
        list(open_source(archive(tmp_path / "bomb.zip", {"t.csv": "0" * 30_000_000})))
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as file:
        info = zipfile.ZipInfo("t.csv")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(ImportFileError, match="is a link"):
        list(open_source(tmp_path / "link.zip"))
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(ImportFileError, match="not a sound ZIP archive"):
        list(open_source(tmp_path / "bad.zip"))


def test_an_error_inside_an_archive_names_the_member_and_its_line(tmp_path):
    path = archive(tmp_path / "a.zip", {"x/t.csv": "name,seat\nAcme\n"})
    with pytest.raises(ImportFileError, match="expected 2 columns") as caught:
        list(open_source(path))
    assert (caught.value.path, caught.value.line) == (f"{path}!x/t.csv", 2)


def test_a_graph_among_the_sources(tmp_path):
    graph = {"directed": True, "nodes": [{"id": "Acme"}, {"id": "Berlin"}], "links": [{"source": "Acme", "target": "Berlin", "relation": "seat"}]}
    assert parts(open_source(written(tmp_path, "g.json", json.dumps(graph)))) == [("Acme", "seat", "Berlin")]
