"""Parquet files of triples: what is in them, that they come back as JSONL does, and that there is no half file."""

import json
import sys

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import ConfigurationError, ImportFileError, MissingDependencyError, TripleError
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.sources import open_source
from kblam_engine.sources import parquet as parquet_module
from kblam_engine.sources.parquet import FORMAT, write_parquet
from kblam_engine.triple_files import write_jsonl
from kblam_engine.triples import Provenance

ODD = [
    Triple("Acme", "seat", "Bonn", {"page": 3, "deep": {"a": [1, None, True, 2.5, {"é": "😀"}]}}, Provenance("handbook", "https://x/y", (1, 2**70), "me", 0.1)),
    Triple("Acme", "seat", "Berlin", namespace="sales", tags=("b", "a"), valid_from="2019", valid_to="2020-03-05T10:00Z"),
    Triple('quotes " and \\', "line\nbreak", "tab\t, comma; {brace}", {"": "", "big": 10**40, "small": 5e-324}),
    Triple("{", "}", "null", provenance=Provenance("{not json")),
    Triple("reserved", "keys", "of metadata", {"tags": "x", "namespace": 1, "provenance": [2], "valid_from": None}),
    Triple("أبجد", "財產", "🏴‍☠️ \u202e", {"key_embedding": [1.0, 2.0]}, tags=("ü",)),
    Triple("n" * 500, "p" * 500, "v" * 10_000, {"x": "y" * 60_000}),
    Triple("1", "2", "3"),
]


@pytest.fixture
def kb():
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder(), multi=True) as made:
        made.add(ODD)
        yield made


def read_again(path):
    """Return the triples of a file, which all say where they come from, without what tells the files apart."""
    return [(t.to_dict() | {"provenance": None}) if t.provenance.uri == str(path) else t.to_dict() for t in open_source(path)]


def test_what_is_written_comes_back_as_from_jsonl(kb, tmp_path):
    for embeddings in (False, True):
        assert write_parquet(tmp_path / "all.parquet", kb, embeddings=embeddings) == len(ODD)
        write_jsonl(tmp_path / "all.jsonl", kb)
        assert read_again(tmp_path / "all.parquet") == read_again(tmp_path / "all.jsonl")
    for suffix in ("parquet", "jsonl"):
        with KnowledgeBase.open(":memory:", encoder=HashingEncoder(), multi=True) as other:
            other.add(open_source(tmp_path / f"all.{suffix}", uri="all"))
            said = {t.name: t for t in other if t.provenance.uri != "all"}
            assert {t.name: t for t in ODD if t.provenance} == said
            labels = [(t.name, t.namespace, t.tags, t.valid_from, t.valid_to, t.metadata) for t in other]
            assert labels == [(t.name, t.namespace, t.tags, t.valid_from, t.valid_to, t.metadata) for t in kb]


_TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=20).filter(str.strip)
_LABELS = _TEXTS.filter(lambda text: "," not in text)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def _triples(draw):
    metadata = draw(st.dictionaries(_TEXTS.filter(lambda key: key not in ("name", "property", "value", "metadata")), _JSON, max_size=3))
    origin = draw(st.none() | st.builds(Provenance, document=_TEXTS, uri=st.just("") | _TEXTS, confidence=st.none() | st.floats(0, 1)))
    tags, namespace = draw(st.lists(_LABELS, max_size=3)), draw(st.just("") | _TEXTS)
    return Triple(draw(_TEXTS), draw(_TEXTS), draw(_TEXTS), metadata, origin, namespace, tuple(tags), draw(st.sampled_from(["", "2019", "2020-01-02"])))


@settings(max_examples=40, deadline=None)
@given(triples=st.lists(_triples(), min_size=1, max_size=5))
def test_any_triples_come_back_as_from_jsonl(tmp_path_factory, triples):
    folder = tmp_path_factory.mktemp("any")
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder(), multi=True) as kb:
        kb.add(triples)
        write_parquet(folder / "all.parquet", kb)
        write_jsonl(folder / "all.jsonl", kb)
    assert read_again(folder / "all.parquet") == read_again(folder / "all.jsonl")


def test_embeddings_are_those_of_the_knowledge_base(kb, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_module, "_GATHERED", 3)
    monkeypatch.setattr(parquet_module, "_GROUP_ROWS", 5)
    path = tmp_path / "all.parquet"
    for part in (kb, kb.view(namespace="")):
        snapshot = part.snapshot()
        assert write_parquet(path, part, embeddings=True) == len(snapshot)
        file = parquet.ParquetFile(path)
        assert file.metadata.num_row_groups == 2
        table = file.read()
        for name, rows in (("key_embedding", snapshot.key_embeddings), ("value_embedding", snapshot.value_embeddings())):
            column = table.column(name).combine_chunks()
            assert table.schema.field(name).type == pyarrow.list_(pyarrow.float16(), snapshot.embed_dim)
            assert np.array_equal(column.flatten().to_numpy().reshape(-1, snapshot.embed_dim), np.asarray(rows))
        told = {b"kblam_format": FORMAT.encode(), b"kblam_encoder": b"hashing", b"kblam_encoder_fingerprint": snapshot.encoder_fingerprint.encode()}
        assert told.items() <= table.schema.metadata.items()
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(path)
    assert frame.key_embedding[0].shape == (kb.info().embed_dim,) and list(frame.name) == [t.name for t in part]


def test_what_another_program_wrote_again_is_read_the_same(kb, tmp_path):
    path, again = tmp_path / "all.parquet", tmp_path / "again.parquet"
    write_parquet(path, kb, embeddings=True)
    parquet.write_table(parquet.read_table(path).replace_schema_metadata(None), again)
    assert read_again(again) == read_again(path)
    parquet.write_table(parquet.read_table(path, columns=["name", "property", "value", "key_embedding"]).replace_schema_metadata(None), again)
    assert all(set(triple.metadata) <= {"line"} for triple in open_source(again))
    table = pyarrow.table({"name": ["Acme"], "seat": ["Bonn"], "value_embedding": [[0.5, 0.25]], "key_embedding": ["a text"]})
    parquet.write_table(table, again)
    assert [t.property for t in open_source(again)] == ["seat", "key embedding"]


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [("metadata", "{", "not JSON"), ("metadata", "text", "metadata: expected an object"), ("valid_from", "soon", "expected a time"), ("provenance", '{"page": 1}', "unknown parts")],
)
def test_damaged_cells_are_told_with_their_row(kb, tmp_path, column, cell, reason):
    path = tmp_path / "all.parquet"
    write_parquet(path, kb.view(namespace="sales"))
    table = parquet.read_table(path)
    at = table.schema.get_field_index(column)
    parquet.write_table(table.set_column(at, table.schema.field(column), pyarrow.array([cell])), path)
    with pytest.raises(ImportFileError, match=f"all.parquet, line 1: .*{reason}"):
        list(open_source(path))


def test_a_later_format_is_told(kb, tmp_path):
    path = tmp_path / "all.parquet"
    write_parquet(path, kb)
    parquet.write_table(parquet.read_table(path).replace_schema_metadata({"kblam_format": "kblam-triples/2"}), path)
    with pytest.raises(ImportFileError, match="expected kblam-triples/1, got kblam-triples/2; read it with the version"):
        list(open_source(path))


def test_an_export_that_breaks_off_leaves_no_file(kb, tmp_path, monkeypatch):
    path, cells, seen = tmp_path / "all.parquet", parquet_module._cells, []

    def broken(triple):
        seen.append(triple)
        if len(seen) == 5:
            raise TripleError("value", "damaged")
        return cells(triple)

    monkeypatch.setattr(parquet_module, "_GATHERED", 2)
    monkeypatch.setattr(parquet_module, "_GROUP_ROWS", 2)
    monkeypatch.setattr(parquet_module, "_cells", broken)
    with pytest.raises(TripleError, match="damaged"):
        write_parquet(path, kb)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"before")
    seen.clear()
    with pytest.raises(TripleError, match="damaged"):
        write_parquet(path, kb)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"before"


def test_nothing_at_all(tmp_path):
    path = tmp_path / "none.parquet"
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as kb:
        assert write_parquet(path, kb) == 0 and list(open_source(path)) == []
        with pytest.raises(ConfigurationError, match="expected triples with embeddings, got an empty knowledge base"):
            write_parquet(path, kb, embeddings=True)
        kb.add(ODD)
        assert write_parquet(path, kb.view(tags="nowhere"), embeddings=True) == 0 and list(open_source(path)) == []


def test_the_commands(kblam, tmp_path):
    folder, file = tmp_path / "a.kb", tmp_path / "all.parquet"
    write_jsonl(tmp_path / "odd.jsonl", ODD)
    assert kblam("kb", "import", tmp_path / "odd.jsonl", "--kb", folder, "--encoder", "hashing", "--multi")[0] == 0
    code, out, _ = kblam("kb", "export", file, "--kb", folder, "--embeddings", "--json")
    assert code == 0 and json.loads(out) == {"exported": len(ODD), "file": str(file)}
    assert kblam("kb", "import", file, "--kb", tmp_path / "b.kb", "--encoder", "hashing", "--multi")[0] == 0
    exported = []
    for name in ("a.kb", "b.kb"):
        assert kblam("kb", "export", tmp_path / "again.jsonl", "--kb", tmp_path / name)[0] == 0
        exported.append((tmp_path / "again.jsonl").read_text("utf-8"))
    assert exported[0] == exported[1]  # those of no place say the file that they were in first
    code, out, _ = kblam("kb", "export", file, "--kb", folder, "--namespace", "sales", "--tag", "a", "--at", "2019-05-01")
    assert code == 0 and "exported 1 triple to" in out and [t.value for t in open_source(file)] == ["Berlin"]
    assert kblam("kb", "export", file, "--kb", folder, "--source", "handbook", "--revision", "1")[0] == 0
    assert [t.provenance for t in open_source(file)] == [ODD[0].provenance]
    for wrong in ("all.jsonl", "all.csv", "-"):
        code, _, err = kblam("kb", "export", wrong, "--kb", folder, "--embeddings")
        assert code == 2 and f"expected a .parquet file, got {wrong}" in err and err.count("\n") == 1


def test_without_pyarrow(kb, kblam, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"Writing Parquet needs pyarrow; pip install 'kblam-engine\[parquet\]'"):
        write_parquet(tmp_path / "all.parquet", kb)
    assert list(tmp_path.iterdir()) == []
