"""How a source is opened: by suffix, format or scheme, from a pipe or standard input, and what is too large to be one."""

import io
import os
import threading

import pyarrow.parquet
import pytest
from sources_parts import parts, written

from kblam_engine import Triple, triple_files
from kblam_engine.errors import ConfigurationError, ImportFileError
from kblam_engine.sources import Format, open_source, register, registry


def test_the_registry_says_what_it_reads(tmp_path):
    with pytest.raises(ImportFileError, match=r"expected a file of .*\.csv.*; got \.xyz"):
        open_source(tmp_path / "x.xyz")
    with pytest.raises(ImportFileError, match="https:// addresses; download it first"):
        open_source("https://example.org/x.csv")
    with pytest.raises(ConfigurationError, match="no option 'nam_column'; they have .*name_column"):
        open_source(tmp_path / "x.csv", nam_column="x")
    with pytest.raises(FileNotFoundError):
        list(open_source(tmp_path / "x.csv"))


def test_a_file_whose_name_says_nothing(tmp_path):
    path = written(tmp_path, "export", "name\tseat\nAcme\tUlm\n")
    with pytest.raises(ImportFileError, match="expected a suffix that says .*--format csv"):
        open_source(path)
    for format in ("csv", ".TSV", "CSV or TSV"):
        (triple,) = source = open_source(path, format=format)
        assert parts([triple]) == [("Acme", "seat", "Ulm")]
        assert triple.provenance.uri == source.uri == str(path) and triple.metadata == {"line": 2}
    path.write_text("name,a\nx\n", "utf-8")
    with pytest.raises(ImportFileError, match="expected 2 columns, got 1") as caught:
        list(open_source(path, format="csv"))
    assert (caught.value.path, caught.value.line) == (str(path), 2)
    with pytest.raises(FileNotFoundError, match="nothing"):
        list(open_source(tmp_path / "nothing", format="csv"))
    assert parts(open_source(written(tmp_path, "t.csv", "name,a\nx,1\n"), format="csv")) == [("x", "a", "1")]
    named = written(tmp_path, "graph.txt", "<> <http://a/p> <#x> .\n<#x> <http://a/q> 3 .\n")
    iris = [triple.metadata["iri"] for triple in open_source(named, format="ttl")]
    assert iris == [named.as_uri(), f"{named.as_uri()}#x"], "not of the temporary name"


@pytest.mark.parametrize(
    ("path", "format", "reason"),
    [
        ("x", "xyz", "format: expected one of csv, .*; got 'xyz'"),
        (".", "csv", "expected with a file, got the folder"),
        ("sqlite:///x.db", "csv", "expected with a file, got sqlite"),
    ],
)
def test_formats_that_cannot_be(path, format, reason):
    with pytest.raises(ConfigurationError, match=reason):
        open_source(path, format=format)
    with pytest.raises(ConfigurationError, match="JSONL sources have no option 'delimiter'"):
        open_source("x", format="jsonl", delimiter=";")


def test_standard_input(monkeypatch):
    with pytest.raises(ImportFileError, match="expected a format for standard input"):
        open_source("-")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("name,seat\nAcmé,Ulm\n".encode())))
    source = open_source("-", format="csv")
    assert parts(source) == parts(source) == [("Acmé", "seat", "Ulm")], "it is read once and kept"
    assert {triple.provenance.uri for triple in source} == {"stdin"}
    monkeypatch.setattr("sys.stdin", io.StringIO('{"name":"a","x":1}\n{"name":'))
    with pytest.raises(ImportFileError, match="^-, line 2: not JSON"):
        list(open_source("-", format="jsonl", uri="feed"))
    monkeypatch.setattr("sys.stdin", io.StringIO("name,x\n" + "a,1\n" * 1000))
    with pytest.raises(ImportFileError, match="-: expected at most 0.001 MB, got more"):
        list(open_source("-", format="csv", max_mb=0.001))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize(("suffix", "format"), [(".jsonl", None), (".csv", None), ("", "csv"), ("", "parquet")])
def test_a_pipe_is_read_once(tmp_path, suffix, format):
    pipe, file = tmp_path / f"pipe{suffix}", tmp_path / "file"
    os.mkfifo(pipe)
    if format == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"name": ["A"], "x": ["1"]}), file)
    else:
        file.write_text('{"name":"A","x":1}' if suffix == ".jsonl" else "name;x\nA;1\n", "utf-8")
    writer = threading.Thread(target=lambda: pipe.write_bytes(file.read_bytes()))
    writer.start()
    assert parts(open_source(pipe, format=format)) == [("A", "x", "1")]
    writer.join()


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
    path = written(tmp_path, "t.csv", "name,seat\nAcme,Oslo\n")
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
