"""JSON of every shape as a source."""

import json

import pytest
from sources_parts import parts, written

from kblam_engine.errors import ImportFileError
from kblam_engine.sources import open_source

JSON_RECORD = {
    "name": "Acme",
    "price": 12.50,
    "tags": ["robots", "tools"],
    "listed": True,
    "nothing": None,
    "address": {"city": "Berlin", "zip": "010"},
    "ceo": {"name": "Lena Hoffmann", "born": 1980},
    "products": [{"name": "Orca 2", "payload": "80 kg"}, {"name": "Pike"}],
}
JSON_TRIPLES = {
    ("Acme", "price", "12.50"),
    ("Acme", "tags", "robots, tools"),
    ("Acme", "listed", "true"),
    ("Acme", "address city", "Berlin"),
    ("Acme", "address zip", "010"),
    ("Acme", "ceo", "Lena Hoffmann"),
    ("Lena Hoffmann", "born", "1980"),
    ("Acme", "products", "Orca 2, Pike"),
    ("Orca 2", "payload", "80 kg"),
}


@pytest.mark.parametrize(
    "wrap", [lambda r: r, lambda r: [r], lambda r: {"v": 1, "items": [r]}, lambda r: {"Acme": {k: r[k] for k in r if k != "name"}}]
)
def test_json_of_every_shape(tmp_path, wrap):
    text = json.dumps(wrap(JSON_RECORD), indent=1).replace("12.5", "12.50")
    assert set(parts(open_source(written(tmp_path, "t.json", text)))) == JSON_TRIPLES


def test_json_records_further_inside(tmp_path):
    path = written(tmp_path, "t.json", json.dumps({"data": {"rows": [{"key": "a", "x": 1}]}, "more": [{"y": 1}]}))
    assert parts(open_source(path, records="data.rows")) == [("a", "x", "1")]
    with pytest.raises(ImportFileError, match="expected the key 'no'"):
        list(open_source(path, records="data.no"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda rows: {"data": {"items": rows}},
        lambda rows: {"data": {"items": rows, "total": 1}, "meta": {"page": 1}},
        lambda rows: {"status": "ok", "response": {"data": {"items": rows}}},
        lambda rows: {"data": rows[0]},
        lambda rows: {"result": {"Acme": {"seat": "Ulm"}}},
    ],
)
def test_json_records_in_an_answer(tmp_path, wrap):
    path = written(tmp_path, "t.json", json.dumps(wrap([{"name": "Acme", "seat": "Ulm"}])))
    assert parts(open_source(path)) == [("Acme", "seat", "Ulm")]


def test_what_only_looks_like_an_answer(tmp_path):
    words = {"data": {"plural of": "datum"}, "Acme": {"products": [{"name": "Orca"}]}}
    found = parts(open_source(written(tmp_path, "t.json", json.dumps(words))))
    assert found == [("data", "plural of", "datum"), ("Acme", "products", "Orca")]


def test_a_list_inside_says_which_element_is_no_record(tmp_path):
    path = written(tmp_path, "t.json", '{"rows": [{"name": "a", "x": 1}, "b"]}')
    with pytest.raises(ImportFileError, match="expected an object, got a text as number 2 of the list"):
        list(open_source(path, records="rows"))


def test_properties_inside_a_thing_of_its_own(tmp_path):
    path = written(tmp_path, "t.json", '[{"name":"A","ceo":{"name":"Lena","born":1980}}]')
    assert parts(open_source(path, properties={"ceo": "boss", "born": "year"})) == [("Lena", "year", "1980"), ("A", "boss", "Lena")]


def test_a_list_of_other_names_is_separated_by_semicolons(tmp_path):
    record = {"name": "Acme Robotics", "aliases": ["AR", "Acme, Inc."], "tags": ["a", "b"], "alsoKnownAs": [{"name": "X"}, {"name": "Y"}]}
    found = parts(open_source(written(tmp_path, "t.json", json.dumps([record]))))
    assert [value for _, _, value in found] == ["AR; Acme, Inc.", "a, b", "X; Y"]


def test_json_lines_of_records(tmp_path):
    path = written(tmp_path, "t.jsonl", '\n{"title":"Acme","seat":"Berlin"}\n{"title":"B","x":1e400}\n')
    triples = list(open_source(path))
    assert parts(triples) == [("Acme", "seat", "Berlin"), ("B", "x", "1e400")]
    assert [t.metadata["line"] for t in triples] == [2, 3]


def test_json_array_lines(tmp_path):
    path = written(tmp_path, "t.json", '[\n{"name":"a",\n"x":1},\n\n{"name":"b","x":2}\n]\n')
    assert [t.metadata["line"] for t in open_source(path)] == [2, 5]
