"""A triple validates itself, and files of triples come back as they went."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kblam_engine.errors import ImportFileError, TripleError
from kblam_engine.triple_files import read_csv, read_jsonl, read_triples, write_triples
from kblam_engine.triples import MAX_LENGTHS, Triple

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30).filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
KEYS = TEXT.filter(lambda key: key not in ("name", "property", "value", "metadata", "description", "description_type"))
TRIPLES = st.builds(Triple, TEXT, TEXT, TEXT, st.dictionaries(KEYS, JSON, max_size=3))


def test_texts():
    triple = Triple(" Acme Robotics ", "founder", "Lena Hoffmann\n")
    assert triple == Triple("Acme Robotics", "founder", "Lena Hoffmann")
    assert triple.key_text == "the founder of Acme Robotics"
    assert triple.statement == "The founder of Acme Robotics is Lena Hoffmann."


def test_statement_has_one_full_stop():
    assert Triple("Acme", "legal name", "Acme Inc.").statement == "The legal name of Acme is Acme Inc."


def test_equal_triples_hash_equal_and_metadata_counts():
    plain, sourced = Triple("a", "b", "c"), Triple("a", "b", "c", {"source": "x"})
    assert plain != sourced and hash(plain) == hash(sourced) and len({plain, sourced}) == 2


@pytest.mark.parametrize("part", ["name", "property", "value"])
@pytest.mark.parametrize("bad", ["", " \t\n", None, 4, b"bytes", ["x"], "half \ud800", "a\0b"])
def test_a_bad_part_is_named(part, bad):
    parts = {"name": "a", "property": "b", "value": "c", part: bad}
    with pytest.raises(TripleError) as caught:
        Triple(**parts)
    assert caught.value.field == part and part in str(caught.value)


@pytest.mark.parametrize("part", ["name", "property", "value"])
def test_over_long_parts_are_refused(part):
    longest = "x" * MAX_LENGTHS[part]
    Triple(**{"name": "a", "property": "b", "value": "c", part: longest})
    with pytest.raises(TripleError, match=f"{part}: expected at most"):
        Triple(**{"name": "a", "property": "b", "value": "c", part: longest + "x"})


@pytest.mark.parametrize("bad", [None, [1], {"name": "x"}, {1: "x"}, {"x": {1, 2}}, {"x": float("nan")}])
def test_bad_metadata_is_refused(bad):
    with pytest.raises(TripleError) as caught:
        Triple("a", "b", "c", bad)
    assert caught.value.field == "metadata"


def test_metadata_is_a_copy():
    source = {"page": 3}
    triple = Triple("a", "b", "c", source)
    source["page"] = 4
    assert triple.metadata == {"page": 3}


def test_from_dict_keeps_unknown_keys_as_metadata():
    data = {"name": "a", "property": "b", "value": "c", "page": 3, "metadata": {"source": "x"}}
    assert Triple.from_dict(data) == Triple("a", "b", "c", {"page": 3, "source": "x"})


def test_from_dict_takes_the_names_of_the_published_data_sets():
    data = {"name": "a", "description_type": "purpose", "description": "to test"}
    assert Triple.from_dict(data) == Triple("a", "purpose", "to test")


def test_from_dict_names_what_is_missing():
    with pytest.raises(TripleError, match="value: is missing"):
        Triple.from_dict({"name": "a", "property": "b"})


@given(triple=TRIPLES)
def test_dict_round_trip(triple):
    assert Triple.from_dict(json.loads(json.dumps(triple.to_dict()))) == triple


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".JSONL"])
@given(triples=st.lists(TRIPLES, max_size=5))
def test_file_round_trip(tmp_path_factory, suffix, triples):
    path = tmp_path_factory.mktemp("files") / f"kb{suffix}"
    assert write_triples(path, triples) == len(triples)
    assert list(read_triples(path)) == triples


def test_jsonl_skips_blank_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "kb.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"name":"a","property":"b","value":"c"}\r\n\r\n')
    assert list(read_jsonl(path)) == [Triple("a", "b", "c")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"name": "a"', "not JSON"),
        (b"[1]", "expected an object"),
        (b'{"name":"a","property":"b"}', "value: is missing"),
        (b'{"name":"a","property":"b","value":null}', "value: expected text"),
        (b'{"name":"a","property":"b","value":NaN}', "expected JSON, got NaN"),
        (b'{"name":"a","property":"b","value":"\xff"}', "not UTF-8"),
        (b'{"name":"a","property":"b","value":"c","x":NaN}', "metadata"),
        (b'{"name":"a","property":"b","value":"c","metadata":3}', "metadata"),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion"),
    ],
)
def test_a_bad_jsonl_line_is_located(tmp_path, line, reason):
    path = tmp_path / "kb.jsonl"
    path.write_bytes(b'{"name":"a","property":"b","value":"c"}\n\n' + line + b"\n")
    with pytest.raises(ImportFileError, match=reason) as caught:
        list(read_jsonl(path))
    assert (caught.value.path, caught.value.line) == (str(path), 3)
    assert str(caught.value).startswith(f"{path}, line 3: ")


def test_numbers_of_a_triple_stay_as_they_are_written(tmp_path):
    path = tmp_path / "kb.jsonl"
    lines = ['{"name":7,"property":"b","value":3.50,"page":3}', '{"name":"a","description_type":"b","description":1e400}']
    lines += ['{"name":"a","property":"listed","value":true,"description":5}']
    path.write_text("\n".join(lines), "utf-8")
    expected = [Triple("7", "b", "3.50", {"page": 3}), Triple("a", "b", "1e400"), Triple("a", "listed", "true", {"description": 5})]
    assert list(read_jsonl(path)) == expected


def test_bytes_that_are_not_utf_8_are_located(tmp_path):
    path = tmp_path / "kb.csv"
    path.write_bytes(b"name,property,value\n" + b"a,b,c\n" * 3 + "a,b,\xe9\n".encode("latin-1") + b"a,b,c\n" * 3)
    with pytest.raises(ImportFileError, match="line 5: not UTF-8"):
        list(read_csv(path))


def test_csv_extra_columns_are_metadata(tmp_path):
    path = tmp_path / "kb.csv"
    path.write_text('value,name,property,source\n"Lena, Hoffmann",Acme,founder,p. 3\nBerlin,Acme,seat,\n', "utf-8")
    assert list(read_csv(path)) == [
        Triple("Acme", "founder", "Lena, Hoffmann", {"source": "p. 3"}),
        Triple("Acme", "seat", "Berlin"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 1, "expected columns"),
        ("name,property\na,b\n", 1, "missing value"),
        ("name,name,property,value\n", 1, "twice"),
        ("name,property,value\na,b,c\na,b\n", 3, "expected 3 columns, got 2"),
        ("name,property,value\na,,c\n", 2, "property"),
        ('name,property,value\na,b,"c\n', 2, "unexpected end"),
        ("name,property,value,metadata\na,b,c,{\n", 2, "Expecting"),
    ],
)
def test_a_bad_csv_line_is_located(tmp_path, text, line, reason):
    path = tmp_path / "kb.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(ImportFileError, match=reason) as caught:
        list(read_csv(path))
    assert caught.value.line == line


def test_an_unknown_suffix_says_what_is_read(tmp_path):
    with pytest.raises(ImportFileError, match=r"expected a \.jsonl or \.csv file, got \.xml"):
        read_triples(tmp_path / "kb.xml")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "kb.jsonl"
    path.write_text("old", "utf-8")

    def broken():
        yield Triple("a", "b", "c")
        raise OSError(28, os.strerror(28))

    with pytest.raises(OSError, match="No space"):
        write_triples(path, broken())
    assert [file.name for file in tmp_path.iterdir()] == ["kb.jsonl"] and path.read_text("utf-8") == "old"
