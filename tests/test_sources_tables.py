"""Tables, JSON, Parquet and databases as sources: long and wide, with provenance, and bad files named by line."""

import datetime
import decimal
import json
import sqlite3

import pyarrow.parquet
import pytest
from kb_parts import open_kb

from kblam_engine import Triple, triple_files
from kblam_engine.errors import ConfigurationError, ImportFileError
from kblam_engine.sources import Format, open_source, register, registry
from kblam_engine.sources.values import as_text, readable
from kblam_engine.triple_files import write_triples
from kblam_engine.triples import Provenance


def parts(source):
    return [(t.name, t.property, t.value) for t in source]


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, "utf-8", newline="")
    return path


WIDE = "name,head_office,foundedIn,staff\nAcme Robotics,Berlin,2014,\nBorealis,\"Oslo, Norway\",007,12\n"
WIDE_TRIPLES = [
    ("Acme Robotics", "head office", "Berlin"),
    ("Acme Robotics", "founded in", "2014"),
    ("Borealis", "head office", "Oslo, Norway"),
    ("Borealis", "founded in", "007"),
    ("Borealis", "staff", "12"),
]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_wide_table_whatever_separates_it(tmp_path, delimiter):
    text = "\n".join(delimiter.join(cell for cell in line.split(",")) for line in "name,seat,founded\nAcme,Berlin,2014\n".split("\n"))
    path = written(tmp_path, "t.csv", text)
    assert parts(open_source(path)) == [("Acme", "seat", "Berlin"), ("Acme", "founded", "2014")]


def test_a_wide_table_with_its_provenance(tmp_path):
    path = written(tmp_path, "t.csv", WIDE)
    source = open_source(path, uri="companies.csv")
    triples = list(source)
    assert parts(triples) == WIDE_TRIPLES and parts(source) == WIDE_TRIPLES
    assert triples[0].provenance == Provenance(uri="companies.csv", extractor="table")
    assert triples[0].metadata == {"line": 2} and triples[4].metadata == {"line": 3}


def test_a_cell_of_several_lines_keeps_the_line_numbers_right(tmp_path):
    path = written(tmp_path, "t.tsv", 'name\tmotto\nAcme\t"one\ntwo"\nBorealis\tthree\n')
    assert [t.metadata["line"] for t in open_source(path)] == [2, 4]


def test_columns_by_name(tmp_path):
    path = written(tmp_path, "t.csv", "id,company,city,x\n1,Acme,Berlin,y\n")
    source = open_source(path, name_column="company", properties={"city": "headquarters"})
    assert parts(source) == [("Acme", "headquarters", "Berlin")]


def test_records_without_a_name_are_counted(tmp_path):
    source = open_source(written(tmp_path, "t.csv", "name,seat\n,Berlin\nAcme,Oslo\n,\n"))
    assert parts(source) == [("Acme", "seat", "Oslo")] and dict(source.skipped) == {"record without a name": 1}


@pytest.mark.parametrize("header", ["subject,predicate,object", "Entity,Attribute,Value", "head,relation,tail"])
def test_long_tables_by_other_words(tmp_path, header):
    source = open_source(written(tmp_path, "t.csv", f"{header},page\nAcme,founder,Lena,3\n"))
    (triple,) = source
    assert parts([triple]) == [("Acme", "founder", "Lena")] and triple.metadata["page"] == "3"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_exported_files_come_back_as_they_went(tmp_path, suffix):
    path = tmp_path / f"kb{suffix}"
    triples = [Triple("a", "b", "c", {"page": 3}), Triple("d", "e", "f", {}, Provenance("book"))]
    write_triples(path, triples)
    assert list(open_source(path)) == triples
    named = [Triple("a", "b", "c", {"page": 3}, Provenance(uri="kb", extractor="table")), triples[1]]
    assert list(open_source(path, uri="kb")) == named


def test_latin_1(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("name;seat\nAcmé;Zürich\n".encode("latin-1"))
    with pytest.raises(ImportFileError, match="not utf-8; name its encoding"):
        list(open_source(path))
    assert parts(open_source(path, encoding="latin-1")) == [("Acmé", "seat", "Zürich")]


@pytest.mark.parametrize(
    ("name", "text", "line", "reason"),
    [
        ("t.csv", "", 1, "header"),
        ("t.csv", "name,a,a\n", 1, "twice"),
        ("t.csv", "name,seat\nAcme,Oslo\nBorealis\n", 3, "expected 2 columns, got 1"),
        ("t.tsv", 'name\tseat\nAcme\t"Oslo\n', 2, "unexpected end"),
        ("t.tsv", "subject\tpredicate\tobject\nAcme\t\tOslo\n", 2, "property"),
        ("t.jsonl", '{"name":"a","x":1}\n\n[1]\n', 3, "expected an object"),
        ("t.jsonl", '{"name":"a","x":1}\n{"name":', 2, "not JSON"),
        ("t.jsonl", '{"name":"a","x":NaN}\n', 1, "NaN"),
        ("t.json", '[{"name":"a","x":1},\n\n {"name":]', 3, "not JSON"),
        ("t.json", '[{"name":"a","x":1},\n 7]', 2, "expected an object"),
        ("t.json", '[{"name":"a","x":1}\n{"name":"b"}]', 2, "expected a comma"),
        ("t.json", '[{"name":"a","x":1},]', 1, "expected a comma and a value"),
        ("t.json", '[{"name":"a","x":1}] x', 1, "end of the file"),
        ("t.json", '[{"name":"a","x":1}', 1, "expected a comma"),
        ("t.json", '{"name":"a",\n"name":"b"}', 0, "twice"),
        ("t.json", '{"a":1,"b":[2]}', 0, "expected records"),
        ("t.json", "7", 0, "expected a list"),
        ("t.json", "[" * 100_000, 1, "nested too deeply"),
        ("t.json", "", 1, "not JSON"),
    ],
)
def test_a_bad_file_names_line_and_reason_and_leaves_the_kb_alone(tmp_path, name, text, line, reason):
    path = written(tmp_path, name, text)
    kb = open_kb(":memory:")
    kb.add([Triple("old", "is", "here")])
    with pytest.raises(ImportFileError, match=reason) as caught:
        kb.add(open_source(path))
    assert (caught.value.path, caught.value.line) == (str(path), line)
    assert list(kb) == [Triple("old", "is", "here")] and kb.revision == 1


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


def test_json_lines_of_records(tmp_path):
    path = written(tmp_path, "t.jsonl", '\n{"title":"Acme","seat":"Berlin"}\n{"title":"B","x":1e400}\n')
    triples = list(open_source(path))
    assert parts(triples) == [("Acme", "seat", "Berlin"), ("B", "x", "1e400")]
    assert [t.metadata["line"] for t in triples] == [2, 3]


def test_json_array_lines(tmp_path):
    path = written(tmp_path, "t.json", '[\n{"name":"a",\n"x":1},\n\n{"name":"b","x":2}\n]\n')
    assert [t.metadata["line"] for t in open_source(path)] == [2, 5]


def test_parquet(tmp_path):
    table = pyarrow.table(
        {
            "name": ["Acme", "Borealis"],
            "founded": [datetime.date(2014, 3, 1), None],
            "price": [decimal.Decimal("1.50"), decimal.Decimal("2.00")],
            "share": [0.1, float("nan")],
            "tags": [["a", "b"], []],
            "at": [{"city": "Berlin"}, {"city": None}],
            "raw": [b"\x00", None],
        }
    )
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(table, path)
    source = open_source(path)
    triples = list(source)
    assert parts(triples) == [
        ("Acme", "founded", "2014-03-01"),
        ("Acme", "price", "1.50"),
        ("Acme", "share", "0.1"),
        ("Acme", "tags", "a, b"),
        ("Acme", "at city", "Berlin"),
        ("Borealis", "price", "2.00"),
    ]
    assert triples[-1].metadata["line"] == 2 and sum(source.skipped.values()) == 1
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ImportFileError, match="not a sound Parquet file"):
        list(open_source(path))


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """
            CREATE TABLE maker (id INTEGER PRIMARY KEY, name TEXT, city TEXT);
            CREATE TABLE product (id INTEGER PRIMARY KEY, title TEXT, price DECIMAL, maker_id INTEGER REFERENCES maker(id));
            CREATE TABLE log (at TIMESTAMP, n INTEGER);
            INSERT INTO maker VALUES (1, 'Acme', 'Berlin');
            INSERT INTO product VALUES (7, 'Orca 2', 12.5, 1), (8, 'Pike', NULL, 9);
            """
        )
    connection.close()
    return path


def test_a_database_by_its_tables(database):
    source = open_source(database)
    assert parts(source) == [
        ("Acme", "city", "Berlin"),
        ("Orca 2", "price", "12.5"),
        ("Orca 2", "maker id", "Acme"),
        ("Pike", "maker id", "9"),
    ]
    assert list(source.skipped) == ["table log without a column that names its records"]


def test_a_database_by_uri_and_query(database, tmp_path, monkeypatch):
    assert parts(open_source(f"sqlite:///{database}?table=maker")) == [("Acme", "city", "Berlin")]
    monkeypatch.chdir(tmp_path)
    query = "SELECT title AS subject, 'maker' AS predicate, name AS object FROM product JOIN maker ON maker.id = maker_id"
    assert parts(open_source("sqlite:///shop.db", query=query)) == [("Orca 2", "maker", "Acme")]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"table": "nothing"}, "no table 'nothing'; there are maker"),
        ({"query": "DELETE FROM maker RETURNING name"}, "readonly|read-only"),
        ({"query": "SELECT x FROM maker"}, "no such column"),
    ],
)
def test_a_database_is_only_read(database, options, reason):
    before = database.read_bytes()
    with pytest.raises(ImportFileError, match=reason):
        list(open_source(database, **options))
    assert database.read_bytes() == before


def test_what_is_no_database(tmp_path):
    with pytest.raises(ImportFileError, match="not a database"):
        list(open_source(written(tmp_path, "x.db", "name,seat\n" * 100)))


def test_the_registry_says_what_it_reads(tmp_path):
    with pytest.raises(ImportFileError, match=r"expected a file of .*\.csv.*; got \.xyz"):
        open_source(tmp_path / "x.xyz")
    with pytest.raises(ImportFileError, match="https:// addresses; download it first"):
        open_source("https://example.org/x.csv")
    with pytest.raises(ConfigurationError, match="no option 'nam_column'; they have .*name_column"):
        open_source(tmp_path / "x.csv", nam_column="x")
    with pytest.raises(FileNotFoundError):
        list(open_source(tmp_path / "x.csv"))


def test_file_uris(tmp_path):
    path = written(tmp_path, "a b.csv", "name,seat\nAcme,Oslo\n")
    assert parts(open_source(path.as_uri())) == [("Acme", "seat", "Oslo")]


def test_a_source_of_ones_own(monkeypatch):
    monkeypatch.setattr(registry, "_FORMATS", list(registry._FORMATS))

    class Fixed(list):
        uri, skipped = "wiki://x", {}

    register(Format("wiki", (), lambda uri: Fixed([Triple(uri, "is", "open")]), schemes=("wiki",)))
    assert parts(open_source("wiki://page")) == [("wiki://page", "is", "open")]


def test_files_that_are_too_large_are_refused(tmp_path):
    path = written(tmp_path, "t.csv", WIDE)
    with pytest.raises(ImportFileError, match="expected at most 1e-05 MB"):
        list(open_source(path, max_mb=1e-5))
    with pytest.raises(ConfigurationError, match="max_mb"):
        open_source(path, max_mb=0)


def test_lines_cells_and_files_without_an_end_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    monkeypatch.setattr(triple_files, "MAX_LINE", 1_000_000)
    path.write_text('{"name": "a", "b": "c"}\n' + "x" * 1_000_001, "utf-8")
    with pytest.raises(ImportFileError, match="line 2: expected lines of at most 1 MB"):
        list(open_source(path))
    path.write_text('{"name": "a", "property": "b", "value": "c"}\n' + "x" * 1_000_001, "utf-8")
    with pytest.raises(ImportFileError, match="line 2: expected lines of at most 1 MB"):
        list(triple_files.read_triples(path))
    path = tmp_path / "x.csv"
    path.write_text(f"name,b\na,{'x' * 200_000}\n", "utf-8")
    with pytest.raises(ImportFileError, match="line 2: expected cells of at most 131,072 characters"):
        list(open_source(path))
    device = tmp_path / "zero.csv"
    device.symlink_to("/dev/zero")
    with pytest.raises(ImportFileError, match="got a device"):
        list(open_source(device))


def test_words_from_identifiers():
    names = ["head_office", "headOffice", "Head office", "SKU", "ISO_code", "iPhone model", "GDPPerHead", " x "]
    expected = ["head office", "head office", "Head office", "SKU", "ISO code", "iPhone model", "GDP per head", "x"]
    assert [readable(name) for name in names] == expected


def test_values_as_text():
    assert [as_text(v) for v in (True, 3, 2.0, "  x ", b"x", None, float("nan"), "")] == [
        "true", "3", "2.0", "x", None, None, None, None,
    ]
