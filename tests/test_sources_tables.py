"""Tables, Parquet and databases as sources: long and wide, with provenance, and bad files named by line."""

import datetime
import decimal
import json
import sqlite3

import pyarrow.parquet
import pytest
from kb_parts import open_kb
from sources_parts import parts, written

from kblam_engine import Triple, triple_files
from kblam_engine.errors import ImportFileError
from kblam_engine.sources import open_source
from kblam_engine.sources.values import as_text, readable
from kblam_engine.triple_files import write_triples
from kblam_engine.triples import Provenance

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
    own = [
        Triple("d", "e", "f", {}, Provenance("book")),
        Triple("g", "h", " 3 ", {"page": 3, "x": [1.5, None]}, Provenance("", "x.pdf", (3, 5), "rules", 0.5), "ns", ("t",), "2024"),
    ]
    write_triples(path, [*own, Triple("a", "b", "c", {"page": 3})])
    here = Provenance(uri=str(path), extractor="table")
    assert list(open_source(path)) == [*own, Triple("a", "b", "c", {"page": 3}, here)]
    named = Provenance(uri="kb", extractor="table")
    assert list(open_source(path, uri="kb"))[2:] == [Triple("a", "b", "c", {"page": 3}, named)]
    assert list(triple_files.read_triples(path))[2] == Triple("a", "b", "c", {"page": 3}), "a copy for those who want one"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "name,property,value\na,b,c\n"),
        ("t.csv", "name;property;value\na;b;c\n"),
        ("t.tsv", "name\tproperty\tvalue\na\tb\tc\n"),
        ("t.csv", "name,description_type,description\na,b,c\n"),
        ("t.jsonl", '{"name":"a","property":"b","value":"c"}\n'),
        ("t.json", '[{"name":"a","property":"b","value":"c"}]'),
    ],
)
def test_triples_of_a_file_come_from_it(tmp_path, name, text):
    path = written(tmp_path, name, text)
    (triple,) = open_source(path)
    assert parts([triple]) == [("a", "b", "c")] and triple.provenance.uri == str(path)
    assert triple.metadata == {}, "the same wherever it stands in the file"


@pytest.mark.parametrize("suffix", [".tsv", ".json"])
def test_a_triple_says_all_it_may_in_any_table(tmp_path, suffix):
    said = {"name": "a", "property": "b", "value": "c", "provenance": {"uri": "book", "span": [1, 2]}, "tags": ["x"], "page": 3}
    if suffix == ".json":
        text = json.dumps([said])
    else:
        cells = {**said, "provenance": '"{""uri"": ""book"", ""span"": [1, 2]}"', "tags": "x", "page": "3"}
        text = "\t".join(cells) + "\n" + "\t".join(cells.values()) + "\n"
    (triple,) = open_source(written(tmp_path, f"t{suffix}", text))
    assert triple.provenance == Provenance("", "book", (1, 2)) and triple.tags == ("x",)
    assert triple.metadata == {"page": 3 if suffix == ".json" else "3"}


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_numbers_in_triples_stay_as_they_are_written(tmp_path, suffix):
    values = ["7", "3.50", "1e400", "true", '["x", 2.0]']
    lines = [f'{{"name":"B","property":"p","value":{value}}}' for value in values]
    lines += ['{"subject":"B","predicate":"p","object":0.10}', '{"name":7,"property":"p","value":"x"}']
    text = "\n".join(lines) if suffix == ".jsonl" else f"[{','.join(lines)}]"
    found = list(open_source(written(tmp_path, f"t{suffix}", text)))
    assert [t.value for t in found] == ["7", "3.50", "1e400", "true", "x, 2.0", "0.10", "x"] and found[-1].name == "7"


def test_lines_of_jsonl_are_records_or_triples_each(tmp_path):
    lines = ['{"name":"A","seat":"Ulm"}', '{"name":"A","property":"p","value":"x"}', '{"subject":"A","predicate":"q","object":"y"}']
    lines += ['{"name":"A","property":"p"}', '{"name":"B","staff":3}']
    source = open_source(written(tmp_path, "t.jsonl", "\n".join(lines)))
    triples = list(source)
    assert parts(triples) == [("A", "seat", "Ulm"), ("A", "p", "x"), ("A", "q", "y"), ("B", "staff", "3")]
    assert [t.metadata.get("line") for t in triples] == [1, None, 3, 5] and source.skipped == {"triple without a value": 1}
    with pytest.raises(ImportFileError, match="line 2: metadata: expected an object"):
        list(open_source(written(tmp_path, "t.jsonl", f'{lines[0]}\n{{"name":"a","property":"b","value":"c","metadata":3}}\n')))


@pytest.mark.parametrize(
    ("record", "lacking"),
    [
        ({"name": "A", "property": "p"}, "value"),
        ({"predicate": "p", "object": "A"}, "name"),
        ({"entity": "A", "attribute": "p", "tags": ["x"]}, "value"),
        ({"property": "p", "value": "A"}, "name"),
    ],
)
def test_what_is_left_of_a_triple_is_no_record(tmp_path, record, lacking):
    source = open_source(written(tmp_path, "t.json", json.dumps([record])))
    assert parts(source) == [] and source.skipped == {f"triple without a {lacking}": 1}


def test_a_thing_may_have_a_value_or_a_property(tmp_path):
    records = [{"name": "pi", "value": "3.14"}, {"name": "Smith", "property": "a house", "age": 40}]
    found = parts(open_source(written(tmp_path, "t.json", json.dumps(records))))
    assert found == [("pi", "value", "3.14"), ("Smith", "property", "a house"), ("Smith", "age", "40")]
    path = written(tmp_path, "t.json", '[{"name":"A","property":"p"}]')
    assert parts(open_source(path, name_column="name")) == [("A", "property", "p")], "so it was asked"


@pytest.mark.parametrize("header", ["name,property,value", "Name,Property,Value", "subject,predicate,object"])
def test_rows_without_a_part_are_counted(tmp_path, header):
    text = f"{header}\nA,p,x\nA,q,\n,p,x\nA,,x\n,,\n\nA,r,{'x' * 10_001}\nA,s,y\n"
    source = open_source(written(tmp_path, "t.csv", text))
    assert parts(source) == [("A", "p", "x"), ("A", "s", "y")]
    assert source.skipped == {
        "triple without a value": 1,
        "triple without a name": 1,
        "triple without a property": 1,
        "empty row": 1,
        "value empty, too long or no text": 1,
    }


def test_triples_without_a_value_are_counted_in_json(tmp_path):
    lines = ['{"name":"A","property":"p","value":null}', '{"name":"A","property":"p","value":" "}']
    lines += ['{"name":"A","property":"p","value":{"x":1}}', '{"name":"A","property":"p","value":"x"}']
    source = open_source(written(tmp_path, "t.jsonl", "\n".join(lines)))
    assert parts(source) == [("A", "p", "x")]
    assert source.skipped == {"triple without a value": 2, "value empty, too long or no text": 1}


@pytest.mark.parametrize(
    ("name", "text", "delimiter"),
    [("t.tsv", "sku,part,weight\n1,battery,3\n", ","), ("t.csv", "name:price\nA:3\n", ":"), ("t.csv", "name\nA\n", ";")],
)
def test_a_table_of_one_column_has_another_delimiter(tmp_path, name, text, delimiter):
    path = written(tmp_path, name, text)
    with pytest.raises(ImportFileError, match=f"line 1: expected at least two columns, got only .*--option 'delimiter={delimiter}'"):
        list(open_source(path))
    if delimiter in text:
        assert list(open_source(path, delimiter=delimiter))


def test_a_tab_as_a_shell_has_it(tmp_path):
    path = written(tmp_path, "t.csv", "name\ta,b,c\nA\tx\n")
    assert parts(open_source(path, delimiter="\\t")) == [("A", "a,b,c", "x")]


def test_latin_1(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(("name;seat\n" + "B;x\n" * 5 + "Acmé;Zürich\n" + "B;x\n" * 5).encode("latin-1"))
    with pytest.raises(ImportFileError, match="line 7: not utf-8; .*encoding=, such as 'latin-1' .--option encoding=latin-1"):
        list(open_source(path))
    assert ("Acmé", "seat", "Zürich") in parts(open_source(path, encoding="latin-1"))
    path.write_bytes("name;seat\nB;x\n".encode("utf-16") + b"\x00")
    with pytest.raises(ImportFileError, match="line 3: not utf-16"):
        list(open_source(path, encoding="utf-16"))


@pytest.mark.parametrize(
    ("name", "text", "line", "reason"),
    [
        ("t.csv", "", 1, "header"),
        ("t.csv", "name,a,a\n", 1, "twice"),
        ("t.csv", "name,seat\nAcme,Oslo\nBorealis\n", 3, "expected 2 columns, got 1"),
        ("t.tsv", 'name\tseat\nAcme\t"Oslo\n', 2, "unexpected end"),
        ("t.csv", "name,property,value,valid_from\nAcme,seat,Oslo,soon\n", 2, "valid_from: expected a time"),
        ("t.csv", "name,property,value,metadata\nAcme,seat,Oslo,{\n", 2, "metadata or provenance: not JSON"),
        ("t.jsonl", '{"name":"a","x":1}\n\n[1]\n', 3, "expected an object, got a list"),
        ("t.jsonl", '{"name":"a","x":1}\n{"name":', 2, "not JSON"),
        ("t.jsonl", '{"name":"a","x":NaN}\n', 1, "NaN"),
        ("t.json", '[{"name":"a","x":1},\n\n {"name":]', 3, "not JSON"),
        ("t.json", '[{"name":"a","x":1},\n 7]', 2, "expected an object, got a number"),
        ("t.json", "[null]", 1, "expected an object, got null"),
        ("t.json", '[{"name":"a","x":1}\n{"name":"b"}]', 2, "expected a comma"),
        ("t.json", '[{"name":"a","x":1},]', 1, "expected a comma and a value"),
        ("t.json", '[{"name":"a","x":1}] x', 1, "end of the file"),
        ("t.json", '[{"name":"a","x":1}', 1, "expected a comma"),
        ("t.json", '{"name":"a",\n"name":"b"}', 0, "twice"),
        ("t.json", '{"a":1,"b":[2]}', 0, "expected records .* got an object with the keys a, b; say where they are with records="),
        ("t.json", "{}", 0, "expected records .* got an object with no keys"),
        ("t.json", "7", 0, "expected a list or an object of records, got a number"),
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


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet", ".db"])
def test_properties_that_are_not_there_are_an_error(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"name": ["A"], "x": [1]}), path)
    elif suffix == ".db":
        with sqlite3.connect(path) as connection:
            connection.executescript("CREATE TABLE t (name TEXT, x INTEGER); INSERT INTO t VALUES ('A', 1)")
        connection.close()
    else:
        record = '{"name":"A","x":1}'
        path.write_text({".csv": "name,x\nA,1\n", ".json": f"[{record}]", ".jsonl": record}[suffix], "utf-8")
    assert parts(open_source(path, properties={"x": "size", "name": "name"})) == [("A", "size", "1")]
    for options in ({}, {"name_column": "name"}):
        with pytest.raises(ImportFileError, match="'y'; there are name, x"):
            list(open_source(path, properties={"x": "size", "y": "height"}, **options))


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


def test_narrow_numbers_of_parquet_read_as_they_were_written(tmp_path):
    f32 = pyarrow.float32()
    columns = {
        "name": ["A", None],
        "x": pyarrow.array([0.1, 0.2], f32),
        "half": pyarrow.array([0.1, None], pyarrow.float16()),
        "wide": [0.1, 0.2],
        "list": pyarrow.array([[0.1, 1e20], None], pyarrow.list_(f32)),
        "at": pyarrow.array([{"lat": 52.1, "city": "Ulm"}, None], pyarrow.struct([("lat", f32), ("city", pyarrow.string())])),
        "class": pyarrow.array([0.3, 0.3], f32).dictionary_encode(),
    }
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    source = open_source(path)
    assert [value for _, _, value in parts(source)] == ["0.1", "0.1", "0.1", "0.1, 1e+20", "52.1", "Ulm", "0.3"]
    assert source.skipped == {"record without a name": 1}


def test_a_long_parquet_counts_rows_without_a_part(tmp_path):
    path = tmp_path / "t.parquet"
    table = {"name": ["A", "A", None], "property": ["p", "", "p"], "value": pyarrow.array([0.1, 2, 3], pyarrow.float32())}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    source = open_source(path)
    assert parts(source) == [("A", "p", "0.1")] and sum(source.skipped.values()) == 2


def test_incomplete_rows_of_a_long_database_table_are_counted(tmp_path):
    path = tmp_path / "long.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE t (name TEXT, property TEXT, value TEXT); INSERT INTO t VALUES ('a','b','c'), ('a','d',''), ('','','')"
        )
    source = open_source(path)
    assert parts(source) == [("a", "b", "c")]
    assert source.skipped == {"triple without a value": 1, "triple without a name": 1}


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


def test_words_from_identifiers():
    names = ["head_office", "headOffice", "Head office", "SKU", "ISO_code", "iPhone model", "GDPPerHead", " x "]
    expected = ["head office", "head office", "Head office", "SKU", "ISO code", "iPhone model", "GDP per head", "x"]
    assert [readable(name) for name in names] == expected


def test_values_as_text():
    assert [as_text(v) for v in (True, 3, 2.0, "  x ", b"x", None, float("nan"), "")] == [
        "true", "3", "2.0", "x", None, None, None, None,
    ]
